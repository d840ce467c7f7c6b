#include "pipeline/step_times.h"

#include <gtest/gtest.h>

#include <fstream>

#include "pipeline/model.h"
#include "platform/platform.h"
#include "testing/temporary_folder.h"

namespace zoe {
namespace {

TEST(StepTimes, TheSlowerOfArithmeticAndCopiesCounts) {
  const StepWork work{200e12, 50e9};
  EXPECT_DOUBLE_EQ(modelled_step(work, 100e12, 100e9).seconds, 2.0);
  EXPECT_DOUBLE_EQ(modelled_step(work, 100e12, 10e9).seconds, 5.0);
}

TEST(StepTimes, WhatWasMeasuredIsTold) {
  const testing::TemporaryFolder folder;
  StepTimes times(folder.path());
  EXPECT_FALSE(times.find("a"));
  times.keep("a", 1.5, {3e12, 0});
  times.keep("b", 2.5, {3e12, 0});
  times.keep("a", 1.25, {3e12, 0});
  EXPECT_EQ(StepTimes(folder.path()).find("a"), 1.25);
  EXPECT_EQ(times.find("b"), 2.5);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

TEST(StepTimes, ADamagedFileOrNoFolderIsNoError) {
  const testing::TemporaryFolder folder;
  StepTimes nowhere(folder.path() / "none");
  nowhere.keep("a", 1, {});
  EXPECT_FALSE(nowhere.find("a"));
  for (const char* text : {"", "[1]", "{\"a\": 3}", "{\"a\": {\"seconds\": \"x\"}}", "{\"a\": {\"seconds\": -1}}", "{"}) {
    std::ofstream(folder.path() / "steps.json") << text;
    StepTimes times(folder.path());
    EXPECT_FALSE(times.find("a")) << text;
    times.keep("a", 2, {});
    EXPECT_EQ(times.find("a"), 2.0) << text;
  }
}

// A size that never ran, by the rate of one that did; what is said counts where this very size was not measured.
TEST(StepTimes, AnotherSizeGivesTheRate) {
  const testing::TemporaryFolder folder;
  Session session(read_model_config(ZOE_MODELS "/toy-wan"), open_platform("null"), {.dtype = DType::f32, .single_request = true});
  const auto plan = [&](int frames) {
    Request request;
    request.prompts = {"a red circle"};
    request.height = 64, request.width = 64, request.num_frames = frames;
    return session.plan(request);
  };
  const Job small = plan(5), large = plan(33);
  StepTimes times(folder.path());
  const auto seconds = [&](const Job& job, const DeviceRates& said) {
    return step_seconds(times, session, job.settled(), job.memory(), said);
  };
  EXPECT_FALSE(seconds(large, {}));
  const StepWork of_small = step_work(small.memory()), of_large = step_work(large.memory());
  ASSERT_GT(of_large.operations, 2 * of_small.operations);
  times.keep(step_key(session, small.settled(), small.memory()), 0.5, of_small);
  EXPECT_EQ(seconds(small, {})->from, StepSeconds::From::measured);
  EXPECT_EQ(seconds(large, {})->from, StepSeconds::From::model);
  EXPECT_NEAR(seconds(large, {})->seconds, 0.5 * of_large.operations / of_small.operations, 1e-9);
  EXPECT_NEAR(seconds(large, {.operations = 1e9, .bus_bytes = 0})->seconds, of_large.operations / 1e9, 1e-9);
  EXPECT_EQ(seconds(small, {.operations = 1e9, .bus_bytes = 0})->seconds, 0.5);
}

}  // namespace
}  // namespace zoe
