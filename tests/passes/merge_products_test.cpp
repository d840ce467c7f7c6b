#include "compiler/passes/merge_products.h"

#include <random>

#include "ir/interpreter.h"
#include "passes/passes.h"
#include "testing/random_graph.h"

namespace zoe {
namespace {

Graph merge_all(const Graph& graph) {
  std::vector<std::string> notes;
  return merge_products(
      graph, [](const Node&) { return Support::yes(); }, notes);
}

// A block's q and k, which chains read, and v, which attention does: two heads of four.
const char* const kBlock = R"(graph g
%x = input : f32[1,5,8]
%wq = parameter block=1 : f32[8,8]  # q.weight
%bq = parameter block=1 : f32[8]  # q.bias
%q = linear %x %wq %bq +bias : f32[1,5,8]
%q2 = mul %q %q : f32[1,5,8]  # norm
%qh = reshape %q2 : f32[1,5,2,4]
%wk = parameter block=1 : f32[8,8]  # k.weight
%bk = parameter block=1 : f32[8]  # k.bias
%k = linear %x %wk %bk +bias : f32[1,5,8]
%kh = reshape %k : f32[1,5,2,4]
%k2 = swap_pairs %kh : f32[1,5,2,4]
%wv = parameter block=1 : f32[8,8]  # v.weight
%bv = parameter block=1 : f32[8]  # v.bias
%v = linear %x %wv %bv +bias : f32[1,5,8]
%vh = reshape %v : f32[1,5,2,4]
%a = attention %qh %k2 %vh scale=0.5 : f32[1,5,2,4]
return %a
)";

TEST(MergeProducts, ABlocksQueriesKeysAndValuesAreOneProduct) {
  testing::expect_pass(merge_all, kBlock, R"(graph g
%0 = input : f32[1,5,8]
%1 = parameter parts=8,8,8 block=1 : f32[24,8]  # q.weight + k.weight + v.weight
%2 = parameter parts=8,8,8 block=1 : f32[24]  # q.bias + k.bias + v.bias
%3 = linear %0 %1 %2 +bias : f32[1,5,24]
%4 = slice %3 axis=2 [0,8) : f32[1,5,8]
%5 = mul %4 %4 : f32[1,5,8]  # norm
%6 = reshape %5 : f32[1,5,2,4]
%7 = slice %3 axis=2 [8,16) : f32[1,5,8]
%8 = reshape %7 : f32[1,5,2,4]
%9 = swap_pairs %8 : f32[1,5,2,4]
%10 = reshape %3 : f32[1,5,6,4]
%11 = attention %6 %9 %10 scale=0.5 heads=2 from=0,0,4 : f32[1,5,2,4]
return %11
)");
}

TEST(MergeProducts, ProductsFromCodesAreOneProductFromCodes) {
  std::string text = kBlock;
  for (std::size_t at = 0; (at = text.find("+bias :", at)) != std::string::npos; at += 8) text.insert(at + 5, " codes=i8");
  const std::string merged = print(merge_all(parse(text)));
  EXPECT_NE(merged.find("%3 = linear %0 %1 %2 +bias codes=i8 : f32[1,5,24]"), std::string::npos) << merged;
  // An exact one is none of them.
  text.replace(text.rfind(" codes=i8"), 9, "");
  const std::string two = print(merge_all(parse(text)));
  EXPECT_NE(two.find("+bias codes=i8 : f32[1,5,16]"), std::string::npos) << two;
  EXPECT_NE(two.find("+bias : f32[1,5,8]"), std::string::npos) << two;
}

TEST(MergeProducts, WhatIsComputedStaysTheSame) {
  const Graph before = parse(kBlock), after = merge_all(before);
  ReferenceTensor x{{1, 5, 8}, {}};
  for (int i = 0; i < 40; ++i) x.values.push_back(0.1 * (i % 7) - 0.3);
  const auto expected = interpret(before, {x}, testing::RandomGraph::parameter_values);
  const auto got = interpret(after, {x}, testing::RandomGraph::parameter_values);
  EXPECT_EQ(got.at(0).values, expected.at(0).values);
}

// umT5: nothing between the products and attention. A linear of another width is none of them.
TEST(MergeProducts, AttentionReadsAllThreeInOneProduct) {
  testing::expect_pass(merge_all, R"(graph g
%x = input : bf16[5,8]
%wq = parameter : bf16[4,8]  # q
%q = linear %x %wq : bf16[5,4]
%wk = parameter : bf16[4,8]  # k
%k = linear %x %wk : bf16[5,4]
%wv = parameter : bf16[4,8]  # v
%v = linear %x %wv : bf16[5,4]
%qh = reshape %q : bf16[1,5,2,2]
%kh = reshape %k : bf16[1,5,2,2]
%vh = reshape %v : bf16[1,5,2,2]
%a = attention %qh %kh %vh scale=1 : bf16[1,5,2,2]
%wo = parameter : bf16[2,8]  # other
%o = linear %x %wo : bf16[5,2]
%e = exp %o : bf16[5,2]
return %a %e
)",
                       R"(graph g
%0 = input : bf16[5,8]
%1 = parameter parts=4,4,4 : bf16[12,8]  # q + k + v
%2 = linear %0 %1 : bf16[5,12]
%3 = reshape %2 : bf16[1,5,6,2]
%4 = reshape %2 : bf16[1,5,6,2]
%5 = reshape %2 : bf16[1,5,6,2]
%6 = attention %3 %4 %5 scale=1 heads=2 from=0,2,4 : bf16[1,5,2,2]
%7 = parameter : bf16[2,8]  # other
%8 = linear %0 %7 : bf16[5,2]
%9 = exp %8 : bf16[5,2]
return %6 %9
)");
}

