// The rotary embeddings: the pairwise formulas bit for bit, tables in f32 whatever x is.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "ops/op_case.h"
#include "ops/rotary_interleaved.h"
#include "ops/rotary_split.h"

namespace zoe {
namespace {

using testing::Argument;
using testing::Arguments;
using testing::rounded;

struct Layout {
  Value (*op)(const Value&, const Value&, const Value&);
  bool split;
  // Where pair i of a row of D elements lies.
  std::int64_t first(std::int64_t i) const { return split ? i : 2 * i; }
  std::int64_t second(std::int64_t i, std::int64_t width) const { return split ? width / 2 + i : 2 * i + 1; }
};

class Rotary : public testing::OpTest {
 protected:
  void TearDown() override {
    if (checks.empty()) return;
    const auto got = testing::run_graph(p.runner, make_graph("case", arguments.inputs, results), arguments.tensors);
    for (std::size_t i = 0; i < got.size(); ++i) checks[i](got[i].values);
  }
  // One graph of all the cases of a test: a platform that compiles builds their kernels in one go.
  Arguments arguments;
  std::vector<Value> results;
  std::vector<std::function<void(const std::vector<double>&)>> checks;

  void add_rotated(const Layout& layout, std::int64_t heads, std::int64_t width, bool by_head);
};
INSTANTIATE_TEST_SUITE_P(Runners, Rotary, ::testing::ValuesIn([] {
                           std::vector<testing::OpCase> cases = testing::op_cases();  // there are no modulations
                           std::erase_if(cases, [](const testing::OpCase& c) { return c.modulation_dtype == DType::bf16; });
                           return cases;
                         }()),
                         testing::op_case_name);

constexpr std::int64_t kBatch = 2, kLength = 6;

// For tables [L,1|N,D] of the angle of token, head and pair: checks every pair of the result.
void Rotary::add_rotated(const Layout& layout, std::int64_t heads, std::int64_t width, bool by_head) {
  const Argument x = arguments.add(p.dtype, {kBatch, kLength, heads, width});
  const std::int64_t table_heads = by_head ? heads : 1;
  ReferenceTensor cosines{{kLength, table_heads, width}, {}};
  cosines.values.resize(static_cast<std::size_t>(cosines.shape.count()));
  ReferenceTensor sines = cosines;
  const auto row = [=](std::int64_t l, std::int64_t n) { return (l * table_heads + (by_head ? n : 0)) * width; };
  for (std::int64_t l = 0; l < kLength; ++l)
    for (std::int64_t n = 0; n < table_heads; ++n)
      for (std::int64_t i = 0; i < width / 2; ++i) {
        const auto angle = static_cast<float>(row(l, n) + i);
        const auto first = static_cast<std::size_t>(row(l, n) + layout.first(i)),
                   second = static_cast<std::size_t>(row(l, n) + layout.second(i, width));
        cosines.values[first] = cosines.values[second] = static_cast<double>(std::cos(angle));
        sines.values[second] = static_cast<double>(std::sin(angle));
        sines.values[first] = -sines.values[second];
      }
  const Argument cos_full = arguments.add(cosines, DType::f32), sin_signed = arguments.add(sines, DType::f32);
  results.push_back(layout.op(x.value, cos_full.value, sin_signed.value));
  checks.emplace_back([=, exact = p.runner == "interpreter", dtype = p.dtype](const std::vector<double>& got) {
    bool tables_matter = false;  // is there a result that tables rounded to bf16 would change?
    for (std::int64_t b = 0; b < kBatch; ++b)
      for (std::int64_t l = 0; l < kLength; ++l)
        for (std::int64_t n = 0; n < heads; ++n)
          for (std::int64_t i = 0; i < width / 2; ++i) {
            const std::int64_t begin = ((b * kLength + l) * heads + n) * width;
            const auto first = static_cast<std::size_t>(begin + layout.first(i)),
                       second = static_cast<std::size_t>(begin + layout.second(i, width));
            const double x1 = x.tensor.values[first], x2 = x.tensor.values[second];
            const auto at = static_cast<std::size_t>(row(l, n) + layout.second(i, width));
            const auto turn = [&](double cosine, double sine) {
              if (exact) return std::pair{x1 * cosine - x2 * sine, x2 * cosine + x1 * sine};
              const auto x1f = static_cast<float>(x1), x2f = static_cast<float>(x2), c = static_cast<float>(cosine),
                         s = static_cast<float>(sine);
              return std::pair{static_cast<double>(x1f * c - x2f * s), static_cast<double>(x2f * c + x1f * s)};
            };
            const auto stored = [&](double value) { return exact && dtype == DType::f32 ? value : rounded(value, dtype); };
            const auto [y1, y2] = turn(cosines.values[at], sines.values[at]);
            ASSERT_EQ(got[first], stored(y1)) << "token " << l << " head " << n << " pair " << i << " of width " << width;
            ASSERT_EQ(got[second], stored(y2)) << "token " << l << " head " << n << " pair " << i << " of width " << width;
            const auto [z1, z2] = turn(rounded(cosines.values[at], DType::bf16), rounded(sines.values[at], DType::bf16));
            tables_matter |= stored(z1) != stored(y1) || stored(z2) != stored(y2);
          }
    EXPECT_TRUE(tables_matter);
  });
}

TEST_P(Rotary, InterleavedIsTheFormulaOfPairsBitForBit) {
  for (const std::int64_t heads : {1, 3, 17})
    for (const std::int64_t width : {2, 10, 128})
      for (const bool by_head : {false, true}) add_rotated({rotary_interleaved, false}, heads, width, by_head);
}

TEST_P(Rotary, SplitIsTheFormulaOfHalvesBitForBit) {
  for (const std::int64_t heads : {1, 3, 17})
    for (const std::int64_t width : {2, 10, 128})
      for (const bool by_head : {false, true}) add_rotated({rotary_split, true}, heads, width, by_head);
}

TEST(RotaryCalls, MoveNothingButIndices) {
  const Value x = input("x", DType::bf16, {1, 64, 4, 8}), table = input("t", DType::f32, {64, 1, 8});
  for (const Value& y : {rotary_interleaved(x, table, table), rotary_split(x, table, table)}) {
    int arithmetic = 0;
    for (const NodePtr& node : y.node().as<std::shared_ptr<const CallAttributes>>()->native.nodes)
      arithmetic += is_unary(node->opcode) || is_binary(node->opcode) || node->opcode == Opcode::cast;
    EXPECT_EQ(arithmetic, 5);  // two casts, two products, a sum
  }
}

}  // namespace
}  // namespace zoe
