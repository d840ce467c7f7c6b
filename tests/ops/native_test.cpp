// The ops' native definitions against their formulas written out in f64, by the reference interpreter and on the cpu platform:
// op x dtype x form of the modulations.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>

#include "base/error.h"
#include "ops/channel_norm.h"
#include "ops/mul_add.h"
#include "ops/norm_scale_shift.h"
#include "ops/rms_norm.h"
#include "ops/rotary_interleaved.h"
#include "ops/scale_residual_norm_scale_shift.h"
#include "ops/scale_shift.h"
#include "testing/compare.h"
#include "testing/graphs.h"

namespace zoe {
namespace {

using testing::relative_rms_within;
using testing::run_graph;

constexpr std::int64_t kBatch = 2, kLength = 6, kWidth = 40, kFrames = 3;
constexpr double kEps = 1e-5;
const Shape kTokens{kBatch, kLength, kWidth};

double rounded(double value, DType dtype) {
  const auto narrow = static_cast<float>(value);
  return dtype == DType::bf16 ? static_cast<double>(bf16_to_f32(f32_to_bf16(narrow))) : static_cast<double>(narrow);
}

// An argument: its place in the graph, and its values.
struct Argument {
  Value value;
  ReferenceTensor tensor;

  // What a modulation of any form is for token (b, l) and column c; `absent` if there is none.
  double at(std::int64_t b, std::int64_t l, std::int64_t c, double absent = 0) const {
    if (!value) return absent;
    const Shape& form = tensor.shape;
    std::int64_t row = 0;
    if (form.rank() == 2) row = form.dim(0) == 1 ? 0 : b;
    if (form.rank() == 3) row = (form.dim(0) == 1 ? 0 : b) * form.dim(1) + (form.dim(1) == 1 ? 0 : l);
    if (form.rank() == 4) row = b * form.dim(1) + l / (kLength / form.dim(1));
    return tensor.values[static_cast<std::size_t>(form.rank() == 0 ? 0 : row * kWidth + c)];
  }
};

// Collects arguments with reproducible random values.
struct Arguments {
  std::mt19937 random{7};
  std::vector<Value> inputs;
  std::vector<ReferenceTensor> tensors;

  Argument add(DType dtype, const Shape& shape, double offset = 0) {
    ReferenceTensor tensor{shape, {}};
    for (std::int64_t i = 0; i < shape.count(); ++i)
      tensor.values.push_back(rounded(offset + static_cast<double>(random()) / 1073741824.0 - 2, dtype));  // in [-2, 2)
    inputs.push_back(input("x" + std::to_string(inputs.size()), dtype, shape));
    tensors.push_back(tensor);
    return {inputs.back(), std::move(tensor)};
  }
};

using Row = std::vector<double>;
using RowNorm = std::function<Row(const Row&)>;

Row layer_norm(const Row& x) {
  double mean = 0, variance = 0;
  for (double value : x) mean += value / static_cast<double>(x.size());
  for (double value : x) variance += (value - mean) * (value - mean) / static_cast<double>(x.size());
  Row y;
  for (double value : x) y.push_back((value - mean) / std::sqrt(variance + kEps));
  return y;
}

Row rms(const Row& x) {
  double power = 0;
  for (double value : x) power += value * value / static_cast<double>(x.size());
  Row y;
  for (double value : x) y.push_back(value / std::sqrt(power + kEps));
  return y;
}

// What an op must return: for each token, the row of each result.
using RowFormula = std::function<std::vector<Row>(std::int64_t b, std::int64_t l)>;

void expect_formula(const std::string& runner, const Arguments& arguments, const std::vector<Value>& results,
                    const RowFormula& formula, double f32_tolerance = 1e-6) {
  const Graph graph = make_graph("case", arguments.inputs, results);
  verify(graph);
  const auto got = run_graph(runner, graph, arguments.tensors);
  for (std::size_t r = 0; r < results.size(); ++r) {
    std::vector<double> expected;
    for (std::int64_t b = 0; b < kBatch; ++b)
      for (std::int64_t l = 0; l < kLength; ++l) {
        const std::vector<Row> rows = formula(b, l);
        for (double value : rows[r]) expected.push_back(rounded(value, results[r].dtype()));
      }
    // f32 sums of 40 columns; a value on the edge between two bf16 may fall to either side.
    const double tolerance = results[r].dtype() == DType::f32 ? f32_tolerance : 1e-3;
    EXPECT_TRUE(relative_rms_within(got[r].values, expected, results[r].shape(), tolerance)) << "result " << r << "\n"
                                                                                             << print(graph);
  }
}

Row row_of(const Argument& x, std::int64_t b, std::int64_t l) {
  Row row;
  for (std::int64_t c = 0; c < kWidth; ++c)
    row.push_back(x.tensor.values[static_cast<std::size_t>((b * kLength + l) * kWidth + c)]);
  return row;
}

struct Case {
  const char* runner;
  DType dtype, modulation_dtype;
  Shape form;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.runner << " " << name(c.dtype) << " modulation " << Type{c.modulation_dtype, c.form}.str();
}

class Ops : public ::testing::TestWithParam<Case> {};

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const char* runner : {"interpreter", "cpu"})
    for (DType dtype : {DType::f32, DType::bf16})
      for (DType modulation : {DType::f32, DType::bf16})
        for (const Shape& form : {Shape{}, Shape{kWidth}, Shape{1, kWidth}, Shape{kBatch, kWidth}, Shape{1, 1, kWidth},
                                  Shape{kBatch, 1, kWidth}, Shape{1, kLength, kWidth}, kTokens, Shape{kBatch, kFrames, 1, kWidth}})
          cases.push_back({runner, dtype, modulation, form});
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Forms, Ops, ::testing::ValuesIn(all_cases()));

