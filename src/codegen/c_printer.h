// A chain as source text. One printer writes all dialects; a dialect is a table of spellings and a prelude.
//
// Two shapes of kernel come out of the same statements:
// - vectors (C++): a function over a range of rows, or of elements of a flat chain, that works through each row in vectors;
// - threads (CUDA C++, OpenCL C): one group of 32 threads a row, each with every 32nd column; one thread an element of a flat
// chain. On CPUs OpenCL C takes one thread a row, whose loop over the columns its compiler makes vectors of. Row sums are the same
// numbers in both: 32 partial sums, partial j of the columns j, j + 32, ..., and a fixed tree.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "codegen/chain.h"

namespace zoe {

struct Dialect {
  std::string_view name;     // "cpp", "opencl", "cuda"
  std::string_view prelude;  // before the text of math.inc, which needs it
  std::string_view more;     // behind that text: what needs its functions
  bool threads;              // the shape of kernel
  // Of kernels made of threads:
  std::string_view kernel;          // before the name of the function
  std::string_view global;          // before the pointer to an operand
  std::string_view local_partials;  // a declaration for reductions, or ""
  std::string_view row, lane;       // number of the row, and of the thread in its group
  std::string_view element;         // number of the element of a flat chain
  bool offsets = false;             // operands come as a buffer and an offset in elements
  bool warps = false;               // warps of several rows with wide accesses where the chain allows it, see wide_printer.h
  bool bf16_functions = false;      // has zoe_silu_bf16 and zoe_gelu_tanh_bf16: of bf16 and rounded to it
  bool whole_rows = false;          // one thread a row, which goes through all its columns: for threads that have vectors
};

extern const Dialect kCppDialect, kOpenclDialect, kOpenclRowsDialect, kCudaDialect;

// What precedes all kernels of a program.
std::string prelude(const Dialect& dialect);

// How a CUDA kernel is launched: on a one-dimensional grid of ceil(count / per_block) blocks.
struct Grid {
  int threads = 0;               // of a block, in one dimension
  std::int64_t per_block = 0;    // rows of a block, or elements of a flat chain
  std::size_t shared_bytes = 0;  // dynamic shared memory of a block, at most kMostSharedBytes
};
constexpr std::size_t kMostSharedBytes = 48 * 1024;  // what every device gives a block without being asked

struct GeneratedSource {
  std::string text;                    // the function, to follow the prelude
  std::vector<std::int64_t> geometry;  // its arguments that depend on rows: g[0], g[1], ...
  std::size_t scratch_bytes = 0;       // kernels of vectors: for each call at a time
  // CUDA:
  Grid grid;
  // Where this is more than one, the addresses of all operands and results must be multiples of it, and the text has a second
  // function, <name>_unaligned, of the same arguments, for calls where they are not.
  std::size_t alignment = 1;
  Grid grid_unaligned;
};

struct PrintOptions {
  std::string name;     // of the function
  bool stream = false;  // kernels of vectors: results go past the caches
};

// Arguments of the function:
//   vectors: (char* const* m, const long* g, long begin, long end, char* scratch), m the operands, then the results
//   threads: a pointer for each operand and result (and an offset, if the dialect has them), then one long per g; then, for chains
//            of rows, their number, for flat ones that of elements
GeneratedSource print_source(const Chain& chain, const Dialect& dialect, const PrintOptions& options);

}  // namespace zoe
