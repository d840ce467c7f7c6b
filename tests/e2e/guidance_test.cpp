// What a prompt's parts and a negative prompt do to a video without classifier-free guidance, and pictures of it while it is made.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "pipeline/model.h"
#include "pipeline/preview.h"
#include "pipeline/preview_decoder.h"
#include "pipeline/session.h"
#include "platform/platform.h"
#include "testing/graphs.h"
#include "testing/read_video.h"
#include "testing/run_command.h"
#include "testing/temporary_folder.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;

const fs::path kModels = ZOE_MODELS, kFixtures = fs::path(ZOE_FIXTURES) / "models";

Request small(std::string prompt) {
  Request request;
  request.prompts = {std::move(prompt)};
  request.height = 32, request.width = 32, request.num_frames = 5, request.num_inference_steps = 3, request.guidance_scale = 1;
  return request;
}

class Guidance : public ::testing::Test {
 protected:
  std::vector<float> latents(const Request& request) {
    std::vector<float> values;
    Callbacks callbacks;
    callbacks.latents = [&](std::size_t, std::span<const float> made) { values.assign(made.begin(), made.end()); };
    Job job = session_.prepare(request);
    session_.run(job, callbacks);
    return values;
  }
  std::string error(const Request& request) {
    try {
      session_.prepare(request);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::invalid_argument);
      return error.what();
    }
    return "none";
  }
  static double distance(const std::vector<float>& a, const std::vector<float>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += std::pow(static_cast<double>(a[i] - b[i]), 2);
    return std::sqrt(sum / static_cast<double>(a.size()));
  }

  Session session_{read_model_config(kModels / "toy-wan"), open_platform("cpu", {.threads = 1}), {.dtype = DType::f32}};
};

TEST_F(Guidance, NegativePromptWithoutClassifierFreeGuidance) {
  Request request = small("a red circle");
  const std::vector<float> alone = latents(request);
  request.negative_prompt = "a blue square";
  EXPECT_EQ(latents(request), alone);  // of no effect so far
  request.nag_scale = 1;
  EXPECT_LT(distance(latents(request), alone), 1e-5);  // nor at scale 1
  request.nag_scale = 5;
  const double some = distance(latents(request), alone);
  EXPECT_GT(some, 1e-3);
  request.nag_alpha = 0.05;
  EXPECT_LT(distance(latents(request), alone), some);
  request.nag_alpha = {};
  request.negative_prompt = "a red circle";  // is no other direction
  EXPECT_LT(distance(latents(request), alone), 1e-5);

  request.guidance_scale = 4;
  EXPECT_EQ(error(request).substr(0, 62), "[nag_scale] is guidance beside a guidance_scale of 4: expected");
  request.guidance_scale = 1;
  request.nag_scale = {};
  request.nag_tau = 2;
  EXPECT_NE(error(request).find("[nag_tau] has no effect without nag_scale"), std::string::npos);
}

TEST_F(Guidance, EmphasisIsAFactorOfWhatAPartMeans) {
  Request plain = small("a red circle");
  const std::vector<float> expected = latents(plain);
  Request request = plain;
  request.emphasis = true;
  EXPECT_EQ(latents(request), expected);  // no parentheses: nothing else than without
  request.prompts = {"a (red:1.0) circle"};
  EXPECT_EQ(latents(request), expected);
  request.prompts = {"a (red:1.2) circle"};
  const double little = distance(latents(request), expected);
  request.prompts = {"a (red:2) circle"};
  const double more = distance(latents(request), expected);
  EXPECT_GT(little, 1e-5);
  EXPECT_GT(more, little);
  // Not asked for, they are part of the text.
  plain.prompts = {"a (red:2) circle"};
  EXPECT_NE(latents(plain), latents(request));
  request.prompts = {"a (red circle"};
  EXPECT_NE(error(request).find("[prompt] emphasis at byte 3: a parenthesis that is not closed"), std::string::npos);
  request.prompts = {"a red circle"};
  request.negative_prompt = "a blue) square";
  request.nag_scale = 5;
  EXPECT_NE(error(request).find("[negative_prompt] emphasis at byte 7"), std::string::npos);
}

