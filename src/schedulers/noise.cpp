#include "schedulers/noise.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <numbers>

namespace zoe {
namespace {

// The 32-bit Mersenne Twister of Matsumoto and Nishimura (1998), seeded with the low 32 bits as PyTorch does.
class MersenneTwister {
 public:
  explicit MersenneTwister(std::uint64_t seed) {
    state_[0] = static_cast<std::uint32_t>(seed);
    for (std::uint32_t i = 1; i < kWords; ++i) state_[i] = 1812433253u * (state_[i - 1] ^ (state_[i - 1] >> 30)) + i;
  }

  std::uint32_t next() {
    if (position_ == kWords) refill();
    return tempered(state_[position_++]);
  }

  void uniform_floats(std::span<float> out) {  // [0, 1)
    for (std::size_t done = 0; done < out.size();) {
      if (position_ == kWords) refill();
      const std::size_t count = std::min<std::size_t>(out.size() - done, kWords - position_);
      const std::uint32_t* const words = state_.data() + position_;
      float* const place = out.data() + done;
      for (std::size_t i = 0; i < count; ++i)
        place[i] = static_cast<float>(static_cast<std::int32_t>(tempered(words[i]) & 0xffffffu)) * 0x1p-24f;
      position_ += static_cast<std::uint32_t>(count);
      done += count;
    }
  }
  double uniform_double() {  // [0, 1)
    const std::uint64_t high = next();
    return static_cast<double>(((high << 32) | next()) & 0x1fffffffffffffu) * 0x1p-53;
  }

 private:
  static constexpr std::uint32_t kWords = 624, kShift = 397;

  static std::uint32_t tempered(std::uint32_t y) {
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
  }

  void refill() {
    // In three runs, so that no index wraps within one: word i is made of words i, i + 1 and i + kShift.
    const auto make = [&](std::uint32_t i, std::uint32_t next, std::uint32_t far) {
      const std::uint32_t y = (state_[i] & 0x80000000u) | (state_[next] & 0x7fffffffu);
      state_[i] = state_[far] ^ (y >> 1) ^ ((0u - (y & 1u)) & 0x9908b0dfu);
    };
    for (std::uint32_t i = 0; i < kWords - kShift; ++i) make(i, i + 1, i + kShift);
    for (std::uint32_t i = kWords - kShift; i < kWords - 1; ++i) make(i, i + 1, i + kShift - kWords);
    make(kWords - 1, 0, kShift - 1);
    position_ = 0;
  }

