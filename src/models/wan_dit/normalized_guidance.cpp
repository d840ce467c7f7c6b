#include "models/wan_dit/normalized_guidance.h"

#include "ir/trace.h"

namespace zoe {

Value normalized_guidance(const Value& positive, const Value& negative, const Value& settings) {
  const auto setting = [&](std::int64_t i) { return slice(settings, 0, i, i + 1); };
  const Value scale = setting(0), tau = setting(1), alpha = setting(2);
  const Value seen = cast(positive, DType::f32), guided = seen * scale - cast(negative, DType::f32) * (scale - 1.0);
  const auto length = [](const Value& x) { return sum(max(x, -x)); };  // [..,1]
  constexpr double kTiny = 1e-30;                                      // a row of zeros stays one
  const Value shrink = min(tau * length(seen) / max(length(guided), constant(kTiny)), constant(1.0));
  return cast(guided * shrink * alpha + seen * (constant(1.0) - alpha), positive.dtype());
}

}  // namespace zoe
