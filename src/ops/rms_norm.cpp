#include "ops/rms_norm.h"

#include "base/error.h"
#include "ops/norm.h"

namespace zoe {

Value rms_norm(const Value& x, const Value& weight, double eps) {
  check(x.shape().rank() >= 1, ErrorKind::invalid_argument, "rms_norm", "bad x: got {}, expected [..,C].", x.type().str());
  check_vector("rms_norm", "weight", weight, x.dim(-1));
  const auto native = [eps](std::span<const Value> a) {
    const Value norm = normalize(cast(a[0], DType::f32), Norm::rms, eps);
    return std::vector<Value>{cast(norm * cast(a[1], DType::f32), a[0].dtype())};
  };
  return call("rms_norm", {x, weight}, native).front();
}

}  // namespace zoe
