// LoRAs in a session: the video of weights merged beforehand, and what is packed anew when they change.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstring>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "compiler_fuzz/wrapped_platform.h"
#include "pipeline/model.h"
#include "pipeline/session.h"
#include "pipeline/video_files.h"
#include "platform/platform.h"
#include "testing/compare.h"
#include "testing/read_video.h"
#include "testing/temporary_folder.h"
#include "testing/two_experts_folder.h"
#include "testing/write_gguf.h"
#include "testing/write_safetensors.h"

namespace zoe {
namespace {

using testing::relative_rms;

namespace fs = std::filesystem;
using Frames = std::vector<std::uint8_t>;

const fs::path kToy = fs::path(ZOE_MODELS) / "toy-wan";

Request small(std::vector<LoraChoice> loras = {}) {
  Request request;
  request.prompts = {"a red circle"};
  request.height = 32, request.width = 32, request.num_frames = 5, request.num_inference_steps = 3;
  request.loras = std::move(loras);
  return request;
}

Frames run(Session& session, Job& job) {
  Frames frames;
  Callbacks callbacks;
  callbacks.frame = [&](std::size_t, std::int64_t, std::span<const std::uint8_t> rgb) {
    frames.insert(frames.end(), rgb.begin(), rgb.end());
  };
  session.run(job, callbacks);
  return frames;
}
Frames run(Session& session, const Request& request) {
  Job job = session.prepare(request);
  return run(session, job);
}

Session open(const fs::path& folder) {
  return {read_model_config(folder), open_platform("cpu", {.threads = 1}), {.dtype = DType::f32}};
}

std::vector<float> noise(std::int64_t count, float size, unsigned seed) {
  std::vector<float> values;
  std::uint64_t state = seed;
  for (std::int64_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    values.push_back(size * (static_cast<float>(state >> 40) / static_cast<float>(1 << 23) - 1.0f));
  }
  return values;
}

testing::TensorToWrite tensor(std::string name, Shape shape, const std::vector<float>& values) {
  return {std::move(name), "F32", std::move(shape), {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)}};
}

// A pair for each of some modules, by musubi's names, and a whole difference.
struct Pair {
  std::string key, tensor;
  std::int64_t rows, columns;
};
const Pair kPairs[] = {{"lora_unet_blocks_0_self_attn_q", "blocks.0.attn1.to_q.weight", 256, 256},
                       {"lora_unet_blocks_3_cross_attn_v", "blocks.3.attn2.to_v.weight", 256, 256},
                       {"lora_unet_blocks_7_ffn_0", "blocks.7.ffn.net.0.proj.weight", 1024, 256},
                       {"lora_unet_blocks_7_ffn_2", "blocks.7.ffn.net.2.weight", 256, 1024}};
constexpr std::int64_t kRank = 4;
constexpr double kAlpha = 2;

std::string write_lora(const fs::path& path, std::size_t pairs = 4, bool with_difference = true) {
  std::vector<testing::TensorToWrite> tensors;
  for (std::size_t i = 0; i < pairs; ++i) {
    const Pair& pair = kPairs[i];
    const auto seed = static_cast<unsigned>(10 * i + 1);
    tensors.push_back(tensor(pair.key + ".lora_down.weight", {kRank, pair.columns}, noise(kRank * pair.columns, 0.7f, seed)));
    tensors.push_back(tensor(pair.key + ".lora_up.weight", {pair.rows, kRank}, noise(kRank * pair.rows, 0.7f, seed + 1)));
    tensors.push_back(tensor(pair.key + ".alpha", {}, {static_cast<float>(kAlpha)}));
  }
  if (with_difference) tensors.push_back(tensor("lora_unet_blocks_2_norm3.diff", {256}, noise(256, 0.5f, 99)));
  testing::write_safetensors(path, tensors);
  return path.string();
}

// The toy model with the LoRA added to its weights in f64.
void write_merged(const fs::path& folder, double strength) {
  fs::create_directories(folder / "transformer");
  for (const char* part : {"tokenizer", "text_encoder", "vae", "scheduler"})
    fs::create_directory_symlink(kToy / part, folder / part);
  for (const char* file : {"model_index.json", "zoetrope.json", "transformer/config.json"})
    fs::copy_file(kToy / file, folder / file);
  const Checkpoint base(kToy / "transformer");
  std::vector<testing::TensorToWrite> tensors;
  for (const TensorEntry& entry : base.tensors()) {
    std::vector<float> values(static_cast<std::size_t>(entry.shape.count()));
    weight_of(entry, "base")->read(0, entry.shape.count(), DType::f32, values.data());
    for (std::size_t i = 0; i < std::size(kPairs); ++i) {
      const Pair& pair = kPairs[i];
      if (pair.tensor != entry.name) continue;
      const auto seed = static_cast<unsigned>(10 * i + 1);
      const std::vector<float> down = noise(kRank * pair.columns, 0.7f, seed), up = noise(kRank * pair.rows, 0.7f, seed + 1);
      for (std::int64_t row = 0; row < pair.rows; ++row)
        for (std::int64_t column = 0; column < pair.columns; ++column) {
          double sum = 0;
          for (std::int64_t k = 0; k < kRank; ++k)
            sum += static_cast<double>(up[static_cast<std::size_t>(row * kRank + k)]) *
                   static_cast<double>(down[static_cast<std::size_t>(k * pair.columns + column)]);
          float& value = values[static_cast<std::size_t>(row * pair.columns + column)];
          value = static_cast<float>(static_cast<double>(value) + strength * kAlpha / kRank * sum);
        }
    }
    if (entry.name == "blocks.2.norm2.weight") {
      const std::vector<float> difference = noise(256, 0.5f, 99);
      for (std::size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<float>(static_cast<double>(values[i]) + strength * static_cast<double>(difference[i]));
    }
    tensors.push_back(tensor(entry.name, entry.shape, values));
  }
  testing::write_safetensors(folder / "transformer/diffusion_pytorch_model.safetensors", tensors);
}

TEST(LoraSession, GivesTheVideoOfMergedWeights) {
  const testing::TemporaryFolder folder;
  const std::string lora = write_lora(folder.path() / "style.safetensors");
  Session session = open(kToy);
  const Frames plain = run(session, small());
  for (const double strength : {1.0, -0.6}) {
    const fs::path merged = folder.path() / (strength > 0 ? "plus" : "minus");
    write_merged(merged, strength);
    Session beside = open(merged);
    const Frames expected = run(beside, small()), got = run(session, small({{lora, strength}}));
    const double psnr = testing::psnr({got}, {expected}), changed = testing::psnr({got}, {plain});
    std::printf("strength %g: %.1f dB from merged weights, %.1f dB from the base\n", strength, psnr, changed);
    EXPECT_GE(psnr, 60);
    EXPECT_LE(changed, 55);
  }
  EXPECT_EQ(run(session, small()), plain);
}

TEST(LoraSession, PacksAnewWhatDiffers) {
  const testing::TemporaryFolder folder;
  const std::string all = write_lora(folder.path() / "all.safetensors"),
                    one = write_lora(folder.path() / "one.safetensors", 1, false);
  Session session = open(kToy);
  const auto bytes_of = [&](const Request& request) {
    const std::uint64_t before = session.counts().weight_bytes_loaded;
    run(session, request);
    return session.counts().weight_bytes_loaded - before;
  };
  const std::uint64_t first = bytes_of(small());
  constexpr std::uint64_t kOne = 256 * 256 * 4, kAll = (2 * 256 * 256 + 2 * 1024 * 256 + 256) * 4;
  EXPECT_EQ(bytes_of(small({{one, 1}})), kOne);
  EXPECT_EQ(bytes_of(small({{one, 1}})), 0u);
  EXPECT_EQ(bytes_of(small({{one, 0.5}})), kOne);
  EXPECT_EQ(bytes_of(small({{one, 0.5}, {all, 1}})), kAll);
  EXPECT_EQ(bytes_of(small({{all, 1}})), kOne);
  EXPECT_EQ(bytes_of(small()), kAll);
  EXPECT_EQ(bytes_of(small({{all, 0}})), 0u);
  EXPECT_LT(kAll, first / 5);
  // A file that is written anew is read anew.
  EXPECT_EQ(bytes_of(small({{one, 1}})), kOne);
  fs::remove(one);
  write_lora(one, 2, false);
  EXPECT_EQ(bytes_of(small({{one, 1}})), 2 * kOne);
}

TEST(LoraSession, JobsKeepTheirLoras) {
  const testing::TemporaryFolder folder;
  const std::string lora = write_lora(folder.path() / "style.safetensors");
  Session session = open(kToy);
  Job plain = session.prepare(small()), strong = session.prepare(small({{lora, 1}})), weak = session.prepare(small({{lora, 0.25}}));
  const Frames a = run(session, plain), b = run(session, strong), c = run(session, weak);
  EXPECT_NE(a, b);
  EXPECT_NE(b, c);
  EXPECT_EQ(run(session, strong), b);
  EXPECT_EQ(run(session, plain), a);
  EXPECT_EQ(run(session, weak), c);
}

// The toy model with its transformer in Q8_0.
fs::path make_q8_0(const fs::path& folder) {
  fs::create_directories(folder / "transformer");
  for (const char* part : {"tokenizer", "text_encoder", "vae", "scheduler", "model_index.json", "zoetrope.json"})
    fs::create_symlink(kToy / part, folder / part);
  fs::create_symlink(kToy / "transformer/config.json", folder / "transformer/config.json");
  testing::write_q8_0(Checkpoint(kToy / "transformer"), folder / "transformer/diffusion_pytorch_model.safetensors");
  return folder;
}

Request with(LoraMode mode, std::vector<LoraChoice> loras) {
  Request request = small(std::move(loras));
  request.lora_mode = mode;
  return request;
}

// What a session makes, and what it holds for it.
struct Made {
  std::vector<float> latents;
  std::uint64_t loaded = 0;  // packed for this request
  std::size_t weights = 0;   // of the stage that denoises
  std::string notices;
};
Made make(Session& session, const Request& request) {
  Made made;
  const std::uint64_t before = session.counts().weight_bytes_loaded;
  const LogScope log_scope([&](LogLevel level, std::string_view text) {
    if (level == LogLevel::notice) made.notices += std::string(text) + "\n";
  });
  Job job = session.prepare(request);
  for (const StageMemory& stage : job.memory().stages)
    if (stage.phase == Phase::denoise) made.weights = stage.weights;
  Callbacks callbacks;
  callbacks.latents = [&](std::size_t, std::span<const float> latents) { made.latents.assign(latents.begin(), latents.end()); };
  session.run(job, callbacks);
  made.loaded = session.counts().weight_bytes_loaded - before;
  return made;
}

Session open(const fs::path& folder, DType dtype, const std::string& platform = "cpu", bool keep = true) {
  return {read_model_config(folder), open_platform(platform, {.threads = 2}), {.dtype = dtype, .compile = {.keep_stored = keep}}};
}

constexpr std::uint64_t kFactors = 16 * 2 * (2 * (256 + 256) + 2 * (1024 + 256));  // of kPairs, rank 4 of 16, in bf16

// Codes are made of weights that the LoRA is a part of, also where these are stored in a way that they would stay in.
TEST(LoraAndCodes, AreOfTheMergedWeights) {
  const testing::TemporaryFolder folder;
  const std::string lora = write_lora(folder.path() / "style.safetensors", 4, false);
  for (const fs::path& model : {kToy, make_q8_0(folder.path() / "q8")}) {
    Session session = open(model, DType::f32);
    Request coded = small({{lora, -0.6}}), plain = small({});
    coded.precision = plain.precision = Arithmetic::int8;
    const Made exact = make(session, with(LoraMode::merge, {{lora, -0.6}})), got = make(session, coded),
               base = make(session, plain);
    EXPECT_LT(relative_rms(got.latents, exact.latents), relative_rms(got.latents, base.latents) / 2);
    EXPECT_LT(relative_rms(got.latents, exact.latents), 0.1);
    coded.lora_mode = LoraMode::beside;
    try {
      session.prepare(coded);
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).find("[lora_mode] got beside and products of 8 bits"), 0U) << error.what();
    }
  }
}

