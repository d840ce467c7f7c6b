// A fused node as one loop over rows: what the printers of source text and the row-blocked interpreter both start from.
//
// The index space of a chain is its axes, outermost first. The first `row_axes` of them number rows; the others number the
// columns of a row, over which sums run. Extents of columns are part of a kernel; extents of row axes, and everything that
// follows from them (strides along them, offsets), are arguments, so that every resolution shares a kernel. A chain without row
// axes is flat: no sums, and one axis, whose extent is an argument too. A chain is a list of instructions in single assignment
// form, operands first. Work goes in passes over a row: pass p may use the row sums that pass p - 1 has finished. A value that a
// later pass needs is either kept from the pass that made it
// (`kept`), or made again from what it was made of.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ir/graph.h"

namespace zoe {

// Where an operand's or a result's element lies: offset + sum of strides[a] * index[a], in elements. Strides may be 0 or negative.
struct View {
  std::int64_t offset = 0;
  std::vector<std::int64_t> strides;  // one per axis of the chain
  bool swapped = false;               // with the index of the last axis ^ 1: a swap_pairs
  friend bool operator==(const View&, const View&) = default;
};

struct Instruction {
  enum class Place : std::uint8_t {
    chain,   // one value for all rows
    row,     // one value a row
    column,  // one value an element
  };
  Opcode opcode;             // input: a load. constant. Element-wise opcodes and cast. sum: of a column value over the row
  DType dtype = DType::f32;  // what the value is rounded to (values are held in f32)
  Place place = Place::chain;
  int pass = 0;                     // the first pass that makes it; of a row value: it can be had before that pass starts
  bool kept = false;                // a column value that passes after its own read again instead of making it again
  std::vector<int> arguments = {};  // earlier instructions
  int operand = -1;                 // of a load: the node's operand
  View view = {};                   // of a load
  double value = 0;                 // of a constant
  std::string op = {};              // the op of src/ops it comes from, for comments; may be empty
};

struct Store {
  int output;       // the node's result
  int instruction;  // a column value, or a row or chain value with zero strides over the columns: one element a row
  View view;
};

struct Chain {
  std::vector<std::int64_t> axes;  // extents
  int row_axes = 0;
  std::vector<Type> operands, outputs;
  std::vector<Instruction> instructions;
  std::vector<Store> stores;  // those of column values run in the pass of their instruction
  int passes = 0;             // over the columns: 0 .. passes - 1

  std::int64_t rows() const;
  std::int64_t columns() const;
  // The column instructions that pass `pass` evaluates, in order: what its sums and stores need and no earlier pass has kept.
  std::vector<int> evaluated(int pass) const;
  // For what pass `pass` evaluates: true if `instruction` was kept by an earlier pass and is read back.
  bool is_read_back(int instruction, int pass) const;
};

// The chain of a fused node, or why it cannot be one loop.
struct Lowered {
  std::optional<Chain> chain;
  std::string reason;
  // Work per element that the chain does more than once because a node is wanted at several places of a row (a rotation's
  // partner, say): one for a cheap operation, more for divisions and polynomials.
  int repeated_work = 0;
};
// `body`: the graph of a fused node, of element-wise opcodes, cast, sum, constants, reshape, slice, permute, swap_pairs and flip.
Lowered lower(const Graph& body);
// Whether a node of this opcode is one: all but products, attention, concat and gather.
bool is_chain(Opcode opcode);
// The chain of a fused node, or of any single node that a chain may hold; unsupported if it is none.
Chain chain_of(const Node& node);
// Any single node of these opcodes as a graph of its own; its operands, numbers too, are the graph's inputs.
Graph single_node_graph(const Node& node);

// Work to make a value again: cheap ones count one, what takes a division or a polynomial more.
int cost(Opcode opcode);

// See Kernel::can_overwrite.
bool can_overwrite(const Chain& chain, int operand, int output);

// For people: a line an instruction, and the passes.
std::string print(const Chain& chain);

}  // namespace zoe
