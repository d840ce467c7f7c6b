#include "models/gelu_erf.h"

#include <numbers>

namespace zoe {

Value gelu_erf(const Value& x) {
  const Value wide = cast(x, DType::f32), size = max(wide, -wide), z = size * (1 / std::numbers::sqrt2);
  // erf(z) = 1 - (a1 t + ... + a5 t^5) e^(-z^2), t = 1 / (1 + p z), for z >= 0; then x/2 (1 + erf) is max(x, 0) less half of |x|
  // times what is left of 1.
  const Value t = constant(1) / (z * 0.3275911 + 1.0);
  Value tail = t * 1.061405429;
  for (const double a : {-1.453152027, 1.421413741, -0.284496736, 0.254829592}) tail = (tail + a) * t;
  return cast(max(wide, constant(0)) - size * 0.5 * (tail * exp(-square(z))), x.dtype());
}

}  // namespace zoe