// `cpu` without its rows for codes.
struct WithoutCodes : fuzz::WrappedPlatform {
  WithoutCodes() : WrappedPlatform(open_platform("cpu", {.threads = 2})) {
    for (const Implementation& row : WrappedPlatform::implementations())
      if (!row.takes_codes) table.push_back(row);
  }
  std::span<const Implementation> implementations() const override { return table; }
  std::vector<Implementation> table;
};

// What speaks against a LoRA beside its weights is how these are multiplied on the device at hand, not what was hoped for.
TEST(LoraAndCodes, StaysBesideWhereALevelOfQualityIsExact) {
  const testing::TemporaryFolder folder;
  const std::string lora = write_lora(folder.path() / "style.safetensors", 4, false);
  const fs::path model = make_q8_0(folder.path() / "q8");
  Session without(read_model_config(model), std::make_shared<WithoutCodes>(), {.dtype = DType::f32});
  const Made expected = make(without, with(LoraMode::beside, {{lora, -0.6}}));
  for (const LoraMode mode : {LoraMode::beside, LoraMode::automatic}) {
    Request request = with(mode, {{lora, -0.6}});
    request.quality = Quality::high;
    const Made got = make(without, request);
    EXPECT_NE(got.notices.find("precision stays exact in this quality"), std::string::npos) << got.notices;
    EXPECT_NE(got.notices.find("beside 4 matrices"), std::string::npos) << got.notices;
    EXPECT_EQ(got.latents, expected.latents);
  }
}

