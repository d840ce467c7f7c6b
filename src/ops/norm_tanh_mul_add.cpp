#include "ops/norm_tanh_mul_add.h"

#include "ops/modulation.h"

namespace zoe {

namespace {

constexpr std::string_view kName = "norm_tanh_mul_add";

}  // namespace

Value norm_tanh_mul_add(const Value& x, const Value& scale, const Value& shift, const NormOptions& norm) {
  check_tokens(kName, "x", x);
  check_present(kName, "scale", scale);
  check_modulation(kName, "scale", scale, x.shape());
  check_modulation(kName, "shift", shift, x.shape());
  check_affine(kName, norm, x.dim(2));
  const auto native = [kind = norm.kind, eps = norm.eps](std::span<const Value> a) {
    const Value normed = normalize(cast(a[0], DType::f32), kind, eps, a[3], a[4]);
    return std::vector<Value>{cast(modulate(normed, tanh(cast(a[1], DType::f32)), a[2], 0), a[0].dtype())};
  };
  return call_with_optional(std::string(kName), {x, scale, shift, norm.weight, norm.bias}, native).front();
}

}  // namespace zoe
