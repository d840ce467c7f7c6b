// The umT5 encoder against what Transformers computes (tests/fixtures/models).
#include "models/umt5/model.h"

#include <gtest/gtest.h>

#include <limits>

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

Umt5Config read_config(const std::string& folder) {
  return parse_umt5_config(read_json_object(folder + "/config.json", "config.json"));
}

// Every `step`-th row of the first `rows` of a [1,L,D].
std::vector<double> pick_rows(const ReferenceTensor& tensor, std::int64_t rows, std::int64_t step) {
  std::vector<double> picked;
  const std::int64_t width = tensor.shape.dim(2);
  for (std::int64_t row = 0; row < rows; row += step)
    picked.insert(picked.end(), tensor.values.begin() + row * width, tensor.values.begin() + (row + 1) * width);
  return picked;
}

struct Case {
  const char *runner, *file, *model, *prompt;
  std::int64_t step;     // the file has every step-th row
  std::int64_t padding;  // rows behind the prompt
  DType dtype;
  double tolerance;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.runner << " " << c.file << " " << c.prompt << " " << name(c.dtype); }

class Umt5 : public ::testing::TestWithParam<Case> {};

TEST_P(Umt5, MatchesTransformers) {
  const Case& c = GetParam();
  if (std::string why; !testing::runs_here(c.runner, why)) GTEST_SKIP() << why;
  const std::string folder = std::string(c.model).starts_with("toy-wan") ? std::string(ZOE_MODELS) + "/" + c.model
                                                                         : std::string(ZOE_FIXTURES) + "/models/" + c.model;
  const Checkpoint recorded(std::string(ZOE_FIXTURES) + "/models/" + c.file), weights(folder);
  const Umt5Config config = read_config(folder);
  match_tensors(weights, umt5_tensors(config), umt5_aliases(config));

  const ReferenceTensor ids = read_tensor(recorded, std::string(c.prompt) + ".input_ids");
  const auto prompt = static_cast<std::int64_t>(ids.values.size()), tokens = prompt + c.padding;
  std::vector<float> embedded(static_cast<std::size_t>(tokens * config.d_model)), key_bias(static_cast<std::size_t>(tokens));
  const WeightPtr table = weight_of(*weights.find(kUmt5Embedding), "text_encoder");
  for (std::int64_t i = 0; i < tokens; ++i) {
    const auto id = i < prompt ? static_cast<std::int64_t>(ids.values[static_cast<std::size_t>(i)]) : 0;
    table->read(id * config.d_model, config.d_model, DType::f32, embedded.data() + i * config.d_model);
    if (i >= prompt) key_bias[static_cast<std::size_t>(i)] = -std::numeric_limits<float>::infinity();
  }
  const auto buckets = relative_position_buckets(config, tokens);
  const std::vector<ReferenceTensor> inputs{make_reference({1, tokens, config.d_model}, embedded),
                                            {{tokens * tokens}, {buckets.begin(), buckets.end()}},
                                            make_reference({tokens}, key_bias)};
  const Graph graph = trace_umt5(config, c.dtype, tokens, true);
  verify(graph);
  const auto outputs = run_graph(c.runner, graph, inputs, &weights);
  ASSERT_EQ(outputs.size(), static_cast<std::size_t>(config.num_layers + 1));
  for (std::int64_t i = 0; i <= config.num_layers; ++i) {
    const std::string part = i == 0 ? "last_hidden_state" : "layer" + std::to_string(i - 1);
    const ReferenceTensor expected = read_tensor(recorded, std::string(c.prompt) + "." + part);
    const auto got = pick_rows(outputs[static_cast<std::size_t>(i)], prompt, c.step);
    EXPECT_TRUE(relative_rms_within(got, expected.values, expected.shape, c.tolerance)) << part;
  }
}

// f32: the reference itself is f32, about 1e-6 from the exact result. bf16: 8 bits of mantissa through all layers.
constexpr double kF32 = 1e-5, kBf16 = 1e-2;
INSTANTIATE_TEST_SUITE_P(
    Models, Umt5,
    ::testing::Values(Case{"interpreter", "umt5_toy.safetensors", "toy-wan/text_encoder", "short", 1, 0, DType::f32, kF32},
                      Case{"interpreter", "umt5_toy.safetensors", "toy-wan/text_encoder", "medium", 1, 0, DType::f32, kF32},
                      Case{"interpreter", "umt5_toy.safetensors", "toy-wan/text_encoder", "short", 1, 0, DType::bf16, kBf16},
                      Case{"interpreter", "umt5_small.safetensors", "umt5_small", "few", 1, 0, DType::f32, kF32},
                      Case{"interpreter", "umt5_small.safetensors", "umt5_small", "few", 1, 5, DType::f32, kF32},
                      Case{"interpreter", "umt5_small.safetensors", "umt5_small", "many", 3, 0, DType::f32, kF32},
                      Case{"cpu", "umt5_toy.safetensors", "toy-wan/text_encoder", "short", 1, 0, DType::f32, kF32},
                      Case{"cpu", "umt5_toy.safetensors", "toy-wan/text_encoder", "medium", 1, 0, DType::f32, kF32},
                      Case{"cpu", "umt5_toy.safetensors", "toy-wan/text_encoder", "long", 16, 0, DType::f32, kF32},
                      Case{"cpu", "umt5_toy.safetensors", "toy-wan/text_encoder", "short", 1, 0, DType::bf16, kBf16},
                      Case{"cpu", "umt5_small.safetensors", "umt5_small", "few", 1, 0, DType::f32, kF32},
                      Case{"cpu", "umt5_small.safetensors", "umt5_small", "few", 1, 5, DType::f32, kF32},
                      Case{"cpu", "umt5_small.safetensors", "umt5_small", "many", 3, 0, DType::f32, kF32}));
