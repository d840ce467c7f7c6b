// The text of ir/math.inc and the C column of the opcode table, compiled as generated kernels compile them (on one number, and on
// a compiler's vectors), against the prebuilt loops of platform cpu: the same bits.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "ir/math_text.h"
#include "ops/run_node.h"

namespace zoe {
namespace {

// As the prebuilt loops do: Highway's sets of instructions from AVX2 on, and all of Arm's, have it.
const bool kFuses =
#if defined(__x86_64__)
    __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    true;
#endif

namespace number {
using F = float;
using I = std::int32_t;
#define ZOE_FN inline
#define ZOE_F(c) (c)
F zoe_as_f(I x) { return std::bit_cast<F>(x); }
I zoe_as_i(F x) { return std::bit_cast<I>(x); }
F zoe_lt_select(F a, F b, F x, F y) { return a < b ? x : y; }
F zoe_sqrt(F x) { return std::sqrt(x); }
F zoe_fma(F a, F b, F c) { return kFuses ? std::fma(a, b, c) : a * b + c; }
#include "ir/math.inc"
#define ZOE_UNARY(op, value, spelling) \
  F f_##op(F x) { return spelling; }
#define ZOE_BINARY(op, value, spelling) \
  F f_##op(F a, F b) { return spelling; }
#include "ir/opcodes.def"
#undef ZOE_F
}  // namespace number

namespace vector {
using F = float __attribute__((vector_size(16)));
using I = std::int32_t __attribute__((vector_size(16)));
#define ZOE_F(c) (F{} + (c))
F zoe_as_f(I x) { return std::bit_cast<F>(x); }
I zoe_as_i(F x) { return std::bit_cast<I>(x); }
F zoe_lt_select(F a, F b, F x, F y) { return a < b ? x : y; }
F zoe_sqrt(F x) { return F{std::sqrt(x[0]), std::sqrt(x[1]), std::sqrt(x[2]), std::sqrt(x[3])}; }
F zoe_fma(F a, F b, F c) {
  for (int i = 0; i < 4; ++i) a[i] = number::zoe_fma(a[i], b[i], c[i]);
  return a;
}
#include "ir/math.inc"
#define ZOE_UNARY(op, value, spelling) \
  F f_##op(F x) { return spelling; }
#define ZOE_BINARY(op, value, spelling) \
  F f_##op(F a, F b) { return spelling; }
#include "ir/opcodes.def"
#undef ZOE_F
#undef ZOE_FN
}  // namespace vector

struct Unary {
  const char* name;
  Value (*make)(const Value&);
  float (*on_number)(float);
  vector::F (*on_vector)(vector::F);
};
struct Binary {
  const char* name;
  Value (*make)(const Value&, const Value&);
  float (*on_numbers)(float, float);
  vector::F (*on_vectors)(vector::F, vector::F);
};
const Unary kUnary[] = {
#define ZOE_UNARY(op, value, spelling) {#op, zoe::op, number::f_##op, vector::f_##op},
#define ZOE_BINARY(op, value, spelling)
#include "ir/opcodes.def"
};
const Binary kBinary[] = {
#define ZOE_UNARY(op, value, spelling)
#define ZOE_BINARY(op, value, spelling) {#op, zoe::op, number::f_##op, vector::f_##op},
#include "ir/opcodes.def"
};

// Every exponent of both signs with the same mantissas: zeros, subnormals, infinities and NaNs are among them.
std::vector<float> all_exponents(std::uint32_t step) {
  std::vector<float> values;
  for (std::uint32_t high = 0; high < 512; ++high)
    for (const std::uint32_t mantissa : {0u, 1u, 0x400000u, 0x7fffffu})
      values.push_back(std::bit_cast<float>(high << 23 | mantissa));
  for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32); bits += step)
    values.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(bits)));
  while (values.size() % 4 != 0) values.push_back(1.0f);
  return values;
}

ReferenceTensor tensor(const std::vector<float>& values) {
  return {{static_cast<std::int64_t>(values.size())}, {values.begin(), values.end()}};
}