// Each alone keeps two products.
const char* const kApart[] = {
    // a bias and none
    "%0 = input : f32[5,8]\n%1 = parameter : f32[4,8]  # w\n%2 = linear %0 %1 : f32[5,4]\n%3 = exp %2 : f32[5,4]\n"
    "%4 = parameter : f32[4,8]  # v\n%5 = parameter : f32[4]  # b\n%6 = linear %0 %4 %5 +bias : f32[5,4]\n%7 = exp %6 : f32[5,4]\n"
    "return %3 %7\n",
    // another activation
    "%0 = input : f32[5,8]\n%1 = parameter : f32[4,8]  # w\n%2 = linear %0 %1 : f32[5,4]\n%3 = exp %2 : f32[5,4]\n"
    "%4 = parameter : f32[4,8]  # v\n%5 = linear %0 %4 +silu : f32[5,4]\n%6 = exp %5 : f32[5,4]\nreturn %3 %6\n",
    // a residual
    "%0 = input : f32[5,8]\n%1 = input : f32[5,4]\n%2 = parameter : f32[4,8]  # w\n%3 = linear %0 %2 %1 +residual : f32[5,4]\n"
    "%4 = exp %3 : f32[5,4]\n%5 = parameter : f32[4,8]  # v\n%6 = linear %0 %5 %1 +residual : f32[5,4]\n%7 = exp %6 : f32[5,4]\n"
    "return %4 %7\n",
    // another operand
    "%0 = input : f32[5,8]\n%1 = input : f32[5,8]\n%2 = parameter : f32[4,8]  # w\n%3 = linear %0 %2 : f32[5,4]\n"
    "%4 = exp %3 : f32[5,4]\n%5 = parameter : f32[4,8]  # v\n%6 = linear %1 %5 : f32[5,4]\n%7 = exp %6 : f32[5,4]\nreturn %4 %7\n",
    // weights of two blocks: those of a streamed model come and go at other times
    "%0 = input : f32[5,8]\n%1 = parameter block=1 : f32[4,8]  # w\n%2 = linear %0 %1 : f32[5,4]\n%3 = exp %2 : f32[5,4]\n"
    "%4 = parameter block=2 : f32[4,8]  # v\n%5 = linear %0 %4 : f32[5,4]\n%6 = exp %5 : f32[5,4]\nreturn %3 %6\n",
    // a weight that something else reads, and one that is computed
    "%0 = input : f32[5,8]\n%1 = parameter : f32[4,8]  # w\n%2 = linear %0 %1 : f32[5,4]\n%3 = exp %2 : f32[5,4]\n"
    "%4 = parameter : f32[4,8]  # v\n%5 = linear %0 %4 : f32[5,4]\n%6 = exp %5 : f32[5,4]\n%7 = exp %4 : f32[4,8]\n"
    "return %3 %6 %7\n",
    "%0 = input : f32[5,8]\n%1 = parameter : f32[4,8]  # w\n%2 = linear %0 %1 : f32[5,4]\n%3 = exp %2 : f32[5,4]\n"
    "%4 = parameter : f32[4,8]  # v\n%5 = neg %4 : f32[4,8]\n%6 = linear %0 %5 : f32[5,4]\n%7 = exp %6 : f32[5,4]\nreturn %3 %7\n",
    // a result of the graph, itself or by another shape, and what a product reads: they would be copied
    "%0 = input : f32[5,8]\n%1 = parameter : f32[4,8]  # w\n%2 = linear %0 %1 : f32[5,4]\n%3 = exp %2 : f32[5,4]\n"
    "%4 = parameter : f32[4,8]  # v\n%5 = linear %0 %4 : f32[5,4]\nreturn %3 %5\n",
    "%0 = input : f32[5,8]\n%1 = parameter : f32[4,8]  # w\n%2 = linear %0 %1 : f32[5,4]\n%3 = exp %2 : f32[5,4]\n"
    "%4 = parameter : f32[4,8]  # v\n%5 = linear %0 %4 : f32[5,4]\n%6 = reshape %5 : f32[20]\nreturn %3 %6\n",
    "%0 = input : f32[5,8]\n%1 = parameter : f32[4,8]  # w\n%2 = linear %0 %1 : f32[5,4]\n%3 = exp %2 : f32[5,4]\n"
    "%4 = parameter : f32[4,8]  # v\n%5 = linear %0 %4 : f32[5,4]\n%6 = parameter : f32[3,4]  # u\n%7 = linear %5 %6 : f32[5,3]\n"
    "return %3 %7\n",
    // a slice of something else is a copy, which every platform's attention takes
    "%0 = input : f32[3,6]\n%1 = input : f32[1,4,1,2]\n%2 = exp %0 : f32[3,6]\n%3 = slice %2 axis=1 [4,6) : f32[3,2]\n"
    "%4 = reshape %3 : f32[1,3,1,2]\n%5 = attention %4 %1 %1 scale=1 : f32[1,3,1,2]\nreturn %5\n",
    // heads that are no part of the last axis
    "%0 = input : f32[1,5,2,8]\n%1 = parameter : f32[4,8]  # w\n%2 = linear %0 %1 : f32[1,5,2,4]\n%3 = exp %2 : f32[1,5,2,4]\n"
    "%4 = parameter : f32[4,8]  # v\n%5 = linear %0 %4 : f32[1,5,2,4]\n%6 = attention %3 %3 %5 scale=1 : f32[1,5,2,4]\n"
    "return %6\n",
};

