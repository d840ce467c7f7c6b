// Products on AMX tiles: emulated on any machine, against the reference in f64; where the cores have them, the same bits by the
// instructions.
#include <cstring>

#include "ops/run_kernel.h"
#include "platform/cpu/kernels.h"
#include "platform/cpu/tiles.h"

namespace zoe::testing {
namespace {

#define ZOE_SKIP_WITHOUT_TILES() \
  if (!cpu::why_no_tiles().empty()) GTEST_SKIP() << "[SKIP] " << cpu::why_no_tiles()

// One product of two tiles, of which every row, and sums of which rows [0, rows) are used.
template <class Tiles>
std::array<float, 256> multiply(const std::array<std::uint16_t, 512>& a, const std::array<std::uint16_t, 512>& b,
                                std::array<float, 256> sums, std::int64_t rows) {
  Tiles::configure(cpu::TileShapes::of_rows({rows, 16, 16, 16, rows, 16, 16, 16}));
  Tiles::template load<0>(sums.data(), 64);
  Tiles::template load<4>(a.data(), 64);
  Tiles::template load<6>(b.data(), 64);
  Tiles::template multiply<0, 4, 6>();
  Tiles::template store<0>(sums.data(), 64);
  Tiles::release();
  return sums;
}

TEST(Tiles, MultiplyPairsOfRows) {
  std::array<std::uint16_t, 512> a{}, b{};
  a[3 * 32 + 5] = f32_to_bf16(2.0f);          // row 3, number 5
  b[2 * 32 + 2 * 7 + 1] = f32_to_bf16(3.0f);  // row 5 of the matrix, column 7: the odd one of pair 2
  std::array<float, 256> sums{};
  sums[3 * 16 + 7] = 1.0f;
  sums[9 * 16 + 7] = 4.0f;
  const std::array<float, 256> result = multiply<cpu::EmulatedTiles>(a, b, sums, 9);
  for (std::size_t i = 0; i < 256; ++i) EXPECT_EQ(result[i], i == 3 * 16 + 7 ? 7.0f : i == 9 * 16 + 7 ? 4.0f : 0.0f) << i;
}

#if defined(__x86_64__)
// Numbers of every size, subnormal ones, zeros of both signs, infinities and numbers whose products overflow.
TEST(Tiles, EmulationHasTheBitsOfTheInstructions) {
  ZOE_SKIP_WITHOUT_TILES();
  std::mt19937 random(1);
  const int scales[] = {0, 20, -60, 60, -120};
  for (int run = 0; run < 200; ++run) {
    std::array<std::uint16_t, 512> a, b;
    std::array<float, 256> sums;
    const int scale = scales[run % 5];
    const auto draw = [&] {
      std::normal_distribution<float> normal;
      return std::ldexp(normal(random), scale + static_cast<int>(random() % 16) - 8);
    };
    for (std::uint16_t& x : a) x = f32_to_bf16(random() % 50 ? draw() : -0.0f);
    for (std::uint16_t& x : b) x = f32_to_bf16(scale == -120 ? std::ldexp(draw(), 120) : draw());
    for (float& x : sums) x = draw();
    if (run % 10 == 9) a[random() % 512] = f32_to_bf16(std::numeric_limits<float>::infinity());
    const std::int64_t rows = 1 + static_cast<std::int64_t>(random() % 16);
    const auto real = multiply<cpu::HardwareTiles>(a, b, sums, rows), emulated = multiply<cpu::EmulatedTiles>(a, b, sums, rows);
    for (std::size_t i = 0; i < 256; ++i)
      if (!std::isnan(real[i]) || !std::isnan(emulated[i])) {
        ASSERT_EQ(std::bit_cast<std::uint32_t>(real[i]), std::bit_cast<std::uint32_t>(emulated[i])) << run << ", " << i;
      }
  }
}
#endif

struct TileCase {
  std::int64_t m, k, n;
  bool bias = false, residual = false;
  Activation activation = Activation::none;
  DType stored = DType::f32;
};

Case make(const TileCase& c) {
  const Value x = input("x", DType::bf16, {1, c.m, c.k}), weight = parameter("w", DType::bf16, {c.n, c.k});
  ProductOptions options;
  options.activation = c.activation;
  if (c.bias) options.bias = parameter("b", DType::bf16, {c.n});
  if (c.residual) options.residual = input("r", DType::bf16, {1, c.m, c.n});
  Case result{linear(x, weight, options), {}, c.stored};
  unsigned seed = 1;
  for (const Value& operand : result.result.node().inputs)
    result.operands.push_back(
        random_values({DType::bf16, operand.shape()}, seed++, operand == weight ? 1.0 / std::sqrt(static_cast<double>(c.k)) : 1.0));
  return result;
}

// Rows on both sides of a tile's, a block's and a task's; sums that fill no step, several chunks, or are made of several blocks of
// packed rows; columns beside a tile's, a panel's and a task's; every epilogue.
const TileCase kCases[] = {
    {1, 1, 1},
    {1, 256, 384, true, false, Activation::silu},
    {15, 31, 16, true},
    {16, 32, 17, false, true},
    {17, 33, 31, true, true, Activation::gelu_tanh},
    {31, 100, 32, true, false, Activation::silu},
    {33, 64, 33, false, true},
    {48, 130, 48, true, true, Activation::silu, DType::bf16},
    {49, 1100, 49, false, false, Activation::none, DType::f16},
    {255, 512, 96, true, true},
    {257, 544, 130, true, false, Activation::gelu_tanh},
    {300, 40, 290, true, true, Activation::none, DType::bf16},
    {70, 1700, 100, true, true, Activation::gelu_tanh},
    {530, 70, 33, true},
    {20, 1600, 530, false, true},
};

class TileLinear : public ::testing::TestWithParam<TileCase> {};

TEST_P(TileLinear, AgreesWithReference) {
  const Case c = make(GetParam());
  const auto kernel = cpu::make_tile_linear(c.result.node(), cpu_device(true), true);
  EXPECT_LE(relative_rms(run_kernel(*kernel, c), run_reference(c)), tolerance(DType::bf16));
}

TEST_P(TileLinear, SameBitsOnAnyNumberOfThreads) {
  const Case c = make(GetParam());
  const auto run = [&](int threads) {
    return run_kernel(*cpu::make_tile_linear(c.result.node(), cpu_device(true, threads), true), c);
  };
  const std::vector<double> one = run(1);
  for (const int threads : {2, 3, 16}) EXPECT_EQ(one, run(threads)) << threads;
}

TEST_P(TileLinear, InstructionsGiveTheSameBits) {
  ZOE_SKIP_WITHOUT_TILES();
  const Case c = make(GetParam());
  const auto run = [&](bool emulated) {
    return run_kernel(*cpu::make_tile_linear(c.result.node(), cpu_device(true), emulated), c);
  };
  EXPECT_EQ(run(false), run(true));
}
INSTANTIATE_TEST_SUITE_P(Shapes, TileLinear, ::testing::ValuesIn(kCases));

// Equal rows have equal results, wherever they are among the others.
TEST(TileLinear, ARowsBitsDoNotDependOnOtherRows) {
  const Case many = make({70, 1100, 40, true});
  Case one = make({1, 1100, 40, true});
  one.operands[1] = many.operands[1];
  one.operands[2] = many.operands[2];
  const auto run = [](const Case& c) { return run_kernel(*cpu::make_tile_linear(c.result.node(), cpu_device(true), true), c); };
  const std::vector<double> all = run(many);
  for (const std::int64_t row : {0, 16, 40, 69}) {
    one.operands[0].assign(many.operands[0].begin() + row * 1100, many.operands[0].begin() + (row + 1) * 1100);
    EXPECT_EQ(run(one), std::vector<double>(all.begin() + row * 40, all.begin() + (row + 1) * 40)) << row;
  }
}

TEST(TileLinear, IsTakenForLongSumsWhereTheCoresHaveTiles) {
  const auto by_tiles = [](std::int64_t depth, bool bf16_products, Activation activation = Activation::none) {
    const auto kernel = cpu::make_kernel(make({64, depth, 64, false, false, activation}).result.node(), cpu_device(bf16_products));
    return kernel->implementation().find("tiles") != std::string_view::npos;
  };
  EXPECT_EQ(by_tiles(768, true), cpu::why_no_tiles().empty());
  EXPECT_FALSE(by_tiles(1536, false));
  EXPECT_FALSE(by_tiles(256, true));
  EXPECT_EQ(by_tiles(256, true, Activation::gelu_tanh), cpu::why_no_tiles().empty());
}

struct AttentionCase {
  std::int64_t batch, queries, keys, heads, channels;
  Shape bias = {};                                                  // rank 0: none
  std::array<std::int64_t, 3> held = {0, 0, 0}, first = {0, 0, 0};  // heads that q, k and v hold, 0: `heads`; of these the first
};

Case make(const AttentionCase& c) {
  const auto made = [&](const char* operand_name, std::int64_t length, std::size_t i) {
    return input(operand_name, DType::bf16, {c.batch, length, c.held[i] ? c.held[i] : c.heads, c.channels});
  };
  const Value q = made("q", c.queries, 0), k = made("k", c.keys, 1), v = made("v", c.keys, 2);
  const Value bias = c.bias.rank() == 0 ? Value() : input("bias", DType::f32, c.bias);
  AttentionAttributes attributes{1.0 / std::sqrt(static_cast<double>(c.channels))};
  if (c.held[0] + c.held[1] + c.held[2] > 0) attributes.heads = c.heads, attributes.first_head = c.first;
  Case result{attention(q, k, v, attributes, bias), {}};
  unsigned seed = 1;
  for (const Value& operand : result.result.node().inputs) result.operands.push_back(random_values(operand.type(), seed++, 1.5));
  return result;
}

// Queries beside a tile's, keys beside a panel's and a piece's, the widths of heads and the forms of bias that the models have.
const AttentionCase kAttentionCases[] = {
    {1, 1, 1, 1, 32},
    {1, 31, 16, 2, 64},
    {2, 97, 300, 2, 64},
    {1, 200, 513, 3, 128},
    {1, 70, 70, 1, 384},
    {1, 33, 257, 2, 96},
    {1, 64, 47, 4, 64, {1, 4, 64, 47}},
    {2, 33, 49, 2, 32, {2, 1, 1, 49}},
    {2, 97, 131, 2, 32, {2, 1, 1, 131}, {5, 4, 3}, {1, 2, 0}},
    {1, 130, 104, 2, 128, {1, 1, 1, 104}},
};

class TileAttention : public ::testing::TestWithParam<AttentionCase> {};

TEST_P(TileAttention, AgreesWithReference) {
  const Case c = make(GetParam());
  const std::vector<double> expected = run_reference(c);
  const double error = relative_rms(run_kernel(*cpu::make_tile_attention(c.result.node(), cpu_device(true), true), c), expected);
  EXPECT_LE(error, 2 * tolerance(DType::bf16));  // the weights of the keys are rounded too
}

TEST_P(TileAttention, SameBitsOnAnyNumberOfThreads) {
  const Case c = make(GetParam());
  const auto run = [&](int threads) {
    return run_kernel(*cpu::make_tile_attention(c.result.node(), cpu_device(true, threads), true), c);
  };
  const std::vector<double> one = run(1);
  for (const int threads : {2, 3, 16}) EXPECT_EQ(one, run(threads)) << threads;
}

TEST_P(TileAttention, InstructionsGiveTheSameBits) {
  ZOE_SKIP_WITHOUT_TILES();
  const Case c = make(GetParam());
  const auto run = [&](bool emulated) {
    return run_kernel(*cpu::make_tile_attention(c.result.node(), cpu_device(true), emulated), c);
  };
  EXPECT_EQ(run(false), run(true));
}

// Against the products of pairs by vectors, which they replace.
TEST_P(TileAttention, ErrsNoMoreThanVectors) {
  const Case c = make(GetParam());
  const std::vector<double> expected = run_reference(c);
  const double vectors = relative_rms(run_kernel(*cpu::make_vector_attention(c.result.node(), cpu_device(true)), c), expected);
  const auto kernel = cpu::make_vector_attention(c.result.node(), cpu_device(true));
  if (kernel->implementation().find("bf16") == std::string_view::npos) GTEST_SKIP() << "[SKIP] no bf16 products here";
  EXPECT_LE(relative_rms(run_kernel(*cpu::make_tile_attention(c.result.node(), cpu_device(true), true), c), expected),
            1.02 * vectors);
}
INSTANTIATE_TEST_SUITE_P(Shapes, TileAttention, ::testing::ValuesIn(kAttentionCases));

struct ConvCase {
  Shape x, weight;
  ConvWindow window = {};
  bool bias = false, residual = false;
  Activation activation = Activation::none;
  std::int64_t earlier = 0;  // frames of a history
};

Case make(const ConvCase& c) {
  const Value x = input("x", DType::bf16, c.x), weight = parameter("w", DType::bf16, c.weight);
  ProductOptions options;
  options.activation = c.activation;
  if (c.bias) options.bias = parameter("b", DType::bf16, {c.weight.dim(0)});
  if (c.earlier > 0) options.history = input("h", DType::bf16, {c.earlier, c.x.dim(1), c.x.dim(2), c.x.dim(3)});
  if (c.residual) options.residual = input("r", DType::bf16, conv(x, weight, c.window, {.history = options.history}).shape());
  Case result{conv(x, weight, c.window, options), {}};
  unsigned seed = 1;
  for (const Value& operand : result.result.node().inputs)
    result.operands.push_back(random_values(operand.type(), seed++,
                                            operand == weight ? 1.0 / std::sqrt(static_cast<double>(c.weight.count(1, 5))) : 1.0));
  return result;
}

// The windows of the VAEs and of their upsampling's parts; channels that fill steps, and such whose taps share them; runs that end
// in and behind a tile, a block and a box; histories in part before the first frame and alone in a result's window.
const ConvWindow kSame{{1, 1, 1}, {0, 1, 1}, {0, 1, 1}}, kDownSpace{{1, 2, 2}, {0, 0, 0}, {0, 1, 1}}, kDownTime{{2, 1, 1}, {}, {}};
const ConvCase kConvCases[] = {
    {{3, 9, 11, 16}, {16, 16, 3, 3, 3}, kSame, true, true},
    {{4, 8, 8, 64}, {40, 64, 3, 3, 3}, kSame, true, false, Activation::silu},
    {{3, 8, 70, 96}, {96, 96, 3, 3, 3}, kSame, true, true},
    {{6, 20, 16, 32}, {33, 32, 3, 3, 3}, kSame, false, true},
    {{3, 12, 10, 3}, {16, 3, 3, 3, 3}, kSame},
    {{3, 33, 33, 48}, {3, 48, 3, 3, 3}, kSame, true},
    {{3, 6, 7, 12}, {20, 12, 3, 3, 3}, kSame, false, true},
    {{4, 5, 6, 32}, {64, 32, 3, 1, 1}, {}},
    {{2, 10, 13, 16}, {16, 16, 1, 3, 3}, kDownSpace, true},
    {{2, 11, 34, 64}, {32, 64, 1, 3, 3}, kDownSpace, true, true},
    {{5, 5, 6, 32}, {32, 32, 3, 1, 1}, kDownTime},
    {{1, 1, 1, 8}, {1, 8, 1, 1, 1}, {}},
    {{2, 9, 12, 20}, {24, 20, 1, 2, 2}, {{1, 1, 1}, {0, 1, 0}, {0, 0, 1}}, true},
    {{2, 9, 12, 32}, {24, 32, 1, 2, 2}, {{1, 1, 1}, {0, 0, 1}, {0, 1, 0}}, true},
    {{2, 7, 9, 16}, {8, 16, 1, 2, 3}, {{1, 3, 2}, {0, 0, 0}, {0, 0, 0}}, true, false, Activation::gelu_tanh},
    {{2, 8, 9, 32}, {32, 32, 3, 3, 3}, {{1, 1, 1}, {2, 1, 1}, {0, 1, 1}}},
    {{2, 8, 9, 32}, {32, 32, 3, 3, 3}, kSame, true, true, Activation::none, 2},
    {{1, 8, 9, 16}, {16, 16, 3, 3, 3}, {{1, 1, 1}, {1, 1, 1}, {0, 1, 1}}, true, false, Activation::none, 1},
    {{1, 6, 6, 64}, {32, 64, 2, 1, 1}, {{2, 1, 1}, {0, 0, 0}, {0, 0, 0}}, false, false, Activation::none, 4},
    {{2, 3, 150, 32}, {32, 32, 1, 3, 3}, kSame},
};

class TileConv : public ::testing::TestWithParam<ConvCase> {};

TEST_P(TileConv, AgreesWithReference) {
  const Case c = make(GetParam());
  const auto kernel = cpu::make_tile_conv(c.result.node(), cpu_device(true), true);
  EXPECT_LE(relative_rms(run_kernel(*kernel, c), run_reference(c)), tolerance(DType::bf16));
}

TEST_P(TileConv, SameBitsOnAnyNumberOfThreads) {
  const Case c = make(GetParam());
  const auto run = [&](int threads) {
    return run_kernel(*cpu::make_tile_conv(c.result.node(), cpu_device(true, threads), true), c);
  };
  const std::vector<double> one = run(1);
  for (const int threads : {2, 3, 16, 64}) EXPECT_EQ(one, run(threads)) << threads;
}

TEST_P(TileConv, InstructionsGiveTheSameBits) {
  ZOE_SKIP_WITHOUT_TILES();
  const Case c = make(GetParam());
  const auto run = [&](bool emulated) { return run_kernel(*cpu::make_tile_conv(c.result.node(), cpu_device(true), emulated), c); };
  EXPECT_EQ(run(false), run(true));
}
INSTANTIATE_TEST_SUITE_P(Shapes, TileConv, ::testing::ValuesIn(kConvCases));

// Frames of a history are the first ones of a longer x.
TEST(TileConv, HistoryHasTheBitsOfOneInput) {
  const ConvCase whole{{4, 8, 9, 48}, {40, 48, 3, 3, 3}, kSame, true},
      parts{{2, 8, 9, 48}, {40, 48, 3, 3, 3}, kSame, true, false, Activation::none, 2};
  const Case one = make(whole);
  Case two = make(parts);
  const auto middle = one.operands[0].begin() + static_cast<std::ptrdiff_t>(one.operands[0].size() / 2);
  two.operands = {{middle, one.operands[0].end()}, one.operands[1], one.operands[2], {one.operands[0].begin(), middle}};
  const auto run = [](const Case& c) { return run_kernel(*cpu::make_tile_conv(c.result.node(), cpu_device(true), true), c); };
  EXPECT_EQ(run(one), run(two));
}

TEST(TileConv, IsTakenInBf16WhereTheCoresHaveTiles) {
  const auto by_tiles = [](const ConvCase& c, bool bf16_products) {
    const auto kernel = cpu::make_kernel(make(c).result.node(), cpu_device(bf16_products));
    return kernel->implementation().find("tiles") != std::string_view::npos;
  };
  const ConvCase &many = kConvCases[1], few{{2, 9, 8, 32}, {16, 32, 1, 3, 3}, kSame};
  EXPECT_EQ(by_tiles(many, true), cpu::why_no_tiles().empty());
  EXPECT_FALSE(by_tiles(many, false));
  EXPECT_FALSE(by_tiles(few, true));
}

}  // namespace
}  // namespace zoe::testing
