#include "compiler/passes/fold_epilogues.h"

#include "passes/passes.h"

namespace zoe {
namespace {

Graph fold_all(const Graph& graph) {
  return fold_epilogues(graph, [](const Node&) { return true; });
}

TEST(FoldEpilogues, BiasActivationAndResidualJoinOneByOne) {
  testing::expect_pass(fold_all, R"(graph g
%x = input : f32[5,8]
%r = input : f32[5,4]
%w = parameter block=1 : f32[4,8]  # w
%b = parameter block=1 : f32[4]  # b
%p = linear %x %w : f32[5,4]
%q = add %b %p : f32[5,4]
%s = silu %q : f32[5,4]  # gate
%t = add %s %r : f32[5,4]
return %t
)",
                       R"(graph g
%0 = input : f32[5,8]
%1 = input : f32[5,4]
%2 = parameter block=1 : f32[4,8]  # w
%3 = parameter block=1 : f32[4]  # b
%4 = linear %0 %2 %3 %1 +bias +silu +residual : f32[5,4]
return %4
)");
}

TEST(FoldEpilogues, ConvolutionsToo) {
  testing::expect_pass(fold_all, R"(graph g
%x = input : f32[1,4,4,2]
%w = parameter : f32[3,2,1,3,3]  # w
%b = parameter : f32[3]  # b
%p = conv %x %w stride=1,1,1 pad=0,1,1/0,1,1 : f32[1,4,4,3]
%q = add %p %b : f32[1,4,4,3]
%s = gelu_tanh %q : f32[1,4,4,3]
return %s
)",
                       R"(graph g
%0 = input : f32[1,4,4,2]
%1 = parameter : f32[3,2,1,3,3]  # w
%2 = parameter : f32[3]  # b
%3 = conv %0 %1 %2 +bias +gelu_tanh stride=1,1,1 pad=0,1,1/0,1,1 : f32[1,4,4,3]
return %3
)");
}

TEST(FoldEpilogues, TheLaterOfTwoProductsTakesTheOther) {
  testing::expect_pass(fold_all, R"(graph g
%x = input : f32[5,8]
%w = parameter : f32[4,8]  # w
%v = parameter : f32[4,8]  # v
%p = linear %x %w : f32[5,4]
%q = linear %x %v : f32[5,4]
%t = add %q %p : f32[5,4]
return %t
)",
                       R"(graph g
%0 = input : f32[5,8]
%1 = parameter : f32[4,8]  # w
%2 = parameter : f32[4,8]  # v
%3 = linear %0 %1 : f32[5,4]
%4 = linear %0 %2 %3 +residual : f32[5,4]
return %4
)");
}

// Each alone keeps its product as it is.
const char* const kKept[] = {
    // bf16: the product's rounding would be lost
    "%0 = input : bf16[5,8]\n%1 = parameter : bf16[4,8]\n%2 = parameter : bf16[4]\n%3 = linear %0 %1 : bf16[5,4]\n"
    "%4 = add %3 %2 : bf16[5,4]\nreturn %4\n",
    // another reader
    "%0 = input : f32[5,8]\n%1 = parameter : f32[4,8]\n%2 = parameter : f32[4]\n%3 = linear %0 %1 : f32[5,4]\n"
    "%4 = add %3 %2 : f32[5,4]\n%5 = mul %4 %3 : f32[5,4]\nreturn %5\n",
    // the same reader twice
    "%0 = input : f32[5,8]\n%1 = parameter : f32[4,8]\n%2 = linear %0 %1 : f32[5,4]\n%3 = add %2 %2 : f32[5,4]\nreturn %3\n",
    // a result of the graph
    "%0 = input : f32[5,8]\n%1 = parameter : f32[4,8]\n%2 = linear %0 %1 : f32[5,4]\n%3 = silu %2 : f32[5,4]\nreturn %3 %2\n",
    // a second activation; an activation of a residual's sum
    "%0 = input : f32[5,8]\n%1 = parameter : f32[4,8]\n%2 = linear %0 %1 +silu : f32[5,4]\n%3 = silu %2 : f32[5,4]\nreturn %3\n",
    "%0 = input : f32[5,8]\n%1 = input : f32[5,4]\n%2 = parameter : f32[4,8]\n%3 = linear %0 %2 %1 +residual : f32[5,4]\n"
    "%4 = silu %3 : f32[5,4]\nreturn %4\n",
    // a bias behind the activation, a second bias, a second residual
    "%0 = input : f32[5,8]\n%1 = parameter : f32[4,8]\n%2 = parameter : f32[4]\n%3 = linear %0 %1 +silu : f32[5,4]\n"
    "%4 = add %3 %2 : f32[5,4]\nreturn %4\n",
    "%0 = input : f32[5,8]\n%1 = parameter : f32[4,8]\n%2 = parameter : f32[4]\n%3 = linear %0 %1 %2 +bias : f32[5,4]\n"
    "%4 = add %3 %2 : f32[5,4]\nreturn %4\n",
    "%0 = input : f32[5,8]\n%1 = input : f32[5,4]\n%2 = parameter : f32[4,8]\n%3 = linear %0 %2 %1 +residual : f32[5,4]\n"
    "%4 = add %3 %1 : f32[5,4]\nreturn %4\n",
    // what broadcasts in other ways
    "%0 = input : f32[5,8]\n%1 = input : f32[5,1]\n%2 = parameter : f32[4,8]\n%3 = linear %0 %2 : f32[5,4]\n"
    "%4 = add %3 %1 : f32[5,4]\nreturn %4\n",
    "%0 = input : f32[1,8]\n%1 = input : f32[5,4]\n%2 = parameter : f32[4,8]\n%3 = linear %0 %2 : f32[1,4]\n"
    "%4 = add %3 %1 : f32[5,4]\nreturn %4\n",
    // a weight would be read in a later block than its own
    "%0 = input : f32[5,8]\n%1 = parameter block=1 : f32[4,8]\n%2 = parameter block=2 : f32[4]\n"
    "%3 = linear %0 %1 : f32[5,4]\n%4 = add %3 %2 : f32[5,4]\nreturn %4\n",
};

