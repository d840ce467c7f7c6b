// What the tests of the ops share: arguments with reproducible values, formulas in f64, and the comparison of an op's results, by
// the reference interpreter or on a platform, with what a formula makes of each token.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "ir/trace.h"
#include "ops/norm.h"
#include "ops/run_node.h"
#include "testing/graphs.h"

namespace zoe::testing {

// Where the ops are run (run_graph of testing/graphs.h). A platform that does not open here is skipped, with its reason.
inline std::vector<std::string> runners() { return {"interpreter", "cpu", "cpu_uncompiled"}; }

// Empty, or why `runner` is a platform this machine cannot open.
inline std::string why_not(const std::string& runner) {
  if (runner == "interpreter") return {};
  try {
    open_platform(platform_of(runner));
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

constexpr std::int64_t kBatch = 2, kLength = 6, kWidth = 40, kFrames = 3;
constexpr double kEps = 1e-5;
inline const Shape kTokens{kBatch, kLength, kWidth};

// Every form a modulation of x [B,L,C] may have.
inline std::vector<Shape> modulation_forms(std::int64_t batch = kBatch, std::int64_t length = kLength, std::int64_t width = kWidth,
                                           std::int64_t frames = kFrames) {
  return {{},
          {width},
          {1, width},
          {batch, width},
          {1, 1, width},
          {batch, 1, width},
          {1, length, width},
          {batch, length, width},
          {batch, frames, 1, width},
          {batch, length, 1, width}};
}

// An argument: its place in the graph, and its values. Without a value: an absent argument.
struct Argument {
  Value value;
  ReferenceTensor tensor;

  // What a modulation of any form is for token (b, l) of x and column c; `absent` if there is none.
  double at(const Shape& x, std::int64_t b, std::int64_t l, std::int64_t c, double absent = 0) const {
    if (!value) return absent;
    const Shape& form = tensor.shape;
    std::int64_t row = 0;
    if (form.rank() == 2) row = form.dim(0) == 1 ? 0 : b;
    if (form.rank() == 3) row = (form.dim(0) == 1 ? 0 : b) * form.dim(1) + (form.dim(1) == 1 ? 0 : l);
    if (form.rank() == 4) row = b * form.dim(1) + l / (x.dim(1) / form.dim(1));
    return tensor.values[static_cast<std::size_t>(form.rank() == 0 ? 0 : row * x.dim(2) + c)];
  }
};

// Collects arguments with reproducible random values.
struct Arguments {
  std::mt19937 random{7};
  std::vector<Value> inputs;
  std::vector<ReferenceTensor> tensors;

  Argument add(ReferenceTensor tensor, DType dtype) {
    inputs.push_back(input("x" + std::to_string(inputs.size()), dtype, tensor.shape));
    tensors.push_back(tensor);
    return {inputs.back(), std::move(tensor)};
  }
  Argument add(DType dtype, const Shape& shape, double offset = 0) {
    ReferenceTensor tensor{shape, {}};
    for (std::int64_t i = 0; i < shape.count(); ++i)
      tensor.values.push_back(rounded(offset + static_cast<double>(random()) / 1073741824.0 - 2, dtype));  // in [-2, 2)
    return add(std::move(tensor), dtype);
  }
};

using Row = std::vector<double>;

inline Row row_of(const ReferenceTensor& x, std::int64_t b, std::int64_t l) {
  const auto width = static_cast<std::ptrdiff_t>(x.shape.dim(2));
  const auto begin = x.values.begin() + (b * x.shape.dim(1) + l) * width;
  return {begin, begin + width};
}

inline Row formula_of_norm(Norm kind, const Row& x) {
  const auto width = static_cast<double>(x.size());
  double mean = 0, power = 0;
  if (kind == Norm::layer)
    for (double value : x) mean += value / width;
  for (double value : x) power += (value - mean) * (value - mean) / width;
  Row y;
  for (double value : x) y.push_back((value - mean) / std::sqrt(power + kEps));
  return y;
}

// One unit in the last place of a value that `dtype` holds.
inline double ulp(double value, DType dtype) {
  int exponent = 0;
  std::frexp(value, &exponent);
  return std::ldexp(1.0, std::max(exponent, -125) - (dtype == DType::bf16 ? 8 : 24));
}

// What an op must return: for each token, the row of each result, unrounded. `got`: the results, for a row that the op makes of
// another result as it was stored.
using RowFormula = std::function<std::vector<Row>(std::int64_t b, std::int64_t l, const std::vector<ReferenceTensor>& got)>;

// Ops with their formulas, as one graph: a platform that compiles builds all their kernels in one go.
class Formulas {
 public:
  void add(const Arguments& arguments, const std::vector<Value>& results, RowFormula formula, double noise = 4e-6) {
    cases_.push_back({outputs_.size(), results.size(), std::move(formula), noise});
    for (std::size_t i = 0; i < arguments.inputs.size(); ++i) {
      if (std::find(inputs_.begin(), inputs_.end(), arguments.inputs[i]) != inputs_.end()) continue;  // of an earlier case, too
      inputs_.push_back(arguments.inputs[i]);
      tensors_.push_back(arguments.tensors[i]);
    }
    outputs_.insert(outputs_.end(), results.begin(), results.end());
  }

  // Runs the graph and compares element by element: one unit in the last place of a bf16 result, and in f32 `noise` of the largest
  // element of the row: what the roundings of f32 may add up to where larger terms cancel.
  void check(const std::string& runner) const {
    const Graph graph = make_graph("case", inputs_, outputs_);
    verify(graph);
    const std::vector<ReferenceTensor> all = run_graph(runner, graph, tensors_);
    for (const Case& c : cases_) {
      const auto begin = static_cast<std::ptrdiff_t>(c.first_output);
      const std::vector<ReferenceTensor> got(all.begin() + begin, all.begin() + begin + static_cast<std::ptrdiff_t>(c.count));
      compare(c, got, runner);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }

 private:
  struct Case {
    std::size_t first_output, count;
    RowFormula formula;
    double noise;
  };

  void compare(const Case& c, const std::vector<ReferenceTensor>& got, const std::string& runner) const {
    const Shape& shape = got[0].shape;
    double least = std::numeric_limits<double>::infinity(), most = -least;
    for (std::int64_t b = 0; b < shape.dim(0); ++b)
      for (std::int64_t l = 0; l < shape.dim(1); ++l) {
        const std::vector<Row> rows = c.formula(b, l, got);
        for (std::size_t r = 0; r < c.count; ++r) {
          const Value& output = outputs_[c.first_output + r];
          const bool narrow = output.dtype() == DType::bf16;
          const Row row = row_of(got[r], b, l);
          double largest = 0;
          for (double value : rows[r]) {
            largest = std::max(largest, std::abs(value));
            least = std::min(least, value), most = std::max(most, value);
          }
          for (std::size_t i = 0; i < row.size(); ++i) {
            const double allowed = c.noise * largest + (narrow ? ulp(rows[r][i], DType::bf16) : 0);
            ASSERT_LE(std::abs(row[i] - rows[r][i]), allowed) << "result " << r << " at [" << b << "," << l << "," << i << "]: got "
                                                              << row[i] << ", expected " << rows[r][i] << " on " << runner << "\n"
                                                              << print(make_graph("case", inputs_, {output}));
            ASSERT_TRUE(!narrow || row[i] == rounded(row[i], DType::bf16)) << "not a value of bf16";
          }
        }
      }
    ASSERT_LT(least, most);  // all the same would prove nothing
  }

  std::vector<Value> inputs_, outputs_;
  std::vector<ReferenceTensor> tensors_;
  std::vector<Case> cases_;
};

struct OpCase {
  std::string runner;
  DType dtype, modulation_dtype;
};

inline void PrintTo(const OpCase& c, std::ostream* out) {
  *out << c.runner << " " << name(c.dtype) << " modulations " << name(c.modulation_dtype);
}

inline std::vector<OpCase> op_cases() {
  std::vector<OpCase> cases;
  for (const std::string& runner : runners())
    for (DType dtype : {DType::f32, DType::bf16})
      for (DType modulation : {DType::f32, DType::bf16}) cases.push_back({runner, dtype, modulation});
  return cases;
}

inline std::string op_case_name(const ::testing::TestParamInfo<OpCase>& info) {
  return info.param.runner + "_" + std::string(name(info.param.dtype)) + "_with_" + std::string(name(info.param.modulation_dtype));
}

// A test that runs for every runner and pair of dtypes, and skips platforms that are not here.
class OpTest : public ::testing::TestWithParam<OpCase> {
 protected:
  void SetUp() override {
    const std::string reason = why_not(GetParam().runner);
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
  const OpCase p = GetParam();
  Formulas formulas;  // the test adds to them, then checks them on p.runner
};

}  // namespace zoe::testing
