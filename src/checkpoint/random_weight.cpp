#include "checkpoint/random_weight.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string_view>

#include "base/encoding.h"
#include "base/error.h"

namespace zoe {

namespace {

constexpr std::uint64_t mix64(std::uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

struct Keys {
  std::uint32_t first, second;
};

// 32 random bits for two elements: murmur3's finalizer with the second key between its rounds. 32-bit steps only, so that loops of
// it are vector code on any machine.
inline std::uint32_t mix32(std::uint32_t pair, Keys keys) {
  std::uint32_t x = pair * 0x9e3779b1u ^ keys.first;
  x = (x ^ (x >> 16)) * 0x85ebca6bu;
  x = ((x ^ (x >> 13)) + keys.second) * 0xc2b2ae35u;
  return x ^ (x >> 16);
}

std::uint64_t key_of(std::uint64_t seed, std::string_view name) {
  std::uint64_t key = 0xcbf29ce484222325u;
  for (const char letter : name) key = (key ^ static_cast<unsigned char>(letter)) * 0x100000001b3u;  // FNV-1a
  return mix64(key ^ mix64(seed));
}

class RandomWeight : public WeightReader {
 public:
  RandomWeight(std::uint64_t seed, std::string_view name, Shape shape) : shape_(std::move(shape)) {
    key_ = key_of(seed, name);
    std::int64_t longest = 1;
    for (const std::int64_t extent : shape_.dims()) longest = std::max(longest, extent);
    double deviation = 0.1 / std::sqrt(3.0);
    if (name.ends_with("_table")) {
      deviation = 1 / std::sqrt(static_cast<double>(shape_.dim(-1)));
    } else if (name.ends_with(".bias")) {
      deviation *= 0.2;
    } else if (longest == shape_.count()) {
      mean_ = 1;
    } else {
      deviation = 1 / std::sqrt(static_cast<double>(shape_.count(1, shape_.rank())));
    }
    step_ = static_cast<float>(deviation * std::sqrt(3.0) / 32768);
  }

  const Shape& shape() const override { return shape_; }
  std::size_t stored_bytes() const override { return static_cast<std::size_t>(shape_.count()) * 2; }  // as if it were bf16

  void read(std::int64_t begin, std::int64_t count, DType dtype, void* out) const override {
    ZOE_INTERNAL_CHECK(begin >= 0 && count >= 0 && count <= shape_.count() - begin);
    auto* to = static_cast<std::byte*>(out);
    constexpr std::int64_t kPiece = 4096;
    const std::int64_t end = begin + count;
    while (begin < end) {
      // Whole pairs of one piece, the odd element before or behind them cut off.
      const std::int64_t even = begin & ~std::int64_t{1}, now = std::min(kPiece - begin % kPiece, end - begin);
      const std::int64_t pairs = (begin - even + now + 1) / 2;
      const Keys keys = keys_of(even / 2);
      const auto first = static_cast<std::uint32_t>(even / 2);
      if (dtype == DType::bf16) {
        std::array<std::uint32_t, kPiece / 2 + 1> words;
        for (std::int64_t i = 0; i < pairs; ++i) {
          const std::uint32_t bits = mix32(first + static_cast<std::uint32_t>(i), keys);
          const std::uint32_t low = rounded(value_of_low(bits)), high = rounded(value_of_high(bits));
          words[static_cast<std::size_t>(i)] = (low >> 16) | (high & 0xffff0000u);
        }
        std::memcpy(to, reinterpret_cast<const std::byte*>(words.data()) + (begin - even) * 2, static_cast<std::size_t>(now) * 2);
      } else {
        std::array<float, kPiece + 2> values;
        for (std::int64_t i = 0; i < pairs; ++i) {
          const std::uint32_t bits = mix32(first + static_cast<std::uint32_t>(i), keys);
          values[static_cast<std::size_t>(2 * i)] = value_of_low(bits);
          values[static_cast<std::size_t>(2 * i + 1)] = value_of_high(bits);
        }
        convert(values.data() + (begin - even), DType::f32, to, dtype, static_cast<std::size_t>(now));
      }
      begin += now;
      to += static_cast<std::size_t>(now) * size_of(dtype);
    }
  }

 private:
  // A key for every 2^28 pairs; no piece straddles their bounds.
  Keys keys_of(std::int64_t pair) const {
    const std::uint64_t key = mix64(key_ + static_cast<std::uint64_t>(pair >> 28));
    return {static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32)};
  }
  float value_of_low(std::uint32_t bits) const { return value_of_high(bits << 16); }
  float value_of_high(std::uint32_t bits) const {
    return mean_ + step_ * static_cast<float>(static_cast<std::int32_t>(bits) >> 16);
  }
  // f32_to_bf16 in the upper half of a word, of a finite value.
  static std::uint32_t rounded(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    return bits + 0x7fffu + ((bits >> 16) & 1u);
  }

  Shape shape_;
  std::uint64_t key_ = 0;
  float mean_ = 0, step_ = 0;
};

// Where a block has its f16 scales, and what these are so that numbers of random bits have a mean of 0.
struct RandomScales {
  std::string_view encoding;
  std::int64_t d;         // its place
  double deviation_by_d;  // of the numbers
  std::int64_t m = -1;    // of the second one, m or dmin; -1: there is none
  double m_by_d = 0;
};
constexpr std::array kRandomScales{
    RandomScales{"Q8_0", 0, 74},     RandomScales{"Q4_0", 0, 4.6},           RandomScales{"Q4_1", 0, 4.6, 2, -7.5},
    RandomScales{"Q5_0", 0, 9.2},    RandomScales{"Q5_1", 0, 9.2, 2, -15.5}, RandomScales{"Q2_K", 80, 15, 82, 1.5},
    RandomScales{"Q3_K", 108, 43},   RandomScales{"Q4_K", 0, 245, 2, 7.5},   RandomScales{"Q5_K", 0, 490, 2, 15.5},
    RandomScales{"Q6_K", 208, 1370}, RandomScales{"IQ4_NL", 0, 70},          RandomScales{"IQ4_XS", 0, 1295},
};

class RandomStoredWeight : public WeightReader {
 public:
  RandomStoredWeight(std::uint64_t seed, std::string_view name, Shape shape, const Encoding& encoding)
      : shape_(std::move(shape)), encoding_(encoding), key_(key_of(seed, name)) {
    const auto* const found = std::find_if(kRandomScales.begin(), kRandomScales.end(),
                                           [&](const RandomScales& each) { return each.encoding == encoding.name; });
    scales_ = found == kRandomScales.end() ? nullptr : found;
    ZOE_INTERNAL_CHECK(scales_ || encoding.name.starts_with("F8_"));
    ZOE_INTERNAL_CHECK(shape_.dim(-1) % encoding.block_elements == 0);
    if (scales_) d_ = static_cast<float>(1 / std::sqrt(static_cast<double>(shape_.dim(-1))) / scales_->deviation_by_d);
  }

