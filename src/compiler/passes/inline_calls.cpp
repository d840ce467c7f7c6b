#include "compiler/passes/inline_calls.h"

#include "compiler/passes/rebuild.h"

namespace zoe {

namespace {

using Takes = std::function<bool(const Node& call)>;

Replace inline_nodes_of(const std::string& origin, const Takes& takes) {
  return [origin, &takes](const Node& node, std::vector<Value> inputs) {
    if (node.opcode != Opcode::call) return keep(node, std::move(inputs), origin);
    if (takes) {
      std::vector<Value> called = keep(node, inputs);  // with the operands it has here
      if (takes(called.front().node())) return called;
    }
    return rebuild(node.as<std::shared_ptr<const CallAttributes>>()->native, inputs, inline_nodes_of(node.name, takes));
  };
}

}  // namespace

Graph inline_calls(const Graph& graph, const Takes& takes) { return rebuild(graph, inline_nodes_of("", takes)); }

}  // namespace zoe