TEST(MergeProducts, WhatDiffersOrIsNotFreeStaysApart) {
  for (const std::string text : kApart) testing::expect_pass(merge_all, "graph g\n" + text, "graph g\n" + text);
}

// Linears of one or two operands, as different as they come, read by whatever may read them.
Graph random_graph(unsigned seed) {
  std::mt19937 random(seed);
  const auto below = [&](unsigned count) { return static_cast<int>(random() % count); };
  const Value xs[] = {input("x", DType::f32, {2, 3, 8}), input("y", DType::f32, {2, 3, 8})};
  std::vector<Value> read, heads, results;
  for (int i = 0; i < 6; ++i) {
    const std::int64_t width = below(3) ? 8 : 4;
    const int block = below(6) ? 1 : 2;
    ProductOptions options;
    if (below(3)) options.bias = parameter("b" + std::to_string(i), DType::f32, {width}, block);
    if (!below(5)) options.activation = Activation::silu;
    const Value y = linear(xs[below(8) == 0], parameter("w" + std::to_string(i), DType::f32, {width, 8}, block), options);
    const int reader = below(8);
    if (reader == 0) results.push_back(y);
    if (reader == 1) read.push_back(slice(neg(y), 2, 0, 3));
    if (reader == 2) read.push_back(swap_pairs(y));
    if (reader == 3) read.push_back(permute(y, {1, 2, 0}));
    if (reader >= 3) heads.push_back(reshape(y, {2, 3, width / 2, 2}));
    if (reader == 4) read.push_back(cast(heads.back(), DType::bf16));
  }
  for (std::size_t i = 0; i + 2 < heads.size(); ++i)
    if (heads[i].type() == heads[i + 1].type() && heads[i].type() == heads[i + 2].type())
      results.push_back(attention(heads[i], heads[i + 1], heads[i + 2], 0.5));
  results.insert(results.end(), read.begin(), read.end());
  if (results.empty()) results.push_back(xs[0] + xs[1]);
  return make_graph("random", {xs[0], xs[1]}, results);
}

