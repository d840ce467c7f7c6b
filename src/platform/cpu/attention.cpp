// Attention that never stores the scores: a tile of queries meets the keys a tile at a time, with the running maximum and
// sum of Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018).
//
// For a group of heads, keys and values are first copied to panels of two vectors' width (keys transposed), so that both
// products run through one register-blocked kernel. Tiles of queries are independent: the result does not depend on threads.
// bf16 operands are widened to f32; on cores with AVX-512 bf16 products they stay as they are, two channels (or two keys) in
// one word, and the keys' weights are rounded to bf16 before they meet the values. AMX tiles multiply the same words, 32 queries
// with a panel of 32 at a time.

// foreach_target.h includes this file again for each of them.
#define HWY_DISABLED_TARGETS HWY_SSSE3
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "platform/cpu/attention.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "platform/cpu/math-inl.h"

#ifndef ZOE_PLATFORM_CPU_ATTENTION_ONCE
#define ZOE_PLATFORM_CPU_ATTENTION_ONCE
#include <omp.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <string>

#include "base/dtype.h"
#include "base/error.h"
#include "platform/cpu/kernels.h"
#include "platform/cpu/tiles.h"

namespace zoe::cpu {
namespace {

constexpr std::int64_t kQueries = 96;  // of a tile: a multiple of the rows of every instruction set's product
constexpr std::int64_t kKeys = 256;    // of a tile: the scores and one panel of each operand stay in the caches

// One head: channels are adjacent. Types are those of the node.
struct Head {
  const std::byte *q, *k, *v;
  const float* bias;  // [Lq,Lk] with `bias_stride` between rows (0: one row for all), or null
  std::byte* result;
  float *k_panels, *v_panels;
};

struct Geometry {
  std::int64_t queries, keys, channels;               // Lq, Lk, D
  std::int64_t q_stride, k_stride, v_stride, stride;  // between positions of q, k, v and the result
  std::int64_t bias_stride;
  float scale;
  std::int64_t panel;     // width of a panel, the instruction set's
  std::int64_t key_step;  // the values' panels have whole steps of so many keys, filled up with zeros
  std::int64_t padded_values() const { return (keys + key_step - 1) / key_step * key_step; }
  std::int64_t padded_keys() const { return (keys + panel - 1) / panel * panel; }
  std::int64_t padded_channels() const { return (channels + panel - 1) / panel * panel; }
  int score_blocks;  // that a thread has at a time
  // Elements of the work memory of one thread: queries, scores, result, maxima, sums and factors of a tile.
  std::int64_t tile_elements() const { return kQueries * (channels + score_blocks * kKeys + padded_channels() + 3); }
};

// What the node stores, and what is multiplied.
enum Operands { f32_products, bf16_widened, bf16_products, bf16_tiles, bf16_emulated_tiles };
constexpr std::size_t kOperandKinds = 5;
constexpr std::int64_t kTilePanel = 32;  // words of a panel of two tiles' width, and rows of two tiles' height

// Copies keys [begin, end) of a head to its panels; `begin` is a multiple of the panel.
using PackLoop = void (*)(const Geometry& geometry, const Head& head, std::int64_t begin, std::int64_t end);
// Queries [begin, begin + kQueries) of a head. `work` has tile_elements().
using TileLoop = void (*)(const Geometry& geometry, const Head& head, std::int64_t begin, float* work);

struct Loops {
  std::int64_t panel;
  PackLoop pack[kOperandKinds];  // by Operands
  TileLoop tile[kOperandKinds];
};

}  // namespace
}  // namespace zoe::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace zoe::cpu::HWY_NAMESPACE {
namespace {

const hn::ScalableTag<float> kLanes;
using V = hn::Vec<decltype(kLanes)>;
constexpr std::int64_t kWidth = HWY_LANES(float);
constexpr std::int64_t kPanel = 2 * kWidth;
constexpr std::int64_t kRows = kWidth == 16 ? 12 : 6;  // their sums fill the registers
static_assert(kQueries % kRows == 0);

HWY_INLINE float widen(float value) { return value; }
HWY_INLINE float widen(std::uint16_t value) { return bf16_to_f32(value); }

// sums[r][0..kPanel) (+)= sum over i < depth of a[r][i] * panel[i][0..kPanel), in the order of i.
template <bool kAccumulate>
HWY_INLINE void multiply(const float* HWY_RESTRICT a, std::int64_t a_stride, const float* HWY_RESTRICT panel, std::int64_t depth,
                         float* HWY_RESTRICT sums, std::int64_t sums_stride) {
  V sum[kRows][2];
#pragma GCC unroll 12
  for (std::int64_t r = 0; r < kRows; ++r) {
    sum[r][0] = kAccumulate ? hn::LoadU(kLanes, sums + r * sums_stride) : hn::Zero(kLanes);
    sum[r][1] = kAccumulate ? hn::LoadU(kLanes, sums + r * sums_stride + kWidth) : hn::Zero(kLanes);
  }
  for (std::int64_t i = 0; i < depth; ++i) {
    const V b0 = hn::LoadU(kLanes, panel + i * kPanel), b1 = hn::LoadU(kLanes, panel + i * kPanel + kWidth);
#pragma GCC unroll 12
    for (std::int64_t r = 0; r < kRows; ++r) {
      const V factor = hn::Set(kLanes, a[r * a_stride + i]);
      sum[r][0] = hn::MulAdd(factor, b0, sum[r][0]);
      sum[r][1] = hn::MulAdd(factor, b1, sum[r][1]);
    }
  }
#pragma GCC unroll 12
  for (std::int64_t r = 0; r < kRows; ++r) {
    hn::StoreU(sum[r][0], kLanes, sums + r * sums_stride);
    hn::StoreU(sum[r][1], kLanes, sums + r * sums_stride + kWidth);
  }
}

#if HWY_TARGET <= HWY_AVX3
constexpr bool kHasPairs = true;

// The same for words of two bf16 numbers: each word of `a` times each of the panel adds two products.
template <bool kAccumulate>
__attribute__((target("avx512bf16"), noinline)) void multiply_pairs(const float* a, std::int64_t a_stride, const float* panel,
                                                                    std::int64_t depth, float* sums, std::int64_t sums_stride) {
  __m512 sum[kRows][2];
#pragma GCC unroll 12
  for (std::int64_t r = 0; r < kRows; ++r) {
    sum[r][0] = kAccumulate ? _mm512_loadu_ps(sums + r * sums_stride) : _mm512_setzero_ps();
    sum[r][1] = kAccumulate ? _mm512_loadu_ps(sums + r * sums_stride + kWidth) : _mm512_setzero_ps();
  }
  for (std::int64_t i = 0; i < depth; ++i) {
    const auto b0 = (__m512bh)_mm512_loadu_si512(panel + i * kPanel),
               b1 = (__m512bh)_mm512_loadu_si512(panel + i * kPanel + kWidth);
#pragma GCC unroll 12
    for (std::int64_t r = 0; r < kRows; ++r) {
      int word;
      std::memcpy(&word, a + r * a_stride + i, sizeof word);
      const auto factor = (__m512bh)_mm512_set1_epi32(word);
      sum[r][0] = _mm512_dpbf16_ps(sum[r][0], factor, b0);
      sum[r][1] = _mm512_dpbf16_ps(sum[r][1], factor, b1);
    }
  }
#pragma GCC unroll 12
  for (std::int64_t r = 0; r < kRows; ++r) {
    _mm512_storeu_ps(sums + r * sums_stride, sum[r][0]);
    _mm512_storeu_ps(sums + r * sums_stride + kWidth, sum[r][1]);
  }
}
#else
constexpr bool kHasPairs = false;
#endif

// Words that hold `count` adjacent numbers.
template <bool kPairs>
constexpr std::int64_t words(std::int64_t count) {
  return kPairs ? (count + 1) / 2 : count;
}

template <bool kPairs, bool kAccumulate>
HWY_INLINE void product(const float* a, std::int64_t a_stride, const float* panel, std::int64_t depth, float* sums,
                        std::int64_t sums_stride) {
#if HWY_TARGET <= HWY_AVX3
  if constexpr (kPairs) return multiply_pairs<kAccumulate>(a, a_stride, panel, depth, sums, sums_stride);
#endif
  multiply<kAccumulate>(a, a_stride, panel, depth, sums, sums_stride);
}

// The products of a tile of queries with a panel. `rows` is a multiple of kRows.
template <bool kPairs, bool kAccumulate>
HWY_INLINE void multiply_rows(std::int64_t rows, const float* a, std::int64_t a_stride, const float* panel, std::int64_t depth,
                              float* sums, std::int64_t sums_stride) {
  for (std::int64_t r = 0; r < rows; r += kRows)
    product<kPairs, kAccumulate>(a + r * a_stride, a_stride, panel, depth, sums + r * sums_stride, sums_stride);
}

// The same by AMX tiles, `rows` being a multiple of theirs. Calls beside() after each step of 16 words for each panel.
template <class Tiles, bool kAccumulate, class Beside>
void multiply_tiles(std::int64_t rows, const float* a, std::int64_t a_stride, const float* panel, std::int64_t depth, float* sums,
                    std::int64_t sums_stride, const Beside& beside) {
  constexpr std::int64_t kWords = kTileBytes / 4, kPanelStride = kTilePanel * 4, kRowStep = 2 * kTileRows;
  const std::int64_t a_bytes = a_stride * 4, sums_bytes = sums_stride * 4;
  for (std::int64_t r = 0; r < rows; r += kRowStep, a += kRowStep * a_stride, sums += kRowStep * sums_stride) {
    float* const below = sums + kTileRows * sums_stride;
    if constexpr (kAccumulate) {
      Tiles::template load<0>(sums, sums_bytes);
      Tiles::template load<1>(sums + kWords, sums_bytes);
      Tiles::template load<2>(below, sums_bytes);
      Tiles::template load<3>(below + kWords, sums_bytes);
    } else {
      Tiles::template zero<0>();
      Tiles::template zero<1>();
      Tiles::template zero<2>();
      Tiles::template zero<3>();
    }
    for (std::int64_t i = 0; i < depth; i += kWords) {
      Tiles::template load<4>(a + i, a_bytes);
      Tiles::template load<6>(panel + i * kTilePanel, kPanelStride);
      Tiles::template multiply<0, 4, 6>();
      Tiles::template load<7>(panel + i * kTilePanel + kWords, kPanelStride);
      Tiles::template multiply<1, 4, 7>();
      Tiles::template load<5>(a + kTileRows * a_stride + i, a_bytes);
      Tiles::template multiply<2, 5, 6>();
      Tiles::template multiply<3, 5, 7>();
      beside();
    }
    Tiles::template store<0>(sums, sums_bytes);
    Tiles::template store<1>(sums + kWords, sums_bytes);
    Tiles::template store<2>(below, sums_bytes);
    Tiles::template store<3>(below + kWords, sums_bytes);
  }
}

// A word of a panel: the number `from` points at, with its partner `step` further if there is one.
[[maybe_unused]] HWY_INLINE std::uint32_t pair(const std::uint16_t* from, std::int64_t step, bool has_partner) {
  return from[0] | (has_partner ? static_cast<std::uint32_t>(from[step]) << 16 : 0u);
}

template <class T, bool kPairs, std::int64_t kPanelWidth>
void pack(const Geometry& g, const Head& head, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kStep = kPairs ? 2 : 1;
  const auto *k = reinterpret_cast<const T*>(head.k), *v = reinterpret_cast<const T*>(head.v);
  const auto word = [](const T* from, std::int64_t step, bool has_partner) {
    if constexpr (kPairs) {
      return std::bit_cast<float>(pair(from, step, has_partner));
    } else {
      static_cast<void>(step), static_cast<void>(has_partner);
      return widen(*from);
    }
  };
  for (std::int64_t key0 = begin; key0 < end; key0 += kPanelWidth) {
    float* to = head.k_panels + key0 * words<kPairs>(g.channels);  // [D][kPanelWidth]
    const std::int64_t count = std::min(kPanelWidth, g.keys - key0);
    for (std::int64_t c = 0; c < g.channels; c += kStep, to += kPanelWidth) {
      for (std::int64_t j = 0; j < count; ++j) to[j] = word(k + (key0 + j) * g.k_stride + c, 1, c + 1 < g.channels);
      std::fill(to + count, to + kPanelWidth, 0.0f);
    }
  }
  for (std::int64_t c0 = 0; c0 < g.channels; c0 += kPanelWidth) {
    float* to = head.v_panels + c0 * words<kPairs>(g.padded_values()) + words<kPairs>(begin) * kPanelWidth;  // [Lk][kPanelWidth]
    const std::int64_t count = std::min(kPanelWidth, g.channels - c0);
    for (std::int64_t key = begin; key < end; key += kStep, to += kPanelWidth) {
      const T* from = v + key * g.v_stride + c0;
      for (std::int64_t j = 0; j < count; ++j) to[j] = word(from + j, g.v_stride, key + 1 < g.keys);
      std::fill(to + count, to + kPanelWidth, 0.0f);
    }
    if (end == g.keys) std::fill_n(to, (words<kPairs>(g.padded_values()) - words<kPairs>(end)) * kPanelWidth, 0.0f);
  }
}

HWY_INLINE V exp_of_negative(V x) { return zoe_exp_of_negative(Floats<decltype(kLanes)>(x)).v; }

// Turns a row of products into exp(scale * product + bias - maximum), with the row's running maximum and sum. Returns the
// factor by which what was summed before shrinks. Products beyond `count`, up to a whole vector, become 0. With kPairs the row
// is left as bf16.
template <bool kPairs>
HWY_INLINE float soften(float* row, const float* bias, std::int64_t count, float scale, float* maximum, float* total) {
  const V factor = hn::Set(kLanes, scale), minus_infinity = hn::Set(kLanes, -std::numeric_limits<float>::infinity());
  V highest = minus_infinity;
  for (std::int64_t i = 0; i < count; i += kWidth) {
    V score = hn::Mul(hn::LoadU(kLanes, row + i), factor);
    const std::int64_t rest = count - i;
    if (rest >= kWidth) {
      if (bias) score = hn::Add(score, hn::LoadU(kLanes, bias + i));
    } else {
      if (bias) {
        float tail[kWidth] = {};
        std::copy_n(bias + i, rest, tail);
        score = hn::Add(score, hn::LoadU(kLanes, tail));
      }
      score = hn::IfThenElse(hn::FirstN(kLanes, static_cast<std::size_t>(rest)), score, minus_infinity);
    }
    highest = hn::Max(highest, score);
    hn::StoreU(score, kLanes, row + i);
  }
  // The running maximum is finite from the start, so that masked keys (-infinity) subtract to -infinity.
  const float before = *maximum, now = std::max(before, hn::GetLane(hn::MaxOfLanes(kLanes, highest)));
  const V shift = hn::Set(kLanes, now);
  V sum = hn::Zero(kLanes);
  for (std::int64_t i = 0; i < count; i += kWidth) {
    const V weight = exp_of_negative(hn::Sub(hn::LoadU(kLanes, row + i), shift));
    sum = hn::Add(sum, weight);
    if constexpr (kPairs) store(kLanes, weight, reinterpret_cast<std::uint16_t*>(row) + i);
    else store(kLanes, weight, row + i);
  }
  const float shrink = before == now ? 1.0f : hn::GetLane(exp_of_negative(hn::Set(kLanes, before - now)));
  *maximum = now;
  *total = *total * shrink + hn::GetLane(hn::SumOfLanes(kLanes, sum));
  return shrink;
}

// Of a tile of queries, in a thread's work memory.
struct Work {
  Work(const Geometry& g, float* memory)
      : queries(memory),
        scores(queries + kQueries * g.channels),
        result(scores + g.score_blocks * kQueries * kKeys),
        maxima(result + kQueries * g.padded_channels()),
        totals(maxima + kQueries),
        factors(totals + kQueries) {
    std::fill_n(maxima, kQueries, std::numeric_limits<float>::lowest());
    std::fill_n(totals, kQueries, 0.0f);
  }
  float* queries;  // [kQueries][D]
  float* scores;   // score_blocks of [kQueries][kKeys]
  float* result;   // [kQueries][padded_channels()]
  float *maxima, *totals;
  float* factors;  // by which what was summed before shrinks
};

// Queries [begin, begin + rows) of a head in words; up to `whole_rows`, zeros.
template <class T, bool kPairs>
void copy_queries(const Geometry& g, const Head& head, std::int64_t begin, std::int64_t rows, std::int64_t whole_rows,
                  float* queries) {
  const T* q = reinterpret_cast<const T*>(head.q) + begin * g.q_stride;
  const std::int64_t depth = words<kPairs>(g.channels);
  for (std::int64_t r = 0; r < whole_rows; ++r) {
    float* row = queries + r * depth;
    std::fill_n(row, depth, 0.0f);
    if (r >= rows) continue;
    if constexpr (kPairs) std::memcpy(row, q + r * g.q_stride, static_cast<std::size_t>(g.channels) * sizeof(T));
    else
      for (std::int64_t c = 0; c < g.channels; ++c) row[c] = widen(q[r * g.q_stride + c]);
  }
}

HWY_INLINE void scale(float* row, std::int64_t width, float by) {
  const V factor = hn::Set(kLanes, by);
  for (std::int64_t c = 0; c < width; c += kWidth) hn::StoreU(hn::Mul(hn::LoadU(kLanes, row + c), factor), kLanes, row + c);
}

template <class T>
void store_result(const Geometry& g, const Head& head, std::int64_t begin, std::int64_t rows, const Work& work) {
  T* to = reinterpret_cast<T*>(head.result) + begin * g.stride;
  for (std::int64_t r = 0; r < rows; ++r, to += g.stride) {
    // A query whose keys are all masked has no weights: its result is zero.
    const V total = hn::Set(kLanes, work.totals[r] == 0.0f ? 1.0f : work.totals[r]);
    const float* row = work.result + r * g.padded_channels();
    std::int64_t c = 0;
    for (; c + kWidth <= g.channels; c += kWidth) store(kLanes, hn::Div(hn::LoadU(kLanes, row + c), total), to + c);
    if (c < g.channels) {
      T last[kWidth];
      store(kLanes, hn::Div(hn::LoadU(kLanes, row + c), total), last);
      std::copy_n(last, g.channels - c, to + c);
    }
  }
}

template <class T, bool kPairs>
void tile(const Geometry& g, const Head& head, std::int64_t begin, float* memory) {
  const std::int64_t rows = std::min(kQueries, g.queries - begin), whole_rows = (rows + kRows - 1) / kRows * kRows;
  const std::int64_t width = g.padded_channels(), depth = words<kPairs>(g.channels);
  const Work work(g, memory);
  copy_queries<T, kPairs>(g, head, begin, rows, whole_rows, work.queries);
  std::fill_n(work.result, whole_rows * width, 0.0f);

  for (std::int64_t key0 = 0; key0 < g.keys; key0 += kKeys) {
    const std::int64_t count = std::min(kKeys, g.keys - key0);
    for (std::int64_t j = 0; j < count; j += kPanel)
      multiply_rows<kPairs, false>(whole_rows, work.queries, depth, head.k_panels + (key0 + j) * depth, depth, work.scores + j,
                                   kKeys);
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* bias = head.bias ? head.bias + (begin + r) * g.bias_stride + key0 : nullptr;
      const float shrink = soften<kPairs>(work.scores + r * kKeys, bias, count, g.scale, work.maxima + r, work.totals + r);
      if (shrink != 1.0f) scale(work.result + r * width, width, shrink);
    }
    for (std::int64_t c = 0; c < width; c += kPanel)
      multiply_rows<kPairs, true>(whole_rows, work.scores, kKeys,
                                  head.v_panels + c * words<kPairs>(g.padded_values()) + words<kPairs>(key0) * kPanel,
                                  words<kPairs>(count), work.result + c, width);
  }
  store_result<T>(g, head, begin, rows, work);
}

