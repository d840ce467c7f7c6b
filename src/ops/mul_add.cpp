#include "ops/mul_add.h"

#include "base/error.h"
#include "ops/modulation.h"

namespace zoe {

Value mul_add(const Value& a, const Value& b, const Value& c, double k) {
  check_tokens("mul_add", "a", a);
  check_modulation("mul_add", "b", b, a.shape());
  check_tokens("mul_add", "c", c);
  check(c.shape() == a.shape(), ErrorKind::invalid_argument, "mul_add", "bad c: got {}, expected {} as a.", c.type().str(),
        a.shape().str());
  const auto native = [k](std::span<const Value> v) {
    const Value gate = k == 0 ? cast(v[1], DType::f32) : k + cast(v[1], DType::f32);
    const Value gated = multiply_modulation(cast(v[0], DType::f32), gate);
    return std::vector<Value>{cast(cast(v[2], DType::f32) + gated, v[2].dtype())};
  };
  return call("mul_add", {a, b, c}, native).front();
}

}  // namespace zoe
