// The ops' native definitions against their formulas written out in f64: op x runner x dtypes x every form of every modulation,
// both norms. docs/ops-contract.md says what must hold.
#include <gtest/gtest.h>

#include <cmath>

#include "ops/channel_norm.h"
#include "ops/mul_add.h"
#include "ops/norm_scale_shift.h"
#include "ops/norm_tanh_mul_add.h"
#include "ops/norm_tanh_mul_add_norm_scale.h"
#include "ops/op_case.h"
#include "ops/rms_norm.h"
#include "ops/scale_residual_norm_scale_shift.h"
#include "ops/scale_shift.h"

namespace zoe {
namespace {

using testing::Argument;
using testing::Arguments;
using testing::formula_of_norm;
using testing::kBatch;
using testing::kEps;
using testing::kFrames;
using testing::kLength;
using testing::kTokens;
using testing::kWidth;
using testing::modulation_forms;
using testing::Row;
using testing::row_of;

using Results = std::vector<ReferenceTensor>;

class Ops : public testing::OpTest {
 protected:
  // Calls body(arguments, add): each call of `add` makes a modulation in the next form, so that over all calls of `body` every
  // modulation of an op has every form, and they differ from one another. Every second one is in the other dtype.
  template <class Body>
  void for_each_form(const Body& body) {
    const std::vector<Shape> forms = modulation_forms();
    for (std::size_t first = 0; first < forms.size(); ++first) {
      Arguments arguments;
      std::size_t next = first;
      body(arguments, [&] {
        const DType other = p.modulation_dtype == DType::f32 ? DType::bf16 : DType::f32;
        const DType dtype = (next - first) % 2 == 0 ? p.modulation_dtype : other;
        return arguments.add(dtype, forms[next++ % forms.size()]);
      });
    }
  }