  const Shape& shape() const override { return shape_; }
  std::size_t stored_bytes() const override { return static_cast<std::size_t>(encoding_.size_bytes(shape_.count())); }
  Storage storage() const override { return {&encoding_}; }

  void read(std::int64_t begin, std::int64_t count, DType dtype, void* out) const override {
    ZOE_INTERNAL_CHECK(begin >= 0 && count >= 0 && count <= shape_.count() - begin);
    auto* to = static_cast<std::byte*>(out);
    std::array<std::byte, 4096> blocks;
    while (count > 0) {
      const std::int64_t per = encoding_.block_elements, first = begin / per * per;
      const std::int64_t most = static_cast<std::int64_t>(blocks.size()) / encoding_.block_bytes * per;
      const std::int64_t now = std::min(count, most - (begin - first)), whole = (begin - first + now + per - 1) / per * per;
      read_blocks(first, whole, blocks.data());
      decode(encoding_, blocks.data(), begin - first, now, dtype, to);
      begin += now;
      count -= now;
      to += static_cast<std::size_t>(now) * size_of(dtype);
    }
  }

  void read_blocks(std::int64_t begin, std::int64_t count, std::byte* out) const override {
    const std::int64_t bytes = encoding_.block_bytes, first = begin / encoding_.block_elements;
    for (std::int64_t i = 0; i < count / encoding_.block_elements; ++i, out += bytes) {
      const std::uint64_t key = mix64(key_ + static_cast<std::uint64_t>(first + i));
      if (!scales_) {
        *out = of_f8(static_cast<std::uint32_t>(key));
        continue;
      }
      const Keys keys{static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32)};
      for (std::int64_t at = 0; at < bytes; at += 4) {
        const std::uint32_t word = mix32(static_cast<std::uint32_t>(at), keys);
        std::memcpy(out + at, &word, static_cast<std::size_t>(std::min<std::int64_t>(4, bytes - at)));
      }
      const auto set = [&](std::int64_t at, float value) {
        const std::uint16_t bits = f32_to_f16(value);
        std::memcpy(out + at, &bits, sizeof bits);
      };
      set(scales_->d, d_);
      if (scales_->m >= 0) set(scales_->m, static_cast<float>(d_ * scales_->m_by_d));
    }
  }

 private:
  // Of either sign, below 1/32.
  std::byte of_f8(std::uint32_t bits) const {
    return static_cast<std::byte>(encoding_.name == "F8_E4M3" ? bits & 0x8fu : (bits & 0x87u) | 8u << 2);
  }

  Shape shape_;
  const Encoding& encoding_;
  std::uint64_t key_;
  const RandomScales* scales_;
  float d_ = 0;
};

}  // namespace

WeightPtr random_stored_weight(std::uint64_t seed, std::string_view name, Shape shape, const Encoding& encoding) {
  return std::make_shared<RandomStoredWeight>(seed, name, std::move(shape), encoding);
}

WeightPtr random_weight(std::uint64_t seed, std::string_view name, Shape shape) {
  return std::make_shared<RandomWeight>(seed, name, std::move(shape));
}

}  // namespace zoe
