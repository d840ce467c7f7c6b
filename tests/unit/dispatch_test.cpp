// Who runs an op: overrides, the compile policy, and what the plan records of both.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <random>
#include <set>

#include "base/error.h"
#include "compiler/policy.h"
#include "compiler/run.h"
#include "ops/norm_scale_shift.h"
#include "ops/register.h"
#include "ops/rms_norm.h"

namespace zoe {
namespace {

// Rows' sums as the floating-point contract has them: 32 strided partial sums, then the upper half added to the lower.
float row_sum(const std::vector<float>& row) {
  float partial[32] = {};
  for (std::size_t i = 0; i < row.size(); ++i) partial[i % 32] += row[i];
  for (int half = 16; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) partial[i] += partial[i + half];
  return partial[0];
}

float inverse_root(float x) { return 1.0f / std::sqrt(x); }

const float* floats(const Slot& slot) { return reinterpret_cast<const float*>(slot.data()); }

// The overrides of a test platform compute with plain loops what the native definitions do, to the bit.
struct NormScaleShift : Kernel {
  std::int64_t rows, width;
  explicit NormScaleShift(const Node& call) : rows(call.inputs[0].dim(1)), width(call.inputs[0].dim(2)) {}
  std::string_view implementation() const override { return "test norm_scale_shift"; }
  void run(Stream&, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot) const override {
    const auto n = static_cast<std::size_t>(width);
    const float divisor = static_cast<float>(width);
    for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r) {
      std::vector<float> row(floats(inputs[0]) + r * n, floats(inputs[0]) + (r + 1) * n), squares(n);
      const float mean = row_sum(row) / divisor;
      for (std::size_t i = 0; i < n; ++i) row[i] -= mean, squares[i] = row[i] * row[i];
      const float scale = inverse_root(row_sum(squares) / divisor + 1e-6f);
      auto* out = reinterpret_cast<float*>(outputs[0].data()) + r * n;
      for (std::size_t i = 0; i < n; ++i) out[i] = row[i] * scale * (1.0f + floats(inputs[1])[i]) + floats(inputs[2])[i];
    }
  }
};

struct RmsNorm : Kernel {
  std::int64_t rows, width;
  explicit RmsNorm(const Node& call)
      : rows(call.inputs[0].shape().count() / call.inputs[0].dim(-1)), width(call.inputs[0].dim(-1)) {}
  std::string_view implementation() const override { return "test rms_norm"; }
  void run(Stream&, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot) const override {
    const auto n = static_cast<std::size_t>(width);
    for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r) {
      std::vector<float> row(floats(inputs[0]) + r * n, floats(inputs[0]) + (r + 1) * n), squares(n);
      for (std::size_t i = 0; i < n; ++i) squares[i] = row[i] * row[i];
      const float scale = inverse_root(row_sum(squares) / static_cast<float>(width) + 1e-6f);
      auto* out = reinterpret_cast<float*>(outputs[0].data()) + r * n;
      for (std::size_t i = 0; i < n; ++i) out[i] = row[i] * scale * floats(inputs[1])[i];
    }
  }
};

Support wide_enough(const Node& call, const DeviceInfo&) {
  const std::int64_t width = call.inputs[0].dim(-1);
  return width % 8 == 0 ? Support::yes() : Support::no("the width {} is not a multiple of 8", width);
}

constexpr Override kOverrides[] = {
    {"norm_scale_shift", wide_enough,
     [](const Node& call, const DeviceInfo&) -> std::unique_ptr<Kernel> { return std::make_unique<NormScaleShift>(call); }},
    {"rms_norm", [](const Node&, const DeviceInfo&) { return Support::yes(); },
     [](const Node& call, const DeviceInfo&) -> std::unique_ptr<Kernel> { return std::make_unique<RmsNorm>(call); }},
};

// `cpu`, with two overrides.
class OverridingPlatform : public Platform {
 public:
  const DeviceInfo& info() const override { return cpu_->info(); }
  std::uint64_t free_bytes() const override { return cpu_->free_bytes(); }
  std::shared_ptr<Buffer> allocate(std::size_t bytes, std::string_view what) override { return cpu_->allocate(bytes, what); }
  std::unique_ptr<Stream> make_stream() override { return cpu_->make_stream(); }
  void upload(Stream& s, const void* host, Slot device, std::size_t bytes) override { cpu_->upload(s, host, device, bytes); }
  void download(Stream& s, Slot device, void* host, std::size_t bytes) override { cpu_->download(s, device, host, bytes); }
  std::unique_ptr<Kernel> make_kernel(const Node& node) override { return cpu_->make_kernel(node); }
  std::vector<std::unique_ptr<Kernel>> make_kernels(std::span<const Node* const> nodes) override {
    return cpu_->make_kernels(nodes);
  }
  std::span<const Override> overrides() const override { return kOverrides; }

