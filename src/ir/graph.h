// A traced function: its arguments, its results, and every node between, in the order they were traced.
#pragma once

#include <string>
#include <vector>

#include "ir/value.h"

namespace zoe {

struct Graph {
  std::string name;
  std::vector<Value> inputs;   // Opcode::input nodes, in argument order
  std::vector<Value> outputs;  // may name an input or the same value twice
  std::vector<NodePtr> nodes;  // all nodes the outputs need, operands first; inputs that nothing reads are absent here
  std::vector<NodePtr> parameters() const;
};

// Collects the nodes that `outputs` need. Every Opcode::input among them must be in `inputs`.
Graph make_graph(std::string name, std::vector<Value> inputs, std::vector<Value> outputs);

// The native definition a call or fused node carries: the node's arguments stand for the graph's inputs, in order.
struct CallAttributes {
  std::string op;  // of a fused node: the ops its nodes come from
  Graph native;
};

// The types of the node's results, worked out again from its opcode, operands and attributes; an error if they do not fit together.
std::vector<Type> result_types(const Node& node);

// Throws an internal error naming the node if a node's operands, attributes or types contradict its opcode.
void verify(const Graph& graph);

// A node's attributes as `print` writes them: equal text, equal attributes. Those of a call or fused node are its op and its native
// graph without names.
std::string attributes_text(const Node& node);

// Where q, k or v (`operand` 0 to 2) of an attention node has the heads that are attended with, in elements: from one token to the
// next, and from the operand's first element to the first of those heads.
struct HeadsLayout {
  std::int64_t step, first;
};
HeadsLayout heads_layout(const Node& attention, int operand);

// The parameters of single tensors that a parameter is made of: itself, mostly.
std::vector<Value> parts_of(const NodePtr& parameter);

// The shape of a parameter's tensor in files.
const Shape& stored_shape(const Node& parameter);

// A tensor that a parameter is made of, as it lies in memory.
struct KeptPart {
  Type type;
  Storage storage;  // of one that does not stay as it is stored: dense, in its dtype
};
// All of them, in their order, if some stay as they are stored; else nothing.
std::vector<KeptPart> kept_parts(const Node& parameter);

// What a product or an attention multiplies; none of any other node.
Codes codes_of(const Node& node);

// What decides a node's kernel: opcode, attributes, operand and result types, which operands are weights, and how those are kept.
// Nodes of equal signature (the same place in forty blocks) share one kernel. A fused node's kernel is its body, wherever in the
// model that comes from: no names of ops, arguments and weights are in it.
std::string signature(const Node& node);

// The first line of that: without what is inside a fused or call node.
std::string headline(const Node& node);

// Everything there is to a graph; `parse` (ir/parse.h) reads it. The inputs, then one line per node, then the results:
//   graph norm
//   %0 = input : f32[1,576,256]  # x
//   %1 = parameter block=3 : f32[256]  # blocks.2.weight
//   %2 = mul %0 %1 : f32[1,576,256]  # rms_norm
//   return %2
// Behind the # stand the names of inputs and weights, and the op a node comes from. A node with several results is referred to as
// %7.0, %7.1. The block is written where it is not the largest of the operands'. The native graph of a call or fused node
// follows its line, indented.
std::string print(const Graph& graph);

}  // namespace zoe