TEST_P(Ops, MulAdd) {
  const Case& p = GetParam();
  for (double k : {0.0, 1.0}) {
    Arguments arguments;
    const Argument a = arguments.add(p.dtype, kTokens), b = arguments.add(p.modulation_dtype, p.form),
                   c = arguments.add(p.dtype, kTokens);
    expect_formula(p.runner, arguments, {mul_add(a.value, b.value, c.value, k)}, [&](std::int64_t batch, std::int64_t l) {
      Row row = row_of(c, batch, l);
      for (std::size_t i = 0; i < row.size(); ++i)
        row[i] += row_of(a, batch, l)[i] * (k + b.at(batch, l, static_cast<std::int64_t>(i)));
      return std::vector<Row>{row};
    });
  }
}

TEST_P(Ops, ScaleShift) {
  const Case& p = GetParam();
  for (double k : {0.0, 1.0}) {
    Arguments arguments;
    const Argument x = arguments.add(p.dtype, kTokens), scale = arguments.add(p.modulation_dtype, p.form),
                   shift = arguments.add(p.modulation_dtype, p.form);
    expect_formula(p.runner, arguments, {scale_shift(x.value, scale.value, shift.value, k)}, [&](std::int64_t b, std::int64_t l) {
      Row row = row_of(x, b, l);
      for (std::int64_t c = 0; c < kWidth; ++c) {
        double& value = row[static_cast<std::size_t>(c)];
        value = value * (k + scale.at(b, l, c)) + shift.at(b, l, c);
      }
      return std::vector<Row>{row};
    });
  }
}

// norm(x) * weight + bias, then * (1 + scale) + shift.
Row modulated(const RowNorm& norm, const Row& x, std::int64_t b, std::int64_t l, const Argument& weight, const Argument& bias,
              const Argument& scale, const Argument& shift) {
  Row row = norm(x);
  for (std::int64_t c = 0; c < kWidth; ++c) {
    double& value = row[static_cast<std::size_t>(c)];
    value = value * weight.at(b, l, c, 1) + bias.at(b, l, c);
    value = value * (1 + scale.at(b, l, c)) + shift.at(b, l, c);
  }
  return row;
}

TEST_P(Ops, NormScaleShift) {
  const Case& p = GetParam();
  for (const bool layer : {true, false}) {
    for (const bool affine : {true, false}) {
      Arguments arguments;
      // A mean far from zero: it is known to half a unit in its last place, 1.5e-5; squares summed before it is taken off would
      // be 100 times as far out.
      const bool far = layer && p.dtype == DType::f32;
      const Argument x = arguments.add(p.dtype, kTokens, far ? 300 : 0.5);
      const Argument scale = arguments.add(p.modulation_dtype, p.form), shift = arguments.add(p.modulation_dtype, p.form);
      const Argument weight = affine ? arguments.add(p.modulation_dtype, {kWidth}) : Argument{};
      const Argument bias = affine ? arguments.add(DType::f32, {kWidth}) : Argument{};
      const NormOptions norm{layer ? Norm::layer : Norm::rms, kEps, weight.value, bias.value};
      expect_formula(
          p.runner, arguments, {norm_scale_shift(x.value, scale.value, shift.value, norm)},
          [&](std::int64_t b, std::int64_t l) {
            return std::vector<Row>{modulated(layer ? layer_norm : rms, row_of(x, b, l), b, l, weight, bias, scale, shift)};
          },
          far ? 5e-5 : 1e-6);
    }
  }
}

