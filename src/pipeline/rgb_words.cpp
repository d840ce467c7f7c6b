#include "pipeline/rgb_words.h"

#include "base/error.h"
#include "ir/trace.h"

namespace zoe {

Value to_rgb_words(const Value& frames) {
  // 1.5 * 2^23: sums with it have no fraction bits, so the addition itself rounds to nearest even.
  constexpr double kRounds = 12582912;
  const Value unit = min(max(frames * 0.5 + 0.5, constant(0)), constant(1));
  const Value bytes = (unit * 255.0 + kRounds) - kRounds;  // [T,H,W,3] 0 to 255
  const auto channel = [&](std::int64_t c) { return slice(bytes, 3, c, c + 1); };
  return channel(0) + channel(1) * 256.0 + channel(2) * 65536.0;
}

void from_rgb_words(std::span<const float> words, std::span<std::uint8_t> rgb) {
  ZOE_INTERNAL_CHECK(rgb.size() == 3 * words.size());
  for (std::size_t i = 0; i < words.size(); ++i) {
    const auto word = static_cast<std::uint32_t>(words[i]);
    rgb[3 * i] = static_cast<std::uint8_t>(word);
    rgb[3 * i + 1] = static_cast<std::uint8_t>(word >> 8);
    rgb[3 * i + 2] = static_cast<std::uint8_t>(word >> 16);
  }
}

}  // namespace zoe
