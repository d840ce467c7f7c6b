#include "checkpoint/expected.h"

#include <unordered_set>

namespace zoe {

std::vector<ExpectedTensor> parameters_of(const Graph& graph) {
  std::vector<ExpectedTensor> tensors;
  std::unordered_set<std::string_view> seen;
  for (const NodePtr& node : graph.parameters())
    for (const Value& part : parts_of(node))
      if (seen.insert(part.node().name).second) tensors.push_back({part.node().name, stored_shape(part.node())});
  return tensors;
}

}  // namespace zoe
