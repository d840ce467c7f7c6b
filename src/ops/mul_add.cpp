#include "ops/mul_add.h"

#include "base/error.h"
#include "ops/modulation.h"

namespace zoe {

Value mul_add(const Value& a, const Value& b, const Value& c, double k) {
  check_tokens("mul_add", "a", a);
  check_modulation("mul_add", "b", b, a.shape());
  check(b || k == 0 || k == 1, ErrorKind::invalid_argument, "mul_add", "bad k: got {} with b absent, expected 0 or 1.", k);
  check_tokens("mul_add", "c", c);
  check(c.shape() == a.shape(), ErrorKind::invalid_argument, "mul_add", "bad c: got {}, expected {} as a.", c.type().str(),
        a.shape().str());
  const auto native = [k](std::span<const Value> v) {
    const Value branch = v[1] ? modulate(cast(v[0], DType::f32), v[1], {}, k) : cast(v[0], DType::f32);
    return std::vector<Value>{cast(cast(v[2], DType::f32) + branch, v[2].dtype())};
  };
  return call_with_optional("mul_add", {a, b, c}, native).front();
}

}  // namespace zoe
