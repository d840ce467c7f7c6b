// linear with a weight that stays as it is stored: it is widened in front of every product, into scratch memory, to what an
// ordinary product takes, and a change beside it is added on the way (ir/change.h). So the product's bits are those of a weight
// that was widened beforehand. A platform says how it widens.
#pragma once

#include <memory>
#include <string>

#include "platform/kept_weight.h"
#include "platform/platform.h"

namespace zoe {

class KeptLinear : public Kernel {
 public:
  // `product`: of the same node with an ordinary weight (behind_widening). The widened weight begins at a multiple of `alignment`
  // bytes of the scratch memory; `slack`: bytes that widen() may move it by.
  KeptLinear(const Node& node, std::unique_ptr<Kernel> product, std::size_t alignment, std::size_t slack = 0);

  std::string_view implementation() const override { return implementation_; }
  std::size_t scratch_bytes() const override { return place_ + product_->packed_bytes(1, type_) + slack_; }
  bool can_overwrite(int input, int output) const override { return product_->can_overwrite(input, output); }
  std::string weight_layout(int input) const override { return product_->weight_layout(input); }
  std::size_t packed_bytes(int input, const Type& type) const override { return product_->packed_bytes(input, type); }
  void pack_weight(int input, const Type& type, const WeightReader& source, std::byte* packed) const override {
    product_->pack_weight(input, type, source, packed);
  }
  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override;

 protected:
  // Queues the widening of what lies at `kept` as layout_ says, with `change` (no buffer: none) added, to what the product takes.
  virtual void widen(Stream& stream, Slot kept, Slot change, Slot& to) const = 0;

  const KeptLayout layout_;
  const Type type_;  // of the widened weight, and of a change
  const std::unique_ptr<Kernel> product_;
  const bool has_change_;

 private:
  const std::string implementation_;
  const std::size_t place_, slack_;  // of the widened weight in the scratch memory
};

}  // namespace zoe
