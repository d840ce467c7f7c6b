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
  Value weight = {}, bias = {};  // [C], any float dtype: norm(x) * weight + bias. Absent: 1 and 0, and costs nothing.
};

// The norm of the rows of an f32 [..,C], then * weight + bias where present. Two passes: the mean first, then the centred squares.
// What is rounded to f32, in order: the mean, x - mean, its square, the mean of the squares, that + eps, 1 / sqrt of it (two
// roundings), the product with it, the product with the weight, the sum with the bias.
Value normalize(const Value& x, Norm kind, double eps, const Value& weight = {}, const Value& bias = {});

// invalid_argument, naming op and argument, unless ...
// x is a float [..,C];
void check_rows(std::string_view op, const Value& x);
// `vector` is absent or a float [width];
void check_vector(std::string_view op, std::string_view argument, const Value& vector, std::int64_t width);
// the norm's weight and bias are absent or float [width].
void check_affine(std::string_view op, const NormOptions& norm, std::int64_t width);

}  // namespace zoe
