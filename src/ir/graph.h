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

// Throws an internal error naming the node if a node's operands, attributes or types contradict its opcode.
void verify(const Graph& graph);

// What decides a node's kernel: opcode, attributes, operand and result types, and which operands are weights. Nodes of
// equal signature (the same place in forty blocks) share one kernel.
std::string signature(const Node& node);

// Its first line: without what is inside a fused or call node.
std::string headline(const Node& node);

// One line per node: "%7 = mul %5 %6 : f32[1,576,256]  # norm_scale_shift".
std::string print(const Graph& graph);

}  // namespace zoe
