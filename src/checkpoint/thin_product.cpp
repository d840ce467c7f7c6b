#include "checkpoint/thin_product.h"

#include <algorithm>
#include <iterator>

#include "base/error.h"

namespace zoe {

namespace {

constexpr std::int64_t kPanel = std::size(PanelRow{}.values);

// sums[64] = row[r] @ panel[r,64]; a panel of a usual rank stays in the first cache. A product and a sum are two roundings
// everywhere, so that the bits are those of any machine.
[[gnu::always_inline]] inline void multiply_panel(const float* row, const PanelRow* panel, std::int64_t rank, float* sums) {
  using Lanes = float __attribute__((vector_size(64), may_alias));
  Lanes a = {}, b = {}, c = {}, d = {};  // an array would be written to memory in every round
  for (std::int64_t k = 0; k < rank; ++k) {
    const auto* const values = reinterpret_cast<const Lanes*>(panel[k].values);
    a = a + row[k] * values[0];
    b = b + row[k] * values[1];
    c = c + row[k] * values[2];
    d = d + row[k] * values[3];
  }
  auto* const to = reinterpret_cast<Lanes*>(sums);
  to[0] = a, to[1] = b, to[2] = c, to[3] = d;
}

using MultiplyPanel = void (*)(const float*, const PanelRow*, std::int64_t, float*);

void multiply_panel_anywhere(const float* row, const PanelRow* panel, std::int64_t rank, float* sums) {
  multiply_panel(row, panel, rank, sums);
}

#ifdef __x86_64__
[[gnu::target("avx2")]] void multiply_panel_avx2(const float* row, const PanelRow* panel, std::int64_t rank, float* sums) {
  multiply_panel(row, panel, rank, sums);
}
[[gnu::target("avx512f")]] void multiply_panel_avx512(const float* row, const PanelRow* panel, std::int64_t rank, float* sums) {
  multiply_panel(row, panel, rank, sums);
}
#endif

MultiplyPanel widest() {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx512f")) return multiply_panel_avx512;
  if (__builtin_cpu_supports("avx2")) return multiply_panel_avx2;
#endif
  return multiply_panel_anywhere;
}

}  // namespace

ThinProduct::ThinProduct(const WeightReader& up, const WeightReader& down, double scale)
    : rows_(up.shape().dim(0)),
      columns_(down.count() / std::max<std::int64_t>(1, down.shape().dim(0))),
      rank_(down.shape().dim(0)) {
  ZOE_INTERNAL_CHECK(up.count() == rows_ * rank_ && columns_ > 0);
  up_.resize(static_cast<std::size_t>(rows_ * rank_));
  up.read(0, rows_ * rank_, DType::f32, up_.data());
  const auto factor = static_cast<float>(scale);
  for (float& value : up_) value *= factor;
  const std::int64_t panels = (columns_ + kPanel - 1) / kPanel;
  panels_.resize(static_cast<std::size_t>(panels * rank_));
  std::vector<float> row(static_cast<std::size_t>(columns_));
  for (std::int64_t k = 0; k < rank_; ++k) {
    down.read(k * columns_, columns_, DType::f32, row.data());
    for (std::int64_t panel = 0; panel < panels; ++panel)
      std::copy_n(row.data() + panel * kPanel, std::min(kPanel, columns_ - panel * kPanel),
                  panels_[static_cast<std::size_t>(panel * rank_ + k)].values);
  }
}

void ThinProduct::each(std::int64_t row, std::int64_t column, std::int64_t count, float* out, bool add) const {
  static const MultiplyPanel multiply = widest();
  alignas(64) float sums[kPanel];
  while (count > 0) {
    const std::int64_t panel = column / kPanel, first = column - panel * kPanel, now = std::min(count, kPanel - first);
    multiply(up_.data() + row * rank_, panels_.data() + panel * rank_, rank_, sums);
    if (add)
      for (std::int64_t i = 0; i < now; ++i) out[i] += sums[first + i];
    else std::copy_n(sums + first, now, out);
    column += now;
    count -= now;
    out += now;
  }
}

}  // namespace zoe