  // As for_each_form, for both norms, with and without weight and bias: body(arguments, add, kind, weight, bias).
  template <class Body>
  void for_each_norm(const Body& body) {
    for (const Norm kind : {Norm::layer, Norm::rms})
      for (const bool affine : {false, true})
        for_each_form([&](Arguments& arguments, const auto& add) {
          const Argument weight = affine ? arguments.add(p.modulation_dtype, {kWidth}) : Argument{};
          const Argument bias = affine ? arguments.add(DType::f32, {kWidth}) : Argument{};
          body(arguments, add, kind, weight, bias);
        });
  }
};

INSTANTIATE_TEST_SUITE_P(Runners, Ops, ::testing::ValuesIn(testing::op_cases()), testing::op_case_name);

// For every column c of x's row of token (b, l): value = change(value, c).
template <class Change>
Row changed(Row row, const Change& change) {
  for (std::size_t c = 0; c < row.size(); ++c) row[c] = change(row[c], static_cast<std::int64_t>(c));
  return row;
}

// norm(x) * weight + bias
Row affine_norm(Norm kind, const Row& x, const Argument& weight, const Argument& bias) {
  return changed(formula_of_norm(kind, x),
                 [&](double value, std::int64_t c) { return value * weight.at(kTokens, 0, 0, c, 1) + bias.at(kTokens, 0, 0, c); });
}

TEST_P(Ops, MulAdd) {
  for (const double k : {0.0, 1.0, -0.5})
    for_each_form([&](Arguments& arguments, const auto& add) {
      const Argument a = arguments.add(p.dtype, kTokens), b = add(), c = arguments.add(p.modulation_dtype, kTokens);
      const Value y = mul_add(a.value, b.value, c.value, k);
      EXPECT_EQ(y.dtype(), p.modulation_dtype);  // that of c, the stream
      formulas.add(arguments, {y}, [=](std::int64_t batch, std::int64_t l, const Results&) {
        const Row branch = row_of(a.tensor, batch, l);
        return std::vector<Row>{changed(row_of(c.tensor, batch, l), [&](double value, std::int64_t i) {
          return value + branch[static_cast<std::size_t>(i)] * (k + b.at(kTokens, batch, l, i));
        })};
      });
    });
  formulas.check(p.runner);
}

TEST_P(Ops, MulAddWithoutAGate) {
  Arguments arguments;
  const Argument a = arguments.add(p.dtype, kTokens), c = arguments.add(p.modulation_dtype, kTokens);
  for (const double k : {0.0, 1.0})
    formulas.add(arguments, {mul_add(a.value, {}, c.value, k)}, [=](std::int64_t b, std::int64_t l, const Results&) {
      const Row branch = row_of(a.tensor, b, l);
      return std::vector<Row>{changed(row_of(c.tensor, b, l),
                                      [&](double value, std::int64_t i) { return value + branch[static_cast<std::size_t>(i)]; })};
    });
  formulas.check(p.runner);
}

TEST_P(Ops, ScaleShift) {
  for (const double k : {0.0, 1.0, -0.5})
    for_each_form([&](Arguments& arguments, const auto& add) {
      const Argument x = arguments.add(p.dtype, kTokens), scale = add(), shift = add();
      const Value y = scale_shift(x.value, scale.value, shift.value, k);
      EXPECT_EQ(y.dtype(), p.dtype);
      formulas.add(arguments, {y}, [=](std::int64_t b, std::int64_t l, const Results&) {
        return std::vector<Row>{changed(row_of(x.tensor, b, l), [&](double value, std::int64_t c) {
          return value * (k + scale.at(kTokens, b, l, c)) + shift.at(kTokens, b, l, c);
        })};
      });
    });
  formulas.check(p.runner);
}

TEST_P(Ops, NormScaleShift) {
  for_each_norm([&](Arguments& arguments, const auto& add, Norm kind, const Argument& weight, const Argument& bias) {
    const Argument x = arguments.add(p.dtype, kTokens, 0.5), scale = add(), shift = add();
    const Value y = norm_scale_shift(x.value, scale.value, shift.value, {kind, kEps, weight.value, bias.value});
    formulas.add(arguments, {y}, [=](std::int64_t b, std::int64_t l, const Results&) {
      return std::vector<Row>{changed(affine_norm(kind, row_of(x.tensor, b, l), weight, bias), [&](double value, std::int64_t c) {
        return value * (1 + scale.at(kTokens, b, l, c)) + shift.at(kTokens, b, l, c);
      })};
    });
  });
  formulas.check(p.runner);
}

// The mean is known to half a unit in its last place, 1.5e-5; squares summed before it is taken off would be 100 times as far out.
TEST_P(Ops, NormScaleShiftFarFromZero) {
  Arguments arguments;
  const Argument x = arguments.add(p.dtype, kTokens, p.dtype == DType::f32 ? 300 : 30);
  formulas.add(
      arguments, {norm_scale_shift(x.value, {}, {}, {.eps = kEps})},
      [=](std::int64_t b, std::int64_t l, const Results&) {
        return std::vector<Row>{formula_of_norm(Norm::layer, row_of(x.tensor, b, l))};
      },
      5e-5);
  formulas.check(p.runner);
}

TEST_P(Ops, ScaleResidualNormScaleShift) {
  for (const bool gated : {true, false})
    for_each_norm([&](Arguments& arguments, const auto& add, Norm kind, const Argument& weight, const Argument& bias) {
      const DType stream = p.modulation_dtype;  // the residual may be wider than the branch
      const Argument residual = arguments.add(stream, kTokens), x = arguments.add(p.dtype, kTokens);
      const Argument gate = gated ? add() : Argument{}, scale = add(), shift = add();
      const NormedResidual result = scale_residual_norm_scale_shift(residual.value, x.value, gate.value, scale.value, shift.value,
                                                                    {kind, kEps, weight.value, bias.value});
      EXPECT_EQ(result.y.dtype(), p.dtype);
      EXPECT_EQ(result.residual.dtype(), stream);
      formulas.add(arguments, {result.y, result.residual}, [=](std::int64_t b, std::int64_t l, const Results& got) {
        const Row branch = row_of(x.tensor, b, l);
        const Row r = changed(row_of(residual.tensor, b, l), [&](double value, std::int64_t c) {
          return value + gate.at(kTokens, b, l, c, 1) * branch[static_cast<std::size_t>(c)];
        });
        // The norm reads the residual as it is stored.
        const Row y = changed(affine_norm(kind, row_of(got[1], b, l), weight, bias), [&](double value, std::int64_t c) {
          return value * (1 + scale.at(kTokens, b, l, c)) + shift.at(kTokens, b, l, c);
        });
        return std::vector<Row>{y, r};
      });
    });
  formulas.check(p.runner);
}

TEST_P(Ops, NormTanhMulAdd) {
  for_each_norm([&](Arguments& arguments, const auto& add, Norm kind, const Argument& weight, const Argument& bias) {
    const Argument x = arguments.add(p.dtype, kTokens, 0.5), scale = add(), shift = add();
    const Value y = norm_tanh_mul_add(x.value, scale.value, shift.value, {kind, kEps, weight.value, bias.value});
    formulas.add(arguments, {y}, [=](std::int64_t b, std::int64_t l, const Results&) {
      return std::vector<Row>{changed(affine_norm(kind, row_of(x.tensor, b, l), weight, bias), [&](double value, std::int64_t c) {
        return value * std::tanh(scale.at(kTokens, b, l, c)) + shift.at(kTokens, b, l, c);
      })};
    });
  });
  formulas.check(p.runner);
}

TEST_P(Ops, NormTanhMulAddNormScale) {
  for_each_norm([&](Arguments& arguments, const auto& add, Norm kind, const Argument& weight, const Argument& bias) {
    const bool affine = static_cast<bool>(weight.value);
    const Argument x = arguments.add(p.dtype, kTokens, 0.5), scale = add(), shift = add(), scale2 = add();
    const Argument weight2 = affine ? arguments.add(DType::bf16, {kWidth}) : Argument{};
    const Argument bias2 = affine ? arguments.add(p.modulation_dtype, {kWidth}) : Argument{};
    const NormedTwice result = norm_tanh_mul_add_norm_scale(x.value, scale.value, shift.value, scale2.value,
                                                            {kind, kEps, weight.value, bias.value}, weight2.value, bias2.value);
    formulas.add(arguments, {result.y, result.y2}, [=](std::int64_t b, std::int64_t l, const Results& got) {
      const Row y = changed(affine_norm(kind, row_of(x.tensor, b, l), weight, bias), [&](double value, std::int64_t c) {
        return value * std::tanh(scale.at(kTokens, b, l, c)) + shift.at(kTokens, b, l, c);
      });
      // The second norm reads y as it is stored.
      const Row y2 = changed(affine_norm(kind, row_of(got[0], b, l), weight2, bias2),
                             [&](double value, std::int64_t c) { return value * (1 + scale2.at(kTokens, b, l, c)); });
      return std::vector<Row>{y, y2};
    });
  });
  formulas.check(p.runner);
}

TEST_P(Ops, RmsNorm) {
  for (const bool weighted : {true, false}) {
    Arguments arguments;
    const Argument x = arguments.add(p.dtype, kTokens);
    const Argument weight = weighted ? arguments.add(p.modulation_dtype, {kWidth}) : Argument{};
    formulas.add(arguments, {rms_norm(x.value, weight.value, kEps)}, [=](std::int64_t b, std::int64_t l, const Results&) {
      return std::vector<Row>{affine_norm(Norm::rms, row_of(x.tensor, b, l), weight, {})};
    });
  }
  formulas.check(p.runner);
}

TEST_P(Ops, ChannelNormAndARowOfZeros) {
  Arguments arguments;
  Argument x = arguments.add(p.dtype, kTokens);
  const Argument gamma = arguments.add(p.modulation_dtype, {kWidth});
  for (std::int64_t c = 0; c < kWidth; ++c) x.tensor.values[static_cast<std::size_t>(kWidth + c)] = 0;
  arguments.tensors[0] = x.tensor;
  formulas.add(arguments, {channel_norm(x.value, gamma.value)}, [=](std::int64_t b, std::int64_t l, const Results&) {
    const Row row = row_of(x.tensor, b, l);
    double power = 0;
    for (double value : row) power += value * value;
    return std::vector<Row>{changed(row, [&](double value, std::int64_t c) {
      return value / std::max(std::sqrt(power), 1e-12) * std::sqrt(static_cast<double>(kWidth)) * gamma.at(kTokens, b, l, c);
    })};
  });
  formulas.check(p.runner);
}

// No width is special: one column, fewer than a vector, one more than a row's partial sums, the widest of Wan's.
TEST_P(Ops, EveryWidth) {
  for (const std::int64_t width : {1, 3, 33, 1000, 5120}) {
    const Shape shape{1, 4, width};
    Arguments arguments;
    const Argument residual = arguments.add(p.dtype, shape), x = arguments.add(p.dtype, shape, 0.5);
    const Argument by_frame = arguments.add(p.modulation_dtype, {1, 2, 1, width}),
                   vector = arguments.add(p.modulation_dtype, {width});
    for (const Norm kind : {Norm::layer, Norm::rms}) {
      const NormOptions norm{kind, kEps};
      const Value plain = norm_scale_shift(x.value, by_frame.value, vector.value, norm);
      const NormedResidual ended =
          scale_residual_norm_scale_shift(residual.value, x.value, by_frame.value, vector.value, by_frame.value, norm);
      const NormedTwice twice = norm_tanh_mul_add_norm_scale(x.value, by_frame.value, residual.value, vector.value, norm);
      const Value rooted = rms_norm(x.value, vector.value, kEps);
      formulas.add(
          arguments, {plain, ended.y, ended.residual, twice.y, twice.y2, rooted},
          [=](std::int64_t b, std::int64_t l, const Results& got) {
            const auto f = [&](std::int64_t c) { return by_frame.at(shape, b, l, c); };
            const auto v = [&](std::int64_t c) { return vector.at(shape, b, l, c); };
            const Row row = row_of(x.tensor, b, l), stream = row_of(residual.tensor, b, l);
            const Row normed = formula_of_norm(kind, row);
            const auto at = [](const Row& r, std::int64_t c) { return r[static_cast<std::size_t>(c)]; };
            return std::vector<Row>{
                changed(normed, [&](double n, std::int64_t c) { return n * (1 + f(c)) + v(c); }),
                changed(formula_of_norm(kind, row_of(got[2], b, l)),
                        [&](double n, std::int64_t c) { return n * (1 + v(c)) + f(c); }),
                changed(stream, [&](double r, std::int64_t c) { return r + f(c) * at(row, c); }),
                changed(normed, [&](double n, std::int64_t c) { return n * std::tanh(f(c)) + at(stream, c); }),
                changed(formula_of_norm(kind, row_of(got[3], b, l)), [&](double n, std::int64_t c) { return n * (1 + v(c)); }),
                changed(formula_of_norm(Norm::rms, row), [&](double n, std::int64_t c) { return n * v(c); })};
          });
    }
  }
  formulas.check(p.runner);
}

// Zero modulations and unit gates given as numbers are scalars like others: the same values as absent ones.
TEST_P(Ops, ConstantsAreScalars) {
  Arguments arguments;
  const Argument residual = arguments.add(p.dtype, kTokens), x = arguments.add(p.dtype, kTokens);
  const Value zero = constant(0, p.modulation_dtype), one = constant(1, p.modulation_dtype);
  const NormedResidual numbers = scale_residual_norm_scale_shift(residual.value, x.value, one, zero, zero);
  const NormedResidual absent = scale_residual_norm_scale_shift(residual.value, x.value, {}, {}, {});
  const std::vector<Value> results{numbers.y,
                                   absent.y,
                                   numbers.residual,
                                   absent.residual,
                                   norm_scale_shift(x.value, zero, zero),
                                   norm_scale_shift(x.value, {}, {}),
                                   scale_shift(x.value, zero, zero, 0.5),
                                   scale_shift(x.value, {}, {}, 0.5),
                                   mul_add(x.value, one, residual.value),
                                   mul_add(x.value, {}, residual.value),
                                   norm_tanh_mul_add(x.value, one, zero),
                                   norm_tanh_mul_add(x.value, one, {})};
  const auto got = testing::run_graph(p.runner, make_graph("case", arguments.inputs, results), arguments.tensors);
  for (std::size_t i = 0; i < got.size(); i += 2) EXPECT_EQ(got[i].values, got[i + 1].values) << i;
  EXPECT_NE(got[0].values, got[2].values);
}

// A block's modulation as Wan has it: a table [1,6,C] plus an embedding of the timestep, one for a batch [B,6,C] or, in TI2V-5B,
// one for a token [B,L,6,C]. Its rows are slices, and slices are forms that ops take.
TEST_P(Ops, ModulationTables) {
  constexpr std::int64_t kRows = 6;
  for (const bool by_token : {false, true}) {
    Arguments arguments;
    const Argument x = arguments.add(p.dtype, kTokens), table = arguments.add(DType::f32, {1, kRows, kWidth});
    const Shape shape = by_token ? Shape{kBatch, kLength, kRows, kWidth} : Shape{kBatch, kRows, kWidth};
    const Argument embedding = arguments.add(p.modulation_dtype, shape);
    const Value modulation =
        reshape(table.value, by_token ? Shape{1, 1, kRows, kWidth} : table.tensor.shape) + cast(embedding.value, DType::f32);
    const auto row = [&](std::int64_t i) { return slice(modulation, by_token ? 2 : 1, i, i + 1); };
    const auto at = [=](std::int64_t i, std::int64_t b, std::int64_t l, std::int64_t c) {
      const std::int64_t from = ((by_token ? b * kLength + l : b) * kRows + i) * kWidth + c;
      return table.tensor.values[static_cast<std::size_t>(i * kWidth + c)] +
             embedding.tensor.values[static_cast<std::size_t>(from)];
    };
    const NormedResidual result = scale_residual_norm_scale_shift(x.value, x.value, row(2), row(4), row(3), {.eps = kEps});
    formulas.add(arguments, {result.y, result.residual}, [=](std::int64_t b, std::int64_t l, const Results& got) {
      return std::vector<Row>{
          changed(formula_of_norm(Norm::layer, row_of(got[1], b, l)),
                  [&](double value, std::int64_t c) { return value * (1 + at(4, b, l, c)) + at(3, b, l, c); }),
          changed(row_of(x.tensor, b, l), [&](double value, std::int64_t c) { return value + at(2, b, l, c) * value; })};
    });
  }
  formulas.check(p.runner);
}

// Nodes of a call's native graph with as many elements as x, movements left aside: what running it node by node reads and writes.
int passes(const Value& y, std::int64_t count) {
  const auto& call = *y.node().as<std::shared_ptr<const CallAttributes>>();
  int full = 0;
  for (const NodePtr& node : call.native.nodes)
    full += node->opcode != Opcode::input && node->opcode != Opcode::reshape && node->types[0].shape.count() == count;
  return full;
}

TEST(OpCalls, KeepTheirNativeGraphAndReadTheLargeTensorFewTimes) {
  const Value x = input("x", DType::f32, {1, 128, kWidth}), v = input("v", DType::f32, {1, 1, kWidth});
  ASSERT_EQ(norm_scale_shift(x, v, v).node().opcode, Opcode::call);
  EXPECT_EQ(norm_scale_shift(x, v, v).node().as<std::shared_ptr<const CallAttributes>>()->op, "norm_scale_shift");
  const std::int64_t count = x.shape().count();
  const NormOptions rms{.kind = Norm::rms};
  for (const Value& modulation : {v, input("f", DType::f32, {1, 4, 1, kWidth}), input("s", DType::f32, {})}) {
    EXPECT_EQ(passes(mul_add(x, modulation, x, 1), count), 2);
    EXPECT_EQ(passes(scale_shift(x, modulation, modulation), count), 2);
    EXPECT_EQ(passes(norm_scale_shift(x, modulation, modulation), count), 5);  // centred, its square, the two products, the sum
    EXPECT_EQ(passes(norm_scale_shift(x, modulation, modulation, rms), count), 4);
    EXPECT_EQ(passes(norm_tanh_mul_add(x, modulation, modulation, rms), count), 4);
    EXPECT_EQ(passes(norm_tanh_mul_add_norm_scale(x, modulation, modulation, modulation, rms).y, count), 7);
    EXPECT_EQ(passes(scale_residual_norm_scale_shift(x, x, modulation, modulation, modulation).y, count), 7);
  }
  // What is absent costs nothing.
  EXPECT_EQ(passes(mul_add(x, {}, x), count), 1);
  EXPECT_EQ(passes(norm_scale_shift(x, {}, {}), count), 3);
  EXPECT_EQ(passes(scale_residual_norm_scale_shift(x, x, {}, {}, {}, rms).y, count), 3);
  EXPECT_EQ(passes(rms_norm(x, {}, kEps), count), 2);
}

}  // namespace
}  // namespace zoe
