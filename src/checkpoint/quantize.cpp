#include "checkpoint/quantize.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/dtype.h"

namespace zoe {

namespace {

// Sixteen groups of numbers side by side, one a lane: sums run along a group, in the same order on every machine. What is inlined
// here is compiled once for each set of instructions below, without contraction.
#define ZOE_INLINE [[gnu::always_inline]] inline
using Lanes = float __attribute__((vector_size(64), may_alias));
constexpr std::size_t kLanes = 16;

// To the nearest whole number, ties to even, for values below 2^22.
ZOE_INLINE float whole_within(float value, float low, float high) {
  return std::min(std::max((value + 12582912.0f) - 12582912.0f, low), high);
}
ZOE_INLINE void round_within(Lanes& value, float low, float high) {
  value = (value + 12582912.0f) - 12582912.0f;
  value = value > low ? value : Lanes{} + low;
  value = value < high ? value : Lanes{} + high;
}

// Of 16 groups of n numbers, one behind the other: number i of each.
template <std::size_t n>
ZOE_INLINE void turn(const float* x, Lanes* turned) {
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t lane = 0; lane < kLanes; ++lane) turned[i][lane] = x[lane * n + i];
}

float put_f16(float value, std::byte* to) {
  constexpr float kLargest = 65504;
  const std::uint16_t bits = f32_to_f16(std::min(std::max(value, -kLargest), kLargest));
  std::memcpy(to, &bits, sizeof bits);
  return f16_to_f32(bits);
}

// The step d of each of 16 groups for which whole numbers q from `low` to -low - 1 make d * q nearest to its numbers: for each of
// some divisions of the largest number, the best d in closed form, sum(x q) / sum(q q); the error falls by sum(x q)^2 / sum(q q).
template <std::size_t n>
ZOE_INLINE void symmetric_steps(const float* numbers, float low, float* steps) {
  Lanes x[n], largest{}, size{};
  turn<n>(numbers, x);
  for (std::size_t i = 0; i < n; ++i) {
    const Lanes own = x[i] < 0.0f ? -x[i] : x[i];
    largest = own > size ? x[i] : largest;
    size = own > size ? own : size;
  }
  const Lanes divisor = size > 0.0f ? largest : Lanes{} + 1.0f;
  Lanes best_gain = Lanes{} - 1.0f, best{};
  constexpr int kAttempts = 9;
  for (int attempt = -kAttempts; attempt <= kAttempts + 1; ++attempt) {
    const float whole = attempt > kAttempts ? -low - 1 : low + 0.1f * static_cast<float>(attempt);
    const Lanes per_step = whole / divisor;
    Lanes xq{}, qq{};
    for (std::size_t i = 0; i < n; ++i) {
      Lanes q = x[i] * per_step;
      round_within(q, low, -low - 1);
      xq = xq + x[i] * q;
      qq = qq + q * q;
    }
    const Lanes divided = qq > 0.0f ? qq : Lanes{} + 1.0f, gain = qq > 0.0f ? xq * xq / divided : Lanes{} - 1.0f;
    best = gain > best_gain ? xq / divided : best;
    best_gain = gain > best_gain ? gain : best_gain;
  }
  for (std::size_t lane = 0; lane < kLanes; ++lane) steps[lane] = best[lane];
}

// 32 values in low and high halves of 16 bytes.
void put_nibbles(const std::array<std::uint8_t, 32>& q, std::byte* to) {
  for (std::size_t i = 0; i < 16; ++i) to[i] = static_cast<std::byte>((q[i] & 15) | (q[i + 16] & 15) << 4);
}

ZOE_INLINE std::array<std::uint8_t, 32> symmetric_32(const float* x, float step, float low, std::byte* stored) {
  const float d = put_f16(step, stored), per_step = d != 0 ? 1 / d : 0;
  std::array<std::uint8_t, 32> q;
  for (std::size_t i = 0; i < 32; ++i) q[i] = static_cast<std::uint8_t>(whole_within(x[i] * per_step, low, -low - 1) - low);
  return q;
}

// Calls body(block, which, step) for each block of 32 numbers; where there are fewer than 16 of them, zeros fill the lanes.
template <class Body>
ZOE_INLINE void each_symmetric_32(const float* x, std::int64_t count, float low, const Body& body) {
  for (std::int64_t begin = 0; begin < count; begin += 32 * static_cast<std::int64_t>(kLanes)) {
    const std::int64_t here = std::min(count - begin, 32 * static_cast<std::int64_t>(kLanes));
    std::array<float, 32 * kLanes> filled{};
    std::copy_n(x + begin, here, filled.data());
    std::array<float, kLanes> steps;
    symmetric_steps<32>(filled.data(), low, steps.data());
    for (std::int64_t block = 0; block < here / 32; ++block)
      body(x + begin + 32 * block, begin / 32 + block, steps[static_cast<std::size_t>(block)]);
  }
}

ZOE_INLINE void encode_q4_0(const float* x, std::int64_t count, std::byte* to) {
  each_symmetric_32(
      x, count, -8, [&](const float* block, std::int64_t which, float step) __attribute__((always_inline)) {
        put_nibbles(symmetric_32(block, step, -8, to + 18 * which), to + 18 * which + 2);
      });
}

ZOE_INLINE void encode_q5_0(const float* x, std::int64_t count, std::byte* to) {
  each_symmetric_32(
      x, count, -16, [&](const float* block, std::int64_t which, float step) __attribute__((always_inline)) {
        std::byte* const own = to + 22 * which;
        const std::array<std::uint8_t, 32> q = symmetric_32(block, step, -16, own);
        std::uint32_t fifth = 0;
        for (std::size_t i = 0; i < 32; ++i) fifth |= static_cast<std::uint32_t>(q[i] >> 4) << i;
        std::memcpy(own + 2, &fifth, sizeof fifth);
        put_nibbles(q, own + 6);
      });
}

ZOE_INLINE void encode_q8_0(const float* x, std::int64_t count, std::byte* to) {
  for (; count > 0; count -= 32, x += 32, to += 34) {
    float largest = 0;
    for (std::size_t i = 0; i < 32; ++i) largest = std::max(largest, std::abs(x[i]));
    const float d = largest / 127, per_step = d != 0 ? 1 / d : 0;
    put_f16(d, to);
    for (std::size_t i = 0; i < 32; ++i)  // halves away from zero, as ggml
      to[2 + i] = static_cast<std::byte>(static_cast<std::int8_t>(std::round(x[i] * per_step)));
  }
}

ZOE_INLINE void encode_q6_k(const float* x, std::int64_t count, std::byte* to) {
  constexpr std::size_t kGroups = 16;
  for (; count > 0; count -= 256, x += 256, to += 210) {
    std::array<float, kGroups> steps;
    symmetric_steps<16>(x, -32, steps.data());
    float largest = 0;
    for (const float step : steps)
      if (std::abs(step) > std::abs(largest)) largest = step;
    const float d = put_f16(largest / -128, to + 208), per_step = d != 0 ? 1 / d : 0;
    std::array<std::uint8_t, 256> q;
    for (std::size_t g = 0; g < kGroups; ++g) {
      const float scale = whole_within(steps[g] * per_step, -128, 127), step = d * scale, per = step != 0 ? 1 / step : 0;
      to[192 + g] = static_cast<std::byte>(static_cast<std::int8_t>(scale));
      for (std::size_t i = 16 * g; i < 16 * g + 16; ++i) q[i] = static_cast<std::uint8_t>(whole_within(x[i] * per, -32, 31) + 32);
    }
    for (std::size_t half = 0; half < 2; ++half)
      for (std::size_t l = 0; l < 32; ++l) {
        const auto at = [&](std::size_t group) { return q[128 * half + 32 * group + l]; };
        to[64 * half + l] = static_cast<std::byte>((at(0) & 15) | (at(2) & 15) << 4);
        to[64 * half + 32 + l] = static_cast<std::byte>((at(1) & 15) | (at(3) & 15) << 4);
        to[128 + 32 * half + l] = static_cast<std::byte>(at(0) >> 4 | (at(1) >> 4) << 2 | (at(2) >> 4) << 4 | (at(3) >> 4) << 6);
      }
  }
}

// Step and offset of each of 16 groups of 32 numbers, both at least 0, for which step * q - offset with q from 0 to 15 is nearest
// to them: for each of some divisions of their range, the least squares.
ZOE_INLINE void affine_fits(const float* numbers, float* steps, float* offsets) {
  constexpr std::size_t n = 32;
  constexpr auto kCount = static_cast<float>(n);
  Lanes x[n], low{}, sx{}, sxx{};
  turn<n>(numbers, x);
  Lanes high = x[0];
  for (std::size_t i = 0; i < n; ++i) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
    sx = sx + x[i];
    sxx = sxx + x[i] * x[i];
  }
  const Lanes range = high > low ? high - low : Lanes{} + 1.0f;
  Lanes best_step = high > low ? range / 15.0f : Lanes{}, best_begin = low,
        least = Lanes{} + std::numeric_limits<float>::infinity();
  constexpr int kAttempts = 20;
  for (int attempt = 0; attempt <= kAttempts; ++attempt) {
    const Lanes per_step = (14.0f + 0.1f * static_cast<float>(attempt)) / range;
    Lanes sq{}, sqq{}, sxq{};
    for (std::size_t i = 0; i < n; ++i) {
      Lanes q = (x[i] - low) * per_step;
      round_within(q, 0, 15);
      sq = sq + q;
      sqq = sqq + q * q;
      sxq = sxq + x[i] * q;
    }
    const Lanes determinant = kCount * sqq - sq * sq, divided = determinant > 0.0f ? determinant : Lanes{} + 1.0f;
    Lanes step = (kCount * sxq - sx * sq) / divided, begin = (sqq * sx - sq * sxq) / divided;
    step = begin > 0.0f ? sxq / (sqq > 0.0f ? sqq : Lanes{} + 1.0f) : step;
    begin = begin > 0.0f ? Lanes{} : begin;
    Lanes error =
        sxx - 2.0f * step * sxq - 2.0f * begin * sx + step * step * sqq + 2.0f * step * begin * sq + begin * begin * kCount;
    error = determinant > 0.0f ? error : Lanes{} + std::numeric_limits<float>::infinity();
    error = step >= 0.0f ? error : Lanes{} + std::numeric_limits<float>::infinity();
    best_step = error < least ? step : best_step;
    best_begin = error < least ? begin : best_begin;
    least = error < least ? error : least;
  }
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    steps[lane] = best_step[lane];
    offsets[lane] = -best_begin[lane];
  }
}

