// The safetensors format: 8 bytes of header length (little endian), a JSON header, then the tensors' bytes without holes.
// Everything is validated before an entry is handed out: sizes, offsets, overlaps, holes, overflow. Nothing is copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "base/shape.h"
#include "base/weight_reader.h"
#include "checkpoint/encoding.h"

namespace zoe {

struct Scaling;  // checkpoint/scaling.h

struct TensorEntry {
  std::string name;
  const Encoding* encoding;
  Shape shape;                                  // [] is a scalar; an extent may be 0
  std::span<const std::byte> bytes;             // in the file's map; at any address
  std::shared_ptr<const MappedFile> file;       // that holds them; null: somebody else does
  std::shared_ptr<const Scaling> scaling = {};  // what its numbers are multiplied by; null: nothing

  std::string_view dtype() const { return encoding->name; }  // as stored: "BF16", "F32", "I64", ...
};

// Whether the extents that are not zero have a product of at most `most`. Then that of any of them is in range, whatever is asked
// of a tensor that is empty.
bool extents_fit(std::span<const std::int64_t> extents, std::int64_t most);

struct Safetensors {
  std::vector<TensorEntry> tensors;             // sorted by name
  std::map<std::string, std::string> metadata;  // the header's "__metadata__"
};

// Reads the header of a whole file's bytes, which must outlive the entries. `where` names the file in errors, which are all
// invalid_argument. Bounds: header of 100 MB, 100,000 tensors, 8 dimensions.
Safetensors parse_safetensors(std::span<const std::byte> file, std::string_view where);

// The tensor as a weight, which keeps the entry's file mapped; unsupported error if its type holds no numbers that weights have.
WeightPtr weight_of(const TensorEntry& tensor, std::string_view where);

}  // namespace zoe