  std::array<std::uint32_t, kWords> state_;
  std::uint32_t position_ = kWords;
};

// Single-precision log, sine and cosine after the Cephes library (S. Moshier), rounded where PyTorch's AVX2 binary rounds: its
// compiler turned these products and sums into fused multiply-adds, so they are written as such. Arguments are only those of
// the Box-Muller transform: 2^-24 <= x <= 1 for the logarithm, 0 <= x < 2 pi for the angle.
[[gnu::always_inline]] inline float cephes_log(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  float exponent = static_cast<float>(static_cast<std::int32_t>(bits >> 23) - 126);
  float m = std::bit_cast<float>((bits & 0x007fffffu) | 0x3f000000u);  // mantissa in [0.5, 1)
  const auto low = static_cast<float>(m < 0.707106781186547524f);      // 1 or 0
  exponent -= low;
  m = (m - 1.0f) + low * m;
  const float z = m * m;
  float y = 7.0376836292e-2f;  // written out: a loop in here would keep eight from being made at once
  y = std::fma(y, m, -1.1514610310e-1f);
  y = std::fma(y, m, 1.1676998740e-1f);
  y = std::fma(y, m, -1.2420140846e-1f);
  y = std::fma(y, m, 1.4249322787e-1f);
  y = std::fma(y, m, -1.6668057665e-1f);
  y = std::fma(y, m, 2.0000714765e-1f);
  y = std::fma(y, m, -2.4999993993e-1f);
  y = std::fma(y, m, 3.3333331174e-1f);
  y = y * m;
  y = std::fma(y, z, exponent * -2.12194440e-4f);
  y = std::fma(z, -0.5f, y);
  return std::fma(exponent, 0.693359375f, m + y);
}

[[gnu::always_inline]] inline void cephes_sincos(float x, float* sine, float* cosine) {
  const std::int32_t octant = (static_cast<std::int32_t>(x * 1.27323954473516f) + 1) & ~1;
  const auto j = static_cast<float>(octant);
  x = std::fma(j, -0.78515625f, x);
  x = std::fma(j, -2.4187564849853515625e-4f, x);
  x = std::fma(j, -3.77489497744594108e-8f, x);
  const float z = x * x;
  float c = std::fma(2.443315711809948e-5f, z, -1.388731625493765e-3f);
  c = std::fma(c, z, 4.166664568298827e-2f);
  c = c * z;
  c = std::fma(c, z, z * -0.5f) + 1.0f;
  float s = std::fma(-1.9515295891e-4f, z, 8.3321608736e-3f);
  s = std::fma(s, z, -1.6666654611e-1f);
  s = s * z;
  s = std::fma(s, x, x);
  // By the octant's bits the two change places, and signs; without branches, so that eight are made at once.
  const auto bits = static_cast<std::uint32_t>(octant);
  const std::uint32_t swap = 0u - (bits >> 1 & 1u),
                      difference = (std::bit_cast<std::uint32_t>(s) ^ std::bit_cast<std::uint32_t>(c)) & swap;
  *sine = std::bit_cast<float>(std::bit_cast<std::uint32_t>(s) ^ difference ^ (bits & 4u) << 29);
  *cosine = std::bit_cast<float>(std::bit_cast<std::uint32_t>(c) ^ difference ^ (~(bits - 2u) & 4u) << 29);
}

// 16 uniform values to 16 normal ones by Box-Muller; value i pairs with value i + 8. Adding zero turns -0 into 0, as the
// multiply-add with standard deviation 1 and mean 0 does.
[[gnu::always_inline]] inline void box_muller_16(float* v) {
  for (int i = 0; i < 8; ++i) {
    const float radius = std::sqrt(-2.0f * cephes_log(1.0f - v[i]));
    float sine, cosine;
    cephes_sincos(static_cast<float>(2.0 * std::numbers::pi) * v[i + 8], &sine, &cosine);
    v[i] = radius * cosine + 0.0f;
    v[i + 8] = radius * sine + 0.0f;
  }
}

void box_muller_portable(float* values, std::size_t blocks) {
  for (std::size_t b = 0; b < blocks; ++b) box_muller_16(values + 16 * b);
}

#if defined(__x86_64__)
// The same source: std::fma becomes an instruction instead of a call. Same bits, twenty times faster.
[[gnu::target("avx2,fma")]] void box_muller_fma(float* values, std::size_t blocks) {
  for (std::size_t b = 0; b < blocks; ++b) box_muller_16(values + 16 * b);
}
#endif

void box_muller(float* values, std::size_t blocks) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return box_muller_fma(values, blocks);
#endif
  box_muller_portable(values, blocks);
}

void draw_normal(MersenneTwister& random, std::span<float> out) {
  if (out.size() < 16) {
    for (std::size_t i = 0; i < out.size(); i += 2) {  // Box-Muller in double; the sine is kept for the next value
      const double angle = 2.0 * std::numbers::pi * random.uniform_double();
      const double radius = std::sqrt(-2.0 * std::log1p(-random.uniform_double()));
      out[i] = static_cast<float>(radius * std::cos(angle));
      if (i + 1 < out.size()) out[i + 1] = static_cast<float>(radius * std::sin(angle));
    }
    return;
  }
  random.uniform_floats(out);
  box_muller(out.data(), out.size() / 16);
  if (out.size() % 16 != 0) {
    const std::span<float> last = out.last(16);
    random.uniform_floats(last);
    box_muller(last.data(), 1);
  }
}

}  // namespace

void standard_normal(std::uint64_t seed, std::span<float> out) {
  MersenneTwister random(seed);
  draw_normal(random, out);
}

struct NormalNoise::Generator {
  MersenneTwister random;
};

NormalNoise::NormalNoise(std::uint64_t seed) : generator_(new Generator{MersenneTwister(seed)}) {}
NormalNoise::~NormalNoise() = default;
NormalNoise::NormalNoise(NormalNoise&&) noexcept = default;
NormalNoise& NormalNoise::operator=(NormalNoise&&) noexcept = default;
void NormalNoise::draw(std::span<float> out) { draw_normal(generator_->random, out); }

}  // namespace zoe
