// What follows a product's f32 sums: bias, activation, residual, and one rounding.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ir/value.h"

namespace zoe::cpu {

template <class T>  // std::uint16_t: bf16, or float
struct Finish {
  const T* bias;      // one a column, or null
  const T* residual;  // as the result, which it may be, or null
  T* result;
  std::int64_t stride;  // of residual and result, in elements
  Activation activation;
};

// A block of the result from its sums, `sums_stride` floats a row, which are there up to a whole vector. Of the other operands
// exactly `columns` columns are read and written.
template <class T>
using FinishLoop = void (*)(const Finish<T>& finish, const float* sums, std::int64_t sums_stride, std::int64_t rows,
                            std::int64_t columns);
template <class T>
FinishLoop<T> finish_loop();  // for the instruction set of this machine

}  // namespace zoe::cpu
