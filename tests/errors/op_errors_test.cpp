// Every argument of every op: a wrong shape, a wrong dtype and an absent one where it must be there are errors that name op and
// argument, what was got and what is accepted.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "ops/channel_norm.h"
#include "ops/mul_add.h"
#include "ops/norm_scale_shift.h"
#include "ops/norm_tanh_mul_add.h"
#include "ops/norm_tanh_mul_add_norm_scale.h"
#include "ops/rms_norm.h"
#include "ops/rotary_interleaved.h"
#include "ops/rotary_split.h"
#include "ops/scale_residual_norm_scale_shift.h"
#include "ops/scale_shift.h"

namespace zoe {
namespace {

constexpr std::int64_t kBatch = 2, kLength = 6, kWidth = 40;
const Shape kTokens{kBatch, kLength, kWidth};

struct Kind {
  Shape right;
  std::vector<Shape> wrong;
  std::string expected;  // the end of the message
  bool optional;
};

const Kind kX{kTokens, {{}, {kWidth}, {kLength, kWidth}, {1, kBatch, kLength, kWidth}}, "expected f32 or bf16 [B,L,C].", false};
const Kind kLikeX{kTokens, {{kBatch, kLength, 1}, {1, kLength, kWidth}, {kBatch, 1, kWidth}}, "expected [2,6,40] as ", false};
// Near misses of every form.
const std::vector<Shape> kNoModulations{{1},
                                        {kWidth - 1},
                                        {kLength},
                                        {3, kWidth},
                                        {kBatch, 1},
                                        {kLength, kWidth},
                                        {kBatch, kLength, 1},
                                        {kBatch, 3, kWidth},
                                        {3, 1, kWidth},
                                        {1, 3, 1, kWidth},
                                        {kBatch, 4, 1, kWidth},
                                        {kBatch, 12, 1, kWidth},
                                        {kBatch, 3, 2, kWidth},
                                        {kBatch, 3, 1, 1},
                                        {1, kBatch, kLength, 1, kWidth}};
const Kind kModulation{
    {kWidth},
    kNoModulations,
    "expected f32 or bf16 in one of the forms scalar, [40], [1|2,40], [1|2,1|6,40] or [2,F,1,40] where F divides "
    "6, to match x [2,6,40].",
    true};
const Kind kNeededModulation{kModulation.right, kModulation.wrong, kModulation.expected, false};
const Kind kVector{{kWidth}, {{}, {1}, {kWidth + 1}, {1, kWidth}, {kBatch, kWidth}}, "expected f32 or bf16 [40].", true};
const Kind kNeededVector{kVector.right, kVector.wrong, kVector.expected, false};
const Kind kRows{kTokens, {{}}, "expected f32 or bf16 [..,C].", false};
const Kind kHeads{{kBatch, kLength, 3, 8},
                  {{}, {kLength, 3, 8}, {kBatch, kLength, 3, 7}, {1, kBatch, kLength, 3, 8}},
                  "expected f32 or bf16 [B,L,N,D] with D even.",
                  false};
const Kind kTable{{kLength, 1, 8},
                  {{}, {8}, {kLength, 8}, {1, 1, 8}, {kLength, 2, 8}, {kLength, 1, 4}, {1, kLength, 1, 8}},
                  "expected f32[6,1|3,8] to match x f32[2,6,3,8].",
                  false};

struct OpArguments {
  std::string op;
  std::vector<std::pair<std::string, Kind>> arguments;
  std::function<void(const std::vector<Value>&)> call;
};

const OpArguments kOps[] = {
    {"mul_add", {{"a", kX}, {"b", kModulation}, {"c", kLikeX}}, [](const std::vector<Value>& v) { mul_add(v[0], v[1], v[2]); }},
    {"scale_shift",
     {{"x", kX}, {"scale", kModulation}, {"shift", kModulation}},
     [](const std::vector<Value>& v) { scale_shift(v[0], v[1], v[2]); }},
    {"norm_scale_shift",
     {{"x", kX}, {"scale", kModulation}, {"shift", kModulation}, {"norm weight", kVector}, {"norm bias", kVector}},
     [](const std::vector<Value>& v) { norm_scale_shift(v[0], v[1], v[2], {.weight = v[3], .bias = v[4]}); }},
    {"scale_residual_norm_scale_shift",
     {{"residual", kX},
      {"x", kLikeX},
      {"gate", kModulation},
      {"scale", kModulation},
      {"shift", kModulation},
      {"norm weight", kVector},
      {"norm bias", kVector}},
     [](const std::vector<Value>& v) {
       scale_residual_norm_scale_shift(v[0], v[1], v[2], v[3], v[4], {.weight = v[5], .bias = v[6]});
     }},
    {"norm_tanh_mul_add",
     {{"x", kX}, {"scale", kNeededModulation}, {"shift", kModulation}, {"norm weight", kVector}, {"norm bias", kVector}},
     [](const std::vector<Value>& v) { norm_tanh_mul_add(v[0], v[1], v[2], {.kind = Norm::rms, .weight = v[3], .bias = v[4]}); }},
    {"norm_tanh_mul_add_norm_scale",
     {{"x", kX},
      {"scale", kNeededModulation},
      {"shift", kModulation},
      {"scale2", kModulation},
      {"norm weight", kVector},
      {"norm bias", kVector},
      {"weight2", kVector},
      {"bias2", kVector}},
     [](const std::vector<Value>& v) {
       norm_tanh_mul_add_norm_scale(v[0], v[1], v[2], v[3], {.weight = v[4], .bias = v[5]}, v[6], v[7]);
     }},
    {"rms_norm", {{"x", kRows}, {"weight", kVector}}, [](const std::vector<Value>& v) { rms_norm(v[0], v[1], 1e-6); }},
    {"channel_norm", {{"x", kRows}, {"gamma", kNeededVector}}, [](const std::vector<Value>& v) { channel_norm(v[0], v[1]); }},
    {"rotary_interleaved",
     {{"x", kHeads}, {"cos_full", kTable}, {"sin_signed", kTable}},
     [](const std::vector<Value>& v) { rotary_interleaved(v[0], v[1], v[2]); }},
    {"rotary_split",
     {{"x", kHeads}, {"cos_full", kTable}, {"sin_signed", kTable}},
     [](const std::vector<Value>& v) { rotary_split(v[0], v[1], v[2]); }},
};

// The op's error for its right arguments but one; "none" if there is none.
std::string error_with(const OpArguments& op, std::size_t which, const Value& wrong) {
  std::vector<Value> values;
  for (const auto& [argument, kind] : op.arguments) values.push_back(input(argument, DType::f32, kind.right));
  values[which] = wrong;
  try {
    op.call(values);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid_argument) << error.what();
    return error.what();
  }
  return "none";
}

class OpErrors : public ::testing::TestWithParam<OpArguments> {
 protected:
  // Calls body(which, argument's name, kind) for every argument.
  template <class Body>
  void for_each_argument(const Body& body) const {
    for (std::size_t which = 0; which < GetParam().arguments.size(); ++which)
      body(which, GetParam().arguments[which].first, GetParam().arguments[which].second);
  }
  void expect_error(const std::string& got, const std::string& argument, const std::string& type,
                    const std::string& expected) const {
    const std::string text = "[" + GetParam().op + "] bad " + argument + ": got " + type + ", ";
    EXPECT_EQ(got.substr(0, text.size()), text);
    EXPECT_NE(got.find(expected), std::string::npos) << got << "\nshould say: " << expected;
  }
};
INSTANTIATE_TEST_SUITE_P(Ops, OpErrors, ::testing::ValuesIn(kOps), [](const auto& op) { return op.param.op; });

TEST_P(OpErrors, RightArgumentsAreAccepted) {
  EXPECT_EQ(error_with(GetParam(), 0, input("x", DType::f32, GetParam().arguments[0].second.right)), "none");
}

TEST_P(OpErrors, AWrongShapeNamesTheArgumentAndTheForms) {
  for_each_argument([&](std::size_t which, const std::string& argument, const Kind& kind) {
    for (const Shape& wrong : kind.wrong) {
      const Value value = input("wrong", DType::f32, wrong);
      expect_error(error_with(GetParam(), which, value), argument, value.type().str(), kind.expected);
    }
  });
}

TEST_P(OpErrors, AWrongDtypeNamesTheArgumentAndTheDtypes) {
  for_each_argument([&](std::size_t which, const std::string& argument, const Kind& kind) {
    const bool table = argument == "cos_full" || argument == "sin_signed";
    // bf16 tables, too: rotary tables are f32 whatever x is.
    for (const DType dtype : table ? std::vector<DType>{DType::i32, DType::bf16} : std::vector<DType>{DType::i32}) {
      const Value value = input("wrong", dtype, kind.right);
      expect_error(error_with(GetParam(), which, value), argument, value.type().str(), table ? kind.expected : "f32 or bf16");
    }
  });
}

TEST_P(OpErrors, AnAbsentArgumentIsNamedUnlessItIsOptional) {
  for_each_argument([&](std::size_t which, const std::string& argument, const Kind& kind) {
    const std::string got = error_with(GetParam(), which, {});
    if (kind.optional) EXPECT_EQ(got, "none") << argument;
    else expect_error(got, argument, "none", "expected ");
  });
}

TEST(MulAddErrors, WithoutAGateKIsZeroOrOne) {
  const Value x = input("x", DType::f32, kTokens);
  try {
    mul_add(x, {}, x, 0.5);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()), "[mul_add] bad k: got 0.5 with b absent, expected 0 or 1.");
  }
}

}  // namespace
}  // namespace zoe
