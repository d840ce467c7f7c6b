// Requests with 8-bit products: near the exact video, in less memory, the same bits compiled or not, streamed or not.
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/log.h"
#include "pipeline/model.h"
#include "pipeline/session.h"
#include "platform/platform.h"
#include "testing/compare.h"

namespace zoe {
namespace {

using testing::relative_rms;

Request small(Quality quality = Quality::exact) {
  Request request;
  request.prompts = {"a small red circle moving left on a white background"};
  request.height = request.width = 48, request.num_frames = 5, request.num_inference_steps = 4;
  request.quality = quality;
  return request;
}
Request with(Arithmetic precision, std::string exact_blocks = {}) {
  Request request = small();
  request.precision = precision;
  request.exact_blocks = std::move(exact_blocks);
  return request;
}

struct Made {
  std::vector<float> latents;
  std::size_t weights = 0;  // of the stage that denoises
  std::string notices, not_exact;
};
Made make(Session& session, const Request& request) {
  Made made;
  const LogScope log_scope([&](LogLevel level, std::string_view text) {
    if (level == LogLevel::notice) made.notices += std::string(text) + "\n";
  });
  Job job = session.prepare(request);
  made.not_exact = arithmetic_text(job.settled());
  for (const StageMemory& stage : job.memory().stages)
    if (stage.phase == Phase::denoise) made.weights = stage.all_weights;
  Callbacks callbacks;
  callbacks.latents = [&](std::size_t, std::span<const float> latents) { made.latents.assign(latents.begin(), latents.end()); };
  session.run(job, callbacks);
  return made;
}

Session open(DType dtype, bool compile = true, Offload offload = Offload::automatic) {
  return {read_model_config(ZOE_MODELS "/toy-wan"),
          open_platform("cpu", {.threads = 2}),
          {.dtype = dtype, .compile = {.compile = compile}, .offload = offload}};
}

TEST(Arithmetic, EightBitsAreNearAndSmaller) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Session session = open(dtype);
    const Made exact = make(session, small()), coded = make(session, with(Arithmetic::int8));
    EXPECT_EQ(exact.not_exact, "");
    EXPECT_EQ(coded.not_exact, "int8 products, exact attention");
    const double distance = relative_rms(coded.latents, exact.latents);
    std::printf("%s: %.3g from exact, weights %zu of %zu bytes\n", std::string(name(dtype)).c_str(), distance, coded.weights,
                exact.weights);
    EXPECT_GT(distance, 1e-4);
    EXPECT_LT(distance, 0.1);
    EXPECT_LT(coded.weights * (dtype == DType::f32 ? 2 : 4) / (dtype == DType::f32 ? 1 : 3), exact.weights);
    // The session goes back and forth.
    EXPECT_EQ(make(session, small()).latents, exact.latents);
    EXPECT_EQ(make(session, with(Arithmetic::int8)).latents, coded.latents);
    // The quality that means the same.
    EXPECT_EQ(make(session, small(Quality::high)).latents, coded.latents);
  }
}

TEST(Arithmetic, CompiledOrNotAndStreamedGiveTheSameBits) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Session compiled = open(dtype), uncompiled = open(dtype, false), streamed = open(dtype, true, Offload::blocks);
    const Made made = make(compiled, with(Arithmetic::int8));
    EXPECT_EQ(make(uncompiled, with(Arithmetic::int8)).latents, made.latents) << name(dtype);
    EXPECT_EQ(make(streamed, with(Arithmetic::int8)).latents, made.latents) << name(dtype);
  }
}

TEST(Arithmetic, ExactBlocksAreExact) {
  Session session = open(DType::f32);
  const Made exact = make(session, small()), all = make(session, with(Arithmetic::int8));
  EXPECT_EQ(make(session, with(Arithmetic::int8, "0-7")).latents, exact.latents);
  const Made some = make(session, with(Arithmetic::int8, "0,2-3"));
  EXPECT_EQ(some.not_exact, "int8 products, exact attention, block 0 exact, blocks 2-3 exact");
  EXPECT_NE(some.latents, exact.latents);
  EXPECT_NE(some.latents, all.latents);
  for (const char* const wrong : {"8", "3-1", "a", "1,,2", "-", "0-"}) try {
      make(session, with(Arithmetic::int8, wrong));
      ADD_FAILURE() << wrong;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::invalid_argument);
      EXPECT_EQ(std::string(error.what()).find("[exact_blocks] got \"" + std::string(wrong) + "\", expected blocks from 0 to 7"),
                0U)
          << error.what();
    }
}

// A device says what it has no kernels for, where that was named; a level of quality does without.
TEST(Arithmetic, WhatADeviceCannotDoIsSaid) {
  Session session = open(DType::f32);
  Request attention = small();
  attention.attention = Arithmetic::int8;
  try {
    session.prepare(attention);
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::unsupported);
    EXPECT_EQ(std::string(error.what()).find("[attention] got int8, which cpu cannot do here:"), 0U) << error.what();
  }
  const Made fast = make(session, small(Quality::fast));
  EXPECT_NE(fast.notices.find("attention stays exact in this quality: cpu cannot do it in 8 bits here"), std::string::npos)
      << fast.notices;
  EXPECT_EQ(fast.not_exact, "int8 products, exact attention");
}

}  // namespace
}  // namespace zoe