// In bf16 the difference is that of weights which are rounded at another place; two orders of the sums differ by as much.
TEST(LoraBeside, GivesTheVideoOfMergedWeights) {
  const testing::TemporaryFolder folder;
  const std::string lora = write_lora(folder.path() / "style.safetensors", 4, false);
  const fs::path model = make_q8_0(folder.path() / "q8");
  std::unique_ptr<Platform> other;
  try {
    other = open_platform("opencl");
  } catch (const Error&) {
  }
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Session session = open(model, dtype);
    const Made plain = make(session, small()), merged = make(session, with(LoraMode::merge, {{lora, -0.6}})),
               beside = make(session, with(LoraMode::automatic, {{lora, -0.6}}));
    const double difference = relative_rms(beside.latents, merged.latents), changed = relative_rms(beside.latents, plain.latents);
    std::printf("%s: %.2g from merged weights, %.2g from the base\n", std::string(name(dtype)).c_str(), difference, changed);
    EXPECT_GT(changed, 20 * difference);
    // In bf16 0.023 on AMX, where two orders of the sums differ by 0.022.
    EXPECT_LE(difference, dtype == DType::f32 ? 1e-5 : 4e-2);
    // As merged, LoRAs take what they change out of its blocks; beside, they take their factors, with zeros for k and v of q's.
    EXPECT_LT(beside.weights, merged.weights);
    // In bf16 AMX takes sums of 16 as sums of 32.
    const std::size_t padded = dtype == DType::f32 ? 1 : 2;
    EXPECT_LE(beside.weights, plain.weights + padded * (kFactors * size_of(dtype) / 2 + 4 * 16 * (256 + 256) * size_of(dtype)));
    EXPECT_NE(beside.notices.find("beside 4 matrices"), std::string::npos) << beside.notices;
    EXPECT_EQ(merged.notices.find("beside"), std::string::npos) << merged.notices;
    EXPECT_EQ(make(session, small()).latents, plain.latents);
    // Against another order of the sums, that of OpenCL's products.
    if (!other) continue;
    Session elsewhere = open(model, dtype, "opencl");
    const Made there = make(elsewhere, with(LoraMode::merge, {{lora, -0.6}})),
               there_beside = make(elsewhere, with(LoraMode::beside, {{lora, -0.6}}));
    const double orders = relative_rms(there.latents, merged.latents);
    std::printf("    two orders of sums: %.2g; beside on opencl: %.2g from its merged weights\n", orders,
                relative_rms(there_beside.latents, there.latents));
    EXPECT_LE(difference, 2 * orders);
    EXPECT_LE(relative_rms(there_beside.latents, there.latents), 2 * orders);
  }
}