// 2^x for x near 0 and below, at most 3e-6 of it off, which a rounding to bf16 hides a thousand times over; 0 below 2^-125. NaN for
// NaN. Coefficients: minimax fit of 2^f for the relative error, |f| <= 1/2.
HWY_INLINE V short_power_of_two(V x) {
  const hn::Rebind<std::int32_t, decltype(kLanes)> ints;
  const V least = hn::Set(kLanes, -125.0f), whole = hn::Set(kLanes, 12582912.0f);  // 1.5 * 2^23: sums with it are whole numbers
  const V bounded = hn::Max(least, x);
  const V shifted = hn::Add(bounded, whole);
  const V f = hn::Sub(bounded, hn::Sub(shifted, whole));
  V p = hn::MulAdd(f, hn::Set(kLanes, 0x1.3997d6p-7f), hn::Set(kLanes, 0x1.ca1440p-5f));
  p = hn::MulAdd(p, f, hn::Set(kLanes, 0x1.ec06dap-3f));
  p = hn::MulAdd(p, f, hn::Set(kLanes, 0x1.62e0dcp-1f));
  p = hn::MulAdd(p, f, hn::Set(kLanes, 0x1.ffffe8p-1f));
  const V power = hn::BitCast(kLanes, hn::Add(hn::BitCast(ints, p), hn::ShiftLeft<23>(hn::BitCast(ints, shifted))));
  return hn::IfThenZeroElse(hn::Lt(x, least), power);
}

