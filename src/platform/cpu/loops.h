// The prebuilt loops of the element-wise opcodes, cast and reductions, for the instruction set of this machine: kernels of single
// nodes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/dtype.h"
#include "ir/value.h"

namespace zoe::cpu {

// `count` elements. `dst` may be `src`, where both have elements of one size.
using UnaryLoop = void (*)(const std::byte* src, std::byte* dst, std::int64_t count);

// A tile of rows. `row_step` is the operand's distance between rows in elements, `stride` within a row: 0 or 1.
struct RowOperand {
  const std::byte* data;
  std::int64_t row_step;
};
// `dst` is dense, and may be an operand that has its extents.
using BinaryLoop = void (*)(RowOperand a, RowOperand b, std::byte* dst, std::int64_t rows, std::int64_t length);

// Reduces dense rows of `length` floats to one float each.
using ReductionLoop = void (*)(const std::byte* src, std::byte* dst, std::int64_t rows, std::int64_t length);

// Operands and results are f32 or bf16; but for cast, a loop's are all of one dtype, and a cast is also between f32 and 8 bits. One
// of a binary loop's strides is 1.
UnaryLoop unary_loop_of(Opcode opcode, DType src, DType dst);
BinaryLoop binary_loop_of(Opcode opcode, DType dtype, int stride_a, int stride_b);
ReductionLoop reduction_loop_of(Opcode opcode);
// Swaps the elements of each pair; `count` is even, and `dst` apart from `src`.
UnaryLoop swap_loop_of(DType dtype);

std::string instruction_set();  // "avx3_zen4"

}  // namespace zoe::cpu
