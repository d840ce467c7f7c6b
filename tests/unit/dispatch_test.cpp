// Who runs an op: overrides, the compile policy, and what the plan records of both.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>

#include "base/error.h"
#include "compiler/policy.h"
#include "compiler/run.h"
#include "ops/norm_scale_shift.h"
#include "ops/register.h"
#include "ops/rms_norm.h"
#include "platform/implementation.h"
#include "testing/temporary_folder.h"

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

Support wide_enough(const Node& call) {
  const std::int64_t width = call.inputs[0].dim(-1);
  return width % 8 == 0 ? Support::yes() : Support::no("the width {} is not a multiple of 8", width);
}

// `cpu`, with rows for two whole ops in front.
class OverridingPlatform : public Platform {
 public:
  OverridingPlatform() {
    table_ = {{.name = "test_norm_scale_shift",
               .of = one_of<Opcode::call>,
               .op = "norm_scale_shift",
               .supports = wide_enough,
               .make = [](const Node& call, Making&) -> std::unique_ptr<Kernel> { return std::make_unique<NormScaleShift>(call); }},
              {.name = "test_rms_norm",
               .of = one_of<Opcode::call>,
               .op = "rms_norm",
               .make = [](const Node& call, Making&) -> std::unique_ptr<Kernel> { return std::make_unique<RmsNorm>(call); }}};
    for (const Implementation& row : cpu_->implementations()) table_.push_back(row);
  }
  const DeviceInfo& info() const override { return cpu_->info(); }
  std::uint64_t free_bytes() const override { return cpu_->free_bytes(); }
  std::shared_ptr<Buffer> allocate(std::size_t bytes, std::string_view what) override { return cpu_->allocate(bytes, what); }
  std::unique_ptr<Stream> make_stream() override { return cpu_->make_stream(); }
  void upload(Stream& s, const void* host, Slot device, std::size_t bytes) override { cpu_->upload(s, host, device, bytes); }
  void download(Stream& s, Slot device, void* host, std::size_t bytes) override { cpu_->download(s, device, host, bytes); }
  std::span<const Implementation> implementations() const override { return table_; }

 private:
  std::unique_ptr<Platform> cpu_ = open_platform("cpu", {.threads = 1});
  std::vector<Implementation> table_;
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
  const Plan native = compile(norms(64), platform, {.overrides = {.ops = OverrideRules::Ops::native}});
  EXPECT_EQ(call_steps(taken), 3);
  EXPECT_EQ(call_steps(native), 0);
  EXPECT_EQ(run_on(platform, taken), run_on(platform, native));

  ASSERT_EQ(taken.decisions.size(), 3u);
  EXPECT_EQ(taken.decisions[0].op, "norm_scale_shift");
  EXPECT_EQ(taken.decisions[0].implementation, "test_norm_scale_shift");
  EXPECT_EQ(taken.decisions[0].reason, "the override takes it");
  EXPECT_GT(taken.decisions[0].nodes, 5u);
  EXPECT_EQ(taken.decisions[1].implementation, "test_rms_norm");
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
  EXPECT_EQ(plan.decisions[0].reason, "test_norm_scale_shift: the width 60 is not a multiple of 8");
  EXPECT_EQ(plan.decisions[1].implementation, "test_rms_norm");
  EXPECT_EQ(run_on(platform, plan),
            run_on(platform, compile(norms(60), platform, {.overrides = {.ops = OverrideRules::Ops::native}})));
}

TEST(Override, RequiredNamesTheOpAndTheReason) {
  OverridingPlatform platform;
  EXPECT_EQ(call_steps(compile(norms(64), platform, {.overrides = {.ops = OverrideRules::Ops::require}})), 3);
  try {
    compile(norms(60), platform, {.overrides = {.ops = OverrideRules::Ops::require}});
    FAIL() << "compiled";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::unsupported);
    EXPECT_EQ(std::string(error.what()),
              "[override] norm_scale_shift cannot run its override on cpu: test_norm_scale_shift: the width 60 is not a multiple "
              "of 8. With "
              "--override allow its native definition runs.");
  }
  // Only where the platform has one.
  const auto null = open_platform("null");
  const Plan plan = compile(norms(60), *null, {.overrides = {.ops = OverrideRules::Ops::require}});
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

