// Weights that stay in memory as a file stores them: the same bits, and less memory.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/encoding.h"
#include "base/error.h"
#include "pipeline/model.h"
#include "pipeline/session.h"
#include "platform/platform.h"
#include "testing/run_command.h"
#include "testing/temporary_folder.h"
#include "testing/two_experts_folder.h"
#include "testing/write_gguf.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;

// The embedded model with its transformer in Q8_0. What a file is its first bytes say, whatever it is called.
fs::path make_q8_0(const fs::path& folder) {
  const fs::path toy = fs::path(ZOE_MODELS) / "toy-wan";
  fs::create_directories(folder / "transformer");
  for (const char* part : {"tokenizer", "text_encoder", "vae", "scheduler", "model_index.json", "zoetrope.json"})
    fs::create_symlink(toy / part, folder / part);
  fs::create_symlink(toy / "transformer/config.json", folder / "transformer/config.json");
  testing::write_q8_0(Checkpoint(toy / "transformer"), folder / "transformer/diffusion_pytorch_model.safetensors");
  return folder;
}

// The same in fp8 with a scale a matrix, as ComfyUI has it.
fs::path make_scaled_f8(const fs::path& folder) {
  const fs::path toy = fs::path(ZOE_MODELS) / "toy-wan";
  fs::create_directories(folder / "transformer");
  for (const char* part : {"tokenizer", "text_encoder", "vae", "scheduler", "model_index.json", "zoetrope.json"})
    fs::create_symlink(toy / part, folder / part);
  fs::create_symlink(toy / "transformer/config.json", folder / "transformer/config.json");
  std::array<float, 127> numbers{};  // of one sign, without the NaN: they grow
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const auto byte = static_cast<std::byte>(i);
    decode(*find_encoding("F8_E4M3"), &byte, 0, 1, DType::f32, &numbers[i]);
  }
  const auto nearest = [&](float value) {
    const auto above = std::lower_bound(numbers.begin(), numbers.end() - 1, std::abs(value));
    const auto found = above != numbers.begin() && std::abs(value) - *(above - 1) < *above - std::abs(value) ? above - 1 : above;
    return static_cast<char>((found - numbers.begin()) | (std::signbit(value) ? 0x80 : 0));
  };
  const auto bytes_of = [](const std::vector<float>& values) {
    return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  };
  std::vector<testing::TensorToWrite> tensors{{"scaled_fp8", "F8_E4M3", {2}, std::string(2, '\0')}};
  const Checkpoint whole(toy / "transformer");
  for (const TensorEntry& tensor : whole.tensors()) {
    std::vector<float> values(static_cast<std::size_t>(tensor.shape.count()));
    weight_of(tensor, "test")->read(0, tensor.shape.count(), DType::f32, values.data());
    if (tensor.shape.rank() != 2 || !tensor.name.ends_with(".weight")) {
      tensors.push_back({tensor.name, "F32", tensor.shape, bytes_of(values)});
      continue;
    }
    float most = 0;
    for (const float value : values) most = std::max(most, std::abs(value));
    const float scale = most / 448;
    std::string bytes;
    for (const float value : values) bytes.push_back(nearest(value / scale));
    tensors.push_back({tensor.name, "F8_E4M3", tensor.shape, bytes});
    tensors.push_back({tensor.name.substr(0, tensor.name.size() - 6) + "scale_weight", "F32", {}, bytes_of({scale})});
  }
  testing::write_safetensors(folder / "transformer/diffusion_pytorch_model.safetensors", tensors);
  return folder;
}

struct Made {
  std::vector<std::uint8_t> frames;
  std::vector<float> latents;
  MemoryStatement memory;
  std::string platform;

  std::size_t weights() const {
    for (const StageMemory& stage : memory.stages)
      if (stage.phase == Phase::denoise) return stage.weights;
    return 0;
  }
};

Made make(const fs::path& model, DType dtype, bool keep, const std::string& platform = "cpu", bool compile = true) {
  Session session(read_model_config(model), open_platform(platform, {.threads = 2}),
                  {.dtype = dtype, .compile = {.compile = compile, .keep_stored = keep}});
  Request request;
  request.prompts = {"a red circle moving left"};
  request.height = request.width = 48, request.num_frames = 5, request.num_inference_steps = 2;
  Job job = session.prepare(request);
  Made made{.frames = {}, .latents = {}, .memory = job.memory(), .platform = platform};
  Callbacks callbacks;
  callbacks.frame = [&](std::size_t, std::int64_t, std::span<const std::uint8_t> rgb) {
    made.frames.insert(made.frames.end(), rgb.begin(), rgb.end());
  };
  callbacks.latents = [&](std::size_t, std::span<const float> latents) { made.latents.assign(latents.begin(), latents.end()); };
  session.run(job, callbacks);
  return made;
}