TEST(MergeProducts, RandomGraphsKeepTheirNumbers) {
  std::size_t packed = 0, inside = 0;
  for (unsigned seed = 0; seed < 500; ++seed) {
    const Graph before = random_graph(seed), after = merge_all(before);
    SCOPED_TRACE(print(before) + "becomes\n" + print(after));
    verify(after);
    ASSERT_EQ(print(parse(print(after))), print(after));
    ASSERT_EQ(print(merge_all(after)), print(after)) << "applied again";
    std::vector<ReferenceTensor> inputs(2, {{2, 3, 8}, {}});
    for (ReferenceTensor& each : inputs)
      for (std::size_t i = 0; i < 48; ++i) each.values.push_back(0.25 * static_cast<double>((i * 7 + seed) % 9) - 1);
    const auto expected = interpret(before, inputs, testing::RandomGraph::parameter_values);
    const auto got = interpret(after, inputs, testing::RandomGraph::parameter_values);
    for (std::size_t i = 0; i < expected.size(); ++i) ASSERT_EQ(got[i].values, expected[i].values);
    packed += print(after).find("parts=") != std::string::npos;
    inside += print(after).find("heads=") != std::string::npos;
  }
  EXPECT_GT(packed, 100u);
  EXPECT_GT(inside, 20u);
}

TEST(MergeProducts, ThePlatformIsAskedAndItsAnswerNoted) {
  std::vector<std::string> notes, asked;
  const Graph graph = parse(kBlock);
  const auto refuse = [&](const Node& merged) {
    asked.push_back(signature(merged));
    return Support::no("it is no faster here");
  };
  EXPECT_EQ(print(merge_products(graph, refuse, notes)), print(merge_products(graph, refuse, notes)));
  EXPECT_EQ(asked.front(), "linear +bias f32[1,5,8] weight f32[24,8] weight f32[24] : f32[1,5,24]");
  EXPECT_EQ(notes.front(), "3 linears of one f32[1,5,8] with weights f32[8,8] stay apart: it is no faster here");
  EXPECT_EQ(merge_products(graph, refuse, notes).parameters().size(), 6u);
  notes.clear();
  merge_products(
      graph, [](const Node&) { return Support::yes(); }, notes);
  EXPECT_EQ(notes, std::vector<std::string>{"3 linears of one f32[1,5,8] with weights f32[8,8] are one"});
}

}  // namespace
}  // namespace zoe
