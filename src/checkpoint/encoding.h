// How elements are stored in files and what the bytes mean: the one place where stored bytes become numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "base/dtype.h"

namespace zoe {

struct Encoding {
  std::string_view name;                     // as the files say it: "BF16", "F8_E4M3"
  std::int64_t block_elements, block_bytes;  // elements come in blocks of so many bytes; mostly one by one
  std::optional<DType> dtype;                // if the stored bytes are elements of this type
  // Of as many whole blocks as hold `count` elements, which must be a multiple of block_elements. Bytes lie at any address. Null:
  // no numbers that a weight could have.
  void (*decode)(const std::byte* blocks, std::int64_t count, float* out);

  bool is_weight() const { return dtype || decode; }
  // Of `count` elements, a multiple of block_elements.
  std::int64_t size_bytes(std::int64_t count) const { return count / block_elements * block_bytes; }
};

// By the name that a safetensors header gives it; null if there is no such type.
const Encoding* safetensors_encoding(std::string_view name);
// Numbers that mean a weight only with a scale: "I8", and "F4_E2M1", two in a byte, the first in its upper half.
const Encoding* scaled_encoding(std::string_view name);

// Elements [begin, begin + count) of a row of blocks, rounded once from f32.
void decode(const Encoding& encoding, const std::byte* blocks, std::int64_t begin, std::int64_t count, DType dtype, void* out);

}  // namespace zoe
