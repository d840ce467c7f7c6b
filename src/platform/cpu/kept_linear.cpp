// linear with a weight that stays as it is stored: it is widened into scratch memory in front of every product, by all threads,
// into what the product takes. So the product's bits are those of a weight that was widened beforehand.
//
// Widening inside the product would save writing and reading the weight once more, which is a small part: an element takes about a
// nanosecond of a core, and its products, two operations for each row, ten with a thousand rows (docs/performance.md).

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <vector>

#include "base/error.h"
#include "ir/trace.h"
#include "platform/cpu/kernels.h"
#include "platform/cpu/onednn.h"
#include "platform/cpu/widen.h"
#include "platform/kept_weight.h"

namespace zoe::cpu {

namespace {

// As KeptWeight, by loops for the instruction set of this machine where they apply.
class FastKeptWeight : public WeightReader {
 public:
  // `loops`: of each part, to `dtype`.
  FastKeptWeight(const KeptLayout& layout, std::span<const WidenLoop> loops, const Type& type, const std::byte* bytes)
      : layout_(layout), loops_(loops), dtype_(type.dtype), bytes_(bytes), all_(layout, type.shape, bytes) {}
  const Shape& shape() const override { return all_.shape(); }
  std::size_t stored_bytes() const override { return all_.stored_bytes(); }
  void read(std::int64_t begin, std::int64_t count, DType dtype, void* out) const override {
    constexpr std::int64_t kRun = 16;
    std::size_t part = layout_.places.size() - 1;
    while (layout_.places[part].first > begin) --part;
    const KeptPlace& place = layout_.places[part];
    const std::int64_t at = begin - place.first, columns = place.columns();
    const bool in_a_row = at / columns < place.rows() && at % columns + count <= columns;
    if (!loops_[part] || dtype != dtype_ || !in_a_row || at % kRun != 0 || count % kRun != 0)
      return all_.read(begin, count, dtype, out);
    // Packing goes along many rows at once: more streams than the processor foresees.
    const std::byte* const next = bytes_ + place.blocks + place.part.storage.encoding->size_bytes(at + count);
    for (int line = 0; line < 4; ++line) __builtin_prefetch(next + 64 * line);
    float scale = 1;
    if (place.part.storage.is_scaled)
      std::memcpy(&scale, bytes_ + place.scales + static_cast<std::size_t>(at / columns) * sizeof scale, sizeof scale);
    loops_[part](bytes_ + place.blocks, at, count, scale, out);
  }

 private:
  const KeptLayout& layout_;
  const std::span<const WidenLoop> loops_;
  const DType dtype_;
  const std::byte* const bytes_;
  const KeptWeight all_;
};

class KeptLinearKernel : public Kernel {
 public:
  KeptLinearKernel(const Node& node, const DeviceInfo& device)
      : layout_(node.inputs[1].node()), type_(node.inputs[1].type()), product_(make_linear(of_widened(node), device)) {
    implementation_ = fmt::format("widened, {}", product_->implementation());
    place_ = aligned(product_->scratch_bytes());
    for (const KeptPlace& place : layout_.places) loops_.push_back(widen_loop_of(*place.part.storage.encoding, type_.dtype));
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
    product_->pack_weight(1, type_, FastKeptWeight(layout_, loops_, type_, inputs[1].data()), weight.data());
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
  std::vector<WidenLoop> loops_;  // of each part
  std::size_t place_ = 0;
};

}  // namespace

std::unique_ptr<Kernel> make_kept_linear(const Node& node, const DeviceInfo& device) {
  return std::make_unique<KeptLinearKernel>(node, device);
}

}  // namespace zoe::cpu