TEST(LoraBeside, ReadsNothingButFactors) {
  const testing::TemporaryFolder folder;
  const std::string all = write_lora(folder.path() / "all.safetensors", 4, false),
                    one = write_lora(folder.path() / "one.safetensors", 1, false);
  Session session = open(make_q8_0(folder.path() / "q8"), DType::f32);
  const Made plain = make(session, small());
  constexpr std::uint64_t kOne = 16 * 4 * (256 + 256), kZeros = 2 * kOne;  // for k and v where q has one
  EXPECT_EQ(make(session, small({{one, 1}})).loaded, kOne + kZeros);
  EXPECT_EQ(make(session, small({{one, 1}})).loaded, 0u);
  EXPECT_EQ(make(session, small({{one, 0.5}})).loaded, kOne);
  // Ranks of several LoRAs stand side by side: 4 and 4 of 16.
  const Made both = make(session, small({{one, 0.5}, {all, 1}}));
  EXPECT_EQ(both.loaded, 2 * kFactors + kOne);  // and zeros for the k of the v of cross-attention
  const Made merged = make(session, with(LoraMode::merge, {{one, 0.5}, {all, 1}}));
  EXPECT_LE(relative_rms(both.latents, merged.latents), 1e-5);
  EXPECT_GT(merged.loaded, 4 * kFactors);
  make(session, small());
  const Made again = make(session, small());
  EXPECT_EQ(again.loaded, 0u);
  EXPECT_EQ(again.latents, plain.latents);
}