// A block of 256 numbers, from the fits of its groups of 32.
ZOE_INLINE void put_q4_k(const float* x, const float* steps, const float* offsets, std::byte* to) {
  constexpr std::size_t kGroups = 8;
  const float step = *std::max_element(steps, steps + kGroups), offset = *std::max_element(offsets, offsets + kGroups);
  const float d = put_f16(step / 63, to), m = put_f16(offset / 63, to + 2);
  std::array<std::uint8_t, 12> packed{};
  std::array<std::uint8_t, 256> q;
  for (std::size_t g = 0; g < kGroups; ++g) {
    const float s = d != 0 ? whole_within(steps[g] / d, 0, 63) : 0, o = m != 0 ? whole_within(offsets[g] / m, 0, 63) : 0;
    const auto s6 = static_cast<std::uint8_t>(s), o6 = static_cast<std::uint8_t>(o);
    if (g < 4) {
      packed[g] = static_cast<std::uint8_t>(packed[g] | s6);
      packed[g + 4] = static_cast<std::uint8_t>(packed[g + 4] | o6);
    } else {
      packed[g + 4] = static_cast<std::uint8_t>((s6 & 15) | (o6 & 15) << 4);
      packed[g - 4] = static_cast<std::uint8_t>(packed[g - 4] | (s6 >> 4) << 6);
      packed[g] = static_cast<std::uint8_t>(packed[g] | (o6 >> 4) << 6);
    }
    const float own = d * s, per = own != 0 ? 1 / own : 0, begin = m * o;
    for (std::size_t i = 32 * g; i < 32 * g + 32; ++i) q[i] = static_cast<std::uint8_t>(whole_within((x[i] + begin) * per, 0, 15));
  }
  std::memcpy(to + 4, packed.data(), packed.size());
  for (std::size_t pair = 0; pair < 4; ++pair)
    for (std::size_t l = 0; l < 32; ++l)
      to[16 + 32 * pair + l] = static_cast<std::byte>(q[64 * pair + l] | q[64 * pair + 32 + l] << 4);
}

