// Converted models: the same weights, the same video, files that others read.
#include "pipeline/convert.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "models/wan_dit/names.h"
#include "pipeline/component.h"
#include "pipeline/model_files.h"
#include "pipeline/session.h"
#include "platform/platform.h"
#include "testing/recorded_videos.h"
#include "testing/temporary_folder.h"
#include "testing/two_experts_folder.h"
#include "testing/write_safetensors.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using Frames = std::vector<std::uint8_t>;

ModelConfig toy() { return read_model_config(ZOE_MODELS "/toy-wan"); }

Frames frames_of(const ModelConfig& model, std::vector<LoraChoice> loras = {}) {
  Session session(model, open_platform("cpu", {.threads = 1}), {.dtype = DType::f32});
  Request request;
  request.prompts = {"a red circle"};
  request.height = 32, request.width = 32, request.num_frames = 5, request.num_inference_steps = 3;
  request.loras = std::move(loras);
  return testing::frames_of(session, request);
}

std::vector<float> values_of(const WeightReader& weight) {
  std::vector<float> values(static_cast<std::size_t>(weight.count()));
  weight.fetch(0, weight.count());
  weight.read(0, weight.count(), DType::f32, values.data());
  return values;
}

std::string write_lora(const fs::path& path) {
  std::vector<testing::TensorToWrite> tensors;
  for (const char* name : {"lora_A", "lora_B"}) {
    std::vector<float> values(4 * 256);
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = 0.3f * std::sin(static_cast<float>(i) * (name[5] == 'A' ? 0.7f : 1.3f));
    const Shape shape = name[5] == 'A' ? Shape{4, 256} : Shape{256, 4};
    tensors.push_back({std::string("transformer.blocks.1.attn1.to_v.") + name + ".weight",
                       "F32",
                       shape,
                       {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)}});
  }
  testing::write_safetensors(path, tensors);
  return path.string();
}

TEST(Convert, AFolderGivesTheSameVideo) {
  const testing::TemporaryFolder folder;
  const Converted converted = convert(toy(), {.output = folder.path() / "toy", .type = "f32"});
  EXPECT_GT(converted.tensors, 100u);
  EXPECT_EQ(frames_of(read_model_config(folder.path() / "toy")), frames_of(toy()));
}

TEST(Convert, ALoraIsMerged) {
  const testing::TemporaryFolder folder;
  const std::string lora = write_lora(folder.path() / "style.safetensors");
  ConvertOptions options{.output = folder.path() / "toy", .type = "f32"};
  options.loras.loras = {{lora, -0.8}};
  convert(toy(), options);
  const Frames merged = frames_of(read_model_config(folder.path() / "toy"));
  EXPECT_EQ(merged, frames_of(toy(), {{lora, -0.8}}));
  EXPECT_NE(merged, frames_of(toy()));
}

class ConvertTypes : public ::testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(ConvertTypes, AreReadBack) {
  const auto [file, type] = GetParam();
  const testing::TemporaryFolder folder;
  const fs::path path = folder.path() / file;
  convert(toy(), {.output = path, .type = type});
  const Checkpoint written(path);
  EXPECT_NE(written.metadata().at("config").find("WanTransformer3DModel"), std::string::npos);
  const ComponentWeights source = open_weights(toy(), "transformer");
  const std::string asked = type;
  std::size_t matrices = 0;
  for (const ExpectedTensor& tensor : tensors_of(toy(), "transformer")) {
    const TensorEntry* const entry = written.find(wan_dit_original_names().stored_of(tensor.name)->key);
    ASSERT_TRUE(entry) << tensor.name;
    EXPECT_EQ(entry->shape, tensor.shape) << tensor.name;
    const std::vector<float> want = values_of(*source(tensor.name)), got = values_of(*weight_of(*entry, "written"));
    double squares = 0, error = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
      squares += std::pow(static_cast<double>(want[i]), 2);
      error += std::pow(static_cast<double>(want[i]) - static_cast<double>(got[i]), 2);
    }
    const double relative = squares > 0 ? std::sqrt(error / squares) : std::sqrt(error);
    const bool is_matrix = tensor.shape.rank() == 2 && tensor.name.starts_with("blocks.");
    matrices += is_matrix;
    const double limit = !is_matrix || asked == "f32" || asked == "bf16" ? 0.004
                         : asked == "f16"                                ? 5e-4
                         : asked == "q8_0"                               ? 0.008
                         : asked == "q6_k"                               ? 0.025
                         : asked == "q5_0"                               ? 0.05
                         : asked == "fp8_scaled"                         ? 0.04
                                                                         : 0.11;
    EXPECT_LE(relative, limit) << tensor.name;
    if (asked == "f32") {
      EXPECT_EQ(got, want) << tensor.name;
    }
    if (is_matrix && asked == "q4_k") {
      EXPECT_EQ(entry->dtype(), "Q4_K");
    }
    if (is_matrix && asked == "q8_0") {
      EXPECT_GT(relative, 0) << tensor.name;
    }
  }
  EXPECT_EQ(matrices, 8u * 10);
}
INSTANTIATE_TEST_SUITE_P(All, ConvertTypes,
                         ::testing::Values(std::pair{"a.safetensors", "f32"}, std::pair{"a.safetensors", "bf16"},
                                           std::pair{"a.safetensors", "f16"}, std::pair{"a.safetensors", "fp8_scaled"},
                                           std::pair{"a.gguf", "f32"}, std::pair{"a.gguf", "bf16"}, std::pair{"a.gguf", "q8_0"},
                                           std::pair{"a.gguf", "q5_0"}, std::pair{"a.gguf", "q4_0"}, std::pair{"a.gguf", "q6_k"},
                                           std::pair{"a.gguf", "q4_k"}),
                         [](const auto& test) { return std::string(test.param.first).substr(2) + "_" + test.param.second; });

