// Numbers to blocks: the encodings that files are written in (encoding.h has how they are read).
#pragma once

#include <cstddef>
#include <cstdint>

namespace zoe {

// From `count` finite values, a multiple of the encoding's block, to its blocks.
using Encode = void (*)(const float* values, std::int64_t count, std::byte* blocks);

// By ggml's number of the type: Q4_0 (2), Q5_0 (6), Q8_0 (8), Q4_K (12), Q6_K (14); null for others. Scales are searched for the
// least sum of squared errors; Q8_0 has ggml's bits.
Encode gguf_encoder(std::uint32_t type);

// To e4m3, rounded to the nearest, ties to even; beyond 448 it is 448.
std::uint8_t f32_to_f8_e4m3(float value);

}  // namespace zoe
