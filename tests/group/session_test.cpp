// Requests on groups of CPU devices: by guidance, by tokens and by both they give the latents and frames of one device.
#include <gtest/gtest.h>

#include <atomic>

#include "base/error.h"
#include "base/log.h"
#include "group/late_platform.h"
#include "pipeline/model.h"
#include "pipeline/session.h"
#include "platform/group.h"
#include "testing/compare.h"
#include "testing/two_experts_folder.h"

namespace zoe {
namespace {

Request small(double guidance = 4) {
  Request request;
  request.prompts = {"a red circle"};
  request.height = 48, request.width = 32, request.num_frames = 5, request.num_inference_steps = 3;
  request.guidance_scale = guidance;
  return request;
}

struct Made {
  std::vector<float> latents;
  std::vector<std::uint8_t> frames;
  Settled settled;
  MemoryStatement memory;
  std::vector<std::string> notices;
};

struct Asked {
  std::string platform;
  Parallel parallel = Parallel::automatic;
  std::string model = ZOE_MODELS "/toy-wan";
  Offload offload = Offload::automatic;
  std::uint64_t memory_limit_bytes = 0;
};

Made make(const Asked& asked, const Request& request, int times = 1) {
  Made made;
  const LogScope log_scope([&](LogLevel level, std::string_view text) {
    if (level == LogLevel::notice) made.notices.emplace_back(text);
  });
  Session session(read_model_config(asked.model),
                  open_platform(asked.platform, {.threads = 2, .memory_limit_bytes = asked.memory_limit_bytes}),
                  {.dtype = DType::f32, .offload = asked.offload, .parallel = asked.parallel});
  for (int i = 0; i < times; ++i) {
    made.latents.clear(), made.frames.clear();
    Callbacks callbacks;
    callbacks.latents = [&](std::size_t, std::span<const float> values) { made.latents.assign(values.begin(), values.end()); };
    callbacks.frame = [&](std::size_t, std::int64_t, std::span<const std::uint8_t> frame) {
      made.frames.insert(made.frames.end(), frame.begin(), frame.end());
    };
    Job job = session.prepare(request);
    made.settled = job.settled();
    made.memory = job.memory();
    session.run(job, callbacks);
  }
  return made;
}

// `tolerance`: of latents where sums have no one order. Frames have roundings besides.
void expect_same(const Made& got, const Made& expected, double tolerance = 1e-4) {
  EXPECT_TRUE(testing::same_sums(got.latents, expected.latents, tolerance));
  EXPECT_TRUE(testing::same_sums(got.frames, expected.frames, 30 * tolerance));
}

TEST(GroupSession, GuidanceOnTwoDevicesGivesTheBitsOfOne) {
  const Made one = make({"cpu"}, small());
  const Made two = make({"cpu:0,1", Parallel::guidance}, small(), 2);
  EXPECT_EQ(two.settled.guidance_devices, 2);
  EXPECT_EQ(two.settled.sequence_devices, 1);
  EXPECT_EQ(two.settled.batch, 1);
  expect_same(two, one);
  const Made chosen = make({"cpu:0,1"}, small());
  EXPECT_EQ(chosen.settled.guidance_devices, 2);
  expect_same(chosen, one);
}

TEST(GroupSession, SharedTokensGiveTheBitsOfOne) {
  const Made one = make({"cpu"}, small(1)), guided = make({"cpu"}, small());
  const Made two = make({"cpu:0,1"}, small(1), 2);
  EXPECT_EQ(two.settled.sequence_devices, 2);
  expect_same(two, one);
  expect_same(make({"cpu:0,1", Parallel::sequence}, small()), guided);
  const Made both = make({"cpu:0,1,2,3", Parallel::both}, small());
  EXPECT_EQ(both.settled.guidance_devices * both.settled.sequence_devices, 4);
  expect_same(both, guided);
}

TEST(GroupSession, BlocksThatComeAndGoDoSoOnEachDevice) {
  expect_same(make({"cpu:0,1", Parallel::guidance, ZOE_MODELS "/toy-wan", Offload::blocks}, small()), make({"cpu"}, small()));
  expect_same(make({"cpu:0,1", Parallel::sequence, ZOE_MODELS "/toy-wan", Offload::blocks}, small()), make({"cpu"}, small()));
}

TEST(GroupSession, WhatStaysOnOneDeviceIsThereForTheOthers) {
  const Made one = make({"cpu"}, small());
  const auto denoising = [](const Made& made) {
    return *std::ranges::find(made.memory.stages, Phase::denoise, &StageMemory::phase);
  };
  for (const Parallel parallel : {Parallel::guidance, Parallel::sequence}) {
    // As little as runs, and room for some blocks on each device.
    const Made least = make({"cpu:0,1", parallel, ZOE_MODELS "/toy-wan", Offload::blocks}, small());
    EXPECT_EQ(denoising(least).peer_blocks, 0u);
    const StageMemory whole = denoising(make({"cpu:0,1", parallel}, small()));
    const std::uint64_t room = (whole.weights - denoising(least).weights) * 2 / 3;  // and what is spared for libraries
    const std::uint64_t limit = 2 * (least.memory.always + denoising(least).total() + room) * 16 / 15;
    const Made shared = make({"cpu:0,1", parallel, ZOE_MODELS "/toy-wan", Offload::automatic, limit}, small(), 2);
    EXPECT_EQ(name(shared.memory.offload), "blocks");
    EXPECT_GT(denoising(shared).peer_blocks, 0u);
    EXPECT_LE(denoising(shared).peer_blocks, denoising(shared).coming_blocks);
    expect_same(shared, one);
  }
}

// Each device has plans of both kinds.
TEST(GroupSession, StepsInCodesAndExactOnesGiveTheBitsOfOne) {
  Request request = small();
  request.precision = Arithmetic::int8;
  request.exact_steps = "0";
  constexpr double kOtherCodes = 0.05;  // sums that are a little off have other codes
  const Made one = make({"cpu"}, request);
  expect_same(make({"cpu:0,1", Parallel::guidance}, request), one, kOtherCodes);
  expect_same(make({"cpu:0,1", Parallel::sequence}, request), one, kOtherCodes);
}

TEST(GroupSession, PicturesReachAllDevices) {
  Request request = small();
  request.image = ZOE_FIXTURES "/images/grey_alpha.png";
  const std::string model = ZOE_MODELS "/toy-wan-i2v";
  expect_same(make({"cpu:0,1", Parallel::guidance, model}, request), make({"cpu", Parallel::automatic, model}, request));
  expect_same(make({"cpu:0,1", Parallel::sequence, model}, request), make({"cpu", Parallel::automatic, model}, request));
}

// A tile of the picture on each device, or several.
TEST(GroupSession, TilesOfThePictureAreMadeOnEachDevice) {
  Request request = small(1);
  request.height = 32, request.width = 160, request.num_frames = 9, request.num_inference_steps = 1;
  const Made one = make({"cpu"}, request);
  for (const int tiles : {2, 3}) {
    request.vae_tiles = tiles;
    const Made two = make({"cpu:0,1"}, request, 2);
    EXPECT_EQ(two.settled.vae_tiles, tiles);
    expect_same(two, one);
  }
}

// Chosen by itself where all of the video is given: a tile for each device.
TEST(GroupSession, VideosAreEncodedInTilesOnEachDevice) {
  Request request = small(1);
  request.video = ZOE_FIXTURES "/videos/exact.mkv", request.fit = Fit::stretch;
  request.height = 32, request.width = 256, request.num_frames = 9, request.num_inference_steps = 2;
  const Made one = make({"cpu"}, request);
  expect_same(make({"cpu:0,1"}, request, 2), one);
  request.vae_tiles = 3;
  expect_same(make({"cpu:0,1"}, request), one);
  const auto plans = [&](std::optional<int> tiles) {
    request.vae_tiles = tiles;
    Session session(read_model_config(ZOE_MODELS "/toy-wan"), open_platform("cpu:0,1", {.threads = 2}), {.dtype = DType::f32});
    session.prepare(request);
    return session.counts().plans_compiled;
  };
  // In place of a first and a later group's, of encoder and decoder: those of the latents' side, and of a tile on each device.
  EXPECT_EQ(plans({}), plans(1) + 8);
}

std::string refusal(const Asked& asked, const Request& request, ErrorKind kind) {
  try {
    make(asked, request);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  return "none";
}

TEST(GroupSession, SaysWhyDevicesCannotShare) {
  EXPECT_EQ(
      refusal({"cpu:0,1", Parallel::guidance}, small(1), ErrorKind::unsupported),
      "[parallel] got guidance of 2 devices: without guidance there is one text: its scale is 1. Say auto, or name other devices.");
  EXPECT_EQ(
      refusal({"cpu", Parallel::guidance}, small(), ErrorKind::invalid_argument),
      "[parallel] got guidance, expected several devices to share a step. Name them (--platform cuda:0,1), or leave this out.");
  const std::string heads = refusal({"cpu:0,1,2,3,4", Parallel::sequence}, small(1), ErrorKind::unsupported);
  EXPECT_NE(heads.find("are no multiple of 5 devices"), std::string::npos) << heads;
  // Chosen by itself, what cannot share is left out, and it is said.
  const Made alone = make({"cpu:0,1,2,3,4"}, small(1));
  ASSERT_FALSE(alone.notices.empty());
  EXPECT_EQ(alone.notices[0].find("1 of 5 devices are at work: "), 0u) << alone.notices[0];
  expect_same(alone, make({"cpu"}, small(1)));
}

// A device with memory of its own.
struct OfMemory : testing::LatePlatform {
  explicit OfMemory(std::uint64_t bytes) : LatePlatform(false), info_(LatePlatform::info()) {
    info_.host_addressable = info_.unified_memory = false;
    info_.memory_bytes = bytes;
  }
  const DeviceInfo& info() const override { return info_; }
  std::uint64_t free_bytes() const override { return info_.memory_bytes; }
  DeviceInfo info_;
};

TEST(GroupSession, AsksTheDeviceWithLeastMemory) {
  constexpr std::uint64_t kLittle = std::uint64_t{2} << 20, kEnough = std::uint64_t{1} << 30;
  const auto refusal_with = [](std::uint64_t first, std::uint64_t second) {
    std::vector<std::unique_ptr<Platform>> devices;
    for (const std::uint64_t bytes : {first, second}) devices.push_back(std::make_unique<OfMemory>(bytes));
    Session session(read_model_config(ZOE_MODELS "/toy-wan"), DeviceGroup::form(std::move(devices)),
                    {.dtype = DType::f32, .parallel = Parallel::sequence});
    try {
      return session.prepare(small(1)).refusal();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::out_of_memory);
      return std::string(error.what());
    }
  };
  EXPECT_EQ(refusal_with(kEnough, kEnough), "");
  for (const std::string& refusal : {refusal_with(kLittle, kEnough), refusal_with(kEnough, kLittle)}) {
    EXPECT_EQ(refusal.find("[memory] 32x48x5 in f32 does not fit"), 0u) << refusal;
    EXPECT_EQ(refusal.find('\n'), std::string::npos) << refusal;
  }
}

// Wherever it is stopped, the session is as good as before.
TEST(GroupSession, StopsInTheMiddle) {
  for (const Parallel parallel : {Parallel::guidance, Parallel::sequence}) {
    Session session(read_model_config(ZOE_MODELS "/toy-wan"), open_platform("cpu:0,1", {.threads = 2}),
                    {.dtype = DType::f32, .parallel = parallel});
    std::atomic<bool> cancel = false;
    std::vector<float> latents;
    Callbacks callbacks;
    callbacks.cancel = &cancel;
    callbacks.latents = [&](std::size_t, std::span<const float> values) { latents.assign(values.begin(), values.end()); };
    callbacks.progress = [&](const Progress& progress) {
      if (progress.phase == Phase::denoise && progress.done == 1) cancel = true;
    };
    Job job = session.prepare(small());
    try {
      session.run(job, callbacks);
      ADD_FAILURE() << "was not stopped";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::cancelled) << error.what();
    }
    cancel = false;
    callbacks.progress = {};
    session.run(job, callbacks);
    EXPECT_TRUE(testing::same_sums(latents, make({"cpu"}, small()).latents, 1e-4));
  }
}

}  // namespace
}  // namespace zoe
