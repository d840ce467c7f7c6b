#include "platform/kept_linear.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "ir/change.h"

namespace zoe {

KeptLinear::KeptLinear(const Node& node, std::unique_ptr<Kernel> product, std::size_t alignment, std::size_t slack)
    : layout_(node.inputs[1].node()),
      type_(node.inputs[1].type()),
      product_(std::move(product)),
      has_change_(has_change(node)),
      implementation_(fmt::format("{}, {}", has_change_ ? "widened and changed" : "widened", product_->implementation())),
      place_((product_->scratch_bytes() + alignment - 1) / alignment * alignment),
      slack_(slack) {}

void KeptLinear::run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const {
  Slot weight{scratch.buffer, scratch.offset + place_};
  widen(stream, inputs[1], has_change_ ? inputs.back() : Slot{}, weight);
  std::array<Slot, 5> operands;
  ZOE_INTERNAL_CHECK(inputs.size() <= operands.size());
  std::copy(inputs.begin(), inputs.end(), operands.begin());
  operands[1] = weight;
  product_->run(stream, std::span(operands).first(inputs.size() - (has_change_ ? 1 : 0)), outputs, scratch);
}

}  // namespace zoe