TEST(FoldEpilogues, WhatIsNotExactOrNotFreeStays) {
  for (const std::string text : kKept) testing::expect_pass(fold_all, "graph g\n" + text, "graph g\n" + text);
}

TEST(FoldEpilogues, ThePlatformIsAskedAboutEveryStep) {
  const auto only_bias = [](const Graph& graph) {
    return fold_epilogues(graph, [](const Node& product) { return !product.as<ProductAttributes>().has_residual; });
  };
  testing::expect_pass(only_bias, R"(graph g
%x = input : f32[5,8]
%r = input : f32[5,4]
%w = parameter : f32[4,8]  # w
%b = parameter : f32[4]  # b
%p = linear %x %w : f32[5,4]
%q = add %p %b : f32[5,4]
%t = add %q %r : f32[5,4]
return %t
)",
                       R"(graph g
%0 = input : f32[5,8]
%1 = input : f32[5,4]
%2 = parameter : f32[4,8]  # w
%3 = parameter : f32[4]  # b
%4 = linear %0 %2 %3 +bias : f32[5,4]
%5 = add %4 %1 : f32[5,4]
return %5
)");
}

TEST(FoldEpilogues, AnActivationThatThePlatformDoesNotTakeIsSplitOff) {
  const auto no_silu = [](const Graph& graph) {
    return fold_epilogues(graph,
                          [](const Node& product) { return product.as<ProductAttributes>().activation != Activation::silu; });
  };
  testing::expect_pass(no_silu, R"(graph g
%x = input : f32[5,8]
%w = parameter block=1 : f32[4,8]  # w
%b = parameter block=1 : f32[4]  # b
%p = linear %x %w %b +bias +silu : f32[5,4]
%q = linear %x %w %b +bias +gelu_tanh : f32[5,4]
return %p %q
)",
                       R"(graph g
%0 = input : f32[5,8]
%1 = parameter block=1 : f32[4,8]  # w
%2 = parameter block=1 : f32[4]  # b
%3 = linear %0 %1 %2 +bias : f32[5,4]
%4 = silu %3 : f32[5,4]
%5 = linear %0 %1 %2 +bias +gelu_tanh : f32[5,4]
return %4 %5
)");
  // In bf16 a second rounding would come in; behind a residual nothing is left to split.
  for (const std::string kept :
       {"%0 = input : bf16[5,8]\n%1 = parameter : bf16[4,8]\n%2 = linear %0 %1 +silu : bf16[5,4]\nreturn %2\n",
        "%0 = input : f32[5,8]\n%1 = input : f32[5,4]\n%2 = parameter : f32[4,8]\n"
        "%3 = linear %0 %2 %1 +silu +residual : f32[5,4]\nreturn %3\n"})
    testing::expect_pass(no_silu, "graph g\n" + kept, "graph g\n" + kept);
}

}  // namespace
}  // namespace zoe
