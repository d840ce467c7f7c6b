// Every pass on random graphs: the verifier is content, the interpreter gets the same numbers, the text comes back.
#include <cmath>
#include <functional>
#include <set>

#include "compiler/compile.h"
#include "compiler/passes/common_subexpressions.h"
#include "compiler/passes/fold_epilogues.h"
#include "compiler/passes/fuse.h"
#include "compiler/passes/inline_calls.h"
#include "compiler/passes/simplify.h"
#include "passes/passes.h"
#include "testing/random_graph.h"

namespace zoe {
namespace {

using testing::RandomGraph;

constexpr std::uint64_t kGraphs = 1500;

struct Pass {
  const char* name;
  std::function<Graph(const Graph&)> run;
  bool is_last = false;  // needs the passes before it; applied again it may change something
};

const std::vector<Pass>& passes() {
  static const std::vector<Pass> all{
      {"inline_calls", [](const Graph& graph) { return inline_calls(graph); }},
      {"simplify", simplify},
      {"common_subexpressions", common_subexpressions},
      {"fold_epilogues", [](const Graph& graph) { return fold_epilogues(graph, [](const Node&) { return true; }); }},
      {"fuse",
       [](const Graph& graph) {
         static const auto platform = open_platform("null");
         return fuse(graph, platform->info(), [](const Node&) { return true; }).graph;
       },
       true},
  };
  return all;
}

// Equal numbers, where no number (NaN) equals no number and the sign of a zero does not count (compiler/passes/simplify.h).
void expect_same(const std::vector<ReferenceTensor>& got, const std::vector<ReferenceTensor>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].shape, expected[i].shape) << "result " << i;
    for (std::size_t j = 0; j < got[i].values.size(); ++j) {
      const double a = got[i].values[j], b = expected[i].values[j];
      ASSERT_TRUE(a == b || (std::isnan(a) && std::isnan(b)))
          << "result " << i << " at " << j << ": got " << a << ", expected " << b;
    }
  }
}

TEST(RandomGraphs, PassesKeepTheNumbers) {
  std::vector<std::size_t> changed(passes().size());
  for (std::uint64_t seed = 0; seed < kGraphs; ++seed) {
    RandomGraph random(seed);
    const auto inputs = random.inputs();
    const auto expected = interpret(random.graph(), inputs, RandomGraph::parameter_values);
    Graph graph = random.graph();
    for (std::size_t p = 0; p < passes().size(); ++p) {
      SCOPED_TRACE(std::string(passes()[p].name) + " of seed " + std::to_string(seed) + "\n" + print(graph));
      for (const Graph& from : {passes()[p].is_last ? graph : random.graph(), graph}) {  // alone, and behind the passes before it
        graph = passes()[p].run(from);
        verify(graph);
        expect_same(interpret(graph, inputs, RandomGraph::parameter_values), expected);
        if (!passes()[p].is_last) {
          ASSERT_EQ(print(passes()[p].run(graph)), print(graph)) << "applied again";
        }
        std::set<std::pair<const Node*, int>> results;
        for (const Value& output : graph.outputs) {
          ASSERT_FALSE(output.node().inputs.empty()) << "a result is no step";
          ASSERT_TRUE(results.emplace(&output.node(), output.output()).second) << "two results are one value";
        }
        changed[p] += print(graph) != print(from);
      }
      if (HasFatalFailure()) return;
    }
  }
  for (std::size_t p = 0; p < passes().size(); ++p)
    EXPECT_GT(changed[p], kGraphs / 8) << passes()[p].name << " has too little to do in these graphs to be tested by them";
}

TEST(RandomGraphs, TextComesBack) {
  for (std::uint64_t seed = 0; seed < kGraphs; ++seed) {
    const std::string text = print(RandomGraph(seed).graph());
    ASSERT_EQ(print(parse(text)), text) << "seed " << seed;
  }
}

TEST(RandomGraphs, HavePlans) {
  const auto platform = open_platform("null");
  for (std::uint64_t seed = 0; seed < kGraphs / 4; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const RandomGraph random(seed);
    const Plan plan = compile(random.graph(), *platform);
    EXPECT_EQ(plan.graph.outputs.size(), random.graph().outputs.size());
  }
}

}  // namespace
}  // namespace zoe
