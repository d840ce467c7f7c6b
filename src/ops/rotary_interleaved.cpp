#include "ops/rotary_interleaved.h"

#include "base/error.h"

namespace zoe {

namespace {

constexpr std::string_view kName = "rotary_interleaved";

Value native(const Value& x, const Value& cos_full, const Value& sin_signed) {
  const Value wide = cast(x, DType::f32);  // [B,L,N,D]
  return cast(wide * cos_full + swap_pairs(wide) * sin_signed, x.dtype());
}

}  // namespace

Value rotary_interleaved(const Value& x, const Value& cos_full, const Value& sin_signed) {
  check(x.shape().rank() == 4 && x.dim(3) % 2 == 0, ErrorKind::invalid_argument, kName,
        "bad x: got {}, expected [B,L,N,D] with D even.", x.type().str());
  const Type table{DType::f32, {x.dim(1), 1, x.dim(3)}};
  for (const auto& [argument, value] : {std::pair{"cos_full", cos_full}, std::pair{"sin_signed", sin_signed}})
    check(value.type() == table, ErrorKind::invalid_argument, kName, "bad {}: got {}, expected {} to match x {}.", argument,
          value.type().str(), table.str(), x.type().str());
  return call(std::string(kName), {x, cos_full, sin_signed},
              [](std::span<const Value> a) { return std::vector<Value>{native(a[0], a[1], a[2])}; })
      .front();
}

}  // namespace zoe
