// A weight that stays in memory as it is stored (kept_parts of ir/graph.h): how it lies there, the same on every platform.
//
// Part by part, in their order: the blocks of its rows, then their scales, f32, where it has any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/encoding.h"
#include "base/weight_reader.h"
#include "ir/graph.h"
#include "platform/platform.h"

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

// linear with such a weight, which is widened into scratch memory in front of every product, and changed there where it has a
// change (change.h of ir). So the product's bits are those of a weight that was widened beforehand. A platform's own class does the
// widening.
class KeptLinear : public Kernel {
 public:
  // `product`: of behind_widening(node). The widened weight takes `widened_bytes`, from `place_`, a multiple of `alignment`, on.
  KeptLinear(const Node& node, std::unique_ptr<Kernel> product, std::size_t widened_bytes, std::size_t alignment);
  std::string_view implementation() const override { return implementation_; }
  std::size_t scratch_bytes() const override { return place_ + widened_bytes_; }
  bool can_overwrite(int input, int output) const override { return product_->can_overwrite(input, output); }
  std::string weight_layout(int input) const override { return product_->weight_layout(input); }
  std::size_t packed_bytes(int input, const Type& type) const override { return product_->packed_bytes(input, type); }
  void pack_weight(int input, const Type& type, const WeightReader& source, std::byte* packed) const override {
    product_->pack_weight(input, type, source, packed);
  }

 protected:
  void run_product(Stream& stream, std::span<const Slot> inputs, const Slot& weight, std::span<const Slot> outputs,
                   Slot scratch) const;

  const KeptLayout layout_;
  const Type type_;  // of the weight
  const std::unique_ptr<Kernel> product_;
  const bool has_change_;  // the last operand of the node
  const std::string implementation_;
  const std::size_t place_, widened_bytes_;
};

}  // namespace zoe
