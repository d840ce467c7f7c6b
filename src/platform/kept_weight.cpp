#include "platform/kept_weight.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/error.h"
#include "ir/change.h"

namespace zoe {

namespace {

// Of parts and scales: a cache line.
constexpr std::size_t aligned(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

KeptLayout::KeptLayout(const Node& parameter) {
  std::int64_t first = 0;
  for (KeptPart& part : kept_parts(parameter)) {
    KeptPlace place{std::move(part), first, size_bytes, 0};
    const Encoding& encoding = *place.part.storage.encoding;
    first += place.part.type.shape.count();
    size_bytes = aligned(size_bytes + static_cast<std::size_t>(encoding.size_bytes(place.part.type.shape.count())));
    place.scales = size_bytes;
    if (place.part.storage.is_scaled) size_bytes = aligned(size_bytes + static_cast<std::size_t>(place.rows()) * sizeof(float));
    name += fmt::format("{}{}{} {}", name.empty() ? "as stored: " : ", ", encoding.name,
                        place.part.storage.is_scaled ? " with scales" : "", place.part.type.shape.str());
    places.push_back(std::move(place));
  }
  ZOE_INTERNAL_CHECK(!places.empty());
}

void KeptWeight::read(std::int64_t begin, std::int64_t count, DType dtype, void* out) const {
  ZOE_INTERNAL_CHECK(begin >= 0 && count >= 0 && count <= shape_.count() - begin);
  auto* to = static_cast<std::byte*>(out);
  for (const KeptPlace& place : layout_.places) {
    const std::int64_t end = place.first + place.part.type.shape.count();
    while (begin < end && count > 0) {
      const std::int64_t at = begin - place.first, columns = place.columns();
      std::int64_t now = std::min(count, end - begin);
      float scale = 1;
      if (place.part.storage.is_scaled) {
        now = std::min(now, columns - at % columns);
        std::memcpy(&scale, bytes_ + place.scales + static_cast<std::size_t>(at / columns) * sizeof scale, sizeof scale);
      }
      decode(*place.part.storage.encoding, bytes_ + place.blocks, at, now, dtype, to, scale);
      begin += now;
      count -= now;
      to += static_cast<std::size_t>(now) * size_of(dtype);
    }
    if (count == 0) return;
  }
}

KeptLinear::KeptLinear(const Node& node, std::unique_ptr<Kernel> product, std::size_t widened_bytes, std::size_t alignment)
    : layout_(node.inputs[1].node()),
      type_(node.inputs[1].type()),
      product_(std::move(product)),
      has_change_(has_change(node)),
      implementation_(fmt::format("{}, {}", has_change_ ? "widened and changed" : "widened", product_->implementation())),
      place_((product_->scratch_bytes() + alignment - 1) / alignment * alignment),
      widened_bytes_(widened_bytes) {}

void KeptLinear::run_product(Stream& stream, std::span<const Slot> inputs, const Slot& weight, std::span<const Slot> outputs,
                             Slot scratch) const {
  if (has_change_) inputs = inputs.first(inputs.size() - 1);
  std::array<Slot, 4> operands;
  std::copy(inputs.begin(), inputs.end(), operands.begin());
  operands[1] = weight;
  product_->run(stream, std::span(operands).first(inputs.size()), outputs, scratch);
}

}  // namespace zoe
