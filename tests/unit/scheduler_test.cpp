// Schedules and steps against recorded ones of Diffusers, and what configurations are refused.
#include "schedulers/scheduler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "compiler/run.h"
#include "ir/trace.h"

namespace zoe {
namespace {

using nlohmann::json;

json fixture(const std::string& name) { return json::parse(std::ifstream(ZOE_FIXTURES "/schedulers/" + name)); }

// The configuration Diffusers would have saved for a recorded case.
SchedulerConfig config_of(const json& c) {
  json file;
  if (c["kind"] == "euler") {
    file = {{"_class_name", "FlowMatchEulerDiscreteScheduler"}, {"shift", c["shift"]}};
  } else {
    file = {{"_class_name", "UniPCMultistepScheduler"},
            {"prediction_type", "flow_prediction"},
            {"use_flow_sigmas", true},
            {"flow_shift", c["shift"]}};
  }
  if (c.contains("settings")) file.update(c["settings"]);
  return parse_scheduler_config(file.dump(), "scheduler_config.json");
}

double relative_rms(std::span<const float> got, std::span<const float> expected) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    error += std::pow(static_cast<double>(got[i]) - expected[i], 2);
    size += std::pow(static_cast<double>(expected[i]), 2);
  }
  EXPECT_GT(size, 0);
  return std::sqrt(error / size);
}

TEST(Scheduler, TimestepsAndSigmasOfDiffusers) {
  const json cases = fixture("schedules.json");
  ASSERT_EQ(cases.size(), 2u * 6u * 7u);
  for (const auto& c : cases) {
    SCOPED_TRACE(c["kind"].dump() + " shift " + c["shift"].dump() + " steps " + c["steps"].dump());
    const auto scheduler = make_scheduler(config_of(c), c["steps"]);
    EXPECT_EQ(scheduler->steps(), c["steps"].get<int>());
    EXPECT_EQ(scheduler->timesteps(), c["timesteps"].get<std::vector<float>>());
    EXPECT_EQ(scheduler->sigmas(), c["sigmas"].get<std::vector<float>>());
  }
}

TEST(Scheduler, StepsOfDiffusers) {
  constexpr std::size_t kSize = 64;
  const json cases = fixture("trajectories.json");
  std::ifstream file(ZOE_FIXTURES "/schedulers/trajectories.bin", std::ios::binary);
  const auto next = [&] {
    std::vector<float> values(kSize);
    EXPECT_TRUE(file.read(reinterpret_cast<char*>(values.data()), kSize * sizeof(float)));
    return values;
  };
  double worst = 0;
  for (const auto& c : cases) {
    SCOPED_TRACE(c.dump());
    const auto scheduler = make_scheduler(config_of(c), c["steps"]);
    const std::vector<float> first = next();
    std::vector<float> sample = first;
    std::vector<std::vector<float>> outputs, expected;
    for (int i = 0; i < scheduler->steps(); ++i) {
      outputs.push_back(next());
      expected.push_back(next());
    }
    for (int run = 0; run < 2; ++run) {  // a second run must not see the first one's history
      sample = first;
      for (int i = 0; i < scheduler->steps(); ++i) {
        const auto s = static_cast<std::size_t>(i);
        scheduler->step(i, sample, outputs[s]);
        const double error = relative_rms(sample, expected[s]);
        // A few roundings of f32; Diffusers rounds its coefficients to f32 too, with other log and expm1 than ours.
        EXPECT_LE(error, 1e-6) << "step " << i;
        worst = std::max(worst, error);
      }
    }
  }
  EXPECT_EQ(file.peek(), std::ifstream::traits_type::eof());
  RecordProperty("worst_relative_rms", nlohmann::json(worst).dump());
}

TEST(Scheduler, OneStepGoesToThePredictedSample) {
  for (const auto kind : {SchedulerKind::unipc, SchedulerKind::euler}) {
    for (const auto type : {SolverType::bh1, SolverType::bh2}) {
      const auto scheduler = make_scheduler({.kind = kind, .solver_type = type}, 1);
      std::vector<float> sample = {1.0f, -2.0f, 0.5f};
      const std::vector<float> output = {0.25f, 1.0f, -3.0f};
      scheduler->step(0, sample, output);
      EXPECT_NEAR(sample[0], 0.75f, 1e-5);
      EXPECT_NEAR(sample[1], -3.0f, 1e-5);
      EXPECT_NEAR(sample[2], 3.5f, 1e-5);
    }
  }
}