TEST(LoraBeside, WhatIsNotLowRankIsMerged) {
  const testing::TemporaryFolder folder;
  const std::string lora = write_lora(folder.path() / "style.safetensors"), dora = (folder.path() / "dora.safetensors").string();
  testing::write_safetensors(dora,
                             {tensor("lora_unet_blocks_0_self_attn_q.lora_down.weight", {kRank, 256}, noise(kRank * 256, 0.7f, 1)),
                              tensor("lora_unet_blocks_0_self_attn_q.lora_up.weight", {256, kRank}, noise(kRank * 256, 0.7f, 2)),
                              tensor("lora_unet_blocks_0_self_attn_q.dora_scale", {256, 1}, std::vector<float>(256, 1.5f))});
  Session session = open(make_q8_0(folder.path() / "q8"), DType::f32);
  const Made mixed = make(session, small({{lora, 1}}));
  EXPECT_NE(mixed.notices.find("beside 4 matrices and are added where these are used; 1 tensors are changed as they are read"),
            std::string::npos)
      << mixed.notices;
  EXPECT_LE(relative_rms(mixed.latents, make(session, with(LoraMode::merge, {{lora, 1}})).latents), 1e-5);
  const Made of_dora = make(session, small({{dora, 1}}));
  EXPECT_EQ(of_dora.notices.find("beside"), std::string::npos) << of_dora.notices;
  EXPECT_EQ(of_dora.latents, make(session, with(LoraMode::merge, {{dora, 1}})).latents);
}

// Where the base is to be kept though it is wide; and where it cannot be.
TEST(LoraBeside, AWideBaseMayBeKeptToo) {
  const testing::TemporaryFolder folder;
  const std::string lora = write_lora(folder.path() / "style.safetensors", 4, false);
  Session session = open(kToy, DType::f32);
  const Made plain = make(session, small()), merged = make(session, small({{lora, 1}})),
             beside = make(session, with(LoraMode::beside, {{lora, 1}}));
  EXPECT_EQ(merged.notices.find("beside"), std::string::npos) << merged.notices;
  EXPECT_LE(relative_rms(beside.latents, merged.latents), 1e-5);
  EXPECT_EQ(make(session, with(LoraMode::beside, {{lora, 0.5}})).loaded, 2 * kFactors);
  EXPECT_EQ(make(session, small()).latents, plain.latents);
  Session widened = open(kToy, DType::f32, "cpu", false);
  try {
    widened.prepare(with(LoraMode::beside, {{lora, 1}}));
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid_argument);
    EXPECT_NE(std::string(error.what()).find("[lora_mode] got beside and weights that are widened"), std::string::npos)
        << error.what();
  }
}

TEST(LoraSession, ExpertsHaveTheirOwn) {
  const testing::TemporaryFolder folder;
  // The recorded experts are smaller: a difference of the last bias fits any width.
  const Checkpoint expert(fs::path(ZOE_FIXTURES) / "models/two_experts/transformer");
  const std::int64_t count = expert.find("proj_out.bias")->shape.count();
  const std::string lora = (folder.path() / "bias.safetensors").string();
  testing::write_safetensors(lora, {tensor("diffusion_model.head.head.diff_b", {count}, noise(count, 0.5f, 5))});
  Session session = open(testing::make_two_experts(folder.path() / "model", 0.8));
  Request request = small();
  request.num_inference_steps = 4;
  const Frames plain = run(session, request);
  Request high = request, low = request, both = request, each = request;
  high.loras_high = {{lora, 1}};
  low.loras_low = {{lora, 1}};
  both.loras_high = both.loras_low = {{lora, 1}};
  each.loras = {{lora, 1}};
  const Frames of_high = run(session, high), of_low = run(session, low), of_both = run(session, both);
  EXPECT_NE(of_high, plain);
  EXPECT_NE(of_low, plain);
  EXPECT_NE(of_high, of_low);
  EXPECT_NE(of_both, of_high);
  EXPECT_EQ(run(session, each), of_both);
  EXPECT_EQ(run(session, request), plain);
}

TEST(LoraSession, TheFileSaysThem) {
  const testing::TemporaryFolder folder;
  const std::string a = write_lora(folder.path() / "a,b.safetensors"), b = write_lora(folder.path() / "b.safetensors", 1);
  Session session = open(kToy);
  VideoFiles files(session, small({{a, 0.5}, {b, -1}}), {.path = [&](std::size_t) { return folder.path() / "out.png"; }});
  const Job job = files.prepare();
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : files.metadata(job, 0)) metadata[key] = value;
  EXPECT_EQ(metadata["lora"], "a,b.safetensors=0.5,b.safetensors=-1");
  Request again;
  set_field(again, "lora", metadata["lora"]);
  EXPECT_EQ(again.loras, (std::vector<LoraChoice>{{"a,b.safetensors", 0.5}, {"b.safetensors", -1}}));
}

}  // namespace
}  // namespace zoe
