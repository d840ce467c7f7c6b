// What follows a product's f32 sums: bias, activation, residual, and one rounding to bf16.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ir/value.h"

namespace zoe::cpu {

struct Finish {
  const std::uint16_t* bias;      // one a column, or null
  const std::uint16_t* residual;  // as the result, which it may be, or null
  std::uint16_t* result;
  std::int64_t stride;  // of residual and result, in elements
  Activation activation;
};

// A block of the result from its sums, `sums_stride` floats a row. Exactly `columns` columns are read and written.
using FinishLoop = void (*)(const Finish& finish, const float* sums, std::int64_t sums_stride, std::int64_t rows,
                            std::int64_t columns);
FinishLoop finish_loop();  // for the instruction set of this machine

}  // namespace zoe::cpu
