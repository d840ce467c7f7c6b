#include "ops/norm.h"

#include "base/error.h"

namespace zoe {

Value normalize(const Value& x, Norm kind, double eps, const Value& weight, const Value& bias) {
  const Value centred = kind == Norm::layer ? x - mean(x) : x;  // [..,C]
  Value y = centred * rsqrt(mean(square(centred)) + eps);       // [..,C] * [..,1]
  if (weight) y = y * cast(weight, DType::f32);
  return bias ? y + cast(bias, DType::f32) : y;
}

void check_rows(std::string_view op, const Value& x) {
  const bool is_float = x && (x.dtype() == DType::f32 || x.dtype() == DType::bf16);
  check(is_float && x.shape().rank() >= 1, ErrorKind::invalid_argument, op, "bad x: got {}, expected f32 or bf16 [..,C].",
        x ? x.type().str() : "none");
}

void check_vector(std::string_view op, std::string_view argument, const Value& vector, std::int64_t width) {
  if (!vector) return;
  const bool is_float = vector.dtype() == DType::f32 || vector.dtype() == DType::bf16;
  check(is_float && vector.shape() == Shape{width}, ErrorKind::invalid_argument, op, "bad {}: got {}, expected f32 or bf16 [{}].",
        argument, vector.type().str(), width);
}

void check_affine(std::string_view op, const NormOptions& norm, std::int64_t width) {
  check_vector(op, "norm weight", norm.weight, width);
  check_vector(op, "norm bias", norm.bias, width);
}

}  // namespace zoe
