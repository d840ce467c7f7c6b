// linear with a weight that stays as it is stored: all threads widen it, in the product's packing of weights.
//
// Widening inside the product would save writing and reading the weight once more, which is a small part: an element takes about a
// nanosecond of a core, and its products, two operations for each row, ten with a thousand rows (docs/performance.md).

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <vector>

#include "base/error.h"
#include "ir/change.h"
#include "platform/cpu/kernels.h"
#include "platform/cpu/widen.h"
#include "platform/kept_linear.h"

namespace zoe::cpu {

namespace {

// As KeptWeight, by loops for the instruction set of this machine where they apply.
class FastKeptWeight : public WeightReader {
 public:
  // `loops`: of each part, to `dtype`, or to f32 where there is a change: elements of `dtype`, added before the one rounding.
  FastKeptWeight(const KeptLayout& layout, std::span<const WidenLoop> loops, const Type& type, const std::byte* bytes,
                 const std::byte* change)
      : layout_(layout),
        loops_(loops),
        dtype_(change ? DType::f32 : type.dtype),
        bytes_(bytes),
        all_(layout, type.shape, bytes),
        change_{change, type.dtype} {}
  const Shape& shape() const override { return all_.shape(); }
  std::size_t stored_bytes() const override { return all_.stored_bytes(); }
  void read(std::int64_t begin, std::int64_t count, DType dtype, void* out) const override {
    if (!change_.data) return read_stored(begin, count, dtype, out);
    constexpr std::int64_t kMost = 256;
    alignas(64) std::array<float, kMost> values, changes;
    for (std::int64_t now; count > 0; begin += now, count -= now, out = static_cast<std::byte*>(out) + now * size_of(dtype)) {
      now = std::min(count, kMost);
      read_stored(begin, now, DType::f32, values.data());
      convert(change_.data + begin * size_of(change_.dtype), change_.dtype, changes.data(), DType::f32, now);
      for (std::int64_t i = 0; i < now; ++i) values[i] += changes[i];
      convert(values.data(), DType::f32, out, dtype, now);
    }
  }

 private:
  void read_stored(std::int64_t begin, std::int64_t count, DType dtype, void* out) const {
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

  const KeptLayout& layout_;
  const std::span<const WidenLoop> loops_;
  const DType dtype_;
  const std::byte* const bytes_;
  const KeptWeight all_;
  const struct {
    const std::byte* data;
    DType dtype;
  } change_;
};

class KeptLinearKernel : public KeptLinear {
 public:
  KeptLinearKernel(const Node& node, std::unique_ptr<Kernel> product) : KeptLinear(node, std::move(product), kCacheLine) {
    const DType dtype = has_change_ ? DType::f32 : type_.dtype;
    for (const KeptPlace& place : layout_.places) loops_.push_back(widen_loop_of(*place.part.storage.encoding, dtype));
  }

 private:
  static constexpr std::size_t kCacheLine = 64;
  void widen(Stream&, Slot kept, Slot change, Slot& to) const override {
    product_->pack_weight(1, type_, FastKeptWeight(layout_, loops_, type_, kept.data(), has_change_ ? change.data() : nullptr),
                          to.data());
  }

  std::vector<WidenLoop> loops_;  // of each part
};

}  // namespace

std::unique_ptr<Kernel> make_kept_linear(const Node& node, std::unique_ptr<Kernel> product) {
  return std::make_unique<KeptLinearKernel>(node, std::move(product));
}

}  // namespace zoe::cpu