TEST(Convert, IsRefused) {
  const testing::TemporaryFolder folder;
  std::ofstream(folder.path() / "there.gguf") << "x";
  const auto message = [&](const ConvertOptions& options) -> std::string {
    try {
      convert(toy(), options);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::invalid_argument);
      return error.what();
    }
    return "no error";
  };
  const auto has = [](const std::string& text, const char* piece) { EXPECT_NE(text.find(piece), std::string::npos) << text; };
  has(message({.output = folder.path() / "there.gguf"}), "exists already");
  has(message({.output = folder.path() / "a.ckpt"}), "unknown suffix");
  has(message({.output = folder.path() / "a.gguf", .type = "q3"}),
      "[--type] got \"q3\", expected one of bf16, f16, f32, fp8_scaled, q8_0");
  has(message({.output = folder.path() / "a.safetensors", .type = "q8_0"}), "blocks are for .gguf");
  has(message({.output = folder.path() / "a.gguf", .type = "fp8_scaled"}), "[--type] got \"fp8_scaled\" for a.gguf");
  has(message({.output = folder.path() / "a", .type = "q4_k"}), "a folder of Diffusers has no other");
  has(message({.output = folder.path() / "a.gguf", .part = "transformer_2"}),
      "[--part] got \"transformer_2\" for a.gguf of toy-wan, expected transformer.");
  has(message({.output = folder.path() / "a.gguf", .part = "vae"}), "[--part] got \"vae\"");
  has(message({.output = fs::path(ZOE_MODELS) / "toy-wan/a.gguf"}), "lies in the model folder");
  has(message({.output = folder.path() / "nowhere/a.gguf"}), "nowhere");
  ConvertOptions options{.output = folder.path() / "a.gguf"};
  options.loras.loras_high = {{"x.safetensors", 1}};
  has(message(options), "[lora_high] is not taken by this model");
  options.loras = {};
  options.loras.loras = {{"/nowhere/x.safetensors", 1}};
  has(message(options), "no such file");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
}

TEST(Convert, TakesTheFileOfATransformerAlone) {
  const testing::TemporaryFolder folder;
  convert(toy(), {.output = folder.path() / "a.safetensors", .type = "f32"});
  const ModelConfig alone = read_model_to_convert((folder.path() / "a.safetensors").string());
  EXPECT_EQ(alone.transformer, toy().transformer);
  convert(alone, {.output = folder.path() / "b.gguf", .type = "f32"});
  const Checkpoint a(folder.path() / "a.safetensors"), b(folder.path() / "b.gguf");
  EXPECT_EQ(a.tensors().size(), b.tensors().size());
  for (const TensorEntry& entry : a.tensors())
    EXPECT_EQ(values_of(*weight_of(entry, "a")), values_of(*weight_of(*b.find(entry.name), "b"))) << entry.name;
  EXPECT_THROW(convert(alone, {.output = folder.path() / "folder"}), Error);
  convert(toy(), {.output = folder.path() / "vae.safetensors", .type = "f32", .part = "vae"});
  EXPECT_NE(Checkpoint(folder.path() / "vae.safetensors").metadata().at("config").find("latents_mean"), std::string::npos);
  EXPECT_THROW(read_model_to_convert((folder.path() / "vae.safetensors").string()), Error);
}

// The video of files in the place of the model's own parts.
TEST(Convert, FilesGiveTheSameVideo) {
  const testing::TemporaryFolder folder;
  convert(toy(), {.output = folder.path() / "a.gguf", .type = "f32"});
  convert(toy(), {.output = folder.path() / "vae.safetensors", .type = "f32", .part = "vae"});
  convert(toy(), {.output = folder.path() / "text.safetensors", .type = "f32", .part = "text_encoder"});
  const ModelConfig model = read_model(ModelFiles{.model_path = ZOE_MODELS "/toy-wan",
                                                  .transformer = folder.path() / "a.gguf",
                                                  .vae = folder.path() / "vae.safetensors",
                                                  .text_encoder = folder.path() / "text.safetensors"});
  EXPECT_EQ(frames_of(model), frames_of(toy()));
}

TEST(Convert, ACancelledOneLeavesNothing) {
  const testing::TemporaryFolder folder;
  const std::atomic<bool> cancel{true};
  EXPECT_THROW(convert(toy(), {.output = folder.path() / "a.gguf", .cancel = &cancel}), Error);
  EXPECT_THROW(convert(toy(), {.output = folder.path() / "a", .cancel = &cancel}), Error);
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(Convert, ExpertsAreChosenByPart) {
  const testing::TemporaryFolder folder;
  const ModelConfig model = read_model_config(testing::make_two_experts(folder.path() / "model"));
  convert(model, {.output = folder.path() / "high.safetensors", .type = "f32"});
  convert(model, {.output = folder.path() / "low.safetensors", .type = "f32", .part = "transformer_2"});
  const Checkpoint high(folder.path() / "high.safetensors"), low(folder.path() / "low.safetensors");
  const std::string name = "head.head.bias";
  EXPECT_EQ(values_of(*weight_of(*high.find(name), "high")), values_of(*open_weights(model, "transformer")("proj_out.bias")));
  EXPECT_EQ(values_of(*weight_of(*low.find(name), "low")), values_of(*open_weights(model, "transformer_2")("proj_out.bias")));
}

}  // namespace
}  // namespace zoe