// What runs where the latents live must be what step() does, bit for bit, whatever the order and the number of steps.
TEST(Scheduler, TheTracedStepIsTheStep) {
  const auto platform = open_platform("cpu", {.threads = 1});
  const auto stream = platform->make_stream();
  WeightStore no_weights(*platform, [](const std::string&) { return WeightPtr(); });
  std::vector<SchedulerConfig> configs{{.kind = SchedulerKind::euler}};
  for (const int order : {1, 2, 3})
    configs.push_back({.solver_order = order, .lower_order_final = order != 1, .disable_corrector = {order == 2 ? 3 : 100}});
  for (const SchedulerConfig& config : configs) {
    constexpr int kSteps = 9;
    const Type type{DType::f32, {3, 7, 5}};
    const auto scheduler = make_scheduler(config, kSteps);
    const auto count = static_cast<std::int64_t>(scheduler->coefficient_count());
    const Value sample = input("sample", type.dtype, type.shape), output = input("output", type.dtype, type.shape);
    const Value coefficients = input("coefficients", DType::f32, {count});
    std::vector<Value> inputs{sample, output, coefficients}, reads;
    for (std::size_t i = 0; i < scheduler->reads(0).size(); ++i) reads.push_back(input("kept", type.dtype, type.shape));
    inputs.insert(inputs.end(), reads.begin(), reads.end());
    const Plan plan = compile(make_graph("step", inputs, scheduler->trace_step(sample, output, coefficients, reads)), *platform);
    const Plan* const only = &plan;
    const Tensor workspace = make_workspace(*platform, {&only, 1});

    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    std::vector<float> expected(105), predicted(105), got(105);
    for (float& value : expected) value = normal(random);
    const Tensor predicted_there = make_tensor(*platform, type, "output"),
                 row = make_tensor(*platform, {DType::f32, {count}}, "coefficients");
    Tensor here = make_tensor(*platform, type, "sample"), next = make_tensor(*platform, type, "next");
    std::vector<Tensor> kept;
    for (int i = 0; i < scheduler->kept_count(); ++i) kept.push_back(make_tensor(*platform, type, "kept"));
    upload(*platform, *stream, expected, here);
    for (int i = 0; i < kSteps; ++i) {
      for (float& value : predicted) value = normal(random);
      scheduler->step(i, expected, predicted);
      upload(*platform, *stream, predicted, predicted_there);
      upload(*platform, *stream, scheduler->coefficients(i), row);
      std::vector<Tensor> given{here, predicted_there, row}, made{next};
      for (const int read : scheduler->reads(i)) given.push_back(kept[static_cast<std::size_t>(read)]);
      for (const int write : scheduler->writes(i)) {
        for (const int read : scheduler->reads(i)) ASSERT_NE(read, write);
        made.push_back(kept[static_cast<std::size_t>(write)]);
      }
      run(plan, *stream, no_weights, given, made, workspace);
      std::swap(here, next);
      download(*platform, *stream, here, got);
      ASSERT_EQ(got, expected) << name(config.kind) << " of order " << config.solver_order << ", step " << i;
    }
  }
}

TEST(Scheduler, EveryStepCountHasAFiniteTable) {
  for (const auto kind : {SchedulerKind::unipc, SchedulerKind::euler}) {
    for (int steps = 1; steps <= 1000; steps += steps < 100 ? 1 : 75) {
      const auto scheduler = make_scheduler({.kind = kind}, steps);
      ASSERT_EQ(scheduler->steps(), steps);
      for (std::size_t i = 1; i < scheduler->sigmas().size(); ++i) ASSERT_LT(scheduler->sigmas()[i], scheduler->sigmas()[i - 1]);
    }
  }
}

TEST(Scheduler, ReadsTheEmbeddedModel) {
  std::ifstream file(ZOE_MODELS "/toy-wan/scheduler/scheduler_config.json");
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  const SchedulerConfig config = parse_scheduler_config(text, "scheduler_config.json");
  EXPECT_EQ(config.kind, SchedulerKind::unipc);
  EXPECT_EQ(config.flow_shift, 3.0);
  EXPECT_EQ(config.solver_order, 2);
  EXPECT_EQ(config.solver_type, SolverType::bh2);
  EXPECT_TRUE(config.lower_order_final);
  EXPECT_EQ(config.final_sigma, FinalSigma::zero);
}

// Expects an error of `kind` whose text has all of `words`.
template <class F>
void expect_error(F&& run, ErrorKind kind, const std::vector<std::string>& words) {
  try {
    run();
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), kind) << e.what();
    for (const std::string& word : words)
      EXPECT_NE(std::string(e.what()).find(word), std::string::npos) << word << " in: " << e.what();
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos);
  }
}

void expect_refused(const json& changes, ErrorKind kind, const std::vector<std::string>& words) {
  json file = {{"_class_name", "UniPCMultistepScheduler"}, {"prediction_type", "flow_prediction"}, {"use_flow_sigmas", true}};
  file.update(changes);
  SCOPED_TRACE(file.dump());
  expect_error([&] { parse_scheduler_config(file.dump(), "dir/scheduler_config.json"); }, kind, words);
}