// soften() for words of bf16, zeros up to a whole panel: scores, in powers of two, are made twice rather than stored. `kRounds`:
// the cores have AVX-512 BF16; tiles take the numbers for zeros that this makes zeros.
template <bool kRounds, bool kHasBias>
HWY_NOINLINE float soften_to_words(float* row, const float* bias, std::int64_t count, float scale, float* maximum, float* total) {
  constexpr std::int64_t kVectors = kTilePanel / kWidth;
  constexpr float kLog2OfE = 1.44269504f;
  const V factor = hn::Set(kLanes, scale * kLog2OfE), minus_infinity = hn::Set(kLanes, -std::numeric_limits<float>::infinity());
  // Of keys from `i` on; those that are not there have none.
  const auto score = [&](std::int64_t i, V offset) HWY_ATTR {
    const std::int64_t rest = count - i;
    if (rest <= 0) return minus_infinity;
    if constexpr (kHasBias) {
      float tail[kWidth] = {};
      if (rest < kWidth) std::copy_n(bias + i, rest, tail);
      offset = hn::MulAdd(hn::LoadU(kLanes, rest < kWidth ? tail : bias + i), hn::Set(kLanes, kLog2OfE), offset);
    }
    const V sum = hn::MulAdd(hn::LoadU(kLanes, row + i), factor, offset);
    return rest >= kWidth ? sum : hn::IfThenElse(hn::FirstN(kLanes, static_cast<std::size_t>(rest)), sum, minus_infinity);
  };
  V highest[2] = {minus_infinity, minus_infinity};
  for (std::int64_t i = 0; i < count; i += 2 * kWidth) {
    highest[0] = hn::Max(highest[0], score(i, hn::Zero(kLanes)));
    highest[1] = hn::Max(highest[1], score(i + kWidth, hn::Zero(kLanes)));
  }
  // The running maximum is finite from the start, so that masked keys (-infinity) subtract to -infinity.
  const float before = *maximum, now = std::max(before, hn::GetLane(hn::MaxOfLanes(kLanes, hn::Max(highest[0], highest[1]))));
  const V offset = hn::Set(kLanes, -now);
  V sum = hn::Zero(kLanes);
  for (std::int64_t i = 0; i < count; i += kTilePanel) {
    V weights[kVectors];
    for (std::int64_t v = 0; v < kVectors; ++v) {
      weights[v] = short_power_of_two(score(i + v * kWidth, offset));
      sum = hn::Add(sum, weights[v]);
    }
    auto* const to = reinterpret_cast<std::uint16_t*>(row) + i;
#if HWY_TARGET <= HWY_AVX3
    if constexpr (kRounds) {
      _mm512_storeu_si512(to, rounded_pair(weights[0].raw, weights[1].raw));
      continue;
    }
    // Weights are no NaNs but where the sum is one, too.
    const hn::ScalableTag<std::uint32_t> d32;
    const hn::ScalableTag<std::uint16_t> d16;
    const auto rounded = [&](V weight) HWY_ATTR {
      const auto bits = hn::BitCast(d32, weight);
      const auto is_odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1u));
      return hn::BitCast(d16, hn::Add(bits, hn::Add(hn::Set(d32, 0x7fffu), is_odd)));
    };
    hn::StoreU(hn::ConcatOdd(d16, rounded(weights[1]), rounded(weights[0])), d16, to);
