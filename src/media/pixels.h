// From a model's pixels to 8-bit RGB.
#pragma once

#include <cstdint>
#include <span>

namespace zoe {

// out = round(255 * clamp(x / 2 + 0.5, 0, 1)) in f32, ties to even: Diffusers' postprocess and numpy's round, value by value.
// frame: [H,W,3] in -1..1 (beyond is clamped, NaN becomes 0); out has as many values.
void to_rgb8(std::span<const float> frame, std::span<std::uint8_t> out);

}  // namespace zoe