// A table of rows that say what they were asked, and one that a library refuses when it is asked for the kernel.
class Rows : public ::testing::Test {
 protected:
  static std::unique_ptr<Kernel> make(const Node& call, Making&) { return std::make_unique<RmsNorm>(call); }
  std::vector<Implementation> table = {
      {.name = "narrow",
       .of = one_of<Opcode::linear>,
       .supports =
           [](const Node& node) {
             return node.inputs[0].dim(-1) < 8 ? Support::yes() : Support::no("{} wide", node.inputs[0].dim(-1));
           },
       .make = make},
      {.name = "library",
       .of = one_of<Opcode::linear>,
       .make = [](const Node&, Making& making) { return making.refuse("no engine"); }},
      {.name = "plain",
       .of = one_of<Opcode::linear, Opcode::conv>,
       .supports =
           [](const Node& node) {
             return node.as<ProductAttributes>().activation == Activation::none ? Support::yes() : Support::no("no activations");
           },
       .make = make,
       .gains_by_merging = true},
      {.name = "any", .of = one_of<Opcode::linear, Opcode::conv>, .make = make, .reads_history = true},
  };
  static Value product(std::int64_t width, Activation activation = Activation::none) {
    return linear(input("x", DType::f32, {2, width}), parameter("w", DType::f32, {4, width}), {.activation = activation});
  }
  Implemented of(const Value& value, const OverrideRules& rules = {}) const {
    return Selection("test", table, rules).implement(value.node());
  }
  static std::string text(const Implemented& made) {
    std::string text = made.row;
    for (const Refusal& refusal : made.refused) text += fmt::format(" | {}: {}", refusal.row, refusal.reason);
    return text;
  }
};

TEST_F(Rows, TheFirstThatTakesANodeRunsAndTheOthersSayWhy) {
  EXPECT_EQ(text(of(product(4))), "narrow");
  EXPECT_EQ(text(of(product(64))), "plain | narrow: 64 wide | library: no engine");
  EXPECT_EQ(text(of(product(64, Activation::silu))), "any | narrow: 64 wide | library: no engine | plain: no activations");
}

TEST_F(Rows, OfCodesAreForCodesAlone) {
  const Value x = input("x", DType::f32, {2, 4}), coded = linear(x, parameter("w", DType::f32, {4, 4}), {.codes = Codes::i8});
  const Selection::Choice none = Selection("test", table).choose(coded.node());
  EXPECT_EQ(none.row, nullptr);
  EXPECT_EQ(none.refused.back().reason, "its operands become codes of i8");
  table.insert(table.begin(), {.name = "codes", .of = one_of<Opcode::linear>, .make = make, .takes_codes = true});
  EXPECT_EQ(text(of(coded)), "codes");
  EXPECT_EQ(text(of(product(4))), "narrow | codes: it is exact");
  // Forbidden, they are not computed in another way.
  EXPECT_THROW(of(coded, parse_override_rules("no-codes")), Error);
}

