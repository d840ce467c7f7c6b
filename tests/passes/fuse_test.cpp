// Which nodes become one chain, by text graphs and on whole Wan models.
#include "compiler/passes/fuse.h"

#include <algorithm>
#include <map>

#include "compiler/compile.h"
#include "models/wan_dit/model.h"
#include "models/wan_vae/model.h"
#include "passes/passes.h"

namespace zoe {
namespace {

DeviceInfo device() {
  DeviceInfo info{};
  info.generates_kernels = true;
  return info;
}

Fused fuse_text(const std::string& text, const DeviceInfo& info = device()) {
  const Graph graph = parse(text);
  verify(graph);
  Fused fused = fuse(graph, info, [](const Node&) { return true; });
  verify(fused.graph);
  return fused;
}

std::vector<std::string> steps(const Graph& graph) {
  std::vector<std::string> names;
  for (const NodePtr& node : graph.nodes)
    if (!node->inputs.empty()) names.emplace_back(name(node->opcode));
  return names;
}

using Names = std::vector<std::string>;

constexpr const char* kSoftmaxLike = R"(graph g
%x = input : f32[4,8]
%e = exp %x : f32[4,8]
%s = sum %e : f32[4,1]
%y = div %e %s : f32[4,8]
return %y
)";

TEST(Fuse, ARowSumAndWhatFollowsAreOneChain) {
  const Graph graph = fuse_text(kSoftmaxLike).graph;
  EXPECT_EQ(steps(graph), Names{"fused"});
  EXPECT_EQ(graph.outputs[0].node().as<std::shared_ptr<const CallAttributes>>()->native.nodes.size(), 4u);
}

TEST(Fuse, AProductEndsAChainAndItsResultStartsOne) {
  const Graph graph = fuse_text(R"(graph g
%x = input : f32[4,8]
%w = parameter : f32[8,8]  # w
%a = neg %x : f32[4,8]
%b = exp %a : f32[4,8]
%p = linear %b %w : f32[4,8]
%c = square %p : f32[4,8]
%d = add %c %x : f32[4,8]
return %d
)")
                          .graph;
  EXPECT_EQ(steps(graph), (Names{"fused", "linear", "fused"}));
}

TEST(Fuse, AValueThatLeavesAndComesBackKeepsChainsApart) {
  const Fused fused = fuse_text(R"(graph g
%x = input : f32[4,8]
%w = parameter : f32[8,8]  # w
%a = neg %x : f32[4,8]
%b = exp %a : f32[4,8]
%p = linear %b %w : f32[4,8]
%c = add %p %b : f32[4,8]
%d = neg %c : f32[4,8]
return %d
)");
  EXPECT_EQ(steps(fused.graph), (Names{"fused", "linear", "fused"}));
  ASSERT_FALSE(fused.notes.empty());
  EXPECT_EQ(fused.notes[0], "add: a value would leave the chain and come back");
}

TEST(Fuse, SumsOverDifferentWidthsAreTwoChains) {
  const Fused fused = fuse_text(R"(graph g
%x = input : f32[4,8]
%a = square %x : f32[4,8]
%s = sum %a : f32[4,1]
%b = mul %a %s : f32[4,8]
%r = reshape %b : f32[8,4]
%t = sum %r : f32[8,1]
%c = sub %r %t : f32[8,4]
return %c
)");
  EXPECT_EQ(std::count_if(fused.graph.nodes.begin(), fused.graph.nodes.end(),
                          [](const NodePtr& n) { return n->opcode == Opcode::fused; }),
            2);
  EXPECT_EQ(fused.notes[0], "sum: sums run over 8 and 4 columns");
}

TEST(Fuse, AValueReadOutsideIsASecondResult) {
  const Graph graph = fuse_text(R"(graph g
%x = input : f32[4,8]
%w = parameter : f32[8,8]  # w
%a = exp %x : f32[4,8]
%b = neg %a : f32[4,8]
%p = linear %a %w : f32[4,8]
return %b %p
)")
                          .graph;
  EXPECT_EQ(steps(graph), (Names{"fused", "linear"}));
  EXPECT_EQ(graph.outputs[0].node().types.size(), 2u);
}

TEST(Fuse, MovementBetweenChainsIsReadThrough) {
  const Graph graph = fuse_text(R"(graph g
%x = input : f32[4,2,8]
%t = permute %x axes=1,0,2 : f32[2,4,8]
%f = slice %t axis=1 [1,3) : f32[2,2,8]
%a = swap_pairs %f : f32[2,2,8]
%b = neg %a : f32[2,2,8]
%c = exp %b : f32[2,2,8]
return %c
)")
                          .graph;
  EXPECT_EQ(steps(graph), Names{"fused"});
}

TEST(Fuse, APermuteForAProductIsWrittenByTheChainBeforeIt) {
  const Graph graph = fuse_text(R"(graph g
%x = input : f32[4,8]
%w = parameter : f32[8,4]  # w
%a = exp %x : f32[4,8]
%t = permute %a axes=1,0 : f32[8,4]
%p = linear %t %w : f32[8,8]
return %p
)")
                          .graph;
  EXPECT_EQ(steps(graph), (Names{"fused", "linear"}));
}

TEST(Fuse, TheDevicesLimitsHold) {
  DeviceInfo info = device();
  info.max_kernel_operands = 3;
  const Graph graph = fuse_text(R"(graph g
%x = input : f32[4,8]
%y = input : f32[4,8]
%z = input : f32[4,8]
%a = add %x %y : f32[4,8]
%b = add %a %z : f32[4,8]
%c = exp %b : f32[4,8]
return %c
)",
                                info)
                          .graph;
  EXPECT_EQ(steps(graph), (Names{"add", "fused"}));
  info = device();
  info.max_kept_bytes = 16;
  EXPECT_EQ(steps(fuse_text(kSoftmaxLike, info).graph).size(), 2u);
}