INSTANTIATE_TEST_SUITE_P(
    OnCuda, Umt5,
    ::testing::Values(Case{"cuda", "umt5_toy.safetensors", "toy-wan/text_encoder", "short", 1, 0, DType::f32, kF32},
                      Case{"cuda", "umt5_toy.safetensors", "toy-wan/text_encoder", "medium", 1, 0, DType::f32, kF32},
                      Case{"cuda", "umt5_toy.safetensors", "toy-wan/text_encoder", "long", 16, 0, DType::f32, kF32},
                      Case{"cuda", "umt5_toy.safetensors", "toy-wan/text_encoder", "short", 1, 0, DType::bf16, kBf16},
                      Case{"cuda", "umt5_small.safetensors", "umt5_small", "few", 1, 0, DType::f32, kF32},
                      Case{"cuda", "umt5_small.safetensors", "umt5_small", "few", 1, 5, DType::f32, kF32},
                      Case{"cuda", "umt5_small.safetensors", "umt5_small", "many", 3, 0, DType::f32, kF32},
                      Case{"cuda_uncompiled", "umt5_toy.safetensors", "toy-wan/text_encoder", "short", 1, 0, DType::bf16, kBf16}));

// The distances at which the reference goes on to the next bucket (UMT5Attention._relative_position_bucket of Transformers 5.23).
TEST(Umt5Buckets, EdgesFallWhereTheReferenceHasThem) {
  struct Edges {
    std::int64_t buckets, max_distance;
    std::vector<std::int64_t> first;  // distance of each bucket of one direction
  };
  for (const Edges& edges :
       {Edges{32, 128, {0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91}}, Edges{16, 40, {0, 1, 2, 3, 4, 8, 13, 23}},
        Edges{64, 256, {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,  12,  13,  14,  15,
                        16, 20, 23, 27, 32, 39, 46, 54, 64, 77, 91, 108, 128, 153, 182, 216}},
        Edges{20, 100, {0, 1, 2, 3, 4, 5, 10, 17, 31, 55}}}) {
    Umt5Config config{};
    config.buckets = edges.buckets;
    config.max_distance = edges.max_distance;
    constexpr std::int64_t kTokens = 600;
    const auto buckets = relative_position_buckets(config, kTokens);
    for (std::int64_t query : {std::int64_t{0}, std::int64_t{300}, kTokens - 1}) {
      for (std::int64_t key = 0; key < kTokens; ++key) {
        const auto after = std::upper_bound(edges.first.begin(), edges.first.end(), std::abs(key - query));
        const std::int64_t bucket = after - edges.first.begin() - 1 + (key > query ? edges.buckets / 2 : 0);
        ASSERT_EQ(buckets[static_cast<std::size_t>(query * kTokens + key)], bucket) << query << " " << key;
      }
    }
  }
}

TEST(Umt5Graph, FullSizeTracesAndMatchesTheKeyListOfTheCheckpoint) {
  const Umt5Config config = read_config(std::string(ZOE_FIXTURES) + "/checkpoints/umt5-xxl");
  EXPECT_EQ(testing::names_and_shapes(umt5_tensors(config)), testing::recorded_names_and_shapes("umt5-xxl"));
  const Graph graph = trace_umt5(config, DType::bf16, 512);
  verify(graph);
  EXPECT_EQ(graph.outputs[0].type().str(), "f32[1,512,4096]");
  EXPECT_EQ(graph.parameters().size() + 1, umt5_tensors(config).size());  // the embedding is in no graph
  EXPECT_EQ(graph.parameters().back()->block, 25);
}

std::string config_with(const std::string& change) {
  return R"({"model_type":"umt5","d_model":128,"d_ff":256,"d_kv":32,"num_heads":4,"num_layers":3,"vocab_size":640,)" + change + "}";
}

TEST(Umt5ConfigErrors, NameTheValueAndItsKind) {
  const auto error = [](const std::string& change) {
    try {
      parse_umt5_config(parse_json_object(config_with(change), "config.json"));
    } catch (const Error& e) {
      return std::string(name(e.kind())) + " " + e.what();
    }
    return std::string("none");
  };
  EXPECT_EQ(error(R"("feed_forward_proj":"gated-gelu")"), "none");
  EXPECT_TRUE(error(R"("feed_forward_proj":"relu")").starts_with("unsupported [config.json] feed_forward_proj"))
      << error(R"("feed_forward_proj":"relu")");
  EXPECT_TRUE(error(R"("dense_act_fn":"relu")").starts_with("unsupported [config.json] dense_act_fn"));
  EXPECT_TRUE(error(R"("is_decoder":true)").starts_with("unsupported [config.json] is_decoder"));
  EXPECT_TRUE(error(R"("relative_attention_num_buckets":7)")
                  .starts_with("invalid argument [config.json] bad relative_attention_num_buckets"));
  EXPECT_TRUE(error(R"("relative_attention_max_distance":8)")
                  .starts_with("invalid argument [config.json] bad relative_attention_max_distance"));
  EXPECT_THROW(trace_umt5(parse_umt5_config(parse_json_object(config_with(R"("is_gated_act":true)"), "c")), DType::f32, 0), Error);
}

}  // namespace
}  // namespace zoe
