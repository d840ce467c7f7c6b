#include "ops/scale_shift.h"

#include "ops/modulation.h"

namespace zoe {

Value scale_shift(const Value& x, const Value& scale, const Value& shift, double k) {
  check_tokens("scale_shift", "x", x);
  check_modulation("scale_shift", "scale", scale, x.shape());
  check_modulation("scale_shift", "shift", shift, x.shape());
  const auto native = [k](std::span<const Value> a) {
    return std::vector<Value>{cast(modulate(cast(a[0], DType::f32), a[1], a[2], k), a[0].dtype())};
  };
  return call_with_optional("scale_shift", {x, scale, shift}, native).front();
}

}  // namespace zoe