TEST(Fuse, PolicyKeepsNodesOut) {
  const Graph graph = parse(kSoftmaxLike);
  const Fused fused = fuse(graph, device(), [](const Node& node) { return node.opcode != Opcode::sum; });
  EXPECT_EQ(steps(fused.graph), (Names{"exp", "sum", "div"}));
}

// Steps of one block by opcode; the chains by the ops they hold.
std::map<std::string, int> block_steps(const Graph& model, int block) {
  const auto platform = open_platform("null");
  const Plan plan = compile(model, *platform);
  std::map<std::string, int> counts;
  for (const Step& step : plan.steps) {
    if (step.node->block != block) continue;
    ++counts[step.node->opcode == Opcode::fused ? step.node->name : std::string(name(step.node->opcode))];
  }
  return counts;
}

class WanBlock : public ::testing::TestWithParam<DType> {};

TEST_P(WanBlock, IsItsProductsItsAttentionsAndSevenKernels) {
  const WanDitConfig config = parse_wan_dit_config(
      parse_json_object(R"({"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "num_layers": 4,
    "in_channels": 16, "out_channels": 16, "text_dim": 4096, "freq_dim": 256, "patch_size": [1, 2, 2], "cross_attn_norm": true,
    "qk_norm": "rms_norm_across_heads", "eps": 1e-6, "rope_max_seq_len": 1024})",
                        "wan"));
  const Graph model = trace_wan_dit(config, GetParam(), {21, 60, 104, 512});
  const std::map<std::string, int> expected = {{"linear", 8},
                                               {"attention", 2},
                                               {"add", 1},
                                               {"mul_add + norm_scale_shift", 1},
                                               {"rms_norm + rotary_interleaved", 2},
                                               {"scale_residual_norm_scale_shift", 1},
                                               {"rms_norm", 1},
                                               {"norm_scale_shift", 1}};
  EXPECT_EQ(block_steps(model, 2), expected);
  EXPECT_EQ(block_steps(model, 3), expected);
}

INSTANTIATE_TEST_SUITE_P(, WanBlock, ::testing::Values(DType::f32, DType::bf16),
                         [](const auto& tested) { return std::string(name(tested.param)); });

TEST(WanVae, EveryNormIsOneKernelWithTheSiluBehindIt) {
  const WanVaeConfig config = parse_wan_vae_config(parse_json_object("{}", "wan 2.1 vae"));
  const Graph decoder = trace_wan_vae_decode(config, DType::f32, 1, 32, 32, false).graph;
  const std::map<std::string, int> counts = block_steps(decoder, 0);
  EXPECT_EQ(counts.at("channel_norm + silu"), 29);
  EXPECT_EQ(counts.at("channel_norm"), 1);  // before the attention
  EXPECT_EQ(counts.at("max + min"), 1);     // the pixels
  for (const char* single : {"mul", "sum", "silu", "sqrt", "div", "max"}) EXPECT_EQ(counts.count(single), 0u) << single;
}

}  // namespace
}  // namespace zoe
