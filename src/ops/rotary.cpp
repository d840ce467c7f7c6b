#include "ops/rotary.h"

#include <utility>

#include "base/error.h"

namespace zoe {

void check_rotary(std::string_view op, const Value& x, const Value& cos_full, const Value& sin_signed) {
  const bool is_float = x && (x.dtype() == DType::f32 || x.dtype() == DType::bf16);
  check(is_float && x.shape().rank() == 4 && x.dim(3) % 2 == 0, ErrorKind::invalid_argument, op,
        "bad x: got {}, expected f32 or bf16 [B,L,N,D] with D even.", x ? x.type().str() : "none");
  const std::int64_t length = x.dim(1), heads = x.dim(2), width = x.dim(3);
  for (const auto& [argument, table] : {std::pair{"cos_full", cos_full}, std::pair{"sin_signed", sin_signed}}) {
    const bool ok = table && table.dtype() == DType::f32 &&
                    (table.shape() == Shape{length, 1, width} || table.shape() == Shape{length, heads, width});
    check(ok, ErrorKind::invalid_argument, op, "bad {}: got {}, expected f32[{},{},{}] to match x {}.", argument,
          table ? table.type().str() : "none", length, heads == 1 ? "1" : fmt::format("1|{}", heads), width, x.type().str());
  }
}

}  // namespace zoe
