#include "ops/norm_scale_shift.h"

#include "ops/modulation.h"

namespace zoe {

Value norm_scale_shift(const Value& x, const Value& scale, const Value& shift, const NormOptions& norm) {
  check_tokens("norm_scale_shift", "x", x);
  check_modulation("norm_scale_shift", "scale", scale, x.shape());
  check_modulation("norm_scale_shift", "shift", shift, x.shape());
  check_affine("norm_scale_shift", norm, x.dim(2));
  const auto native = [kind = norm.kind, eps = norm.eps](std::span<const Value> a) {
    const Value normed = normalize(cast(a[0], DType::f32), kind, eps, a[3], a[4]);
    return std::vector<Value>{cast(modulate(normed, a[1], a[2], 1), a[0].dtype())};
  };
  return call_with_optional("norm_scale_shift", {x, scale, shift, norm.weight, norm.bias}, native).front();
}

}  // namespace zoe
