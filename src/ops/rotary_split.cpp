#include "ops/rotary_split.h"

#include "ops/rotary.h"

namespace zoe {

namespace {

// [B,L,N,D] with the halves of its last axis exchanged: no arithmetic, to a fused kernel a change of index.
Value exchange_halves(const Value& x) {
  const Value halves = reshape(x, {x.dim(0), x.dim(1), x.dim(2), 2, x.dim(3) / 2});
  return reshape(flip(halves, 3), x.shape());
}

}  // namespace

Value rotary_split(const Value& x, const Value& cos_full, const Value& sin_signed) {
  check_rotary("rotary_split", x, cos_full, sin_signed);
  const auto native = [](std::span<const Value> a) {
    const Value wide = cast(a[0], DType::f32);  // [B,L,N,D]
    return std::vector<Value>{cast(wide * a[1] + exchange_halves(wide) * a[2], a[0].dtype())};
  };
  return call("rotary_split", {x, cos_full, sin_signed}, native).front();
}

}  // namespace zoe