// Two blocks at a time; alone, the second half of the lanes is zeros.
ZOE_INLINE void encode_q4_k(const float* x, std::int64_t count, std::byte* to) {
  for (; count > 0; count -= 512, x += 512, to += 288) {
    std::array<float, 512> filled{};
    std::copy_n(x, std::min<std::int64_t>(count, 512), filled.data());
    std::array<float, kLanes> steps, offsets;
    affine_fits(filled.data(), steps.data(), offsets.data());
    put_q4_k(x, steps.data(), offsets.data(), to);
    if (count > 256) put_q4_k(x + 256, steps.data() + 8, offsets.data() + 8, to + 144);
  }
}

using Body = void (*)(const float* values, std::int64_t count, std::byte* blocks);

template <Body body>
void anywhere(const float* values, std::int64_t count, std::byte* blocks) {
  body(values, count, blocks);
}
#ifdef __x86_64__
template <Body body>
[[gnu::target("avx2")]] void with_avx2(const float* values, std::int64_t count, std::byte* blocks) {
  body(values, count, blocks);
}
template <Body body>
[[gnu::target("avx512f,avx512bw,avx512vl,avx512dq")]] void with_avx512(const float* values, std::int64_t count, std::byte* blocks) {
  body(values, count, blocks);
}
#endif