#else
    for (std::int64_t v = 0; v < kVectors; ++v) store(kLanes, weights[v], to + v * kWidth);
#endif
  }
  const float shrink = before == now ? 1.0f : hn::GetLane(exp_of_negative(hn::Set(kLanes, (before - now) / kLog2OfE)));
  *maximum = now;
  *total = *total * shrink + hn::GetLane(hn::SumOfLanes(kLanes, sum));
  return shrink;
}

// tile() on AMX tiles. While vectors soften the scores of one block of keys, tiles multiply the weights of the block before with
// its values, and the queries with the block behind it.
template <class Tiles>
void tile_on_tiles(const Geometry& g, const Head& head, std::int64_t begin, float* memory) {
  constexpr std::int64_t kRowStep = 2 * kTileRows, kWords = kTileBytes / 4;
  const std::int64_t rows = std::min(kQueries, g.queries - begin), whole_rows = (rows + kRowStep - 1) / kRowStep * kRowStep;
  const std::int64_t width = g.channels, depth = words<true>(g.channels), blocks = (g.keys + kKeys - 1) / kKeys;
  const Work work(g, memory);
  copy_queries<std::uint16_t, true>(g, head, begin, rows, whole_rows, work.queries);
  Tiles::configure(TileShapes::of_rows({16, 16, 16, 16, 16, 16, 16, 16}));

  const auto scores = [&](std::int64_t block) { return work.scores + block % 3 * kQueries * kKeys; };
  const auto panels = [&](std::int64_t block) { return (std::min(kKeys, g.keys - block * kKeys) + kTilePanel - 1) / kTilePanel; };
  const auto meet_keys = [&](std::int64_t block, const auto& beside) {
    for (std::int64_t j = 0; j < panels(block) * kTilePanel; j += kTilePanel)
      multiply_tiles<Tiles, false>(whole_rows, work.queries, depth, head.k_panels + (block * kKeys + j) * depth, depth,
                                   scores(block) + j, kKeys, beside);
  };
  const auto meet_values = [&](std::int64_t block, const auto& beside) {
    const std::int64_t count = words<true>(panels(block) * kTilePanel);
    for (std::int64_t c = 0; c < width; c += kTilePanel) {
      const float* const panel = head.v_panels + c * words<true>(g.padded_values()) + words<true>(block * kKeys) * kTilePanel;
      if (block == 0) multiply_tiles<Tiles, false>(whole_rows, scores(0), kKeys, panel, count, work.result + c, width, beside);
      else multiply_tiles<Tiles, true>(whole_rows, scores(block), kKeys, panel, count, work.result + c, width, beside);
    }
  };
  const auto shrink_result = [&]() HWY_ATTR {
    for (std::int64_t r = 0; r < rows; ++r)
      if (work.factors[r] != 1.0f) scale(work.result + r * width, width, work.factors[r]);
  };
  meet_keys(0, [] {});
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::int64_t key0 = block * kKeys, count = std::min(kKeys, g.keys - key0);
    const bool has_before = block > 0, has_next = block + 1 < blocks;
    if (block > 1) shrink_result();
    const std::int64_t row_blocks = whole_rows / kRowStep;
    const std::int64_t steps = (has_before ? row_blocks * (width / kTilePanel) * panels(block - 1) : 0) +
                               (has_next ? row_blocks * panels(block + 1) * (depth / kWords) : 0);
    std::int64_t row = 0, step = 0;
    const auto soften_rows = [&](std::int64_t end) {
      for (; row < end; ++row) {
        const float* bias = head.bias ? head.bias + (begin + row) * g.bias_stride + key0 : nullptr;
        const auto soften = bias ? soften_to_words<!Tiles::kEmulated, true> : soften_to_words<!Tiles::kEmulated, false>;
        work.factors[row] = soften(scores(block) + row * kKeys, bias, count, g.scale, work.maxima + row, work.totals + row);
      }
    };
    const auto beside = [&] { soften_rows(rows * ++step / steps); };
    if (has_before) meet_values(block - 1, beside);
    if (has_next) meet_keys(block + 1, beside);
    soften_rows(rows);
  }
  if (blocks > 1) shrink_result();
  meet_values(blocks - 1, [] {});
  Tiles::release();
  store_result<std::uint16_t>(g, head, begin, rows, work);
}

