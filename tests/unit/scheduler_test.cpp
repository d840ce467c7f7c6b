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
#include "ir/interpreter.h"
#include "ir/trace.h"

namespace zoe {
namespace {

using nlohmann::json;

json fixture(const std::string& name) { return json::parse(std::ifstream(ZOE_FIXTURES "/schedulers/" + name)); }

// The configuration Diffusers would have saved for a recorded case.
SchedulerConfig config_of(const json& c) {
  json file;
  if (c["kind"] == "euler" || c["kind"] == "lcm") {
    file = {{"_class_name", c["kind"] == "euler" ? "FlowMatchEulerDiscreteScheduler" : "FlowMatchLCMScheduler"},
            {"shift", c["shift"]}};
  } else {
    file = {{"_class_name", c["kind"] == "unipc" ? "UniPCMultistepScheduler" : "DPMSolverMultistepScheduler"},
            {"prediction_type", "flow_prediction"},
            {"use_flow_sigmas", true},
            {"flow_shift", c["shift"]}};
  }
  if (c.contains("settings")) file.update(c["settings"]);
  SchedulerConfig config = parse_scheduler_config(file.dump(), "scheduler_config.json");
  if (c.contains("given")) config.sigmas = c["given"].get<std::vector<double>>();
  return config;
}

// The steps of one run, as the interpreter takes them.
class Steps {
 public:
  Steps(const Scheduler& scheduler, std::size_t size) : scheduler_(scheduler), shape_{static_cast<std::int64_t>(size)} {
    const Value sample = input("sample", DType::f32, shape_), output = input("output", DType::f32, shape_);
    const Value coefficients = input("coefficients", DType::f32, {static_cast<std::int64_t>(scheduler.coefficient_count())});
    std::vector<Value> inputs{sample, output, coefficients}, reads;
    for (std::size_t i = 0; i < scheduler.reads(0).size(); ++i) reads.push_back(input("kept", DType::f32, shape_));
    inputs.insert(inputs.end(), reads.begin(), reads.end());
    graph_ = make_graph("step", inputs, scheduler.trace_step(sample, output, coefficients, reads));
    kept.assign(static_cast<std::size_t>(scheduler.kept_count()), std::vector<float>(size));
  }

  std::vector<float> take(int i, const std::vector<float>& sample, const std::vector<float>& output) {
    const auto tensor = [](const std::vector<float>& values) {
      return ReferenceTensor{{static_cast<std::int64_t>(values.size())}, {values.begin(), values.end()}};
    };
    std::vector<ReferenceTensor> inputs{tensor(sample), tensor(output), tensor(scheduler_.coefficients(i))};
    for (const int read : scheduler_.reads(i)) inputs.push_back(tensor(kept[static_cast<std::size_t>(read)]));
    const std::vector<ReferenceTensor> outputs = interpret(graph_, inputs, {});
    const auto values = [&](std::size_t number) {
      return std::vector<float>(outputs[number].values.begin(), outputs[number].values.end());
    };
    const std::vector<int> writes = scheduler_.writes(i);
    EXPECT_EQ(outputs.size(), 1 + writes.size());
    for (std::size_t w = 0; w < writes.size(); ++w) kept[static_cast<std::size_t>(writes[w])] = values(1 + w);
    return values(0);
  }

  std::vector<std::vector<float>> kept;