// All of weight 0 is the empty prompt where that has states, at its end, and nothing elsewhere.
TEST_F(Guidance, EmphasisOfNothing) {
  Request request = small("(a red circle:0)");
  request.emphasis = true;
  const std::vector<float> none = latents(request);
  request.prompts = {"(a blue square:0)"};
  EXPECT_NE(none, latents(small("a red circle")));
  // Different prompts of as many tokens, the end's state but for which both are the same.
  EXPECT_LT(distance(none, latents(request)), distance(latents(small("a red circle")), latents(small("a blue square"))));
}

// The last picture shows the video: each of its pixels is about the mean of what it stands for.
TEST(PreviewCommand, ShowsTheVideo) {
  const testing::TemporaryFolder temporary;
  const testing::CommandResult result = testing::run_command(
      {ZOE_COMMAND, "generate", "-p", "a big red circle moving right on a white background", "--size", "64x64", "--frames", "9",
       "--steps", "12", "--threads", "1", "--preview", "look.gif", "--preview-every", "4", "-o", "video.png"},
      {.folder = temporary.path()});
  ASSERT_EQ(result.code, 0) << result.err;
  const testing::ReadVideo preview = testing::read_video(temporary.path() / "look.gif");
  ASSERT_EQ(preview.frames.size(), 3U);  // a frame a latent frame
  EXPECT_EQ(preview.width, 32);
  EXPECT_EQ(preview.height, 32);
  EXPECT_NEAR(preview.fps, 4, 0.3);

  // Against the same frames of the video.
  Session session(read_model_config(kModels / "toy-wan"), open_platform("cpu", {.threads = 1}), {.dtype = DType::f32});
  Request request;
  request.prompts = {"a big red circle moving right on a white background"};
  request.height = 64, request.width = 64, request.num_frames = 9, request.num_inference_steps = 12;
  Job job = session.prepare(request);
  std::vector<std::vector<std::uint8_t>> frames;
  Callbacks callbacks;
  callbacks.frame = [&](std::size_t, std::int64_t, std::span<const std::uint8_t> rgb) {
    frames.emplace_back(rgb.begin(), rgb.end());
  };
  session.run(job, callbacks);
  // Correlation over 16x16 blocks of the last frame, each colour.
  double ab = 0, aa = 0, bb = 0, sum_a = 0, sum_b = 0, count = 0;
  for (int y = 0; y < 4; ++y)
    for (int x = 0; x < 4; ++x)
      for (int c = 0; c < 3; ++c) {
        double a = 0, b = 0;
        for (int dy = 0; dy < 16; ++dy)
          for (int dx = 0; dx < 16; ++dx)
            a += frames[8][static_cast<std::size_t>(3 * ((16 * y + dy) * 64 + 16 * x + dx) + c)] / 256.0;
        for (int dy = 0; dy < 8; ++dy)
          for (int dx = 0; dx < 8; ++dx)
            b += preview.frames[2][static_cast<std::size_t>(3 * ((8 * y + dy) * 32 + 8 * x + dx) + c)] / 64.0;
        ab += a * b, aa += a * a, bb += b * b, sum_a += a, sum_b += b, ++count;
      }
  const double correlation = (ab - sum_a * sum_b / count) / std::sqrt((aa - sum_a * sum_a / count) * (bb - sum_b * sum_b / count));
  EXPECT_GT(correlation, 0.8);
}

