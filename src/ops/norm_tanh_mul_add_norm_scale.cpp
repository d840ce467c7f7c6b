#include "ops/norm_tanh_mul_add_norm_scale.h"

#include "ops/modulation.h"

namespace zoe {

namespace {

constexpr std::string_view kName = "norm_tanh_mul_add_norm_scale";

}  // namespace

NormedTwice norm_tanh_mul_add_norm_scale(const Value& x, const Value& scale, const Value& shift, const Value& scale2,
                                         const NormOptions& norm, const Value& weight2, const Value& bias2) {
  check_tokens(kName, "x", x);
  check_present(kName, "scale", scale);
  check_modulation(kName, "scale", scale, x.shape());
  check_modulation(kName, "shift", shift, x.shape());
  check_modulation(kName, "scale2", scale2, x.shape());
  check_affine(kName, norm, x.dim(2));
  check_vector(kName, "weight2", weight2, x.dim(2));
  check_vector(kName, "bias2", bias2, x.dim(2));
  const auto native = [kind = norm.kind, eps = norm.eps](std::span<const Value> a) {
    const Value normed = normalize(cast(a[0], DType::f32), kind, eps, a[4], a[5]);
    const Value y = cast(modulate(normed, tanh(cast(a[1], DType::f32)), a[2], 0), a[0].dtype());
    const Value normed2 = normalize(cast(y, DType::f32), kind, eps, a[6], a[7]);
    return std::vector<Value>{y, cast(modulate(normed2, a[3], {}, 1), a[0].dtype())};
  };
  const auto results =
      call_with_optional(std::string(kName), {x, scale, shift, scale2, norm.weight, norm.bias, weight2, bias2}, native);
  return {results[0], results[1]};
}

}  // namespace zoe
