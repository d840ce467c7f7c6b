// Blocks to numbers, for the instruction set of this machine: what decode() of base/encoding.h gives, faster.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "base/encoding.h"

namespace zoe::cpu {

// Elements [begin, begin + count) of a row of blocks, times `scale`, as f32 or bf16; whole runs of 16.
using WidenLoop = void (*)(const std::byte* blocks, std::int64_t begin, std::int64_t count, float scale, void* out);
// Null: there is none of the encoding.
WidenLoop widen_loop_of(const Encoding& encoding, DType dtype);

}  // namespace zoe::cpu
