// What the formats call the encodings of base/encoding.h.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/encoding.h"

namespace zoe {

// By the name that a safetensors header gives it; null if there is no such type.
const Encoding* safetensors_encoding(std::string_view name);
// Numbers that mean a weight only with a scale: "I8", and "F4_E2M1", two in a byte, the first in its upper half.
const Encoding* scaled_encoding(std::string_view name);

// By ggml's number of the type; null for one that is not known here.
const Encoding* gguf_encoding(std::uint32_t type);

}  // namespace zoe
