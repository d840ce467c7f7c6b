#include "checkpoint/random_weight.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

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

class RandomWeight : public WeightReader {
 public:
  RandomWeight(std::uint64_t seed, std::string_view name, Shape shape) : shape_(std::move(shape)) {
    for (const char letter : name) key_ = (key_ ^ static_cast<unsigned char>(letter)) * 0x100000001b3u;  // FNV-1a
    key_ = mix64(key_ ^ mix64(seed));
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
  std::uint64_t key_ = 0xcbf29ce484222325u;
  float mean_ = 0, step_ = 0;
};

}  // namespace

WeightPtr random_weight(std::uint64_t seed, std::string_view name, Shape shape) {
  return std::make_shared<RandomWeight>(seed, name, std::move(shape));
}

}  // namespace zoe
