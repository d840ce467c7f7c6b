#include "ops/rotary_interleaved.h"

#include "ops/rotary.h"

namespace zoe {

Value rotary_interleaved(const Value& x, const Value& cos_full, const Value& sin_signed) {
  check_rotary("rotary_interleaved", x, cos_full, sin_signed);
  const auto native = [](std::span<const Value> a) {
    const Value wide = cast(a[0], DType::f32);  // [B,L,N,D]
    return std::vector<Value>{cast(wide * a[1] + swap_pairs(wide) * a[2], a[0].dtype())};
  };
  return call("rotary_interleaved", {x, cos_full, sin_signed}, native).front();
}

}  // namespace zoe
