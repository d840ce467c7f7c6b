#include "ops/modulation.h"

#include "base/error.h"

namespace zoe {

namespace {

bool is_float(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16; }

Value combine(Value (*op)(const Value&, const Value&), const Value& x, const Value& modulation) {
  const Shape& shape = x.shape();
  const Shape& form = modulation.shape();
  if (form.rank() == 4) {
    const Shape by_frame{shape.dim(0), form.dim(1), shape.dim(1) / form.dim(1), shape.dim(2)};
    return reshape(op(reshape(x, by_frame), modulation), shape);
  }
  return op(x, form.rank() == 2 ? reshape(modulation, {form.dim(0), 1, form.dim(1)}) : modulation);
}

}  // namespace

void check_tokens(std::string_view op, std::string_view argument, const Value& x) {
  check(x && is_float(x.dtype()) && x.shape().rank() == 3, ErrorKind::invalid_argument, op,
        "bad {}: got {}, expected f32 or bf16 [B,L,C].", argument, x ? x.type().str() : "none");
}

void check_present(std::string_view op, std::string_view argument, const Value& modulation) {
  check(static_cast<bool>(modulation), ErrorKind::invalid_argument, op,
        "bad {}: got none, expected a scalar, [C], [1|B,C], [1|B,1|L,C] or [B,F,1,C].", argument);
}

void check_modulation(std::string_view op, std::string_view argument, const Value& modulation, const Shape& x) {
  if (!modulation) return;
  const Shape& form = modulation.shape();
  const std::int64_t batch = x.dim(0), length = x.dim(1), width = x.dim(2);
  const auto one_or = [&](int axis, std::int64_t extent) { return form.dim(axis) == 1 || form.dim(axis) == extent; };
  bool ok = is_float(modulation.dtype()) && (form.rank() == 0 || (form.rank() <= 4 && form.dim(-1) == width));
  if (ok && form.rank() == 2) ok = one_or(0, batch);
  if (ok && form.rank() == 3) ok = one_or(0, batch) && one_or(1, length);
  if (ok && form.rank() == 4) ok = form.dim(0) == batch && form.dim(1) > 0 && length % form.dim(1) == 0 && form.dim(2) == 1;
  check(ok, ErrorKind::invalid_argument, op,
        "bad {}: got {}, expected f32 or bf16 in one of the forms scalar, [{C}], [{B},{C}], [{B},{L},{C}] or [{b},F,1,{C}] where F "
        "divides {l}, to match x {}.",
        argument, modulation.type().str(), x.str(), fmt::arg("C", width), fmt::arg("b", batch), fmt::arg("l", length),
        fmt::arg("B", batch == 1 ? "1" : fmt::format("1|{}", batch)),
        fmt::arg("L", length == 1 ? "1" : fmt::format("1|{}", length)));
}

Value multiply_modulation(const Value& x, const Value& modulation) { return combine(mul, x, modulation); }
Value add_modulation(const Value& x, const Value& modulation) { return combine(add, x, modulation); }

Value modulate(Value x, const Value& scale, const Value& shift, double k) {
  // k + scale is taken on the small tensor, so that the large one is read and written once for the product and once for the sum.
  if (scale) {
    const Value wide = cast(scale, DType::f32);
    x = multiply_modulation(x, k == 0 ? wide : k + wide);
  } else if (k != 1) {
    x = x * k;
  }
  return shift ? add_modulation(x, cast(shift, DType::f32)) : x;
}

}  // namespace zoe
