// The safetensors format: 8 bytes of header length (little endian), a JSON header, then the tensors' bytes without holes.
// Everything is validated before an entry is handed out: sizes, offsets, overlaps, holes, overflow. Nothing is copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/shape.h"

namespace zoe {

struct TensorEntry {
  std::string name;
  std::string_view dtype;            // as stored: "BF16", "F32", "I64", ...
  Shape shape;                       // [] is a scalar; an extent may be 0
  std::span<const std::byte> bytes;  // in the file's map; aligned only by luck, so read it with read_elements()
};

struct Safetensors {
  std::vector<TensorEntry> tensors;             // sorted by name
  std::map<std::string, std::string> metadata;  // the header's "__metadata__"
};

// Reads the header of a whole file's bytes, which must outlive the entries. `where` names the file in errors, which are all
// invalid_argument. Bounds: header of 100 MB, 100,000 tensors, 8 dimensions.
Safetensors parse_safetensors(std::span<const std::byte> file, std::string_view where);

// The element type of a tensor that can be a weight (F32, F16, BF16); unsupported error for any other.
DType weight_dtype(const TensorEntry& tensor, std::string_view where);

// Converts elements [begin, begin + count) of a weight to f32, bf16 or f16, whatever the alignment of its bytes.
void read_elements(const TensorEntry& tensor, std::int64_t begin, std::int64_t count, DType dst_dtype, void* dst);

}  // namespace zoe
