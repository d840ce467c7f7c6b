// The block types of GGUF files as encodings. Values are those of gguf-py's f32 dequantisation, bit for bit.
#pragma once

#include <cstdint>

#include "checkpoint/encoding.h"

namespace zoe {

// By ggml's number of the type; null for one that is not known here.
const Encoding* gguf_encoding(std::uint32_t type);

}  // namespace zoe