TEST_P(Ops, ScaleResidualNormScaleShift) {
  const Case& p = GetParam();
  for (const bool gated : {true, false}) {
    for (const bool affine : {true, false}) {
      Arguments arguments;
      const Argument residual = arguments.add(p.dtype, kTokens), x = arguments.add(p.dtype, kTokens);
      const Argument gate = gated ? arguments.add(p.modulation_dtype, p.form) : Argument{};
      const Argument scale = affine ? Argument{} : arguments.add(p.modulation_dtype, p.form);
      const Argument shift = affine ? Argument{} : arguments.add(p.modulation_dtype, p.form);
      const Argument weight = affine ? arguments.add(DType::f32, {kWidth}) : Argument{};
      const Argument bias = affine ? arguments.add(DType::f32, {kWidth}) : Argument{};
      const NormOptions norm{Norm::layer, kEps, weight.value, bias.value};
      const NormedResidual result =
          scale_residual_norm_scale_shift(residual.value, x.value, gate.value, scale.value, shift.value, norm);
      expect_formula(p.runner, arguments, {result.y, result.residual}, [&](std::int64_t b, std::int64_t l) {
        Row r = row_of(residual, b, l);
        for (std::int64_t c = 0; c < kWidth; ++c) {
          double& value = r[static_cast<std::size_t>(c)];
          value = rounded(value + gate.at(b, l, c, 1) * row_of(x, b, l)[static_cast<std::size_t>(c)], p.dtype);
        }
        return std::vector<Row>{modulated(layer_norm, r, b, l, weight, bias, scale, shift), r};
      });
    }
  }
}

class RowNorms : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Forms, RowNorms,
                         ::testing::Values(Case{"interpreter", DType::f32, DType::f32, {}},
                                           Case{"interpreter", DType::bf16, DType::bf16, {}},
                                           Case{"cpu", DType::f32, DType::f32, {}}, Case{"cpu", DType::bf16, DType::f32, {}},
                                           Case{"cpu", DType::bf16, DType::bf16, {}}));

TEST_P(RowNorms, RmsNorm) {
  const Case& p = GetParam();
  Arguments arguments;
  const Argument x = arguments.add(p.dtype, kTokens), weight = arguments.add(p.modulation_dtype, {kWidth});
  expect_formula(p.runner, arguments, {rms_norm(x.value, weight.value, kEps)}, [&](std::int64_t b, std::int64_t l) {
    Row row = rms(row_of(x, b, l));
    for (std::int64_t c = 0; c < kWidth; ++c) row[static_cast<std::size_t>(c)] *= weight.at(b, l, c);
    return std::vector<Row>{row};
  });
}

TEST_P(RowNorms, ChannelNormAndARowOfZeros) {
  const Case& p = GetParam();
  Arguments arguments;
  Argument x = arguments.add(p.dtype, kTokens);
  const Argument gamma = arguments.add(p.modulation_dtype, {kWidth});
  for (std::int64_t c = 0; c < kWidth; ++c) x.tensor.values[static_cast<std::size_t>(kWidth + c)] = 0;
  arguments.tensors[0] = x.tensor;
  expect_formula(p.runner, arguments, {channel_norm(x.value, gamma.value)}, [&](std::int64_t b, std::int64_t l) {
    Row row = row_of(x, b, l);
    double power = 0;
    for (double value : row) power += value * value;
    for (std::int64_t c = 0; c < kWidth; ++c)
      row[static_cast<std::size_t>(c)] *=
          std::sqrt(static_cast<double>(kWidth)) / std::max(std::sqrt(power), 1e-12) * gamma.at(b, l, c);
    return std::vector<Row>{row};
  });
}

TEST_P(RowNorms, RotaryIsThePairFormulaBitForBit) {
  const Case& p = GetParam();
  constexpr std::int64_t kHeads = 3, kHead = 8;
  Arguments arguments;
  const Argument x = arguments.add(p.dtype, {kBatch, kLength, kHeads, kHead});
  ReferenceTensor cosines{{kLength, 1, kHead}, {}}, sines = cosines;
  for (std::int64_t i = 0; i < kLength * kHead / 2; ++i) {
    const float cosine = std::cos(static_cast<float>(i)), sine = std::sin(static_cast<float>(i));
    cosines.values.insert(cosines.values.end(), {cosine, cosine});
    sines.values.insert(sines.values.end(), {-sine, sine});
  }
  const Value cos_full = input("cos_full", DType::f32, cosines.shape), sin_signed = input("sin_signed", DType::f32, sines.shape);
  const Value y = rotary_interleaved(x.value, cos_full, sin_signed);
  const auto got = run_graph(p.runner, make_graph("case", {x.value, cos_full, sin_signed}, {y}), {x.tensor, cosines, sines});
  for (std::size_t i = 0; i < x.tensor.values.size(); i += 2) {
    const std::size_t at = i / (kHeads * kHead) % kLength * kHead + i % kHead;
    const double x1 = x.tensor.values[i], x2 = x.tensor.values[i + 1], cosine = cosines.values[at], sine = sines.values[at + 1];
    if (std::string(p.runner) == "cpu") {  // in f32
      const auto a = static_cast<float>(x1), b = static_cast<float>(x2), c = static_cast<float>(cosine),
                 s = static_cast<float>(sine);
      ASSERT_EQ(got[0].values[i], rounded(static_cast<double>(a * c - b * s), p.dtype)) << i;
      ASSERT_EQ(got[0].values[i + 1], rounded(static_cast<double>(b * c + a * s), p.dtype)) << i;
    } else {
      const bool narrow = p.dtype == DType::bf16;
      ASSERT_EQ(got[0].values[i], narrow ? rounded(x1 * cosine - x2 * sine, p.dtype) : x1 * cosine - x2 * sine) << i;
      ASSERT_EQ(got[0].values[i + 1], narrow ? rounded(x2 * cosine + x1 * sine, p.dtype) : x2 * cosine + x1 * sine) << i;
    }
  }
}

