// The Wan transformer against what Diffusers computes (tests/fixtures/models).
#include "models/wan_dit/model.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <tuple>

#include "base/error.h"
#include "models/tensor_list.h"
#include "testing/compare.h"
#include "testing/graphs.h"

namespace zoe {
namespace {

using testing::make_reference;
using testing::read_tensor;
using testing::relative_rms_within;
using testing::run_graph;

constexpr std::int64_t kPromptRows = 512;  // of the reference: those behind the recorded ones are zeros

std::string model_folder(const std::string& model) {
  if (model == "wan_dit_toy") return std::string(ZOE_MODELS) + "/toy-wan/transformer";
  return std::string(ZOE_FIXTURES) + "/models/" +
         (model == "wan_dit_vace"        ? "vace/transformer"
          : model == "wan_dit_nag_image" ? "image_to_video_clip/transformer"
                                         : model);
}
std::string recorded_file(const std::string& model) { return std::string(ZOE_FIXTURES) + "/models/" + model + ".safetensors"; }
WanDitConfig read_config(const std::string& folder) {
  return parse_wan_dit_config(read_json_object(folder + "/config.json", "config.json"));
}

struct Case {
  const char *runner, *model, *timestep;
  ComponentPrecision precision;
  double tolerance;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.runner << " " << c.model << " t" << c.timestep << " " << name(c.precision.stream());
}

class WanDit : public ::testing::TestWithParam<Case> {};

// A recorded model with its arguments.
struct Recorded {
  Checkpoint recorded, weights;
  WanDitConfig config;
  ReferenceTensor latent, prompt;
  std::int64_t frames, height, width, rows;

  explicit Recorded(const std::string& model)
      : recorded(recorded_file(model)), weights(model_folder(model)), config(read_config(model_folder(model))) {
    latent = read_tensor(recorded, "hidden_states");
    frames = latent.shape.dim(2), height = latent.shape.dim(3), width = latent.shape.dim(4);
    latent.shape = {config.in_channels, frames, height, width};
    prompt = read_tensor(recorded, "encoder_hidden_states");
    rows = prompt.shape.dim(1) + 3;  // one row that stands for all of padding, and two unused ones
  }

  ReferenceTensor channels(std::int64_t begin, std::int64_t end) const {  // of the latent
    const auto plane = static_cast<std::ptrdiff_t>(latent.shape.count(1, 4));
    return {{end - begin, frames, height, width}, {latent.values.begin() + begin * plane, latent.values.begin() + end * plane}};
  }

  // The first `count` rows of the prompt.
  struct Text {
    std::int64_t count;
  };

