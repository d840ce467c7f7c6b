#include "ir/cost.h"

namespace zoe {

double product_operations(const Node& node) {
  const auto count = [](const Shape& shape) { return static_cast<double>(shape.count()); };
  switch (node.opcode) {
    case Opcode::linear: return 2.0 * count(node.types[0].shape) * static_cast<double>(node.inputs[1].dim(1));
    case Opcode::conv: return 2.0 * count(node.types[0].shape) * static_cast<double>(node.inputs[1].shape().count(1, 5));
    case Opcode::attention: return 4.0 * count(node.types[0].shape) * static_cast<double>(node.inputs[1].dim(1));
    default: return 0;
  }
}

double product_operations(const Graph& graph) {
  double total = 0;
  for (const NodePtr& node : graph.nodes)
    total += node->opcode == Opcode::call ? product_operations(node->as<std::shared_ptr<const CallAttributes>>()->native)
                                          : product_operations(*node);
  return total;
}

}  // namespace zoe
