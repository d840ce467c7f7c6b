// A weight that stays in memory as it is stored (kept_parts of ir/graph.h): how it lies there, the same on every platform.
//
// Part by part, in their order: the blocks of its rows, then their scales, f32, where it has any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/encoding.h"
#include "base/weight_reader.h"
#include "ir/graph.h"

namespace zoe {

struct KeptPlace {
  KeptPart part;
  std::int64_t first;          // element of the weight
  std::size_t blocks, scales;  // where they begin, in bytes
  std::int64_t rows() const { return part.type.shape.dim(0); }
  std::int64_t columns() const { return part.type.shape.dim(1); }
};

struct KeptLayout {
  explicit KeptLayout(const Node& parameter);  // of which kept_parts() is not empty
  std::vector<KeptPlace> places;
  std::size_t size_bytes = 0;
  std::string name;  // with that of the weight, what plans share it by
};

// The weight that lies at `bytes`, which must outlive it, in that layout. Its numbers are those of the tensors it is made of.
class KeptWeight : public WeightReader {
 public:
  KeptWeight(const KeptLayout& layout, const Shape& shape, const std::byte* bytes)
      : layout_(layout), shape_(shape), bytes_(bytes) {}
  const Shape& shape() const override { return shape_; }
  void read(std::int64_t begin, std::int64_t count, DType dtype, void* out) const override;
  std::size_t stored_bytes() const override { return layout_.size_bytes; }

 private:
  const KeptLayout& layout_;
  const Shape& shape_;
  const std::byte* bytes_;
};

}  // namespace zoe
