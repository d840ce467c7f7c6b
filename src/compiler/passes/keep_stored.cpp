#include "compiler/passes/keep_stored.h"

#include <set>

#include "base/encoding.h"
#include "compiler/passes/rebuild.h"
#include "ir/trace.h"

namespace zoe {

namespace {

// Parameters that something else than the second operand of a linear reads: kept, they would be there twice.
std::set<const Node*> read_otherwise(const Graph& graph) {
  std::set<const Node*> found;
  for (const NodePtr& node : graph.nodes)
    for (std::size_t i = 0; i < node->inputs.size(); ++i)
      if (node->opcode != Opcode::linear || i != 1) found.insert(&node->inputs[i].node());
  for (const Value& output : graph.outputs) found.insert(&output.node());
  return found;
}

}  // namespace

bool may_stay_stored(const Encoding& encoding) {
  constexpr std::int64_t kRun = 16;  // of base/blocks.inc
  return encoding.is_weight() && encoding.block_bytes < 2 * encoding.block_elements &&
         (encoding.block_elements == 1 || encoding.block_elements % kRun == 0);
}

Graph keep_stored(const Graph& graph, const StorageOf& storage_of, const std::function<Support(const Encoding&)>& takes) {
  const std::set<const Node*> others = read_otherwise(graph);
  return rebuild(graph, [&](const Node& node, std::vector<Value> inputs) {
    const bool is_matrix = node.opcode == Opcode::parameter && node.types[0].shape.rank() == 2 && others.count(&node) == 0 &&
                           !std::holds_alternative<PackedAttributes>(node.attributes);
    const Storage storage = is_matrix ? storage_of(node.name) : Storage{};
    if (!storage || !may_stay_stored(*storage.encoding) || node.types[0].shape.dim(1) % storage.encoding->block_elements != 0 ||
        (storage.is_scaled && stored_shape(node) != node.types[0].shape) || !takes(*storage.encoding))
      return keep(node, std::move(inputs));
    return std::vector<Value>{kept_parameter(node, storage)};
  });
}

}  // namespace zoe
