// Requests with 8-bit products: near the exact video, in less memory, the same bits compiled or not, streamed or not.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/log.h"
#include "pipeline/model.h"
#include "pipeline/session.h"
#include "platform/platform.h"
#include "testing/compare.h"
#include "testing/temporary_folder.h"
#include "testing/two_experts_folder.h"

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

Request with_exact_steps(std::string exact_steps) {
  Request request = with(Arithmetic::int8);
  request.exact_steps = std::move(exact_steps);
  return request;
}

struct Made {
  std::vector<float> latents;
  std::vector<std::vector<float>> steps;  // latents after each
  std::size_t weights = 0, again = 0;     // of the stage that denoises; of these in a second layout
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
    if (stage.phase == Phase::denoise) made.weights = stage.all_weights, made.again = stage.layouts;
  Callbacks callbacks;
  callbacks.step = [&](const StepDone& done) { made.steps.push_back(done.latents()); };
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

// Steps before the first one in codes are those of the exact run, and what follows it is not; with guidance in one forward and in
// two.
TEST(Arithmetic, ExactStepsAreExact) {
  Session session = open(DType::f32);
  const Made exact = make(session, small()), all = make(session, with(Arithmetic::int8));
  EXPECT_EQ(exact.again, 0U);
  EXPECT_EQ(all.again, 0U);
  for (const char* const whole : {"0-3", "0,1,2,-1", "-4--1"}) {
    const Made made = make(session, with_exact_steps(whole));
    EXPECT_EQ(made.latents, exact.latents) << whole;
    EXPECT_EQ(made.not_exact, "");
    EXPECT_EQ(made.weights, exact.weights);
  }
  const Made first = make(session, with_exact_steps("0-1")), last = make(session, with_exact_steps("-2--1"));
  EXPECT_EQ(first.not_exact, "int8 products, exact attention, steps 0-1 exact");
  EXPECT_EQ(last.not_exact, "int8 products, exact attention, steps 2-3 exact");
  for (std::size_t step = 0; step < 4; ++step) {
    EXPECT_EQ(first.steps[step] == exact.steps[step], step < 2) << step;
    EXPECT_EQ(last.steps[step] == all.steps[step], step < 2) << step;
  }
  // Both layouts are there, and counted: what is in both is all that codes are made of.
  for (const Made& made : {first, last}) {
    EXPECT_GT(made.again, 0U);
    EXPECT_EQ(made.weights, exact.weights + made.again);
    EXPECT_LT(made.weights, exact.weights + all.weights);
  }
  Request apart = with_exact_steps("0-1");
  apart.guidance_batch = GuidanceBatch::off;
  // Where sums have no one order those of half the rows are a little off, and some codes are others then.
  EXPECT_LT(relative_rms(make(session, apart).latents, first.latents), testing::sums_have_one_order() ? 1e-4 : 0.05);
  Session uncompiled = open(DType::f32, false), streamed = open(DType::f32, true, Offload::blocks);
  EXPECT_EQ(make(uncompiled, with_exact_steps("0-1")).latents, first.latents);
  EXPECT_EQ(make(streamed, with_exact_steps("0-1")).latents, first.latents);
  for (const char* const wrong : {"4", "-5", "3-1", "a", "1,,2", "-", "0-", "--1", "1--", "-0"}) try {
      make(session, with_exact_steps(wrong));
      ADD_FAILURE() << wrong;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::invalid_argument);
      EXPECT_EQ(std::string(error.what()).find("[exact_steps] got \"" + std::string(wrong) + "\", expected steps from 0 to 3"), 0U)
          << error.what();
    }
}

// Steps are counted through both experts, of which one may be exact as a whole; a run that is resumed goes on with the right kind.
TEST(Arithmetic, ExactStepsOfTwoExperts) {
  const testing::TemporaryFolder folder;
  Session session(read_model_config(testing::make_two_experts(folder.path() / "model")), open_platform("cpu", {.threads = 2}),
                  {.dtype = DType::f32});
  const auto of = [](std::optional<Arithmetic> precision, std::string exact_steps) {
    Request request;
    request.prompts = {"a red circle"};
    request.height = request.width = 32, request.num_frames = 5, request.num_inference_steps = 6;
    request.precision = precision, request.exact_steps = std::move(exact_steps);
    return request;
  };
  const Job job = session.prepare(of({}, ""));
  const auto& levels = job.settled().noise_levels;
  const auto high = std::count_if(levels.begin(), levels.end(), [](double level) { return level >= 0.875; });
  ASSERT_GT(high, 0);
  ASSERT_LT(high, 6);
  const Made exact = make(session, of({}, "")), all = make(session, of(Arithmetic::int8, "")),
             first = make(session, of(Arithmetic::int8, fmt::format("0-{}", high - 1))),
             across = make(session, of(Arithmetic::int8, fmt::format("{}-{}", high - 1, high)));
  for (std::size_t step = 0; step < 6; ++step) {
    EXPECT_EQ(first.steps[step] == exact.steps[step], static_cast<std::ptrdiff_t>(step) < high) << step;
    EXPECT_EQ(across.steps[step] == all.steps[step], static_cast<std::ptrdiff_t>(step) < high - 1) << step;
  }
  std::optional<DenoiseState> state;
  Callbacks callbacks;
  callbacks.step = [&](const StepDone& done) {
    if (done.step == high - 1) state = done.state();
  };
  Job whole = session.prepare(of(Arithmetic::int8, fmt::format("{}-{}", high - 1, high)));
  session.run(whole, callbacks);
  std::vector<float> latents;
  Callbacks resuming;
  resuming.resume = state;
  resuming.latents = [&](std::size_t, std::span<const float> made) { latents.assign(made.begin(), made.end()); };
  session.run(whole, resuming);
  EXPECT_EQ(latents, across.latents);
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
