// Graph to plan: the passes in their order, a kernel for each remaining node, and the memory they need.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "compiler/memory_plan.h"
#include "compiler/options.h"
#include "ir/graph.h"
#include "platform/kept_weight.h"
#include "platform/platform.h"
#include "platform/tensor.h"

namespace zoe {

// A weight in the layout one or more kernels want it in.
struct PlanWeight {
  struct Part {  // a tensor of the checkpoint
    std::string name;
    Type type;
  };
  std::string name;         // of the parameter node
  std::vector<Part> parts;  // mostly one; else the rows of one come before those of the next
  std::string layout;       // with the name, what two plans share packed bytes by
  Type type;                // of the parameter node
  std::size_t size_bytes;
  std::shared_ptr<const Kernel> kernel;  // packs it, as operand `input`, if it is not kept
  int input;
  int block;                            // that the steps which read it run with; 0 if they run with several
  std::optional<KeptLayout> kept = {};  // it stays as it is stored
};

struct Step {
  NodePtr node;
  int block;  // it runs with: of its node, or a later one that a step before it is of
  std::shared_ptr<const Kernel> kernel;
  std::shared_ptr<const Implemented> implemented;  // whose kernel that is: by which row, and why not by those before it
  std::vector<Place> inputs, outputs;
  Place scratch;
  std::vector<int> waits_for;  // steps that work beside, see MemoryPlan
  // Per result: which node's and result's value it is, by number in the graph before fusion. Plans of one traced graph have that
  // graph in common, whether compiled or not. -1: a value that the graph did not have.
  std::vector<std::pair<int, int>> origins;
};

// A compiled graph. Immutable; each run brings its own workspace and stream.
struct Plan {
  Graph graph;  // after the passes
  std::vector<Step> steps;
  std::vector<PlanWeight> weights;
  Tensor constants;  // the graph's numbers, on the platform
  std::size_t workspace_bytes = 0;
  std::size_t alive_bytes = 0;   // see MemoryPlan
  std::size_t kernel_count = 0;  // distinct ones
  int block_count = 0;

  std::size_t weight_bytes() const;
  // True if every read of input `input` comes before output `output` is written: the caller may pass one tensor for both.
  bool can_update_in_place(std::size_t input, std::size_t output) const;

  std::vector<int> input_last_read, output_written;  // see MemoryPlan

  std::vector<std::string> product_notes;                   // which products could be one, and why they are or are not
  std::vector<std::string> fusion_notes;                    // why chains end where they do, see fuse.h
  std::vector<std::pair<std::string, std::string>> passes;  // name and text of the graph after it, if CompileOptions::keep_passes
};

// `unsupported` if a row is required and says no, `invalid_argument` if a rule names none.
Plan compile(const Graph& graph, Platform& platform, const CompileOptions& options = {});
// The same for several graphs, in their order: all code is generated and built in one go, and equal kernels are shared.
std::vector<Plan> compile(const std::vector<Graph>& graphs, Platform& platform, const CompileOptions& options = {});

// For people: one line of totals; the totals, every step with its op and its implementation, and the decisions, a line each.
std::string summarize(const Plan& plan);
std::string describe(const Plan& plan);

}  // namespace zoe
