// u8 and i8: what a cast to them is, on every platform that opens here; that compiled chains have the bits of uncompiled ones at
// odd widths; and that nothing but casts and movements takes it.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "base/error.h"
#include "ops/instruction_sets.h"
#include "ops/norm_scale_shift.h"
#include "ops/platforms.h"
#include "ops/run_node.h"
#include "testing/graphs.h"

namespace zoe {
namespace {

using testing::run_graph;
using testing::run_node;

Platform& cpu() {
  static const auto platform = open_platform("cpu", {.threads = 2});
  return *platform;
}

struct Cast {
  double from;
  int to;
};

// Halfway between numbers, next to that, beyond both ends, and what is no number.
std::vector<Cast> edges_of_u8() {
  const auto infinity = std::numeric_limits<double>::infinity();
  const auto next = [](float x, float to) { return static_cast<double>(std::nextafterf(x, to)); };
  std::vector<Cast> casts{{0, 0},
                          {-0.0, 0},
                          {0.5, 0},
                          {next(0.5f, 0), 0},
                          {next(0.5f, 1), 1},
                          {1.5, 2},
                          {2.5, 2},
                          {127.5, 128},
                          {128.5, 128},
                          {253.5, 254},
                          {254.5, 254},
                          {next(254.5f, 255), 255},
                          {next(254.5f, 254), 254},
                          {255, 255},
                          {255.49998, 255},
                          {255.5, 255},
                          {256, 255},
                          {-0.5, 0},
                          {-0.51, 0},
                          {-1, 0},
                          {-255, 0},
                          {0x1p-149, 0},
                          {-0x1p-149, 0},
                          {8388607.5, 255},
                          {12582912, 255},
                          {-12582912, 0},
                          {4294967296.0, 255},
                          {0x1.fffffep127, 255},
                          {-0x1.fffffep127, 0},
                          {infinity, 255},
                          {-infinity, 0},
                          {std::numeric_limits<double>::quiet_NaN(), 0},
                          {-std::numeric_limits<double>::quiet_NaN(), 0}};
  for (int n = 0; n < 256; ++n) casts.push_back({static_cast<double>(n), n});
  return casts;
}

std::vector<Cast> edges_of_i8() {
  const auto infinity = std::numeric_limits<double>::infinity();
  const auto next = [](float x, float to) { return static_cast<double>(std::nextafterf(x, to)); };
  std::vector<Cast> casts{{-0.0, 0},
                          {0.5, 0},
                          {-0.5, 0},
                          {next(0.5f, 1), 1},
                          {next(-0.5f, -1), -1},
                          {1.5, 2},
                          {-1.5, -2},
                          {-2.5, -2},
                          {126.5, 126},
                          {127.49999, 127},
                          {127.5, 127},
                          {128, 127},
                          {-127.5, -128},
                          {next(-127.5f, 0), -127},
                          {-128.5, -128},
                          {-129, -128},
                          {0x1p-149, 0},
                          {-0x1p-149, 0},
                          {8388607.5, 127},
                          {-12582912, -128},
                          {4294967296.0, 127},
                          {0x1.fffffep127, 127},
                          {-0x1.fffffep127, -128},
                          {infinity, 127},
                          {-infinity, -128},
                          {std::numeric_limits<double>::quiet_NaN(), -128},
                          {-std::numeric_limits<double>::quiet_NaN(), -128}};
  for (int n = -128; n < 128; ++n) casts.push_back({static_cast<double>(n), n});
  return casts;
}

constexpr DType kBytes[] = {DType::u8, DType::i8};

std::vector<Cast> edges(DType byte) { return byte == DType::u8 ? edges_of_u8() : edges_of_i8(); }

void expect_edges(Platform& platform, DType byte) {
  const std::vector<Cast> casts = edges(byte);
  const auto count = static_cast<std::int64_t>(casts.size());
  ReferenceTensor given{{count}, {}};
  for (const Cast& each : casts) given.values.push_back(each.from);
  const auto got = run_node(cast(input("x", DType::f32, {count}), byte), {given}, platform);
  for (std::size_t i = 0; i < casts.size(); ++i)
    EXPECT_EQ(got.values[i], casts[i].to) << casts[i].from << " by " << got.implementation;
}

void expect_exact_widening(Platform& platform, DType byte) {
  ReferenceTensor all{{256}, {}};
  for (int n = 0; n < 256; ++n) all.values.push_back(byte == DType::u8 ? n : n - 128);
  EXPECT_EQ(run_node(cast(input("x", byte, {256}), DType::f32), {all}, platform).values, all.values);
}

void expect_casts(Platform& platform) {
  for (const DType byte : kBytes) {
    SCOPED_TRACE(name(byte));
    expect_edges(platform, byte);
    expect_exact_widening(platform, byte);
  }
}

TEST(Bytes, OfAFloatRoundsToEvenAndSaturates) {
  for (const Cast& each : edges_of_u8()) EXPECT_EQ(f32_to_u8(static_cast<float>(each.from)), each.to) << each.from;
  for (const Cast& each : edges_of_i8()) EXPECT_EQ(f32_to_i8(static_cast<float>(each.from)), each.to) << each.from;
  // Every 251st f32, by the words of the definition.
  for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32); bits += 251) {
    const auto x = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    const auto bounded = [&](float low, float high) {
      return std::lrint(std::isnan(x) ? low : std::fmin(std::fmax(x, low), high));
    };
    ASSERT_EQ(f32_to_u8(x), bounded(0, 255)) << x;
    ASSERT_EQ(f32_to_i8(x), bounded(-128, 127)) << x;
  }
}

