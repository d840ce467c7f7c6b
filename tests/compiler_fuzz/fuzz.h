// One graph, or many as one plan, on one platform after another, and the comparison: on `cpu` every compiled run has the bits of
// the uncompiled one, and every run lies within the bounds of the reference interpreter.
//
// Plans run on memory that was filled with NaN, with guards behind the workspace and behind every result.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "compiler/compile.h"
#include "platform/platform.h"

namespace zoe::fuzz {

using Bytes = std::vector<std::byte>;

struct Runner {
  std::string name;
  std::function<std::unique_ptr<Platform>()> open;
  bool compile = true;
  bool is_exact = false;       // has the bits of the first runner
  double division_ulps = 0.5;  // see Rounding
  double tiny = 0x1p-149;
  std::vector<std::string> excluded_ops = {};   // see CompileOptions
  bool streams_weights = false;                 // block by block; every graph is a plan of its own
  bool updates_in_place = false;                // results take the place of inputs where the plan allows it
  bool takes_codes = true;                      // products from codes; graphs that have such are left out where it does not
  std::function<void(Plan&)> change_plan = {};  // for planted bugs
};

Runner uncompiled_cpu();
Runner row_blocks();
// Few operands to a kernel, few values kept, the nodes of one op in no chain, results in the place of inputs.
Runner narrow_row_blocks();
Runner streamed_row_blocks();  // weights come and go with their blocks
// `arguments`: of the compiler, behind the platform's own; `edit`: of sed, on the generated text.
Runner generated_code(const std::string& arguments = "", const std::string& edit = "");
// The uncompiled cpu run, then cpu with row blocks in three ways, cpu with code generated for this processor and for lesser ones,
// opencl if a device opens.
std::vector<Runner> all_runners();

struct Failure {
  std::size_t graph;  // of those given
  std::string runner, what;
};

struct Report {
  std::vector<Failure> failures;
  std::size_t steps = 0, chains = 0;      // of compiled plans
  std::size_t elements = 0, bounded = 0;  // compared with the reference; those of a bound below 1/8 of the value, or of 1e-3
  std::vector<double> seconds = {};       // of each runner: compiling and running
  double reference_seconds = 0;
};

// All graphs as one plan. Graphs are named fuzz_SEED (see RandomGraph::wide_values). At most one failure a graph and runner.
// A runner that throws fails for each graph that throws alone.
Report check(const std::vector<Graph>& graphs, const std::vector<Runner>& runners, bool with_reference = true);

// The results of one plan; throws what compiling and running throw, and an error where memory beyond a result or the workspace,
// or an input, was written.
std::vector<Bytes> run_plan(const std::vector<Graph>& graphs, const Runner& runner, Report* report = nullptr);

// The first element that differs, all NaN being alike; "" if none does.
std::string difference(const Bytes& got, const Bytes& expected, const Type& type);

// Shrinks the graph while `runner` fails on it. Tries at most `most_tries` graphs.
Graph shrink(const Graph& graph, const std::function<bool(const Graph&)>& fails, int most_tries = 400);

}  // namespace zoe::fuzz