Loops loops() {
  using B = std::uint16_t;
  Loops loops{};
  loops.panel = kPanel;
  const auto set = [&](Operands operands, PackLoop pack_loop, TileLoop tile_loop) {
    loops.pack[operands] = pack_loop;
    loops.tile[operands] = tile_loop;
  };
  set(f32_products, pack<float, false, kPanel>, tile<float, false>);
  set(bf16_widened, pack<B, false, kPanel>, tile<B, false>);
  if constexpr (kHasPairs) set(bf16_products, pack<B, kHasPairs, kPanel>, tile<B, kHasPairs>);
#if defined(__x86_64__)
  set(bf16_tiles, pack<B, true, kTilePanel>, tile_on_tiles<HardwareTiles>);
#endif
  set(bf16_emulated_tiles, pack<B, true, kTilePanel>, tile_on_tiles<EmulatedTiles>);
  return loops;
}

}  // namespace
}  // namespace zoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace zoe::cpu {
namespace {

HWY_EXPORT(loops);

class AttentionKernel : public Kernel {
 public:
  AttentionKernel(const Node& node, const DeviceInfo& device, Operands operands)
      : loops_(HWY_DYNAMIC_DISPATCH(loops)()), threads_(device.threads), operands_(operands) {
    const bool on_tiles = operands == bf16_tiles || operands == bf16_emulated_tiles;
    const Shape& q = node.inputs[0].shape();
    const auto& attributes = node.as<AttentionAttributes>();
    dtype_ = node.types[0].dtype;
    batch_ = q.dim(0);
    heads_ = node.types[0].shape.dim(2);
    for (int i = 0; i < 3; ++i) layouts_[i] = heads_layout(node, i);
    geometry_ = {q.dim(1),
                 node.inputs[1].dim(1),
                 q.dim(3),
                 layouts_[0].step,
                 layouts_[1].step,
                 layouts_[2].step,
                 heads_ * q.dim(3),
                 0,
                 static_cast<float>(attributes.scale),
                 on_tiles ? kTilePanel : loops_.panel,
                 on_tiles ? kTilePanel : 1,
                 on_tiles ? 3 : 1};
    if (attributes.has_bias) {
      const Shape& bias = node.inputs[3].shape();
      const std::int64_t keys = geometry_.keys;
      geometry_.bias_stride = bias.dim(2) == 1 ? 0 : keys;
      bias_head_stride_ = bias.dim(1) == 1 ? 0 : bias.dim(2) * keys;
      bias_batch_stride_ = bias.dim(0) == 1 ? 0 : bias.dim(1) * bias.dim(2) * keys;
    }
    // As many heads at a time as have panels of about 32 MiB, to give all threads work.
    panel_elements_ = geometry_.padded_keys() * geometry_.channels + geometry_.padded_values() * geometry_.padded_channels();
    group_ = std::clamp<std::int64_t>((8 << 20) / panel_elements_, 1, batch_ * heads_);
  }