template <Body body>
Encode widest() {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq"))
    return with_avx512<body>;
  if (__builtin_cpu_supports("avx2")) return with_avx2<body>;
#endif
  return anywhere<body>;
}

}  // namespace

Encode gguf_encoder(std::uint32_t type) {
  switch (type) {
    case 2: return widest<encode_q4_0>();
    case 6: return widest<encode_q5_0>();
    case 8: return widest<encode_q8_0>();
    case 12: return widest<encode_q4_k>();
    case 14: return widest<encode_q6_k>();
    default: return nullptr;
  }
}

std::uint8_t f32_to_f8_e4m3(float value) {
  constexpr float kLargest = 448, kSmallestNormal = 0x1p-6f;
  const auto sign = static_cast<std::uint8_t>(std::bit_cast<std::uint32_t>(value) >> 24 & 0x80u);
  const float size = std::min(std::abs(value), kLargest);
  if (size < kSmallestNormal)
    return static_cast<std::uint8_t>(sign | static_cast<std::uint8_t>((size * 0x1p9f + 12582912.0f) - 12582912.0f));
  std::uint32_t bits = std::bit_cast<std::uint32_t>(size);
  bits += 0x7ffffu + (bits >> 20 & 1u);
  constexpr std::uint32_t kBias = (127 - 7) << 3;
  return static_cast<std::uint8_t>(sign | ((bits >> 20) - kBias));
}

}  // namespace zoe
