#include "ops/rms_norm.h"

#include "ops/modulation.h"
#include "ops/norm.h"

namespace zoe {

Value rms_norm(const Value& x, const Value& weight, double eps) {
  check_rows("rms_norm", x);
  check_vector("rms_norm", "weight", weight, x.dim(-1));
  const auto native = [eps](std::span<const Value> a) {
    return std::vector<Value>{cast(normalize(cast(a[0], DType::f32), Norm::rms, eps, a[1]), a[0].dtype())};
  };
  return call_with_optional("rms_norm", {x, weight}, native).front();
}

}  // namespace zoe