TEST(Bytes, CastsOnTheCpuHoldForEveryInstructionSet) {
  testing::for_each_instruction_set([](const std::string& name) {
    SCOPED_TRACE(name);
    expect_casts(cpu());
  });
}

TEST(Bytes, CastsOnOpenclHold) {
  ZOE_SKIP_WITHOUT_OPENCL();
  for (const bool as_gpu : {false, true}) expect_casts(*testing::opencl(as_gpu));
}

TEST(BytesOnCuda, CastsHold) {
  ZOE_SKIP_WITHOUT_CUDA();
  expect_casts(*testing::cuda());
}

TEST(Bytes, InterpreterCastsTheSame) {
  for (const DType byte : kBytes)
    for (const Cast& each : edges(byte)) {
      const Value x = input("x", DType::f32, {1});
      EXPECT_EQ(interpret(make_graph("cast", {x}, {cast(x, byte)}), {{{1}, {each.from}}}, {})[0].values[0], each.to)
          << each.from << " to " << name(byte);
    }
}

// What chains do with bytes at each width, in one plan: pixels out; pixels in, through sums, and out again next to results of other
// sizes; rounded on the way; bytes that are moved only; values of rows.
Graph graph_of(DType byte, std::initializer_list<std::int64_t> widths) {
  std::vector<Value> inputs, results;
  for (const std::int64_t width : widths) {
    const auto add = [&](const char* label, DType dtype, Shape shape) {
      inputs.push_back(input(fmt::format("{}_{}", label, width), dtype, std::move(shape)));
      return inputs.back();
    };
    const Shape rows{3, 5, width};
    const Value x = add("x", DType::f32, rows), bytes = add("bytes", byte, rows), scale = add("scale", DType::f32, {width});
    const Value wide = cast(bytes, DType::f32), normed = norm_scale_shift(wide / 127.5 - 1.0, scale, scale);
    const Value through = cast(cast(x * 50.0, byte), DType::f32);
    const std::vector<Value> made{cast((x * 0.5 + 0.5) * 255.0, byte),
                                  cast((tanh(x + 1.0) * 0.5 + 0.5) * 255.0, byte),
                                  cast(cast(cast(x * 3.0, DType::bf16), DType::f32) * 20.0, byte),
                                  cast(wide / 127.5 - 1.0, DType::bf16),
                                  cast(normed * 60.0 + 128.0, byte),
                                  cast(normed, DType::bf16),
                                  cast(through, DType::bf16),
                                  sum(through),
                                  permute(bytes, {2, 0, 1}),
                                  flip(bytes, 2),
                                  permute(cast(x * 90.0 + 90.0, byte), {1, 0, 2}),
                                  slice(flip(bytes, 0), 2, width / 2, width),
                                  cast(mean(wide), byte),
                                  cast(mean(x) * 40.0 + 100.0, byte),
                                  x + mean(wide)};
    results.insert(results.end(), made.begin(), made.end());
    if (width % 2 != 0) continue;
    results.push_back(swap_pairs(wide) * x);
    results.push_back(cast(swap_pairs(x) * 80.0 + 80.0, byte));
  }
  return make_graph("bytes", std::move(inputs), std::move(results));
}

std::vector<ReferenceTensor> values_for(const Graph& graph) {
  std::vector<ReferenceTensor> values;
  for (const Value& each : graph.inputs)
    values.push_back(testing::random_tensor(each.dtype(), each.shape(), static_cast<std::uint32_t>(values.size() + 3)));
  return values;
}

void expect_equal(const std::string& runner, const std::string& expected_of) {
  for (const DType byte : kBytes) {
    const Graph graph = graph_of(byte, {1, 2, 3, 7, 16, 17, 31, 33, 64, 66, 95, 130, 1000, 1001});
    const auto values = values_for(graph);
    const auto got = run_graph(runner, graph, values), expected = run_graph(expected_of, graph, values);
    for (std::size_t r = 0; r < got.size(); ++r)
      EXPECT_EQ(got[r].values, expected[r].values) << "result " << r << ", " << graph.outputs[r].type().str();
  }
}