 private:
  const Scheduler& scheduler_;
  Shape shape_;
  Graph graph_;
};

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
  ASSERT_EQ(cases.size(), 2u * (6u * 7u + 4u * (9u + 3u)));
  for (const auto& c : cases) {
    SCOPED_TRACE(c["kind"].dump() + " shift " + c["shift"].dump() + " steps " + c["steps"].dump() + " " +
                 c.value("given", json()).dump());
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
    std::vector<float> sample = next();
    std::vector<std::vector<float>> outputs, expected;
    for (int i = 0; i < scheduler->steps(); ++i) {
      outputs.push_back(next());
      expected.push_back(next());
    }
    Steps run(*scheduler, kSize);
    for (int i = 0; i < scheduler->steps(); ++i) {
      const auto s = static_cast<std::size_t>(i);
      sample = run.take(i, sample, outputs[s]);
      const double error = relative_rms(sample, expected[s]);
      // A few roundings of f32; Diffusers rounds its coefficients to f32 too, with other log and expm1 than ours.
      EXPECT_LE(error, 1e-6) << "step " << i;
      worst = std::max(worst, error);
    }
  }
  EXPECT_EQ(file.peek(), std::ifstream::traits_type::eof());
  RecordProperty("worst_relative_rms", nlohmann::json(worst).dump());
}

// LCM with its fresh noise, and DPM-Solver++.
TEST(Scheduler, OthersOfDiffusers) {
  constexpr std::size_t kSize = 64;
  const json cases = fixture("others.json");
  std::ifstream file(ZOE_FIXTURES "/schedulers/others.bin", std::ios::binary);
  const auto next = [&] {
    std::vector<float> values(kSize);
    EXPECT_TRUE(file.read(reinterpret_cast<char*>(values.data()), kSize * sizeof(float)));
    return values;
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.dump());
    const auto scheduler = make_scheduler(config_of(c), c["steps"]);
    EXPECT_EQ(scheduler->timesteps(), c["timesteps"].get<std::vector<float>>());
    EXPECT_EQ(scheduler->sigmas(), c["sigmas"].get<std::vector<float>>());
    std::vector<float> sample = next();
    Steps run(*scheduler, kSize);
    for (int i = 0; i < scheduler->steps(); ++i) {
      const std::vector<float> output = next();
      if (const auto fresh = scheduler->noise()) run.kept[static_cast<std::size_t>(*fresh)] = next();
      sample = run.take(i, sample, output);
      EXPECT_LE(relative_rms(sample, next()), 1e-6) << "step " << i;
    }
  }
  EXPECT_EQ(file.peek(), std::ifstream::traits_type::eof());
}

TEST(Scheduler, OneStepGoesToThePredictedSample) {
  for (const auto kind : {SchedulerKind::unipc, SchedulerKind::euler, SchedulerKind::lcm}) {  // they begin at level 1
    for (const auto type : {SolverType::bh1, SolverType::bh2}) {
      const auto scheduler = make_scheduler({.kind = kind, .solver_type = type}, 1);
      std::vector<float> sample = {1.0f, -2.0f, 0.5f};
      const std::vector<float> output = {0.25f, 1.0f, -3.0f};
      sample = Steps(*scheduler, sample.size()).take(0, sample, output);
      EXPECT_NEAR(sample[0], 0.75f, 1e-5);
      EXPECT_NEAR(sample[1], -3.0f, 1e-5);
      EXPECT_NEAR(sample[2], 3.5f, 1e-5);
    }
  }
}

// One compiled graph serves all steps, whatever the order and the number of steps.
TEST(Scheduler, StepsOfAPlatform) {
  const auto platform = open_platform("cpu", {.threads = 1});
  const auto stream = platform->make_stream();
  WeightStore no_weights(*platform, [](const std::string&) { return WeightPtr(); });
  std::vector<SchedulerConfig> configs{{.kind = SchedulerKind::euler}, {.kind = SchedulerKind::dpmpp}};
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
    Steps reference(*scheduler, expected.size());
    for (int i = 0; i < kSteps; ++i) {
      for (float& value : predicted) value = normal(random);
      expected = reference.take(i, expected, predicted);
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
      ASSERT_LE(relative_rms(got, expected), 2e-6) << name(config.kind) << " of order " << config.solver_order << ", step " << i;
    }
  }
}

// The sample, what is kept and the number of the next step are the whole state of a run.
TEST(Scheduler, ARunGoesOnFromWhatItKept) {
  for (const auto kind : {SchedulerKind::unipc, SchedulerKind::euler, SchedulerKind::dpmpp}) {
    const SchedulerConfig config{.kind = kind, .solver_order = 3};
    const auto scheduler = make_scheduler(config, 9), again = make_scheduler(config, 9);
    Steps whole(*scheduler, 8), second(*again, 8);
    std::vector<float> sample(8, 1.0f), restored;
    const auto output = [](int i) { return std::vector<float>(8, 0.1f * static_cast<float>(i * i - 7)); };
    for (int i = 0; i < 9; ++i) {
      if (i == 4) second.kept = whole.kept, restored = sample;
      if (i >= 4) restored = second.take(i, restored, output(i));
      sample = whole.take(i, sample, output(i));
    }
    EXPECT_EQ(restored, sample);
  }
}

