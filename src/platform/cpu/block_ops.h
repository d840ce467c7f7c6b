// Operations on blocks of a row: what row blocks make chains of where there is no compiler. A block is a few vectors of f32 that
// stay in registers: each operation works on them, with an operand from memory if it takes one, and calls the next one with what
// it made. So a program of them costs one load an operand and one store a result, as compiled code does.
//
// The arithmetic is that of single nodes (elementwise.cpp): the same formulas, each rounded by itself, and the same reductions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/dtype.h"
#include "ir/value.h"

namespace zoe::cpu {

// For blocks of eight, six, four and one vectors. What they take depends on the instruction set.
struct BlockFunctions {
  void (*eight)() = nullptr;
  void (*six)() = nullptr;
  void (*four)() = nullptr;
  void (*one)() = nullptr;
};

struct BlockOp {
  BlockFunctions functions;
  std::byte* at;             // its memory, if it has any: where column 0 of the row lies
  const std::int64_t* runs;  // of Access::runs
};

// How an operation finds its operand's elements: all columns read the same one, the one of their own, or their neighbour's in the
// pairs (0, 1), (2, 3), ...; or all blocks the same ones (f32). Runs: the one of their own, which for columns from 32 i on lies
// runs[i] bytes behind where it would lie in a dense row. Runs have whole blocks.
enum class Access : std::uint8_t { one, dense, swapped, runs, block };

// Programs begin with a load and stop at an end. Only loads and stores know bytes.
BlockFunctions block_load(DType dtype, Access access);
BlockFunctions block_unary(Opcode opcode);
BlockFunctions block_binary(Opcode opcode, DType dtype, Access access);           // block `opcode` memory
BlockFunctions block_binary_reversed(Opcode opcode, DType dtype, Access access);  // memory `opcode` block
BlockFunctions block_round(DType dtype);                                          // to what bf16 or 8 bits can hold
// To dense rows, to runs or to a block. bf16: of a rounded block, or the store rounds what it stores. Bytes: of a rounded block.
BlockFunctions block_store(DType dtype, Access access, bool rounds);
BlockFunctions block_stream(DType dtype, Access access, bool rounds);  // past the caches
// Takes them, or their squares, into the row's kPartials partial totals.
BlockFunctions block_reduction(Opcode opcode, bool squares);
BlockFunctions block_prefetch(DType dtype, Access access);  // asks for a block of a row
BlockFunctions block_end();

// An operation whose memory is another one for each row.
struct BlockMove {
  int op;  // of its program
  std::int64_t row_step;
  bool returns;  // to a tile's first row: rows of the scratch, which are a tile's; operands and results go on to the next one
};

// Runs a program over columns [begin, end) of `rows` rows, moving what moves behind each; `begin` is a multiple of kPartials.
// `by_eight`: in blocks of eight vectors while there are so many, else of six or four.
using BlockRun = void (*)(BlockOp* program, std::span<const BlockMove> moves, std::int64_t rows, std::int64_t begin,
                          std::int64_t end, bool by_eight);
BlockRun block_run();
std::int64_t block_elements(int vectors);

void flush_streams();  // ends a run of streams in the thread that made them

// Each row's total from its partial ones.
constexpr std::int64_t kPartials = 32;
using BlockTotals = void (*)(const float* partials, float* totals, std::int64_t rows);
BlockTotals block_totals(Opcode reduction);

}  // namespace zoe::cpu