TEST_F(Rows, AreForcedAndForbiddenByName) {
  EXPECT_EQ(text(of(product(4), parse_override_rules("any"))), "any");
  EXPECT_EQ(text(of(product(4), parse_override_rules("no-narrow,no-library"))),
            "plain | narrow: forbidden (--override no-narrow) | library: forbidden (--override no-library)");
  // What is asked first may still say no, unless it must not.
  EXPECT_EQ(text(of(product(4, Activation::silu), parse_override_rules("plain"))), "narrow | plain: no activations");
  const Value value = product(4, Activation::silu);
  const Node* const node = &value.node();
  EXPECT_THROW(Selection("test", table, parse_override_rules("require,plain")).implement({&node, 1}, false), Error);
  const auto message = [&](std::string_view rules) {
    try {
      of(product(4), parse_override_rules(rules));
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_EQ(
      message("no-plian"),
      "[--override] no such row on test: got \"plian\", expected allow, native, require or rows of its table, with no- in front "
      "for never: narrow, library, plain, any. Did you mean plain?");
  EXPECT_EQ(
      message("any,"),
      "[--override] got \"any,\", expected allow, native, require or names of rows, with no- in front for never, separated by "
      "commas.");
  EXPECT_EQ(message("no-narrow,no-library,no-plain,no-any").find("[test] no kernel for linear"), 0u) << message("no-any");
}

TEST_F(Rows, AnswerWhatTheCompilerAsks) {
  const auto asks = [&](std::string_view rules) { return Selection("test", table, parse_override_rules(rules)); };
  // The row that takes the bare product, or one before it, takes the activation, too.
  EXPECT_TRUE(asks("allow").takes_epilogue(product(4, Activation::silu).node()));
  EXPECT_TRUE(asks("any").takes_epilogue(product(64, Activation::silu).node()));
  EXPECT_FALSE(asks("no-library").takes_epilogue(product(64, Activation::silu).node()));
  EXPECT_TRUE(asks("no-library").merges_products(product(64).node()));
  EXPECT_EQ(asks("allow").merges_products(product(4).node()).reason(), "narrow of test gains nothing by that");
  const Value conv = zoe::conv(input("x", DType::f32, {3, 8, 8, 4}), parameter("w", DType::f32, {4, 4, 3, 1, 1}), {}, {});
  Node with_history = conv.node();
  auto attributes = with_history.as<ProductAttributes>();
  attributes.has_history = true;
  with_history.attributes = attributes;
  with_history.inputs.push_back(input("earlier", DType::f32, {2, 8, 8, 4}));
  EXPECT_TRUE(asks("allow").takes_history(with_history));
  EXPECT_FALSE(asks("no-any").takes_history(with_history));
  EXPECT_EQ(asks("allow").choose(with_history).refused.front().reason, "the frames before x have to lie in front of it");
}

TEST(Tables, NamesAreTheirOwn) {
  for (const char* name : {"cpu", "null"}) {
    const auto platform = open_platform(name);
    std::set<std::string_view> names;
    for (const Implementation& row : platform->implementations()) {
      EXPECT_TRUE(names.insert(row.name).second) << row.name;
      EXPECT_TRUE(row.make || row.make_all) << row.name;
    }
  }
}

DeviceInfo device_of(std::string platform, std::string device) {
  return {.platform = std::move(platform), .name = std::move(device), .features = "", .memory_bytes = 1};
}
const DeviceInfo kCpu = device_of("cpu", "EPYC 9654");

TEST(Policy, TheEnginesSwitchWins) {
  CompileOptions options;
  EXPECT_TRUE(compile_policy(options, kCpu, "norm_scale_shift"));
  EXPECT_TRUE(compile_policy(options, kCpu, ""));
  options.compile = false;
  options.policy = {{.reason = "slow here"}};
  for (const char* op : {"", "norm_scale_shift"})
    EXPECT_EQ(compile_policy(options, kCpu, op).reason(), "the engine's switch is off (--compile off)");
}

TEST(Policy, PlatformsDevicesAndOpsCanBeExcluded) {
  CompileOptions options{.excluded_ops = {"mul_add"}};
  EXPECT_EQ(compile_policy(options, kCpu, "mul_add").reason(), "mul_add is excluded (--compile-exclude)");
  EXPECT_TRUE(compile_policy(options, kCpu, "rms_norm"));
  options.policy = {{.platform = "opencl", .reason = "a"}, {.device = "9654", .op = "rms_norm", .reason = "b"}};
  EXPECT_EQ(compile_policy(options, device_of("opencl", ""), "").reason(), "a");
  EXPECT_EQ(compile_policy(options, kCpu, "rms_norm").reason(), "b");
  EXPECT_TRUE(compile_policy(options, device_of("cpu", "Core i7"), "rms_norm"));
  EXPECT_TRUE(compile_policy(options, kCpu, ""));
}

TEST(Policy, AFileAddsRows) {
  const testing::TemporaryFolder folder;
  const auto read = [&](std::string_view text) -> std::string {
    std::ofstream(folder.path() / "policy.json") << text;
    try {
      std::string out;
      for (const PolicyRow& row : read_compile_policy(folder.path() / "policy.json"))
        out += fmt::format("{}/{}/{}/{};", row.platform, row.device, row.op, row.reason);
      return out;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::invalid_argument);
      return error.what();
    }
  };
  EXPECT_EQ(read(R"({"rows": [{"platform": "opencl", "device": "Adreno", "reason": "a"}, {"op": "rms_norm", "reason": "b"}]})"),
            "opencl/Adreno/*/a;*/*/rms_norm/b;");
  EXPECT_NE(read(R"({"rows": [{"reason": ""}]})").find("bad reason of row 0: got \"\""), std::string::npos);
  EXPECT_NE(read(R"({"rows": [{"reason": "a", "devise": "x"}]})").find("Did you mean device?"), std::string::npos);
  EXPECT_NE(read(R"({"rows": [{"op": "rms_norm"}]})").find("reason"), std::string::npos);
}

TEST(Policy, ARowStopsFusion) {
  const auto platform = open_platform("null");
  const Plan all = compile(norms(64), *platform);
  const Plan none = compile(norms(64), *platform, {.policy = {{.platform = "null", .device = "no dev", .reason = "a test"}}});
  EXPECT_LT(all.steps.size(), none.steps.size());
  EXPECT_EQ(std::count_if(none.steps.begin(), none.steps.end(), [](const Step& s) { return s.node->opcode == Opcode::fused; }), 0);
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
