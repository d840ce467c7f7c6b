#include "checkpoint/quantize.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/dtype.h"

namespace zoe {

namespace {

// To the nearest whole number, ties to even, for values below 2^22: as an addition it is vectorised.
float nearest_whole(float value) { return (value + 12582912.0f) - 12582912.0f; }

float whole_within(float value, float low, float high) { return std::min(std::max(nearest_whole(value), low), high); }

float put_f16(float value, std::byte* to) {
  constexpr float kLargest = 65504;
  const std::uint16_t bits = f32_to_f16(std::min(std::max(value, -kLargest), kLargest));
  std::memcpy(to, &bits, sizeof bits);
  return f16_to_f32(bits);
}

// The step d for which whole numbers q from `low` to -low - 1 make d * q nearest to the values: for each of some divisions of the
// largest value, the best d in closed form, sum(x q) / sum(q q); the error falls by sum(x q)^2 / sum(q q).
template <std::size_t n>
float symmetric_step(const float* x, float low) {
  float largest = 0;
  for (std::size_t i = 0; i < n; ++i)
    if (std::abs(x[i]) > std::abs(largest)) largest = x[i];
  if (largest == 0) return 0;
  float best_gain = -1, best = 0;
  const auto attempt = [&](float per_step) {
    float xq = 0, qq = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const float q = whole_within(x[i] * per_step, low, -low - 1);
      xq += x[i] * q;
      qq += q * q;
    }
    if (qq > 0 && xq * xq > best_gain * qq) {
      best_gain = xq * xq / qq;
      best = xq / qq;
    }
  };
  constexpr int kAttempts = 9;
  for (int i = -kAttempts; i <= kAttempts; ++i) attempt((low + 0.1f * static_cast<float>(i)) / largest);
  attempt((-low - 1) / largest);
  return best;
}

// 32 values in low and high halves of 16 bytes.
void put_nibbles(const std::array<std::uint8_t, 32>& q, std::byte* to) {
  for (std::size_t i = 0; i < 16; ++i) to[i] = static_cast<std::byte>((q[i] & 15) | (q[i + 16] & 15) << 4);
}

std::array<std::uint8_t, 32> symmetric_32(const float* x, float low, std::byte* step) {
  const float d = put_f16(symmetric_step<32>(x, low), step), per_step = d != 0 ? 1 / d : 0;
  std::array<std::uint8_t, 32> q;
  for (std::size_t i = 0; i < 32; ++i) q[i] = static_cast<std::uint8_t>(whole_within(x[i] * per_step, low, -low - 1) - low);
  return q;
}

void encode_q4_0(const float* x, std::int64_t count, std::byte* to) {
  for (; count > 0; count -= 32, x += 32, to += 18) put_nibbles(symmetric_32(x, -8, to), to + 2);
}

void encode_q5_0(const float* x, std::int64_t count, std::byte* to) {
  for (; count > 0; count -= 32, x += 32, to += 22) {
    const std::array<std::uint8_t, 32> q = symmetric_32(x, -16, to);
    std::uint32_t fifth = 0;
    for (std::size_t i = 0; i < 32; ++i) fifth |= static_cast<std::uint32_t>(q[i] >> 4) << i;
    std::memcpy(to + 2, &fifth, sizeof fifth);
    put_nibbles(q, to + 6);
  }
}

void encode_q8_0(const float* x, std::int64_t count, std::byte* to) {
  for (; count > 0; count -= 32, x += 32, to += 34) {
    float largest = 0;
    for (std::size_t i = 0; i < 32; ++i) largest = std::max(largest, std::abs(x[i]));
    const float d = largest / 127, per_step = d != 0 ? 1 / d : 0;
    put_f16(d, to);
    for (std::size_t i = 0; i < 32; ++i)  // halves away from zero, as ggml
      to[2 + i] = static_cast<std::byte>(static_cast<std::int8_t>(std::round(x[i] * per_step)));
  }
}

void encode_q6_k(const float* x, std::int64_t count, std::byte* to) {
  constexpr std::size_t kGroups = 16;
  for (; count > 0; count -= 256, x += 256, to += 210) {
    std::array<float, kGroups> steps;
    float largest = 0;
    for (std::size_t g = 0; g < kGroups; ++g) {
      steps[g] = symmetric_step<16>(x + 16 * g, -32);
      if (std::abs(steps[g]) > std::abs(largest)) largest = steps[g];
    }
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

// Step and offset, both at least 0, for which step * q - offset with q from 0 to 15 is nearest to 32 values: for each of some
// divisions of their range, the least squares.
struct Affine {
  float step, offset;
};
Affine affine_32(const float* x) {
  constexpr std::size_t n = 32;
  float low = 0, high = x[0], sx = 0, sxx = 0;
  for (std::size_t i = 0; i < n; ++i) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
    sx += x[i];
    sxx += x[i] * x[i];
  }
  if (high <= low) return {0, -low};
  Affine best{(high - low) / 15, -low};
  float least = INFINITY;
  constexpr int kAttempts = 20;
  for (int attempt = 0; attempt <= kAttempts; ++attempt) {
    const float per_step = (14.0f + 0.1f * static_cast<float>(attempt)) / (high - low);
    float sq = 0, sqq = 0, sxq = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const float q = whole_within((x[i] - low) * per_step, 0, 15);
      sq += q;
      sqq += q * q;
      sxq += x[i] * q;
    }
    const float determinant = static_cast<float>(n) * sqq - sq * sq;
    if (!(determinant > 0)) continue;
    float step = (static_cast<float>(n) * sxq - sx * sq) / determinant, begin = (sqq * sx - sq * sxq) / determinant;
    if (begin > 0) {
      begin = 0;
      step = sxq / sqq;
    }
    if (!(step >= 0)) continue;
    const float error =
        sxx - 2 * step * sxq - 2 * begin * sx + step * step * sqq + 2 * step * begin * sq + begin * begin * static_cast<float>(n);
    if (error < least) {
      least = error;
      best = {step, -begin};
    }
  }
  return best;
}

void encode_q4_k(const float* x, std::int64_t count, std::byte* to) {
  constexpr std::size_t kGroups = 8;
  for (; count > 0; count -= 256, x += 256, to += 144) {
    std::array<Affine, kGroups> fits;
    float step = 0, offset = 0;
    for (std::size_t g = 0; g < kGroups; ++g) {
      fits[g] = affine_32(x + 32 * g);
      step = std::max(step, fits[g].step);
      offset = std::max(offset, fits[g].offset);
    }
    const float d = put_f16(step / 63, to), m = put_f16(offset / 63, to + 2);
    std::array<std::uint8_t, 12> packed{};
    std::array<std::uint8_t, 256> q;
    for (std::size_t g = 0; g < kGroups; ++g) {
      const float s = d != 0 ? whole_within(fits[g].step / d, 0, 63) : 0, o = m != 0 ? whole_within(fits[g].offset / m, 0, 63) : 0;
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
      for (std::size_t i = 32 * g; i < 32 * g + 32; ++i)
        q[i] = static_cast<std::uint8_t>(whole_within((x[i] + begin) * per, 0, 15));
    }
    std::memcpy(to + 4, packed.data(), packed.size());
    for (std::size_t pair = 0; pair < 4; ++pair)
      for (std::size_t l = 0; l < 32; ++l)
        to[16 + 32 * pair + l] = static_cast<std::byte>(q[64 * pair + l] | q[64 * pair + 32 + l] << 4);
  }
}

}  // namespace

Encode gguf_encoder(std::uint32_t type) {
  switch (type) {
    case 2: return encode_q4_0;
    case 6: return encode_q5_0;
    case 8: return encode_q8_0;
    case 12: return encode_q4_k;
    case 14: return encode_q6_k;
    default: return nullptr;
  }
}

std::uint8_t f32_to_f8_e4m3(float value) {
  constexpr float kLargest = 448, kSmallestNormal = 0x1p-6f;
  const auto sign = static_cast<std::uint8_t>(std::bit_cast<std::uint32_t>(value) >> 24 & 0x80u);
  const float size = std::min(std::abs(value), kLargest);
  if (size < kSmallestNormal) return static_cast<std::uint8_t>(sign | static_cast<std::uint8_t>(nearest_whole(size * 0x1p9f)));
  std::uint32_t bits = std::bit_cast<std::uint32_t>(size);
  bits += 0x7ffffu + (bits >> 20 & 1u);
  constexpr std::uint32_t kBias = (127 - 7) << 3;
  return static_cast<std::uint8_t>(sign | ((bits >> 20) - kBias));
}

}  // namespace zoe