  std::string_view implementation() const override {
    switch (operands_) {
      case bf16_products: return "online softmax, bf16 products";
      case bf16_tiles: return "online softmax, amx tiles";
      case bf16_emulated_tiles: return "online softmax, amx tiles, emulated";
      default: return "online softmax";
    }
  }
  std::size_t scratch_bytes() const override {
    return static_cast<std::size_t>(group_ * panel_elements_ + threads_ * geometry_.tile_elements()) * sizeof(float);
  }

  void run(Stream&, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    auto* work = reinterpret_cast<float*>(scratch.data());
    const Geometry& g = geometry_;
    const std::int64_t tiles = (g.queries + kQueries - 1) / kQueries, pieces = (g.keys + kKeys - 1) / kKeys;
    for (std::int64_t first = 0; first < batch_ * heads_; first += group_) {
      const std::int64_t count = std::min(group_, batch_ * heads_ - first);
#pragma omp parallel num_threads(threads_)
      {
#pragma omp for schedule(static)
        for (std::int64_t i = 0; i < count * pieces; ++i)
          loops_.pack[operands_](g, head(first, i / pieces, inputs, outputs[0], work), i % pieces * kKeys,
                                 std::min(g.keys, (i % pieces + 1) * kKeys));
#pragma omp for schedule(dynamic)
        for (std::int64_t i = 0; i < count * tiles; ++i)
          loops_.tile[operands_](g, head(first, i / tiles, inputs, outputs[0], work), i % tiles * kQueries,
                                 work + group_ * panel_elements_ + omp_get_thread_num() * g.tile_elements());
      }
    }
  }

