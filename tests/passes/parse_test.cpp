// The text of graphs: what print writes, parse reads, and what is wrong in a text is named with its line.
#include "ir/parse.h"

#include <gtest/gtest.h>

#include <functional>

#include "base/error.h"
#include "compiler/passes/inline_calls.h"
#include "ir/trace.h"
#include "models/umt5/model.h"
#include "models/wan_dit/model.h"
#include "models/wan_vae/model.h"

namespace zoe {
namespace {

void expect_text_comes_back(const Graph& graph) {
  const std::string text = print(graph);
  const Graph parsed = parse(text);
  verify(parsed);
  EXPECT_EQ(print(parsed), text);
  ASSERT_EQ(parsed.nodes.size(), graph.nodes.size());
  ASSERT_EQ(parsed.inputs.size(), graph.inputs.size());
  for (std::size_t i = 0; i < graph.inputs.size(); ++i) EXPECT_EQ(parsed.inputs[i].node().name, graph.inputs[i].node().name);
}

// As traced, and with the ops' definitions among the nodes.
void expect_texts_come_back(const Graph& graph) {
  expect_text_comes_back(graph);
  expect_text_comes_back(inline_calls(graph));
}

const std::string kToy = std::string(ZOE_MODELS) + "/toy-wan";

TEST(Text, OfTheModelsComesBack) {
  const WanDitConfig dit = parse_wan_dit_config(read_json_object(kToy + "/transformer/config.json", "config.json"));
  const WanVaeConfig vae = parse_wan_vae_config(read_json_object(kToy + "/vae/config.json", "config.json"));
  const Umt5Config umt5 = parse_umt5_config(read_json_object(kToy + "/text_encoder/config.json", "config.json"));
  for (const DType dtype : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(name(dtype));
    expect_texts_come_back(trace_wan_dit(dit, dtype, {3, 16, 16, 8}, true));
    expect_texts_come_back(trace_wan_context(dit, dtype, 8));
    expect_texts_come_back(trace_umt5(umt5, dtype, 8));
    for (const bool first : {true, false}) {
      expect_texts_come_back(trace_wan_vae_decode(vae, dtype, first ? 1 : 2, 4, 4, first, true).graph);
      expect_texts_come_back(trace_wan_vae_encode(vae, dtype, first ? 1 : 4, 32, 32, first).graph);
    }
  }
}

TEST(Text, HoldsEverything) {
  const std::string text = R"(graph everything there is
%0 = input : f32[1,4,6,2]  # picture
%1 = input : f32[9]  # read by nothing
%2 = input : bf16[2,3]  # h
%3 = parameter block=3 : f32[3,2,1,2,3]  # blocks.2.conv.weight
%4 = parameter : f32[3]  # a name of several words # and a mark
%5 = constant 0.1 : f32[]
%6 = constant -0 : f32[]
%7 = constant 1e-300 : f32[]
%8 = constant inf : bf16[]
%9 = conv %0 %3 %4 +bias +silu upsample=2 stride=1,2,1 pad=0,1,0/0,0,1 : f32[1,4,11,3]
%10 = mul %9 %5 : f32[1,4,11,3]  # op
%11 = add %10 %6 block=4 : f32[1,4,11,3]
%12 = sub %11 %7 : f32[1,4,11,3]
%13 = attention %0 %0 %0 scale=0.35355339059327373 : f32[1,4,6,2]
%14 = call %2 %8 op="two words" : bf16[2,3] bf16[3,2]
  graph two words
  %0 = input : bf16[2,3]  # a0
  %1 = input : bf16[]  # a1
  %2 = fused %0 %1 op="inner : # op" : bf16[2,3]
    graph inner
    %0 = input : bf16[2,3]
    %1 = input : bf16[]
    %2 = div %0 %1 : bf16[2,3]
    return %2
  %3 = permute %2 axes=1,0 : bf16[3,2]
  return %2 %3
%15 = reshape %14.1 : bf16[3,2]
%16 = cast %9 : u8[1,4,11,3]
%17 = flip %16 axis=1 : u8[1,4,11,3]
%18 = cast %17 : f32[1,4,11,3]
%19 = parameter : bf16[4,3]  # weight
%20 = linear %2 %19 codes=i8 : bf16[2,4]
%21 = attention %0 %0 %0 scale=0.5 codes=i8 : f32[1,4,6,2]
return %12 %14.0 %13 %15 %2 %17 %18 %20 %21 %14.0
)";
  const Graph graph = parse(text);
  verify(graph);
  EXPECT_EQ(print(graph), text);
  EXPECT_EQ(graph.inputs.size(), 3u);
  EXPECT_EQ(graph.outputs[0].node().block, 4);
  EXPECT_EQ(graph.outputs.back().node().as<std::shared_ptr<const CallAttributes>>()->op, "two words");
}

TEST(Text, OfASignatureNamesNothingOfAFusedNode) {
  const auto fused = [](const std::string& who, int block) {
    const Value x = input(who + ".x", DType::f32, {4}), w = parameter(who + ".w", DType::f32, {4}, block);
    const Value a = input(who + ".a", DType::f32, {4}), b = input(who + ".b", DType::f32, {4});
    const Value product = with_inputs((a * b).node(), {a, b}, who);
    Node later = product.node();
    later.block = block;
    const Value body = with_inputs(later, {a, b}, who);
    return make_fused(who, {x, w}, make_graph(who, {a, b}, {body}))[0];
  };
  EXPECT_EQ(signature(fused("one", 1).node()), signature(fused("two", 2).node()));
  EXPECT_NE(signature(fused("one", 1).node()).find("mul %0 %1"), std::string::npos);
}

TEST(Text, CallsOfOtherDefinitionsHaveOtherSignatures) {
  const Value x = input("x", DType::f32, {4});
  const auto called = [&](std::string op, double factor) {
    return signature(
        call(std::move(op), {x}, [&](std::span<const Value> a) { return std::vector<Value>{a[0] * factor}; })[0].node());
  };
  EXPECT_EQ(called("scale", 2), called("scale", 2));
  EXPECT_NE(called("scale", 2), called("scale", 3));
  EXPECT_NE(called("scale", 2), called("grow", 2));
}

struct Mistake {
  const char *text, *message;  // behind "graph g\n"
};

const Mistake kMistakes[] = {
    {"%0 = input : f32[2,3]\n%1 = linear %0 %0 codes=i4 : f32[2,2]\nreturn %1\n", "line 3] got codes=i4, expected i8."},
    {"%0 = input : f32[1,2,3,4]\n%1 = input : f32[1,1,1,2]\n%2 = attention %0 %0 %0 %1 scale=1 +bias codes=i8 : f32[1,2,3,4]\n"
     "return %2\n",
     "line 4] [attention] got a bias and codes of i8, expected one of them."},
    {"return %0\n", "[graph text, line 2] got '%0', expected the label of a line before."},
    {"%0 = input : f32[2]\n", "[graph text, line 3] got '', expected '%LABEL = OPCODE ...' or 'return ...', 0 spaces in."},
    {"%0 = frobnicate : f32[2]\nreturn %0\n", "line 2] got 'frobnicate', expected an opcode."},
    {"%0 input : f32[2]\nreturn %0\n", "line 2] got '%0 input : f32[2]', expected '%LABEL = OPCODE ...'"},
    {"  %0 = input : f32[2]\nreturn %0\n", "expected '%LABEL = OPCODE ...' or 'return ...', 0 spaces in."},
    {"%0 = input f32[2]\nreturn %0\n", "line 2] the line ends early: expected a colon and the result's type."},
    {"%0 = input :\nreturn %0\n", "line 2] got 0 types, expected 1."},
    {"%0 = input : f64[2]\nreturn %0\n", "line 2] got 'f64', expected one of f32, bf16, f16, i32, u8, i8."},
    {"%0 = input : f32\nreturn %0\n", "line 2] got 'f32', expected a type such as f32[2,3]."},
    {"%0 = input : f32[2,]\nreturn %0\n", "line 2] got '', expected a number."},
    {"%0 = parameter stored=2,2 : f32[5]\nreturn %0\n", "got [2,2], expected as many elements as [5]."},
    {"%0 = parameter stored= : f32[5]\nreturn %0\n", "line 2] got '', expected a number."},
    {"%0 = input : f32[0]\nreturn %0\n", "expected extents of 1 or more"},
    {"%0 = input : f32[4294967296,4294967296]\nreturn %0\n", "and fewer elements."},
    {"%0 = input : f32[99999999999999999999]\nreturn %0\n", "got '99999999999999999999', expected a number."},
    {"%0 = input : f32[2]\n%0 = input : f32[2]\nreturn %0\n", "line 3] got a second %0, expected a new label."},
    {"%0 = input : f32[2]\n%1 = exp %0 %0 : f32[2]\nreturn %1\n", "line 3] [exp] got 2 operands, expected 1."},
    {"%0 = input : f32[2]\n%1 = add %0 : f32[2]\nreturn %1\n", "line 3] [add] got 1 operands, expected 2."},
    {"%0 = input : f32[2]\n%1 = exp %0 : f32[3]\nreturn %1\n",
     "line 3] the result's type contradicts the operands: expected f32[2]."},
    {"%0 = input : f32[2]\n%1 = input : f32[3]\n%2 = add %0 %1 : f32[3]\nreturn %2\n", "line 4] [add] shapes do not broadcast"},
    {"%0 = input : f32[2]\n%1 = exp %0 axis=0 : f32[2]\nreturn %1\n",
     "line 3] got 'axis=0', expected an operand, an attribute of exp or a colon."},
    {"%0 = input : f32[2]\n%1 = flip %0 : f32[2]\nreturn %1\n", "line 3] flip lacks an attribute: expected axis=."},
    {"%0 = input : f32[2]\n%1 = flip %0 axis=-1 : f32[2]\nreturn %1\n", "line 3] got axis -1, expected 0 or more."},
    {"%0 = input : f32[2]\n%1 = flip %0 axis=0 axis=0 : f32[2]\nreturn %1\n", "line 3] got a second 'axis='."},
    {"%0 = input : f32[2]\n%1 = slice %0 axis=0 [0 : f32[2]\nreturn %1\n", "line 3] got '[0', expected a range such as [0,2)."},
    {"%0 = input : f32[2]\n%1 = slice %0 axis=0 [1,3) : f32[2]\nreturn %1\n", "line 3] [slice] bad range"},
    {"%0 = constant : f32[]\nreturn %0\n", "line 2] constant lacks an attribute: expected a number."},
    {"%0 = constant many : f32[]\nreturn %0\n", "line 2] got 'many', expected a number."},
    {"%0 = constant 1 : f32[2]\nreturn %0\n", "line 2] got f32[2], expected a constant of rank 0."},
    {"%0 = input : f32[2]\n%1 = call %0 op=\"one : f32[2]\n", "expected a closing quote."},
    {"%0 = input : f32[2]\n%1 = call %0 : f32[2]\n", "line 3] call lacks an attribute: expected op=."},
    {"%0 = input : f32[2]\n%1 = call %0 op=\"f\" : f32[2]\nreturn %1\n", "line 4] got 'return %1', expected 'graph NAME'."},
    {"%0 = input : f32[2]\n%1 = call %0 op=\"f\" : f32[2]\n  graph f\n  %0 = input : f32[3]\n  return %0\nreturn %1\n",
     "line 3] [call] argument 0: got f32[2], expected f32[3]."},
    {"%0 = parameter parts=1,1 : f32[3,2]  # a + b\nreturn %0\n", "contradicts the operands: expected f32[2,2]."},
    {"%0 = parameter parts=1,2 : f32[3,2]  # a\nreturn %0\n",
     "got 2 parts named 'a', expected their names with plus signs between."},
    {"%0 = parameter parts=1,2 : f32[3,2]  # a + b + c\nreturn %0\n", "got 2 parts named 'a + b + c', expected"},
    {"%0 = parameter parts=3 : f32[3,2]  # a\nreturn %0\n", "got parts=3, expected the rows of two parts or more."},
    {"%0 = parameter parts=0,3 : f32[3,2]  # a + b\nreturn %0\n", "got parts=0,3, expected rows of 1 or more."},
    {"%0 = input : f32[1,2,3,4]\n%1 = attention %0 %0 %0 scale=1 heads=2 from=0,2,0 : f32[1,2,2,4]\nreturn %1\n",
     "bad heads of operand 1: got 2 from number 2, it has 3."},
    {"%0 = input : f32[1,2,3,4]\n%1 = attention %0 %0 %0 scale=1 heads=2 : f32[1,2,2,4]\nreturn %1\n",
     "attention lacks an attribute: expected from=."},
    {"%0 = input : f32[1,2,3,4]\n%1 = attention %0 %0 %0 scale=1 heads=2 from=0,1 : f32[1,2,2,4]\nreturn %1\n",
     "got 2 first heads, expected three."},
    {"%0 = input : f32[2]\nreturn %0 %0.1\n", "line 3] got '%0.1', expected one of its results, .0 to .0."},
    {"%0 = input : f32[2]\nreturn %0\nmore\n", "line 4] got 'more', expected the end behind the results."},
};

TEST(Text, MistakesAreNamedWithTheirLine) {
  for (const Mistake& mistake : kMistakes) {
    try {
      parse(std::string("graph g\n") + mistake.text);
      ADD_FAILURE() << "no error for\n" << mistake.text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::invalid_argument) << error.what();
      EXPECT_NE(std::string(error.what()).find(mistake.message), std::string::npos) << error.what() << "\nfor\n" << mistake.text;
    }
  }
}

// No text may do worse than an error.
TEST(Text, CutAndChangedTextsAreReadOrRefused) {
  const WanDitConfig dit = parse_wan_dit_config(read_json_object(kToy + "/transformer/config.json", "config.json"));
  std::string text = print(trace_wan_dit(dit, DType::f32, {1, 4, 4, 2}));
  text = text.substr(0, text.find("%60 = ")) + "return %20\n";
  parse(text);
  std::size_t refused = 0;
  constexpr std::size_t kTexts = 2000;
  for (std::size_t i = 0; i < kTexts; ++i) {
    std::string changed = text;
    changed[i * 2654435761u % text.size()] = " %=:[]#\"0,-\n"[i % 12];
    try {
      parse(changed);
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, kTexts / 4);
  EXPECT_LT(refused, kTexts);
}

}  // namespace
}  // namespace zoe
