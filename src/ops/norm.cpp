#include "ops/norm.h"

#include "base/error.h"

namespace zoe {

Value normalize(const Value& x, Norm kind, double eps) {
  const Value centred = kind == Norm::layer ? x - mean(x) : x;  // [..,C]
  return centred * rsqrt(mean(square(centred)) + eps);          // [..,C] * [..,1]
}

void check_vector(std::string_view op, std::string_view argument, const Value& vector, std::int64_t width) {
  if (!vector) return;
  const bool is_float = vector.dtype() == DType::f32 || vector.dtype() == DType::bf16;
  check(is_float && vector.shape() == Shape{width}, ErrorKind::invalid_argument, op, "bad {}: got {}, expected f32 or bf16 [{}].",
        argument, vector.type().str(), width);
}

}  // namespace zoe
