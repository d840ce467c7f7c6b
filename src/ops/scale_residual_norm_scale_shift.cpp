#include "ops/scale_residual_norm_scale_shift.h"

#include "base/error.h"
#include "ops/modulation.h"

namespace zoe {

namespace {

constexpr std::string_view kName = "scale_residual_norm_scale_shift";

}  // namespace

NormedResidual scale_residual_norm_scale_shift(const Value& residual, const Value& x, const Value& gate, const Value& scale,
                                               const Value& shift, const NormOptions& norm) {
  check_tokens(kName, "residual", residual);
  check_tokens(kName, "x", x);
  check(x.shape() == residual.shape(), ErrorKind::invalid_argument, kName, "bad x: got {}, expected {} as the residual.",
        x.type().str(), residual.shape().str());
  check_modulation(kName, "gate", gate, x.shape());
  check_modulation(kName, "scale", scale, x.shape());
  check_modulation(kName, "shift", shift, x.shape());
  check_affine(kName, norm, x.dim(2));
  const auto native = [kind = norm.kind, eps = norm.eps](std::span<const Value> a) {
    Value branch = cast(a[1], DType::f32);
    if (a[2]) branch = multiply_modulation(branch, cast(a[2], DType::f32));
    const Value r = cast(cast(a[0], DType::f32) + branch, a[0].dtype());
    const Value normed = normalize(cast(r, DType::f32), kind, eps, a[5], a[6]);
    return std::vector<Value>{cast(modulate(normed, a[3], a[4], 1), a[1].dtype()), r};
  };
  const auto results = call_with_optional(std::string(kName), {residual, x, gate, scale, shift, norm.weight, norm.bias}, native);
  return {results[0], results[1]};
}

}  // namespace zoe
