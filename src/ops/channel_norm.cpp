#include "ops/channel_norm.h"

#include <cmath>

#include "base/error.h"
#include "ops/norm.h"

namespace zoe {

namespace {

Value native(const Value& x, const Value& gamma) {
  const Value wide = cast(x, DType::f32);                                             // [..,C]
  const Value length = max(sqrt(sum(square(wide))), constant(1e-12));                 // [..,1]
  const Value factor = constant(std::sqrt(static_cast<double>(x.dim(-1)))) / length;  // [..,1]
  return cast(wide * factor * cast(gamma, DType::f32), x.dtype());
}

}  // namespace

Value channel_norm(const Value& x, const Value& gamma) {
  check_rows("channel_norm", x);
  check(static_cast<bool>(gamma), ErrorKind::invalid_argument, "channel_norm", "bad gamma: got none, expected f32 or bf16 [{}].",
        x.dim(-1));
  check_vector("channel_norm", "gamma", gamma, x.dim(-1));
  return call("channel_norm", {x, gamma}, [](std::span<const Value> a) { return std::vector<Value>{native(a[0], a[1])}; }).front();
}

}  // namespace zoe
