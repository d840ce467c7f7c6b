// What a node costs, and the trace of a run.
#include "compiler/profile.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "ir/cost.h"
#include "ir/trace.h"
#include "ops/rms_norm.h"
#include "testing/temporary_folder.h"

namespace zoe {
namespace {

using nlohmann::json;

TEST(Cost, ElementWiseAndSums) {
  const Value x = input("x", DType::f32, {4, 8}), y = input("y", DType::f32, {8});
  EXPECT_EQ(operations((x + y).node()), 32);
  EXPECT_EQ(bytes_read((x + y).node()), (32 + 8) * 4);
  EXPECT_EQ(bytes_written((x + y).node()), 32 * 4);
  EXPECT_EQ(bytes_read((x * x).node()), 32 * 4);  // once, though it is both operands
  EXPECT_EQ(operations(sum(x).node()), 32);
  EXPECT_EQ(bytes_written(sum(x).node()), 4 * 4);
  EXPECT_EQ(operations(cast(x, DType::bf16).node()), 0);
  EXPECT_EQ(bytes_written(cast(x, DType::bf16).node()), 32 * 2);
}

TEST(Cost, MovementReadsWhatItUses) {
  const Value x = input("x", DType::f32, {4, 8}), rows = input("rows", DType::i32, {3}),
              table = input("table", DType::f32, {99, 8});
  EXPECT_EQ(bytes_read(slice(x, 1, 0, 2).node()), 4 * 2 * 4);
  EXPECT_EQ(bytes_read(gather(table, rows).node()), 3 * 8 * 4 + 3 * 4);
  EXPECT_EQ(operations(permute(x, {1, 0}).node()), 0);
}

TEST(Cost, Products) {
  const Value x = input("x", DType::f32, {4, 8}), w = parameter("w", DType::f32, {16, 8});
  EXPECT_EQ(operations(linear(x, w).node()), 2 * 4 * 16 * 8);
  EXPECT_EQ(bytes_read(linear(x, w).node()), (4 * 8 + 16 * 8) * 4);
}

TEST(Cost, AFusedNodeReadsItsOperandsOnce) {
  const Value x = input("x", DType::f32, {4, 8}), table = input("t", DType::f32, {1, 60});
  const Value a = input("a", DType::f32, {4, 8}), b = input("b", DType::f32, {1, 60});
  const Value e = exp(a);
  const Graph body = make_graph("body", {a, b}, {e + slice(b, 1, 8, 16), e * a});
  const auto fused = make_fused("chain", {x, table}, body);
  EXPECT_EQ(operations(fused[0].node()), 3 * 32);
  EXPECT_EQ(bytes_read(fused[0].node()), 32 * 4 + 8 * 4);  // of the table only the slice
  EXPECT_EQ(bytes_written(fused[0].node()), 2 * 32 * 4);
  EXPECT_EQ(kind_of_work(fused[0].node()), WorkKind::fused);
}

struct Ran {
  Profile profile;
  Plan plan;
};

void run_profiled(Ran& ran) {
  const auto platform = open_platform("cpu", {.threads = 1});
  const auto stream = platform->make_stream();
  const Value x = input("x", DType::f32, {1, 64, 32});
  const Value y = linear(rms_norm(x, parameter("g", DType::f32, {32}), 1e-6), parameter("w", DType::f32, {16, 32}));
  ran.plan = compile(make_graph("small", {x}, {y}), *platform);
  std::vector<float> weights(16 * 32, 0.5f);
  WeightStore store(*platform, [&](const std::string& name) {
    return dense_weight(DType::f32, name == "g" ? Shape{32} : Shape{16, 32}, reinterpret_cast<const std::byte*>(weights.data()));
  });
  store.load(ran.plan);
  const std::vector<Tensor> inputs{make_tensor(*platform, x.type(), "in")}, outputs{make_tensor(*platform, y.type(), "out")};
  const Plan* const only = &ran.plan;
  const StepTimer timer = ran.profile.timer();
  const auto begin = StepClock::now();
  run(ran.plan, *stream, store, inputs, outputs, make_workspace(*platform, {&only, 1}), {.time = &timer});
  ran.profile.phase("step 1", begin, StepClock::now());
}

TEST(Profile, IsATraceOfStepsAndPhases) {
  Ran ran;
  run_profiled(ran);
  const testing::TemporaryFolder folder;
  const auto path = folder.path() / "trace.json";
  ran.profile.write(path);
  std::ifstream file(path);
  const json trace = json::parse(file);
  std::size_t steps = 0, phases = 0, products = 0;
  double phase_end = 0, last_end = 0;
  for (const json& event : trace.at("traceEvents")) {
    if (event.at("ph") == "M") continue;
    ASSERT_EQ(event.at("ph"), "X");
    const double begin = event.at("ts"), duration = event.at("dur");
    EXPECT_GE(begin, 0);
    EXPECT_GE(duration, 0);
    if (event.at("tid") == 1) {
      ++phases;
      EXPECT_EQ(event.at("name"), "step 1");
      phase_end = begin + duration;
      continue;
    }
    ++steps;
    EXPECT_GE(begin, last_end - 1e-6);  // steps come one after another, but for the rounding of sums
    last_end = begin + duration;
    const json& arguments = event.at("args");
    EXPECT_EQ(arguments.at("plan"), "small");
    EXPECT_FALSE(arguments.at("implementation").get<std::string>().empty());
    EXPECT_GT(arguments.at("bytes_read").get<double>(), 0);
    EXPECT_GT(arguments.at("bytes_written").get<double>(), 0);
    if (event.at("cat") != "product") {
      EXPECT_NE(event.at("name").get<std::string>().find("rms_norm"), std::string::npos);
      continue;
    }
    ++products;
    EXPECT_EQ(event.at("name"), "linear");
    EXPECT_EQ(arguments.at("operands"), json({"f32[1,64,32]", "f32[16,32]"}));
    EXPECT_EQ(arguments.at("operations"), 2.0 * 64 * 32 * 16);
    EXPECT_NEAR(arguments.at("GFLOP/s").get<double>(), 2.0 * 64 * 32 * 16 / duration / 1e3, 1e-6);
    EXPECT_NEAR(arguments.at("GB/s").get<double>(), (64 * 32 + 16 * 32 + 64 * 16) * 4 / duration / 1e3, 1e-6);
  }
  EXPECT_EQ(steps, ran.plan.steps.size());
  EXPECT_EQ(phases, 1u);
  EXPECT_EQ(products, 1u);
  EXPECT_GE(phase_end, last_end);
}

TEST(Profile, SaysWhereItCannotBeWritten) {
  const testing::TemporaryFolder folder;
  try {
    Profile().write(folder.path() / "missing" / "trace.json");
    FAIL() << "written";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::io);
    EXPECT_NE(std::string(error.what()).find("[--profile] cannot write "), std::string::npos);
  }
}

}  // namespace
}  // namespace zoe