TEST(Scheduler, LevelsBeforeTheShift) {
  const std::vector<double> sigmas = parse_sigmas("1, .75,.5 ,0.25", "--sigmas");
  EXPECT_EQ(sigmas, (std::vector<double>{1, 0.75, 0.5, 0.25}));
  for (const auto kind : {SchedulerKind::unipc, SchedulerKind::euler, SchedulerKind::lcm, SchedulerKind::dpmpp}) {
    const auto scheduler = make_scheduler({.kind = kind, .flow_shift = 5, .sigmas = sigmas}, 4);
    const std::vector<float> expected{1, 0.9375f, 0.8333333f, 0.625f, 0};
    ASSERT_EQ(scheduler->sigmas().size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(scheduler->sigmas()[i], expected[i], 2e-6);
  }
}

// x0 = x - s v, x' = (1 - s') x0 + s' noise, from s noise: as LCM, but for what it begins with.
TEST(Scheduler, RcmBeginsWithTheNoiseOfItsLevel) {
  const std::vector<double> sigmas{80.0 / 81, 0.9, 0.6};
  const auto rcm = make_scheduler({.kind = SchedulerKind::rcm, .flow_shift = 1, .sigmas = sigmas}, 3);
  const auto lcm = make_scheduler({.kind = SchedulerKind::lcm, .flow_shift = 1, .sigmas = sigmas}, 3);
  EXPECT_FLOAT_EQ(rcm->initial_scale(), 80.0f / 81);
  EXPECT_EQ(lcm->initial_scale(), 1);
  EXPECT_FLOAT_EQ(rcm->timesteps()[1], 900);
  for (int i = 0; i < 3; ++i) {
    const auto s = static_cast<std::size_t>(i);
    const float next = i < 2 ? static_cast<float>(sigmas[s + 1]) : 0.0f;
    EXPECT_EQ(rcm->coefficients(i), (std::vector<float>{static_cast<float>(sigmas[s]), 1 - next, next}));
    EXPECT_EQ(rcm->coefficients(i), lcm->coefficients(i));
  }
}

TEST(Scheduler, EveryStepCountHasAFiniteTable) {
  for (const auto kind :
       {SchedulerKind::unipc, SchedulerKind::euler, SchedulerKind::lcm, SchedulerKind::dpmpp, SchedulerKind::rcm}) {
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
  expect_refused({{"solver_p", json::object()}}, kind, {"solver_p", "another scheduler"});
  expect_refused({{"_class_name", "DDIMScheduler"}}, kind, {"DDIMScheduler", "UniPCMultistepScheduler"});
  expect_refused({{"_class_name", "FlowMatchEulerDiscreteScheduler"}, {"stochastic_sampling", true}}, kind,
                 {"stochastic_sampling"});
  expect_refused({{"_class_name", "FlowMatchEulerDiscreteScheduler"}, {"invert_sigmas", true}}, kind, {"invert_sigmas"});
  const auto dpmpp = [&](const json& changes, const std::vector<std::string>& words) {
    json file = {{"_class_name", "DPMSolverMultistepScheduler"}};
    file.update(changes);
    expect_refused(file, kind, words);
  };
  dpmpp({{"algorithm_type", "sde-dpmsolver++"}}, {"algorithm_type", "sde-dpmsolver++", "dpmsolver++"});
  dpmpp({{"solver_type", "heun"}}, {"solver_type", "heun", "midpoint"});
  dpmpp({{"solver_order", 3}}, {"solver_order", "got 3"});
  dpmpp({{"use_lu_lambdas", true}}, {"use_lu_lambdas"});
  dpmpp({{"final_sigmas_type", "sigma_min"}}, {"final_sigmas_type", "sigma_min"});
  dpmpp({{"use_flow_sigmas", false}}, {"use_flow_sigmas"});
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
  expect_refused({{"shift_terminal", 1.0}}, kind, {"shift_terminal", "got 1"});
  expect_refused({{"shift_terminal", -0.1}}, kind, {"shift_terminal", "got -0.1"});
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

TEST(SchedulerErrors, NoiseLevels) {
  const auto kind = ErrorKind::invalid_argument;
  const auto refused = [&](const std::string& text, const std::vector<std::string>& words) {
    SCOPED_TRACE(text);
    expect_error([&] { parse_sigmas(text, "--sigmas"); }, kind, words);
  };
  refused("", {"[--sigmas]", "got \"\"", "number 1", "1,.75,.5,.25"});
  refused("1,,0.5", {"got \"\"", "number 2"});
  refused("1,0.5,", {"got \"\"", "number 3"});
  refused("1;0.5", {"1;0.5"});
  refused("1,half", {"half", "number 2"});
  refused("1,0.5x", {"0.5x"});
  refused("1,1e999", {"1e999"});
  refused("nan", {"got nan", "number 1"});
  refused("inf", {"got inf"});
  refused("1.5,1", {"got 1.5", "at most 1"});
  refused("1,0.5,0", {"got 0", "number 3", "Leave out the last 0"});
  refused("1,-0.5", {"got -0.5"});
  refused("0.5,0.5", {"got 0.5", "number 2", "falling"});
  refused("0.5,0.75", {"got 0.75"});
  std::string many = "1";
  for (int i = 1; i < 1001; ++i) many += "," + std::to_string(1.0 - i * 1e-4);
  refused(many, {"at most 1000"});
  expect_error([] { make_scheduler({.sigmas = {1, 0.5}}, 3); }, kind, {"[scheduler]", "got 2 levels", "expected 3"});
  expect_error([] { make_scheduler({.sigmas = {0.5, 1}}, 2); }, kind, {"[scheduler]", "got 1 as number 2"});
  for (const auto scheduler : {SchedulerKind::unipc, SchedulerKind::euler})
    expect_error([&] { make_scheduler({.kind = scheduler, .shift_terminal = 0.1, .sigmas = {1}}, 1); }, ErrorKind::unsupported,
                 {"shift_terminal", "more steps"});
}

// What is left has the levels of the whole, and begins as a first step does: nothing kept counts.
TEST(Scheduler, SkippedStepsLeaveTheOthersLevels) {
  for (const auto kind : {SchedulerKind::unipc, SchedulerKind::euler, SchedulerKind::lcm, SchedulerKind::dpmpp}) {
    const auto whole = make_scheduler({.kind = kind, .flow_shift = 5}, 10),
               rest = make_scheduler({.kind = kind, .flow_shift = 5, .skipped = 4}, 10);
    ASSERT_EQ(rest->steps(), 6);
    EXPECT_EQ(rest->sigmas(), std::vector<float>(whole->sigmas().begin() + 4, whole->sigmas().end()));
    EXPECT_EQ(rest->timesteps(), std::vector<float>(whole->timesteps().begin() + 4, whole->timesteps().end()));
    if (kind == SchedulerKind::euler) {
      EXPECT_EQ(rest->coefficients(0), whole->coefficients(4));
    }
    if (kind == SchedulerKind::unipc || kind == SchedulerKind::dpmpp) {
      EXPECT_NE(rest->coefficients(0), whole->coefficients(4));  // of first order
      EXPECT_EQ(rest->coefficients(5), whole->coefficients(9));
      EXPECT_EQ(rest->coefficients(3), whole->coefficients(7));
    }
  }
}

TEST(SchedulerErrors, StepsAndOverrides) {
  const auto kind = ErrorKind::invalid_argument;
  for (const int steps : {0, -1, 1001, std::numeric_limits<int>::max()})
    expect_error([&] { make_scheduler({}, steps); }, kind, {"inference steps", std::to_string(steps), "1 to 1000"});
  expect_error([] { make_scheduler({.num_train_timesteps = 10}, 11); }, kind, {"got 11", "1 to 10", "num_train_timesteps"});
  for (const double shift : {0.0, -1.0, 1e9, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()})
    expect_error([&] { make_scheduler({.flow_shift = shift}, 10); }, kind, {"flow shift"});
  expect_error([] { parse_scheduler_kind("ddim", "--scheduler"); }, kind,
               {"[--scheduler]", "ddim", "unipc, euler, lcm, dpm++ or rcm"});
  // Order 2 in the step to sigma 0 divides by zero, in Diffusers too.
  expect_error([] { make_scheduler({.lower_order_final = false}, 10); }, ErrorKind::unsupported, {"lower_order_final"});
}

}  // namespace
}  // namespace zoe