  // Noise of each text, then the stream behind each block.
  // With `nag`, the second text is a negative one.
  std::vector<ReferenceTensor> run(const Case& c, const std::vector<Text>& texts, const std::vector<float>& nag = {}) const {
    const auto batch = static_cast<std::int64_t>(texts.size());
    std::vector<float> states, text_bias;
    for (const Text& text : texts) {
      const auto begin = prompt.values.begin();
      states.insert(states.end(), begin, begin + text.count * config.text_dim);
      text_bias.insert(text_bias.end(), static_cast<std::size_t>(text.count), 0.0f);
      text_bias.push_back(std::log(static_cast<float>(kPromptRows - text.count)));
      text_bias.resize(
          (text_bias.size() + static_cast<std::size_t>(rows) - 1) / static_cast<std::size_t>(rows) * static_cast<std::size_t>(rows),
          -std::numeric_limits<float>::infinity());
      states.resize(text_bias.size() * static_cast<std::size_t>(config.text_dim));
    }
    std::vector<ReferenceTensor> seen{make_reference({batch, rows, config.text_dim}, states)};
    if (config.image_dim) seen.push_back(read_tensor(recorded, "encoder_hidden_states_image"));
    const std::int64_t image_rows = config.image_dim ? seen[1].shape.dim(1) : 0;
    const Graph context = trace_wan_context(config, c.precision, rows, batch, image_rows);
    verify(context);
    const auto keys_and_values = run_graph(c.runner, context, seen, &weights);

    WanDitSizes sizes{frames, height, width, rows, batch, image_rows};
    sizes.negative_keys = !nag.empty();
    const Graph graph = trace_wan_dit(config, c.precision, sizes, true);
    verify(graph);
    const RotaryTables rotary = rotary_tables(config, frames, height, width);
    const Shape rotary_shape = graph.inputs[2].shape();
    std::vector<ReferenceTensor> inputs{channels(0, config.out_channels),
                                        make_reference({1, config.freq_dim}, timestep_sinusoid(config, std::stof(c.timestep))),
                                        make_reference(rotary_shape, rotary.cos_full),
                                        make_reference(rotary_shape, rotary.sin_signed), make_reference({batch, rows}, text_bias)};
    inputs.insert(inputs.end(), keys_and_values.begin(), keys_and_values.end());
    if (config.condition_channels() > 0) inputs.push_back(channels(config.out_channels, config.in_channels));
    if (!config.vace_layers.empty()) {
      inputs.push_back(read_tensor(recorded, "control_hidden_states"));
      inputs.back().shape = {config.vace_channels, frames, height, width};
      inputs.push_back(read_tensor(recorded, "control_hidden_states_scale"));
    }
    if (!nag.empty()) inputs.push_back(make_reference({3}, nag));
    return run_graph(c.runner, graph, inputs, &weights);
  }
};

TEST_P(WanDit, MatchesDiffusers) {
  const Case& c = GetParam();
  if (std::string why; !testing::runs_here(c.runner, why)) GTEST_SKIP() << why;
  const Recorded model(c.model);
  const auto& [recorded, config] = std::tie(model.recorded, model.config);
  match_tensors(model.weights, wan_dit_tensors(config));
  const auto outputs = model.run(c, {{model.prompt.shape.dim(1)}});

  ASSERT_EQ(outputs.size(), static_cast<std::size_t>(config.num_layers + 1));
  int compared = 0;
  for (std::int64_t i = 0; i <= config.num_layers; ++i) {
    const std::string part = std::string("t") + c.timestep + (i == 0 ? ".output" : ".block" + std::to_string(i - 1));
    if (!recorded.find(part)) continue;  // some timesteps have only some of the blocks
    const ReferenceTensor expected = read_tensor(recorded, part);
    EXPECT_TRUE(relative_rms_within(outputs[static_cast<std::size_t>(i)].values, expected.values, expected.shape, c.tolerance))
        << part;
    ++compared;
  }
  EXPECT_GE(compared, 1);
}

// Products of the second block and all attention in bf16 beside a stream in f32: narrow where it was asked for and nowhere else,
// and as close to Diffusers as bf16 is.
TEST(WanDitPrecision, IsOfUseAndBlock) {
  const Recorded model("wan_dit_small");
  const Precision all{DType::f32, DType::f32, DType::bf16}, second{DType::f32, DType::bf16, DType::bf16};
  const ComponentPrecision precision(all, {{1, 2, second}});
  const Graph graph = trace_wan_dit(model.config, precision, {model.frames, model.height, model.width, model.rows});
  int narrow = 0, wide = 0, attentions = 0;
  for (const NodePtr& node : graph.nodes) {
    if (node->opcode == Opcode::attention) {
      EXPECT_EQ(node->inputs[0].dtype(), DType::bf16);
      ++attentions;
    }
    if (node->opcode != Opcode::linear) continue;
    const bool is_second = node->inputs[1].node().block == 2;
    EXPECT_EQ(node->inputs[0].dtype(), is_second ? DType::bf16 : DType::f32) << print(graph);
    ++(is_second ? narrow : wide);
  }
  EXPECT_GE(model.config.num_layers, 2);
  EXPECT_EQ(attentions, 2 * model.config.num_layers);
  EXPECT_EQ(narrow, 8);
  EXPECT_GT(wide, 8);

  const ReferenceTensor expected = read_tensor(model.recorded, "t650.output");
  const auto output = [&](const ComponentPrecision& of) {
    return model.run({"cpu", "wan_dit_small", "650", of, 0}, {{model.prompt.shape.dim(1)}})[0].values;
  };
  constexpr double kOfBf16 = 2e-2, kOfF32 = 1e-5;
  EXPECT_TRUE(relative_rms_within(output(precision), expected.values, expected.shape, kOfBf16));
  EXPECT_FALSE(relative_rms_within(output(precision), expected.values, expected.shape, kOfF32));
  // The same graph for one dtype, however it is said.
  EXPECT_EQ(output(Precision{DType::f32, DType::f32, DType::f32}), output(DType::f32));
}

class WanDitNag : public ::testing::TestWithParam<Case> {};

// With an image encoder's tokens, too. Against Diffusers with an attention processor that does it (tests/fixtures/record_nag.py):
// where tau shortens no row, some, and all.
TEST_P(WanDitNag, MatchesAProcessorOfDiffusers) {
  const Case& c = GetParam();
  if (std::string why; !testing::runs_here(c.runner, why)) GTEST_SKIP() << why;
  const Recorded model(c.model);
  const Checkpoint recorded(recorded_file(model.config.image_dim ? c.model : "wan_dit_nag"));
  const std::int64_t rows = model.prompt.shape.dim(1);
  for (const std::vector<float>& settings : {std::vector<float>{3, 100, 0.5}, {40, 1.1F, 0.25}, {11, 0.5, 0.75}}) {
    const std::string name = fmt::format("{:g},{:g},{:g}", settings[0], settings[1], settings[2]);
    const ReferenceTensor expected = read_tensor(recorded, name);
    const auto outputs = model.run(c, {{rows}, {4}}, settings);
    ASSERT_EQ(outputs.size(), static_cast<std::size_t>(model.config.num_layers + 1));
    EXPECT_TRUE(relative_rms_within(outputs[0].values, expected.values, expected.shape, c.tolerance)) << name;
  }
  // Of scale 1, or alpha 0, it is the prompt alone.
  const auto alone = model.run(c, {{rows}});
  for (const std::vector<float>& settings : {std::vector<float>{1, 2.5, 0.5}, {5, 2.5, 0}})
    EXPECT_TRUE(relative_rms_within(model.run(c, {{rows}, {4}}, settings)[0].values, alone[0].values, alone[0].shape, c.tolerance));
}

// f32: the reference itself is f32, about 1e-6 from the exact result. bf16: 8 bits of mantissa through all
// blocks; Diffusers in bf16 is as far from its f32 self.
constexpr double kF32 = 1e-5, kBf16 = 2e-2;
INSTANTIATE_TEST_SUITE_P(
    Models, WanDit,
    ::testing::Values(
        Case{"interpreter", "wan_dit_toy", "500", DType::f32, kF32}, Case{"interpreter", "wan_dit_small", "650", DType::f32, kF32},
        Case{"interpreter", "wan_dit_plain", "650", DType::f32, kF32}, Case{"interpreter", "wan_dit_vace", "650", DType::f32, kF32},
        Case{"interpreter", "wan_dit_vace", "650", DType::bf16, kBf16}, Case{"cpu", "wan_dit_vace", "650", DType::f32, kF32},
        Case{"cpu", "wan_dit_vace", "650", DType::bf16, kBf16}, Case{"interpreter", "wan_dit_small", "650", DType::bf16, kBf16},
        Case{"cpu", "wan_dit_toy", "500", DType::f32, kF32}, Case{"cpu", "wan_dit_toy", "37", DType::f32, kF32},
        Case{"cpu", "wan_dit_toy", "937.5", DType::f32, kF32}, Case{"cpu", "wan_dit_small", "650", DType::f32, kF32},
        Case{"cpu", "wan_dit_plain", "650", DType::f32, kF32}, Case{"cpu", "wan_dit_toy", "500", DType::bf16, kBf16},
        Case{"cpu", "wan_dit_small", "650", DType::bf16, kBf16}));
INSTANTIATE_TEST_SUITE_P(Models, WanDitNag,
                         ::testing::Values(Case{"interpreter", "wan_dit_small", "650", DType::f32, kF32},
                                           Case{"cpu", "wan_dit_small", "650", DType::f32, kF32},
                                           Case{"cpu", "wan_dit_small", "650", DType::bf16, kBf16},
                                           Case{"interpreter", "wan_dit_nag_image", "650", DType::f32, kF32},
                                           Case{"cpu", "wan_dit_nag_image", "650", DType::f32, kF32},
                                           Case{"cuda", "wan_dit_small", "650", DType::f32, kF32},
                                           Case{"cuda", "wan_dit_nag_image", "650", DType::f32, kF32}));
INSTANTIATE_TEST_SUITE_P(OnCuda, WanDit,
                         ::testing::Values(Case{"cuda", "wan_dit_toy", "500", DType::f32, kF32},
                                           Case{"cuda", "wan_dit_toy", "37", DType::f32, kF32},
                                           Case{"cuda", "wan_dit_toy", "937.5", DType::f32, kF32},
                                           Case{"cuda", "wan_dit_small", "650", DType::f32, kF32},
                                           Case{"cuda", "wan_dit_plain", "650", DType::f32, kF32},
                                           Case{"cuda", "wan_dit_vace", "650", DType::f32, kF32},
                                           Case{"cuda", "wan_dit_toy", "500", DType::bf16, kBf16},
                                           Case{"cuda", "wan_dit_small", "650", DType::bf16, kBf16},
                                           Case{"cuda_uncompiled", "wan_dit_toy", "500", DType::f32, kF32},
                                           Case{"cuda_uncompiled", "wan_dit_toy", "500", DType::bf16, kBf16}));

// Products of twice the rows may add in another order: oneDNN's f32 products on cores with AVX2 alone do, on AVX-512 the bits are
// the same. The interpreter's do not depend on it: 0 is the same bits.
class WanDitBatch : public ::testing::TestWithParam<Case> {};

TEST_P(WanDitBatch, OfTwoTextsIsTwoForwards) {
  const Case& c = GetParam();
  if (std::string why; !testing::runs_here(c.runner, why)) GTEST_SKIP() << why;
  const Recorded model(c.model);
  const std::vector<Recorded::Text> texts{{model.prompt.shape.dim(1)}, {2}};
  const auto together = model.run(c, texts);
  const std::array alone{model.run(c, {texts[0]}), model.run(c, {texts[1]})};

  const auto blocks = static_cast<std::size_t>(model.config.num_layers);
  ASSERT_EQ(together.size(), 2 + blocks);
  const auto expect_same = [&](const std::vector<double>& got, const ReferenceTensor& expected, const std::string& what) {
    if (c.tolerance == 0) EXPECT_EQ(got, expected.values) << what;
    else EXPECT_TRUE(relative_rms_within(got, expected.values, expected.shape, c.tolerance)) << what;
  };
  for (std::size_t text = 0; text < 2; ++text) {
    expect_same(together[text].values, alone[text][0], fmt::format("noise of text {}", text));
    for (std::size_t block = 0; block < blocks; ++block) {
      const ReferenceTensor& expected = alone[text][1 + block];
      const auto begin = together[2 + block].values.begin() + static_cast<std::ptrdiff_t>(text * expected.values.size());
      expect_same({begin, begin + static_cast<std::ptrdiff_t>(expected.values.size())}, expected,
                  fmt::format("block {} of text {}", block, text));
    }
  }
  // The texts matter more than the tolerance.
  EXPECT_FALSE(relative_rms_within(alone[1][0].values, alone[0][0].values, alone[0][0].shape, 2 * c.tolerance));
}

constexpr double kSum = 2e-6;
INSTANTIATE_TEST_SUITE_P(Models, WanDitBatch,
                         ::testing::Values(Case{"interpreter", "wan_dit_small", "650", DType::bf16, 0},
                                           Case{"interpreter", "wan_dit_plain", "650", DType::f32, 0},
                                           Case{"interpreter", "wan_dit_vace", "650", DType::f32, 0},
                                           Case{"cpu", "wan_dit_vace", "650", DType::f32, kSum},
                                           Case{"cpu", "wan_dit_toy", "500", DType::f32, kSum},
                                           Case{"cpu", "wan_dit_toy", "500", DType::bf16, kBf16},
                                           Case{"cpu", "wan_dit_small", "650", DType::f32, kSum},
                                           Case{"cpu", "wan_dit_plain", "650", DType::f32, kSum},
                                           Case{"cpu_uncompiled", "wan_dit_toy", "500", DType::f32, kSum},
                                           Case{"opencl", "wan_dit_small", "650", DType::f32, kSum},
                                           Case{"opencl", "wan_dit_toy", "500", DType::bf16, kBf16}));
INSTANTIATE_TEST_SUITE_P(OnCuda, WanDitBatch,
                         ::testing::Values(Case{"cuda", "wan_dit_toy", "500", DType::f32, kF32},
                                           Case{"cuda", "wan_dit_toy", "500", DType::bf16, kBf16},
                                           Case{"cuda", "wan_dit_plain", "650", DType::f32, kF32},
                                           Case{"cuda_uncompiled", "wan_dit_toy", "500", DType::bf16, kBf16}));

TEST(WanDitTables, RotaryAnglesAreTheReferencesBitForBit) {
  for (const std::string model : {"wan_dit_toy", "wan_dit_small", "wan_dit_plain"}) {
    const Checkpoint recorded(recorded_file(model));
    const WanDitConfig config = read_config(model_folder(model));
    const Shape latent = read_tensor(recorded, "hidden_states").shape;
    const RotaryTables tables = rotary_tables(config, latent.dim(2), latent.dim(3), latent.dim(4));
    const std::string timestep = model == "wan_dit_toy" ? "t500" : "t650";
    const ReferenceTensor cosines = read_tensor(recorded, timestep + ".rotary_cos"),
                          sines = read_tensor(recorded, timestep + ".rotary_sin");
    ASSERT_EQ(tables.cos_full.size(), 2 * cosines.values.size());
    ASSERT_EQ(tables.sin_signed.size(), 2 * sines.values.size());
    for (std::size_t i = 0; i < cosines.values.size(); ++i) {
      const double cosine = cosines.values[i], sine = sines.values[i];
      ASSERT_TRUE(tables.cos_full[2 * i] == cosine && tables.cos_full[2 * i + 1] == cosine) << model << " pair " << i;
      ASSERT_TRUE(tables.sin_signed[2 * i] == -sine && tables.sin_signed[2 * i + 1] == sine) << model << " pair " << i;
    }
  }
}

TEST(WanDitTables, TimestepsAreTheReferencesUpToItsExponential) {
  for (const std::string model : {"wan_dit_toy", "wan_dit_small"}) {
    const std::string timestep = model == "wan_dit_toy" ? "500" : "650";
    const ReferenceTensor expected = read_tensor(Checkpoint(recorded_file(model)), "t" + timestep + ".timesteps_proj");
    const auto got = timestep_sinusoid(read_config(model_folder(model)), std::stof(timestep));
    // The reference's frequencies are up to one unit in the last place off the exact ones: 6e-8 of an angle of up to 650.
    EXPECT_TRUE(relative_rms_within(got, expected.values, expected.shape, 5e-6)) << model;
    for (std::size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected.values[i], 4e-5) << model << " " << i;
  }
}

TEST(WanDitGraph, FullSizesTraceAndMatchTheKeyListsOfTheCheckpoints) {
  for (const std::string part : {"wan2.1-t2v-1.3b/transformer", "wan2.1-t2v-14b/transformer"}) {
    const WanDitConfig config = read_config(std::string(ZOE_FIXTURES) + "/checkpoints/" + part);
    EXPECT_EQ(testing::names_and_shapes(wan_dit_tensors(config)), testing::recorded_names_and_shapes(part));
    const Graph context = trace_wan_context(config, DType::bf16, 64);
    const Graph graph = trace_wan_dit(config, DType::bf16, {21, 60, 104, 64});  // 832x480, 81 frames
    verify(context);
    verify(graph);
    EXPECT_EQ(graph.inputs[2].type().str(), "f32[32760,1,128]");
    EXPECT_EQ(graph.outputs[0].type().str(), "f32[16,21,60,104]");
    EXPECT_EQ(graph.parameters().back()->block, config.num_layers + 1);
    const auto platform = open_platform("null");
    const Plan plan = compile(graph, *platform);
    EXPECT_EQ(plan.block_count, config.num_layers + 2);
    EXPECT_GT(plan.workspace_bytes, static_cast<std::size_t>(32760 * config.ffn_dim * 2));  // the widest value at least
    // A batch of two has the same blocks and weights, and room for twice the widest value.
    const Plan pair = compile(trace_wan_dit(config, DType::bf16, {21, 60, 104, 64, 2}), *platform);
    EXPECT_EQ(pair.graph.outputs.size(), 2U);
    EXPECT_EQ(pair.block_count, plan.block_count);
    EXPECT_EQ(pair.weight_bytes(), plan.weight_bytes());
    EXPECT_GT(pair.workspace_bytes, static_cast<std::size_t>(2 * 32760 * config.ffn_dim * 2));
    // Every tensor is in one of the two graphs, once.
    EXPECT_EQ(graph.parameters().size() + context.parameters().size(), wan_dit_tensors(config).size());
  }
}

// Those of 14B: a hint behind every fifth block, made in that block's block, so that both can come and go.
TEST(WanDitGraph, HintsBelongToTheBlocksTheyAreAddedBehind) {
  const WanDitConfig config =
      parse_wan_dit_config(parse_json_object(R"({"_class_name":"WanVACETransformer3DModel"})", "config.json"));
  EXPECT_EQ(config.vace_layers, (std::vector<std::int64_t>{0, 5, 10, 15, 20, 25, 30, 35}));
  EXPECT_EQ(wan_dit_tensors(config).size(), 1331u);
  const Graph graph = trace_wan_dit(config, DType::bf16, {21, 60, 104, 64, 2});
  verify(graph);
  EXPECT_EQ(graph.inputs[graph.inputs.size() - 2].type().str(), "f32[96,21,60,104]");
  EXPECT_EQ(graph.inputs.back().type().str(), "f32[8]");
  for (const NodePtr& weight : graph.parameters())
    if (weight->name.starts_with("vace_blocks.3.")) {
      EXPECT_EQ(weight->block, 16) << weight->name;
    }
  const Plan plan = compile(graph, *open_platform("null"));
  EXPECT_EQ(plan.block_count, config.num_layers + 2);
  // One hint at a time, not eight: between two of them the stream of VACE's blocks waits (1 [B,L,D] in bf16), and nothing that is
  // made of it ahead; beside a hint's block the residual and the product that become x (2).
  WanDitConfig plain = config;
  plain.vace_layers.clear();
  const Plan without = compile(trace_wan_dit(plain, DType::bf16, {21, 60, 104, 64, 2}), *open_platform("null"));
  EXPECT_LT(plan.workspace_bytes, without.workspace_bytes + static_cast<std::size_t>(7 * 32760 * config.dim() * 2));
}

TEST(WanDitGraph, PatchesInTimeTrace) {
  const WanDitConfig config = parse_wan_dit_config(parse_json_object(
      R"({"patch_size":[2,1,3],"num_attention_heads":2,"attention_head_dim":8,"ffn_dim":16,"num_layers":1,"text_dim":8,"freq_dim":8})",
      "c"));
  const Graph graph = trace_wan_dit(config, DType::f32, {4, 5, 6, 3});
  verify(graph);
  EXPECT_EQ(graph.inputs[2].type().str(), "f32[20,1,8]");
  EXPECT_EQ(graph.outputs[0].type().str(), "f32[16,4,5,6]");
}

std::string error_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& e) {
    return std::string(name(e.kind())) + " " + e.what();
  }
  return "none";
}