TEST(OpCalls, KeepTheirNativeGraphAndReadTheLargeTensorFewTimes) {
  const Value x = input("x", DType::f32, {1, 128, kWidth}), scale = input("scale", DType::f32, {1, 1, kWidth});
  const Value y = norm_scale_shift(x, scale, scale);
  ASSERT_EQ(y.node().opcode, Opcode::call);
  const auto& call = *y.node().as<std::shared_ptr<const CallAttributes>>();
  EXPECT_EQ(call.op, "norm_scale_shift");
  int passes = 0;  // results as large as x
  for (const NodePtr& node : call.native.nodes)
    passes += node->opcode != Opcode::input && node->opcode != Opcode::reshape && node->types[0].shape == x.shape();
  EXPECT_EQ(passes, 5);  // centred, its square, the two products, the sum
}

TEST(OpErrors, NameTheArgumentAndTheAcceptedForms) {
  const auto error = [](const std::function<void()>& run) {
    try {
      run();
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::invalid_argument);
      return std::string(e.what());
    }
    return std::string("none");
  };
  const auto f32 = [](Shape shape) { return input("v", DType::f32, std::move(shape)); };
  const Value x = f32(kTokens), ok = f32({kWidth});
  const std::string forms =
      "expected f32 or bf16 in one of the forms scalar, [40], [1|2,40], [1|2,1|6,40] or [2,F,1,40] where F divides 6, to match x "
      "[2,6,40].";
  EXPECT_EQ(error([&] { norm_scale_shift(x, f32({3, kWidth}), ok); }), "[norm_scale_shift] bad scale: got f32[3,40], " + forms);
  EXPECT_EQ(error([&] {
              norm_scale_shift(x, ok, f32({2, 4, 1, kWidth}));
            }),
            "[norm_scale_shift] bad shift: got f32[2,4,1,40], " + forms);
  EXPECT_EQ(error([&] { scale_shift(x, f32({kWidth - 1}), ok); }), "[scale_shift] bad scale: got f32[39], " + forms);
  EXPECT_EQ(error([&] { mul_add(x, f32({2, 3, kWidth}), x); }), "[mul_add] bad b: got f32[2,3,40], " + forms);
  EXPECT_EQ(error([&] { mul_add(x, ok, f32({2, 3, kWidth})); }), "[mul_add] bad c: got f32[2,3,40], expected [2,6,40] as a.");
  EXPECT_EQ(error([&] { scale_residual_norm_scale_shift(x, x, input("v", DType::i32, {kWidth}), {}, {}); }),
            "[scale_residual_norm_scale_shift] bad gate: got i32[40], " + forms);
  EXPECT_EQ(error([&] { norm_scale_shift(x, ok, ok, {.weight = f32({2})}); }),
            "[norm_scale_shift] bad norm weight: got f32[2], expected f32 or bf16 [40].");
  EXPECT_EQ(error([&] {
              norm_scale_shift(f32({6, kWidth}), ok, ok);
            }),
            "[norm_scale_shift] bad x: got f32[6,40], expected f32 or bf16 [B,L,C].");
  EXPECT_EQ(error([&] { rms_norm(x, f32({1}), kEps); }), "[rms_norm] bad weight: got f32[1], expected f32 or bf16 [40].");
  EXPECT_EQ(error([&] {
              channel_norm(x, f32({1, kWidth}));
            }),
            "[channel_norm] bad gamma: got f32[1,40], expected f32 or bf16 [40].");
  EXPECT_EQ(error([&] {
              rotary_interleaved(f32({1, 4, 2, 8}), f32({4, 1, 8}), f32({4, 8}));
            }),
            "[rotary_interleaved] bad sin_signed: got f32[4,8], expected f32[4,1,8] to match x f32[1,4,2,8].");
}

}  // namespace
}  // namespace zoe
