#include "pipeline/vae_states.h"

#include <fmt/format.h>

#include "ir/trace.h"

namespace zoe {

NamedGraph with_states(const WanVaeGraph& traced, std::vector<Value> results, std::vector<std::string> names) {
  NamedGraph named{{}, std::move(names)};
  for (std::size_t i = 0; i < traced.writes.size(); ++i) {
    results.push_back(traced.graph.outputs[traced.results + i]);
    named.outputs.push_back(fmt::format("state_{}", traced.writes[i]));
  }
  for (std::size_t i = traced.first_state; i < traced.states.size(); ++i)
    named.tensors.emplace_back(fmt::format("state_{}", i), traced.states[i]);
  named.graph = make_graph(traced.graph.name, traced.graph.inputs, std::move(results));
  return named;
}

}  // namespace zoe
