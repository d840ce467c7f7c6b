// Where every value of a graph lies, decided before anything runs.
//
// Values that move no data get no memory of their own: a reshape, a slice of the outermost axis, and an operand of a
// concat along the outermost axis, which its producer writes straight into the concat's place. All others get an
// offset in one workspace, shared by values whose lifetimes do not meet.
#pragma once

#include <unordered_map>
#include <vector>

#include "ir/graph.h"

namespace zoe {

struct Place {
  enum class Kind : std::uint8_t { workspace, input, output, weight, constant };
  Kind kind = Kind::workspace;
  int index = 0;           // of the argument, result, weight or constant
  std::size_t offset = 0;  // bytes
};

struct MemoryPlan {
  std::vector<NodePtr> steps;                     // nodes that need a kernel, in running order
  std::unordered_map<const Node*, Place> places;  // of every value but weights and constants
  std::vector<Place> scratch;                     // one for each step
  std::size_t workspace_bytes = 0;
  // Per graph input: the last step that reads it (-1: none); per output: the step that writes it.
  std::vector<int> input_last_read, output_written;
};

// The nodes that need a kernel: those that are neither leaves nor views. Call nodes must be inlined.
std::vector<NodePtr> plan_steps(const Graph& graph);
// `scratch_bytes[i]`: what step i of plan_steps asks for while it runs.
MemoryPlan plan_memory(const Graph& graph, const std::vector<std::size_t>& scratch_bytes);

}  // namespace zoe
