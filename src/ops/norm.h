// The row norms that several ops share.
#pragma once

#include "ir/trace.h"

namespace zoe {

enum class Norm {
  layer,  // (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps)
  rms,    // x / sqrt(mean(x^2) + eps)
};

struct NormOptions {
  Norm kind = Norm::layer;
  double eps = 1e-6;
  Value weight = {}, bias = {};  // [C], any float dtype: norm(x) * weight + bias. Absent: 1 and 0.
};

// The norm of the rows of an f32 [..,C], weight and bias left aside. Two passes: the mean first, then the centred squares.
Value normalize(const Value& x, Norm kind, double eps);

// invalid_argument, naming op and argument, unless `vector` is absent or a float [width].
void check_vector(std::string_view op, std::string_view argument, const Value& vector, std::int64_t width);

}  // namespace zoe