 private:
  Head head(std::int64_t first, std::int64_t index, std::span<const Slot> inputs, Slot output, float* work) const {
    const std::int64_t b = (first + index) / heads_, n = (first + index) % heads_;
    const auto at = [&](std::byte* data, std::int64_t positions, const HeadsLayout& layout) {
      const std::int64_t element = b * positions * layout.step + layout.first + n * geometry_.channels;
      return data + static_cast<std::size_t>(element) * size_of(dtype_);
    };
    Head head{at(inputs[0].data(), geometry_.queries, layouts_[0]),
              at(inputs[1].data(), geometry_.keys, layouts_[1]),
              at(inputs[2].data(), geometry_.keys, layouts_[2]),
              nullptr,
              at(output.data(), geometry_.queries, {geometry_.stride, 0}),
              work + index * panel_elements_,
              nullptr};
    head.v_panels = head.k_panels + geometry_.padded_keys() * geometry_.channels;
    if (inputs.size() > 3)
      head.bias = reinterpret_cast<const float*>(inputs[3].data()) + b * bias_batch_stride_ + n * bias_head_stride_;
    return head;
  }

  Loops loops_;
  int threads_;
  DType dtype_;
  Operands operands_;
  std::int64_t batch_, heads_;
  HeadsLayout layouts_[3];
  Geometry geometry_;
  std::int64_t bias_head_stride_ = 0, bias_batch_stride_ = 0;
  std::int64_t panel_elements_, group_;
};

}  // namespace

bool tiles_take_attention(const Node& attention) {
  return attention.types[0].dtype == DType::bf16 && attention.inputs[0].dim(3) % kTilePanel == 0;
}

std::unique_ptr<Kernel> make_tile_attention(const Node& node, const DeviceInfo& device, bool emulated) {
  ZOE_INTERNAL_CHECK(tiles_take_attention(node) && (emulated || why_no_tiles().empty()));
  return std::make_unique<AttentionKernel>(node, device, emulated ? bf16_emulated_tiles : bf16_tiles);
}

std::unique_ptr<Kernel> make_vector_attention(const Node& node, const DeviceInfo& device) {
  Operands operands = node.types[0].dtype == DType::f32 ? f32_products : bf16_widened;
#if defined(__x86_64__)
  const bool has_pairs = HWY_DYNAMIC_DISPATCH(loops)().tile[bf16_products] && __builtin_cpu_supports("avx512bf16");
  if (operands == bf16_widened && device.bf16_products && has_pairs) operands = bf16_products;
#endif
  return std::make_unique<AttentionKernel>(node, device, operands);
}

}  // namespace zoe::cpu
#endif
