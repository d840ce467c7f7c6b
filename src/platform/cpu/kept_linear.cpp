// linear with a weight that stays as it is stored: it is widened into scratch memory in front of every product, by all threads, into
// what the product takes. So the product's bits are those of a weight that was widened beforehand.
//
// Widening inside the product would save writing and reading the weight once more, which is a small part: an element takes about a
// nanosecond of a core, and its products, two operations for each row, hundreds (docs/performance.md).

#include <algorithm>
#include <array>

#include "base/error.h"
#include "ir/trace.h"
#include "platform/cpu/kernels.h"
#include "platform/cpu/onednn.h"
#include "platform/kept_weight.h"

namespace zoe::cpu {

namespace {

class KeptLinearKernel : public Kernel {
 public:
  KeptLinearKernel(const Node& node, const DeviceInfo& device)
      : layout_(node.inputs[1].node()), type_(node.inputs[1].type()), product_(make_linear(of_widened(node), device)) {
    implementation_ = fmt::format("widened, {}", product_->implementation());
    place_ = aligned(product_->scratch_bytes());
  }

  std::string_view implementation() const override { return implementation_; }
  std::size_t scratch_bytes() const override { return place_ + product_->packed_bytes(1, type_); }
  bool can_overwrite(int input, int output) const override { return product_->can_overwrite(input, output); }
  std::string weight_layout(int input) const override { return product_->weight_layout(input); }
  std::size_t packed_bytes(int input, const Type& type) const override { return product_->packed_bytes(input, type); }
  void pack_weight(int input, const Type& type, const WeightReader& source, std::byte* packed) const override {
    product_->pack_weight(input, type, source, packed);
  }

  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    const Slot weight{scratch.buffer, scratch.offset + place_};
    product_->pack_weight(1, type_, KeptWeight(layout_, type_.shape, inputs[1].data()), weight.data());
    std::array<Slot, 4> operands;
    std::copy(inputs.begin(), inputs.end(), operands.begin());
    operands[1] = weight;
    product_->run(stream, std::span(operands).first(inputs.size()), outputs, scratch);
  }

 private:
  // The same node with an ordinary weight.
  static Node of_widened(const Node& node) {
    Node plain = node;
    plain.inputs[1] = parameter("weight", node.inputs[1].dtype(), node.inputs[1].shape());
    return plain;
  }

  const KeptLayout layout_;
  const Type type_;
  const std::unique_ptr<Kernel> product_;
  std::string implementation_;
  std::size_t place_ = 0;
};

}  // namespace

std::unique_ptr<Kernel> make_kept_linear(const Node& node, const DeviceInfo& device) {
  return std::make_unique<KeptLinearKernel>(node, device);
}

}  // namespace zoe::cpu
