// How elements are stored in files and what the bytes mean: the one place where stored bytes become numbers. What the formats call
// them is checkpoint/encoding.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "base/dtype.h"

namespace zoe {

struct Encoding {
  std::string_view name;                     // "BF16", "F8_E4M3", "Q4_K"
  std::int64_t block_elements, block_bytes;  // elements come in blocks of so many bytes; mostly one by one
  std::optional<DType> dtype;                // if the stored bytes are elements of this type
  // Elements [begin, begin + count) of a row of blocks, whole runs of 16 where blocks have more than one. Bytes lie at any address.
  // Null: no numbers that a weight could have.
  void (*decode)(const std::byte* blocks, std::int64_t begin, std::int64_t count, float* out);

  bool is_weight() const { return dtype || decode; }
  // Of `count` elements, a multiple of block_elements.
  std::int64_t size_bytes(std::int64_t count) const { return count / block_elements * block_bytes; }
};

// Of numbers that a weight could have; null if there is none of the name. "I8" and "F4_E2M1" mean a weight only with a scale.
const Encoding* find_encoding(std::string_view name);

// Elements [begin, begin + count) of a row of blocks, each rounded once: from f32, or from its f32 product with `scale`.
void decode(const Encoding& encoding, const std::byte* blocks, std::int64_t begin, std::int64_t count, DType dtype, void* out,
            float scale = 1);

}  // namespace zoe
