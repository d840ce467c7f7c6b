// Which row of a platform's table runs a node, what is compiled, and what the plan records of both.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include "base/error.h"
#include "compiler/compile.h"
#include "compiler/policy.h"
#include "ops/norm_scale_shift.h"
#include "ops/register.h"
#include "ops/rms_norm.h"
#include "platform/implementation.h"
#include "testing/temporary_folder.h"

namespace zoe {
namespace {

// norm_scale_shift, rms_norm with a weight, and a sum between them.
Graph norms(std::int64_t width) {
  const Value x = input("x", DType::f32, {1, 5, width}), scale = input("scale", DType::f32, {1, 1, width}),
              shift = input("shift", DType::f32, {1, 1, width});
  const Value n = norm_scale_shift(x, scale, shift);
  const Value r = rms_norm(n, parameter("w", DType::f32, {width}), 1e-6);
  return make_graph("norms", {x, scale, shift}, {norm_scale_shift(r + n, scale, shift), r});
}

TEST(Signature, CallsThatDifferInsideDiffer) {
  const Value x = input("x", DType::f32, {1, 5, 64}), w = parameter("w", DType::f32, {64});
  EXPECT_EQ(signature(rms_norm(x, w, 1e-6).node()), signature(rms_norm(x, w, 1e-6).node()));
  EXPECT_NE(signature(rms_norm(x, w, 1e-6).node()), signature(rms_norm(x, w, 1e-5).node()));
}

struct Nothing : Kernel {
  std::string_view implementation() const override { return "nothing"; }
  void run(Stream&, std::span<const Slot>, std::span<const Slot>, Slot) const override {}
};

// A table of rows that say what they were asked, and one that a library refuses when it is asked for the kernel.
class Rows : public ::testing::Test {
 protected:
  static std::unique_ptr<Kernel> make(const Node&, Making&) { return std::make_unique<Nothing>(); }
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
  EXPECT_EQ(text(of(product(4))), "narrow");
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
  EXPECT_EQ(message("no-plian"),
            "[--override] no such row on test: got \"plian\", expected rows of its table, with no- in front for never, or require: "
            "narrow, library, plain, any. Did you mean plain?");
  EXPECT_EQ(message("any,"),
            "[--override] got \"any,\", expected names of rows, with no- in front for never, or require, separated by commas.");
  EXPECT_EQ(message("no-narrow,no-library,no-plain,no-any").find("[test] no kernel for linear"), 0u) << message("no-any");
}

TEST_F(Rows, AnswerWhatTheCompilerAsks) {
  const auto asks = [&](std::string_view rules) { return Selection("test", table, parse_override_rules(rules)); };
  // The row that takes the bare product, or one before it, takes the activation, too.
  EXPECT_TRUE(asks("require").takes_epilogue(product(4, Activation::silu).node()));
  EXPECT_TRUE(asks("any").takes_epilogue(product(64, Activation::silu).node()));
  EXPECT_FALSE(asks("no-library").takes_epilogue(product(64, Activation::silu).node()));
  EXPECT_TRUE(asks("no-library").merges_products(product(64).node()));
  EXPECT_EQ(asks("require").merges_products(product(4).node()).reason(), "narrow of test gains nothing by that");
  const Value conv = zoe::conv(input("x", DType::f32, {3, 8, 8, 4}), parameter("w", DType::f32, {4, 4, 3, 1, 1}), {}, {});
  Node with_history = conv.node();
  auto attributes = with_history.as<ProductAttributes>();
  attributes.has_history = true;
  with_history.attributes = attributes;
  with_history.inputs.push_back(input("earlier", DType::f32, {2, 8, 8, 4}));
  EXPECT_TRUE(asks("require").takes_history(with_history));
  EXPECT_FALSE(asks("no-any").takes_history(with_history));
  EXPECT_EQ(asks("require").choose(with_history).refused.front().reason, "the frames before x have to lie in front of it");
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