// NaNs are equal: which of two operands a NaN comes from is the compiler's choice.
void expect_same_bits(const std::string& what, double loop, float on_number, float on_vector, const std::string& operands) {
  const auto got = static_cast<float>(loop);
  if (std::isnan(got) && std::isnan(on_number) && std::isnan(on_vector)) return;
  const auto bits = std::bit_cast<std::uint32_t>(got);
  ASSERT_TRUE(bits == std::bit_cast<std::uint32_t>(on_number) && bits == std::bit_cast<std::uint32_t>(on_vector))
      << what << " of " << operands << ": the loop makes " << got << ", the C text " << on_number << " on a number and "
      << on_vector << " on a vector";
}

class Math : public ::testing::Test {
 protected:
  std::unique_ptr<Platform> cpu = open_platform("cpu", {.threads = 2});
};

TEST_F(Math, UnaryOpcodesHaveTheBitsOfTheirCSpelling) {
  const std::vector<float> x = all_exponents(10007);
  for (const Unary& unary : kUnary) {
    const auto loop = testing::run_node(unary.make(input("x", DType::f32, tensor(x).shape)), {tensor(x)}, *cpu).values;
    for (std::size_t i = 0; i < x.size(); i += 4) {
      const vector::F y = unary.on_vector(vector::F{x[i], x[i + 1], x[i + 2], x[i + 3]});
      for (std::size_t lane = 0; lane < 4; ++lane) {
        const float operand = x[i + lane];
        expect_same_bits(unary.name, loop[i + lane], unary.on_number(operand), y[lane], std::to_string(operand));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(Math, BinaryOpcodesHaveTheBitsOfTheirCSpelling) {
  const std::vector<float> few = all_exponents(50000021);
  std::vector<float> a, b;  // pairs of all of them
  for (std::size_t i = 0; i < few.size(); i += 3)
    for (std::size_t j = 0; j < few.size(); j += 7) a.push_back(few[i]), b.push_back(few[j]);
  while (a.size() % 4 != 0) a.push_back(1.0f), b.push_back(2.0f);
  for (const Binary& binary : kBinary) {
    const Shape shape = tensor(a).shape;
    const Value node = binary.make(input("a", DType::f32, shape), input("b", DType::f32, shape));
    const auto loop = testing::run_node(node, {tensor(a), tensor(b)}, *cpu).values;
    for (std::size_t i = 0; i < a.size(); i += 4) {
      const vector::F y =
          binary.on_vectors(vector::F{a[i], a[i + 1], a[i + 2], a[i + 3]}, vector::F{b[i], b[i + 1], b[i + 2], b[i + 3]});
      for (std::size_t lane = 0; lane < 4; ++lane) {
        const std::size_t at = i + lane;
        expect_same_bits(binary.name, loop[at], binary.on_numbers(a[at], b[at]), y[lane],
                         std::to_string(a[at]) + " and " + std::to_string(b[at]));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(Math, ASoftmaxsExponentialIsTheOtherOneDownToMinus87) {
  for (const float x : all_exponents(10007)) {
    if (!(x <= 0)) continue;
    ASSERT_EQ(number::zoe_exp_of_negative(x), x < -87.0f ? 0.0f : number::zoe_exp(x)) << x;
    ASSERT_EQ(number::zoe_exp_of_negative(x), vector::zoe_exp_of_negative(vector::F{} + x)[0]) << x;
  }
}

TEST_F(Math, GeneratedCodeGetsTheTextAndTheSpellings) {
  const std::string text = kMathText;
  for (const Unary& unary : kUnary) {
    const Opcode opcode = unary.make(input("x", DType::f32, {1})).node().opcode;
    const std::string spelling(c_spelling(opcode));
    EXPECT_NE(spelling.find('x'), std::string::npos) << unary.name;
    const auto call = spelling.find("zoe_");
    if (call == std::string::npos) continue;
    EXPECT_NE(text.find(spelling.substr(call, spelling.find('(', call) - call)), std::string::npos) << spelling;
  }
  EXPECT_EQ(c_spelling(Opcode::silu), "zoe_silu(x)");
  EXPECT_EQ(c_spelling(Opcode::add), "a + b");
  EXPECT_EQ(c_spelling(Opcode::rsqrt), "1.0f / zoe_sqrt(x)");
}

}  // namespace
}  // namespace zoe