TEST(WanDitErrors, NameTheValueAndItsKind) {
  const auto config_error = [](const std::string& text) {
    return error_of([&] { parse_wan_dit_config(parse_json_object(text, "config.json")); });
  };
  EXPECT_EQ(config_error("{}"), "none");
  for (const auto& [text, start] :
       {std::pair{R"({"image_dim":1280})", "unsupported [config.json] bad added_kv_proj_dim: got none"},
        {R"({"added_kv_proj_dim":5120})", "unsupported [config.json] bad added_kv_proj_dim: got 5120"},
        {R"({"pos_embed_seq_len":514})", "invalid argument [config.json] bad pos_embed_seq_len"},
        {R"({"qk_norm":"layer_norm"})", "unsupported [config.json] qk_norm"},
        {R"({"_class_name":"WanAnimateTransformer3DModel"})", "unsupported [config.json] _class_name"},
        {R"({"_class_name":"WanVACETransformer3DModel","vace_layers":[1,5]})",
         "invalid argument [config.json] bad vace_layers: got 1, 5"},
        {R"({"_class_name":"WanVACETransformer3DModel","vace_layers":[0,5,5]})", "invalid argument [config.json] bad vace_layers"},
        {R"({"_class_name":"WanVACETransformer3DModel","num_layers":30})", "invalid argument [config.json] bad vace_layers"},
        {R"({"_class_name":"WanVACETransformer3DModel","image_dim":1280,"added_kv_proj_dim":5120})",
         "unsupported [config.json] bad image_dim"},
        {R"({"attention_head_dim":63})", "invalid argument [config.json] bad attention_head_dim"},
        {R"({"freq_dim":31})", "invalid argument [config.json] bad freq_dim"},
        {R"({"num_layers":0})", "invalid argument [config.json] bad num_layers"},
        {R"({"patch_size":[1,2]})", "invalid argument [config.json] bad patch_size"},
        {R"({"num_attention_heads":1024,"attention_head_dim":1024})", "invalid argument [config.json] num_attention"}})
    EXPECT_TRUE(config_error(text).starts_with(start)) << config_error(text);

  const WanDitConfig config = parse_wan_dit_config(parse_json_object("{}", "config.json"));
  for (const auto& [sizes, start] : {std::pair{WanDitSizes{1, 3, 4, 1}, "invalid argument [wan_dit] bad height"},
                                     {WanDitSizes{0, 4, 4, 1}, "invalid argument [wan_dit] bad frames"},
                                     {WanDitSizes{1, 4, 2050, 1}, "invalid argument [wan_dit] bad width"},
                                     {WanDitSizes{1024, 2048, 2048, 1}, "invalid argument [wan_dit] bad size"},
                                     {WanDitSizes{1, 4, 4, 0}, "invalid argument [wan_dit] bad number of text rows"},
                                     {WanDitSizes{1, 4, 4, 1, 0}, "invalid argument [wan_dit] bad number of texts"}}) {
    const std::string error = error_of([&, s = sizes] { trace_wan_dit(config, DType::f32, s); });
    EXPECT_TRUE(error.starts_with(start)) << error;
  }
}

}  // namespace
}  // namespace zoe