 private:
  std::unique_ptr<Platform> cpu_ = open_platform("cpu", {.threads = 1});
};

// norm_scale_shift, rms_norm with a weight, and one op without an override's support between them.
Graph norms(std::int64_t width) {
  const Value x = input("x", DType::f32, {1, 5, width}), scale = input("scale", DType::f32, {1, 1, width}),
              shift = input("shift", DType::f32, {1, 1, width});
  const Value n = norm_scale_shift(x, scale, shift);
  const Value r = rms_norm(n, parameter("w", DType::f32, {width}), 1e-6);
  return make_graph("norms", {x, scale, shift}, {norm_scale_shift(r + n, scale, shift), r});
}

std::vector<std::vector<float>> run_on(Platform& platform, const Plan& plan) {
  const auto stream = platform.make_stream();
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto make = [&](const Type& type) {
    std::vector<float> values(static_cast<std::size_t>(type.shape.count()));
    for (float& value : values) value = normal(random);
    return values;
  };
  std::vector<float> weight;
  WeightStore store(platform, [&](const std::string&) {
    weight = make(plan.weights[0].type);
    return dense_weight(DType::f32, plan.weights[0].type.shape, reinterpret_cast<const std::byte*>(weight.data()));
  });
  std::vector<Tensor> inputs, outputs;
  for (const Value& value : plan.graph.inputs) {
    inputs.push_back(make_tensor(platform, value.type(), "in"));
    upload(platform, *stream, make(value.type()), inputs.back());
  }
  store.load(plan);
  for (const Value& value : plan.graph.outputs) outputs.push_back(make_tensor(platform, value.type(), "out"));
  const Plan* const only = &plan;
  run(plan, *stream, store, inputs, outputs, make_workspace(platform, {&only, 1}));
  std::vector<std::vector<float>> results;
  for (const Tensor& output : outputs) {
    results.emplace_back(static_cast<std::size_t>(output.type.shape.count()));
    download(platform, *stream, output, results.back());
  }
  return results;
}

int call_steps(const Plan& plan) {
  return static_cast<int>(
      std::count_if(plan.steps.begin(), plan.steps.end(), [](const Step& step) { return step.node->opcode == Opcode::call; }));
}

TEST(Override, AYesRunsThePlatformsKernelWithTheSameBits) {
  OverridingPlatform platform;
  const Plan taken = compile(norms(64), platform);
  const Plan native = compile(norms(64), platform, {.overrides = OverrideChoice::native});
  EXPECT_EQ(call_steps(taken), 3);
  EXPECT_EQ(call_steps(native), 0);
  EXPECT_EQ(run_on(platform, taken), run_on(platform, native));

  ASSERT_EQ(taken.decisions.size(), 3u);
  EXPECT_EQ(taken.decisions[0].op, "norm_scale_shift");
  EXPECT_EQ(taken.decisions[0].implementation, "test norm_scale_shift");
  EXPECT_EQ(taken.decisions[0].reason, "the override takes it");
  EXPECT_GT(taken.decisions[0].nodes, 5u);
  EXPECT_EQ(taken.decisions[1].implementation, "test rms_norm");
  ASSERT_EQ(native.decisions.size(), 3u);
  for (const Decision& decision : native.decisions) {
    EXPECT_EQ(decision.implementation, "native");
    EXPECT_EQ(decision.reason, "overrides are off (--override native)");
  }
  EXPECT_NE(describe(taken).find("2 x norm_scale_shift"), std::string::npos) << describe(taken);
}

TEST(Override, ANoIsRecordedAndTheNativeDefinitionRuns) {
  OverridingPlatform platform;
  const Plan plan = compile(norms(60), platform);
  EXPECT_EQ(call_steps(plan), 1);  // rms_norm takes any width
  ASSERT_EQ(plan.decisions.size(), 3u);
  EXPECT_EQ(plan.decisions[0].implementation, "native");
  EXPECT_EQ(plan.decisions[0].reason, "the width 60 is not a multiple of 8");
  EXPECT_EQ(plan.decisions[1].implementation, "test rms_norm");
  EXPECT_EQ(run_on(platform, plan), run_on(platform, compile(norms(60), platform, {.overrides = OverrideChoice::native})));
}

