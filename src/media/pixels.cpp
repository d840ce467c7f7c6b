#include "media/pixels.h"

#include <bit>
#include <cstddef>

#include "base/error.h"

namespace zoe {

void to_rgb8(std::span<const float> frame, std::span<std::uint8_t> out) {
  check(frame.size() == out.size(), ErrorKind::invalid_argument, "to_rgb8", "bad output size: got {} values, expected {}.",
        out.size(), frame.size());
  for (std::size_t i = 0; i < frame.size(); ++i) {
    float value = frame[i] * 0.5f + 0.5f;
    value = value > 0.0f ? value : 0.0f;  // written so that NaN becomes 0
    value = value < 1.0f ? value : 1.0f;
    // 1.5 * 2^23: the sum has no fraction bits, so the addition itself rounds to nearest even, and the low byte is the integer.
    out[i] = static_cast<std::uint8_t>(std::bit_cast<std::uint32_t>(value * 255.0f + 12582912.0f));
  }
}

}  // namespace zoe
