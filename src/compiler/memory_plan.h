// Where every value of a graph lies, decided before anything runs.
//
// Values that move no data get no memory of their own: a reshape, a slice of the outermost axis, and an operand of a
// concat along the outermost axis, which its producer writes straight into the concat's place. A result takes the place of an
// operand that nothing reads later, where the kernel allows it. All others get an offset in one workspace, shared by values
// whose lifetimes do not meet.
#pragma once

#include <map>
#include <utility>
#include <vector>

#include "ir/graph.h"

namespace zoe {

struct Place {
  enum class Kind : std::uint8_t { workspace, input, output, weight, constant };
  Kind kind = Kind::workspace;
  int index = 0;           // of the argument, result, weight or constant
  std::size_t offset = 0;  // bytes
};

// What a step's kernel asks of the memory plan.
struct StepNeeds {
  std::size_t scratch_bytes = 0;                     // while it runs
  std::vector<std::pair<int, int>> may_overwrite{};  // operand, result: see Kernel::can_overwrite
  bool works_beside = false;                         // see Kernel::works_beside
};

struct MemoryPlan {
  std::vector<NodePtr> steps;                           // nodes that need a kernel, in running order
  std::map<std::pair<const Node*, int>, Place> places;  // of every value but weights and constants: node, number of the result
  std::vector<Place> scratch;                           // one for each step
  // Per step, the earlier ones that work beside and that it is the first to read the results of. Until it begins, operands and
  // results of those stay where they are; what no step reads is waited for behind the last one.
  std::vector<std::vector<int>> waits_for;
  std::size_t workspace_bytes = 0;
  std::size_t alive_bytes = 0;  // the most that is alive at one step: no workspace is smaller
  // Per graph input: the last step that reads it (-1: none); per output: the step that writes it.
  std::vector<int> input_last_read, output_written;

  const Place& place(const Value& value) const { return places.at({&value.node(), value.output()}); }
};

// The nodes that need a kernel: those that are neither leaves nor views.
std::vector<NodePtr> plan_steps(const Graph& graph);
// `needs[i]`: of step i of plan_steps.
MemoryPlan plan_memory(const Graph& graph, const std::vector<StepNeeds>& needs);

}  // namespace zoe