TEST(SchedulerErrors, SettingsThatWouldChangeTheResult) {
  const auto kind = ErrorKind::unsupported;
  for (const char* key : {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_dynamic_shifting", "thresholding"})
    expect_refused({{key, true}}, kind, {"[dir/scheduler_config.json]", key, "true", "false"});
  expect_refused({{"predict_x0", false}}, kind, {"predict_x0", "false", "true"});
  expect_refused({{"prediction_type", "epsilon"}}, kind, {"prediction_type", "epsilon", "flow_prediction"});
  expect_refused({{"use_flow_sigmas", false}}, kind, {"use_flow_sigmas"});
  expect_refused({{"shift_terminal", 0.1}}, kind, {"shift_terminal", "0.1"});
  expect_refused({{"solver_p", json::object()}}, kind, {"solver_p", "another scheduler"});
  expect_refused({{"_class_name", "DDIMScheduler"}}, kind, {"DDIMScheduler", "UniPCMultistepScheduler"});
  expect_refused({{"_class_name", "FlowMatchEulerDiscreteScheduler"}, {"stochastic_sampling", true}}, kind,
                 {"stochastic_sampling"});
  expect_refused({{"_class_name", "FlowMatchEulerDiscreteScheduler"}, {"invert_sigmas", true}}, kind, {"invert_sigmas"});
  expect_error([] { parse_scheduler_config(R"({"_class_name": "UniPCMultistepScheduler"})", "f"); }, kind,
               {"use_flow_sigmas", "missing"});
  expect_error([] { parse_scheduler_config("{}", "f"); }, ErrorKind::invalid_argument, {"_class_name"});
}

TEST(SchedulerErrors, WrongTypesAndRanges) {
  const auto kind = ErrorKind::invalid_argument;
  expect_refused({{"flow_shift", "3"}}, kind, {"flow_shift", "\"3\"", "a number"});
  expect_refused({{"flow_shift", 0}}, kind, {"flow_shift", "got 0"});
  expect_refused({{"flow_shift", -3.0}}, kind, {"flow_shift", "got -3"});
  expect_refused({{"flow_shift", 1e300}}, kind, {"flow_shift", "e+300"});
  expect_refused({{"num_train_timesteps", 0}}, kind, {"num_train_timesteps", "got 0"});
  expect_refused({{"num_train_timesteps", -5}}, kind, {"num_train_timesteps", "got -5"});
  expect_refused({{"num_train_timesteps", 1000.5}}, kind, {"num_train_timesteps", "1000.5"});
  expect_refused({{"num_train_timesteps", 18446744073709551615ull}}, kind, {"num_train_timesteps", "18446744073709551615"});
  expect_refused({{"solver_order", 4}}, kind, {"solver_order", "got 4", "1 to 3"});
  expect_refused({{"solver_order", true}}, kind, {"solver_order", "true"});
  expect_refused({{"solver_type", "bh3"}}, kind, {"solver_type", "bh3"});
  expect_refused({{"solver_type", 2}}, kind, {"solver_type", "got 2"});
  expect_refused({{"final_sigmas_type", "one"}}, kind, {"final_sigmas_type", "one"});
  expect_refused({{"lower_order_final", 1}}, kind, {"lower_order_final", "got 1"});
  expect_refused({{"predict_x0", "yes"}}, kind, {"predict_x0", "yes"});
  expect_refused({{"disable_corrector", 3}}, kind, {"disable_corrector", "an array"});
  expect_refused({{"disable_corrector", {"a"}}}, kind, {"disable_corrector", "\"a\""});
  expect_refused({{"_class_name", 7}}, kind, {"_class_name", "a string"});
  expect_error([] { parse_scheduler_config("", "f"); }, kind, {"[f]", "JSON"});
  expect_error([] { parse_scheduler_config("[1, 2]", "f"); }, kind, {"an array", "an object"});
  expect_error([] { parse_scheduler_config("{\"flow_shift\": NaN}", "f"); }, kind, {"JSON"});
  expect_error([] { parse_scheduler_config("{\"flow_shift\": 1e999}", "f"); }, kind, {"JSON"});
  expect_error([] { parse_scheduler_config(std::string(1000000, '['), "f"); }, kind, {"JSON"});
  expect_error([] { parse_scheduler_config(std::string(1000000, '[') + std::string(1000000, ']'), "f"); }, kind, {"nesting"});
}

TEST(SchedulerErrors, StepsAndOverrides) {
  const auto kind = ErrorKind::invalid_argument;
  for (const int steps : {0, -1, 1001, std::numeric_limits<int>::max()})
    expect_error([&] { make_scheduler({}, steps); }, kind, {"inference steps", std::to_string(steps), "1 to 1000"});
  expect_error([] { make_scheduler({.num_train_timesteps = 10}, 11); }, kind, {"got 11", "1 to 10", "num_train_timesteps"});
  for (const double shift : {0.0, -1.0, 1e9, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()})
    expect_error([&] { make_scheduler({.flow_shift = shift}, 10); }, kind, {"flow shift"});
  expect_error([] { parse_scheduler_kind("ddim", "--scheduler"); }, kind, {"[--scheduler]", "ddim", "unipc or euler"});
  // Order 2 in the step to sigma 0 divides by zero, in Diffusers too.
  expect_error([] { make_scheduler({.lower_order_final = false}, 10); }, ErrorKind::unsupported, {"lower_order_final"});
}

}  // namespace
}  // namespace zoe