// The decoder of a file draws whole frames, in groups of a latent frame: those that were recorded for the whole video at once.
TEST(PreviewCommand, TakesADecoder) {
  const Checkpoint recorded(kFixtures / "tiny_decoder.safetensors");
  const ReferenceTensor latent = testing::read_tensor(recorded, "latent"), frames = testing::read_tensor(recorded, "frames");
  ModelConfig model = *published_model("wan2.1-t2v-1.3b");
  Settled settled;
  settled.latent_frames = latent.shape.dim(2), settled.latent_height = latent.shape.dim(3),
  settled.latent_width = latent.shape.dim(4);
  const auto platform = open_platform("cpu", {.threads = 1});
  PreviewDecoder decoder(kFixtures / "tiny_decoder.pth", model, settled, *platform, DType::f32, {});
  EXPECT_EQ(decoder.frames(), 5);
  EXPECT_EQ(decoder.height(), frames.shape.dim(2));
  EXPECT_EQ(decoder.width(), frames.shape.dim(3));
  for (int again = 0; again < 2; ++again) {  // the second video begins anew
    std::size_t number = 0, off = 0;
    decoder.decode(std::vector<float>(latent.values.begin(), latent.values.end()), [&](std::span<const std::uint8_t> rgb) {
      const std::size_t plane = rgb.size() / 3;
      for (std::size_t i = 0; i < rgb.size(); ++i) {
        const double value = frames.values[(3 * number + i % 3) * plane + i / 3];
        if (std::abs(rgb[i] - 255 * std::clamp(value, 0.0, 1.0)) > 0.51) ++off;
      }
      ++number;
    });
    EXPECT_EQ(number, 5U);
    EXPECT_EQ(off, 0U);
  }
  model.vae.z_dim = 48;
  EXPECT_THROW(PreviewDecoder(kFixtures / "tiny_decoder.pth", model, settled, *platform, DType::f32, {}), Error);

  const testing::TemporaryFolder temporary;
  const testing::CommandResult result = testing::run_command(
      {ZOE_COMMAND, "generate", "-p", "a red circle", "--size", "64x64", "--frames", "9", "--steps", "2", "--threads", "1",
       "--preview", "look.gif", "--preview-decoder", (kFixtures / "tiny_decoder.pth").string(), "-o", "video.png"},
      {.folder = temporary.path()});
  ASSERT_EQ(result.code, 0) << result.err;
  const testing::ReadVideo preview = testing::read_video(temporary.path() / "look.gif");
  EXPECT_EQ(preview.frames.size(), 9U);
  EXPECT_EQ(preview.width, 64);
  EXPECT_EQ(preview.height, 64);
}

TEST(PreviewCommand, RefusesWhatItCannotWrite) {
  const testing::TemporaryFolder temporary;
  const auto error = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments{ZOE_COMMAND, "generate", "-p", "a red circle", "--size", "32x32", "--frames",
                                       "5",         "--steps",  "1",  "-o",           "a.png"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const testing::CommandResult result = testing::run_command(arguments, {.folder = temporary.path()});
    EXPECT_EQ(result.code, 2) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    return result.err;
  };
  EXPECT_NE(error({"--preview", "frames"}).find("[--preview] frames would be a folder"), std::string::npos);
  EXPECT_NE(error({"--preview", "a.png"}).find("[--preview] a.png is the output."), std::string::npos);
  EXPECT_NE(error({"--preview", "a.webp"}).find("unknown suffix"), std::string::npos);
  EXPECT_NE(error({"--preview", "gone/a.gif"}).find("gone"), std::string::npos);
  EXPECT_NE(error({"--preview-decoder", "gone.pth"}).find("[--preview-decoder] draws nothing without --preview"),
            std::string::npos);
  EXPECT_NE(error({"--preview", "a.gif", "--preview-decoder", "gone.pth"}).find("gone.pth"), std::string::npos);
  EXPECT_NE(error({"--preview", "a.gif", "--preview-decoder", (kModels / "toy-wan/vae").string()}).find("is no tiny decoder"),
            std::string::npos);
  EXPECT_NE(error({"--preview-every", "0"}).find("[--preview-every] got \"0\""), std::string::npos);
}

}  // namespace
}  // namespace zoe