TEST(Bytes, CompiledChainsHaveTheBitsOfUncompiledOnes) { expect_equal("cpu", "cpu_uncompiled"); }

TEST(BytesOnCuda, ChainsHaveTheBitsOfTheCpu) {
  ZOE_SKIP_WITHOUT_CUDA();
  expect_equal("cuda", "cpu_uncompiled");
}

// The f64 of the interpreter comes to the same byte, but next to a tie.
void expect_agreement(const std::string& runner) {
  for (const DType byte : kBytes) {
    const Graph graph = graph_of(byte, {3, 64, 95, 1001});
    const auto values = values_for(graph);
    const auto got = run_graph(runner, graph, values), expected = run_graph("interpreter", graph, values);
    for (std::size_t r = 0; r < got.size(); ++r) {
      const bool is_byte = graph.outputs[r].dtype() == byte;
      std::size_t off = 0;
      for (std::size_t i = 0; i < got[r].values.size(); ++i) {
        const double a = got[r].values[i], b = expected[r].values[i];
        ASSERT_LE(std::abs(a - b), is_byte ? 1 : 0.01 * std::abs(b) + 0.02)
            << "result " << r << ", " << graph.outputs[r].type().str() << " at " << i << ": got " << a << ", expected " << b;
        off += is_byte && a != b;
      }
      EXPECT_LE(off, got[r].values.size() / 500) << "result " << r << ", " << graph.outputs[r].type().str();
    }
  }
}

TEST(Bytes, ChainsOnTheCpuAgreeWithTheInterpreter) { expect_agreement("cpu"); }

TEST(Bytes, ChainsOnOpenclAgreeWithTheInterpreter) {
  ZOE_SKIP_WITHOUT_OPENCL();
  expect_agreement("opencl");
}

TEST(Bytes, ConcatAndViewsMoveIt) {
  const Value a = input("a", DType::u8, {2, 3, 5}), b = input("b", DType::u8, {2, 4, 5});
  const Value whole = concat({slice(a, 1, 1, 3), b}, 1);
  const Graph graph = make_graph("moved", {a, b}, {whole, reshape(concat({a, a}, 0), {4, 15}), concat({b, b}, 2)});
  const auto values = values_for(graph);
  const auto expected = run_graph("interpreter", graph, values);
  std::vector<std::string> runners{"cpu", "cpu_uncompiled"};
  if (testing::opencl()) runners.push_back("opencl");
  if (testing::cuda()) runners.push_back("cuda");
  for (const std::string& runner : runners) {
    const auto got = run_graph(runner, graph, values);
    for (std::size_t r = 0; r < got.size(); ++r) EXPECT_EQ(got[r].values, expected[r].values) << runner << " result " << r;
  }
}

template <class Make>
void expect_refused(const Make& make, const std::string& expected) {
  try {
    make();
    ADD_FAILURE() << "nothing refused: " << expected;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid_argument);
    EXPECT_NE(std::string(error.what()).find(expected), std::string::npos) << error.what();
  }
}

TEST(Bytes, NothingComputesInIt) {
  const Value x = input("x", DType::u8, {2, 4}), f = input("f", DType::f32, {2, 4}), h = input("h", DType::bf16, {2, 4});
  expect_refused([&] { neg(x); }, "[neg] bad dtype of the operand: got u8, expected f32 or bf16.");
  expect_refused([&] { x + x; }, "[add] bad dtypes: got u8 and u8, expected two f32 or two bf16. Cast one.");
  expect_refused([&] { f* x; }, "[mul] bad dtypes: got f32 and u8");
  expect_refused([&] { x * 2.0; }, "[constant] bad dtype: got u8, expected f32 or bf16. Cast one.");
  expect_refused([&] { sum(x); }, "[sum] bad operand: got u8[2,4], expected f32");
  expect_refused([&] { swap_pairs(x); }, "[swap_pairs] bad operand: got u8[2,4]");
  expect_refused([&] { gather(x, input("i", DType::i32, {3})); }, "[gather] bad table: got u8[2,4]");
  expect_refused([&] { linear(x, input("w", DType::u8, {3, 4})); }, "[linear] bad x: got u8[2,4]");
  expect_refused([&] { concat({x, f}, 0); }, "[concat] types differ");
  expect_refused([&] { cast(h, DType::u8); }, "[cast] bad dtypes: got bf16 to u8, expected f32 to u8 or u8 to f32.");
  expect_refused([&] { cast(x, DType::bf16); }, "[cast] bad dtypes: got u8 to bf16, expected f32 to u8 or u8 to f32.");
  expect_refused([&] { cast(x, DType::i32); }, "[cast] bad dtypes: got u8 to i32");
  expect_refused([&] { parameter("w", DType::u8, {3}); },
                 "[parameter] bad dtype of w: got u8, expected f32 or bf16. Make it an input.");
}

}  // namespace
}  // namespace zoe