TEST(KeptWeights, GiveTheBitsOfWidenedOnesInLessMemory) {
  const testing::TemporaryFolder folder;
  const fs::path model = make_q8_0(folder.path() / "q8");
  const std::size_t file = fs::file_size(model / "transformer/diffusion_pytorch_model.safetensors");
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Made kept = make(model, dtype, true), widened = make(model, dtype, false);
    EXPECT_FALSE(kept.frames.empty());
    EXPECT_EQ(kept.latents, widened.latents) << name(dtype);
    EXPECT_EQ(kept.frames, widened.frames) << name(dtype);
    EXPECT_EQ(make(model, dtype, true, "cpu", false).latents, kept.latents) << "compiled or not";
    // All that is no matrix is F32 in the file, and as wide or narrower in memory.
    EXPECT_LE(kept.weights(), file + file / 10);
    EXPECT_LE(kept.weights() * 5 / 3, widened.weights());
  }
}

TEST(KeptWeights, WithAScaleGiveTheBitsOfWidenedOnes) {
  const testing::TemporaryFolder folder;
  const fs::path model = make_scaled_f8(folder.path() / "f8");
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Made kept = make(model, dtype, true), widened = make(model, dtype, false);
    EXPECT_FALSE(kept.frames.empty());
    EXPECT_EQ(kept.latents, widened.latents) << name(dtype);
    EXPECT_EQ(kept.frames, widened.frames) << name(dtype);
    EXPECT_LE(kept.weights() * 5 / 3, widened.weights());
  }
}

TEST(KeptWeights, AreWidenedWhenTheCommandSaysSo) {
  const testing::TemporaryFolder folder;
  const fs::path model = make_q8_0(folder.path() / "q8");
  const auto planned = [&](const char* weights) {
    const auto result = testing::run_command({ZOE_COMMAND,
                                              "generate",
                                              "--model-path",
                                              model.string(),
                                              "--platform",
                                              "cpu",
                                              "--dtype",
                                              "f32",
                                              "--prompt",
                                              "a circle",
                                              "--size",
                                              "32x32",
                                              "--frames",
                                              "1",
                                              "--steps",
                                              "1",
                                              "--weights",
                                              weights,
                                              "--json",
                                              "-o",
                                              (folder.path() / weights).string() + ".gif"});
    EXPECT_EQ(result.code, 0) << result.err;
    return nlohmann::json::parse(result.out);
  };
  const auto kept = planned("keep"), widened = planned("widen");
  EXPECT_LT(kept.at("memory_bytes").at("planned"), widened.at("memory_bytes").at("planned")) << kept.dump();
}

// Two experts of one shape in two encodings: plans of their own, each with its weights as they are.
TEST(KeptWeights, OfTwoExpertsMayBeStoredInDifferentWays) {
  const testing::TemporaryFolder folder;
  const fs::path plain = testing::make_two_experts(folder.path() / "plain", 0.9),
                 mixed = testing::make_two_experts(folder.path() / "mixed", 0.9);
  fs::remove(mixed / "transformer_2");
  fs::create_directories(mixed / "transformer_2");
  fs::create_symlink(fs::absolute(plain / "transformer_2/config.json"), mixed / "transformer_2/config.json");
  testing::write_q8_0(Checkpoint(plain / "transformer_2"), mixed / "transformer_2/diffusion_pytorch_model.safetensors");
  const Made kept = make(mixed, DType::f32, true), widened = make(mixed, DType::f32, false);
  EXPECT_EQ(kept.latents, widened.latents);
  std::vector<std::size_t> weights[2];
  for (const StageMemory& stage : kept.memory.stages) weights[0].push_back(stage.weights);
  for (const StageMemory& stage : widened.memory.stages) weights[1].push_back(stage.weights);
  ASSERT_EQ(weights[0].size(), weights[1].size());
  EXPECT_NE(weights[0], weights[1]);
}

TEST(KeptWeights, OnOpenClGiveTheSame) {
  std::unique_ptr<Platform> platform;
  try {
    platform = open_platform("opencl");
  } catch (const Error&) {
    GTEST_SKIP() << "no OpenCL device";
  }
  const testing::TemporaryFolder folder;
  const fs::path model = make_q8_0(folder.path() / "q8");
  const Made kept = make(model, DType::f32, true, "opencl"), widened = make(model, DType::f32, false, "opencl");
  EXPECT_EQ(kept.latents, widened.latents);
  EXPECT_LE(kept.weights() * 5 / 3, widened.weights());
}

}  // namespace
}  // namespace zoe