TEST(Override, RequiredNamesTheOpAndTheReason) {
  OverridingPlatform platform;
  EXPECT_EQ(call_steps(compile(norms(64), platform, {.overrides = OverrideChoice::require})), 3);
  try {
    compile(norms(60), platform, {.overrides = OverrideChoice::require});
    FAIL() << "compiled";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::unsupported);
    EXPECT_EQ(
        std::string(error.what()),
        "[override] norm_scale_shift cannot run its override on cpu: the width 60 is not a multiple of 8. With --override allow "
        "its native definition runs.");
  }
  // Only where the platform has one.
  const auto null = open_platform("null");
  const Plan plan = compile(norms(60), *null, {.overrides = OverrideChoice::require});
  EXPECT_EQ(plan.decisions[0].reason, "null has no override of it");
}

TEST(Override, CallsThatDifferInsideDoNotShareAKernel) {
  const Value x = input("x", DType::f32, {1, 5, 64}), w = parameter("w", DType::f32, {64});
  EXPECT_EQ(signature(rms_norm(x, w, 1e-6).node()), signature(rms_norm(x, w, 1e-6).node()));
  EXPECT_NE(signature(rms_norm(x, w, 1e-6).node()), signature(rms_norm(x, w, 1e-5).node()));
}

TEST(Override, AnOuterCallIsAskedBeforeThoseInside) {
  const Value x = input("x", DType::f32, {4, 64}), w = input("w", DType::f32, {64});
  const Value outer =
      call("outer", {x, w}, [](std::span<const Value> a) { return std::vector<Value>{rms_norm(exp(a[0]), a[1], 1e-6)}; })[0];
  OverridingPlatform platform;
  const Plan plan = compile(make_graph("g", {x, w}, {outer}), platform);
  ASSERT_EQ(plan.decisions.size(), 2u);
  EXPECT_EQ(plan.decisions[0].op, "outer");
  EXPECT_EQ(plan.decisions[0].reason, "cpu has no override of it");
  EXPECT_EQ(plan.decisions[1].op, "rms_norm");
  EXPECT_EQ(plan.steps.size(), 2u);
}

TEST(Policy, TheEnginesSwitchWins) {
  CompileOptions options;
  EXPECT_TRUE(compile_policy(options, "cpu", "norm_scale_shift"));
  EXPECT_TRUE(compile_policy(options, "cpu", ""));
  options.compile = false;
  for (const char* platform : {"cpu", "npu", "opencl"})
    for (const char* op : {"", "norm_scale_shift"})
      EXPECT_EQ(compile_policy(options, platform, op).reason(), "the engine's switch is off (--compile off)");
}

TEST(Policy, PlatformsAndOpsCanBeExcluded) {
  CompileOptions options{.excluded_ops = {"mul_add"}};
  EXPECT_FALSE(compile_policy(options, "npu", ""));
  EXPECT_FALSE(compile_policy(options, "npu", "rms_norm"));
  EXPECT_EQ(compile_policy(options, "cpu", "mul_add").reason(), "mul_add is excluded (--compile-exclude)");
  EXPECT_TRUE(compile_policy(options, "cpu", "rms_norm"));
  EXPECT_TRUE(compile_policy(options, "cpu", ""));
}

TEST(Policy, EveryRowSaysWhy) {
  for (const PolicyRow& row : compile_policy_rows()) {
    EXPECT_FALSE(row.reason.empty()) << row.platform << " " << row.op;
    if (row.op != "*") {
      EXPECT_NO_THROW(check_op_name("policy", row.op));
    }
  }
}

TEST(Ops, TheListHasEveryOp) {
  std::set<std::string> found;
  for (const auto& file : std::filesystem::directory_iterator(std::filesystem::path(ZOE_FIXTURES) / "../../src/ops"))
    if (file.path().extension() == ".h") found.insert(file.path().stem());
  for (const char* shared : {"modulation", "norm", "register", "rotary"}) EXPECT_EQ(found.erase(shared), 1u) << shared;
  EXPECT_EQ(found, std::set<std::string>(op_names().begin(), op_names().end()));
}

TEST(Compile, KeepsThePassesTextsWhenAsked) {
  const auto platform = open_platform("null");
  EXPECT_TRUE(compile(norms(64), *platform).passes.empty());
  const Plan plan = compile(norms(64), *platform, {.keep_passes = true});
  ASSERT_GE(plan.passes.size(), 2u);
  EXPECT_EQ(plan.passes[0].first, "trace");
  EXPECT_NE(plan.passes[0].second.find("call"), std::string::npos);
  EXPECT_EQ(plan.passes[1].first, "inline_calls");
  EXPECT_EQ(plan.passes[1].second.find("call"), std::string::npos);
}

}  // namespace
}  // namespace zoe
