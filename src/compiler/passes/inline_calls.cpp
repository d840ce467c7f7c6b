#include "compiler/passes/inline_calls.h"

#include "compiler/passes/rebuild.h"

namespace zoe {

namespace {

Replace inline_nodes_of(const std::string& origin) {
  return [origin](const Node& node, std::vector<Value> inputs) {
    if (node.opcode != Opcode::call) return keep(node, std::move(inputs), origin);
    return rebuild(node.as<std::shared_ptr<const CallAttributes>>()->native, inputs, inline_nodes_of(node.name));
  };
}

}  // namespace

Graph inline_calls(const Graph& graph) { return rebuild(graph, inline_nodes_of("")); }

}  // namespace zoe
