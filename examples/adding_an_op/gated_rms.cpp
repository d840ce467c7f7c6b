#include "gated_rms.h"

#include "ops/modulation.h"
#include "ops/norm.h"

namespace zoe {

Value gated_rms(const Value& x, const Value& gate, const Value& weight, double eps) {
  check_tokens("gated_rms", "x", x);
  check_present("gated_rms", "gate", gate);
  check_modulation("gated_rms", "gate", gate, x.shape());
  check_vector("gated_rms", "weight", weight, x.dim(2));
  const auto native = [eps](std::span<const Value> a) {
    const Value normed = normalize(cast(a[0], DType::f32), Norm::rms, eps, a[2]);
    return std::vector<Value>{cast(multiply_modulation(normed, silu(cast(a[1], DType::f32))), a[0].dtype())};
  };
  return call_with_optional("gated_rms", {x, gate, weight}, native).front();
}

}  // namespace zoe
