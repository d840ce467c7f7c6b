// How frames leave a device: as 8-bit pixels, the three of a position in one number, which f32 holds exactly. A third of the bytes
// of f32 pixels, and made by the decoder's last kernel.
#pragma once

#include <cstdint>
#include <span>

#include "ir/value.h"

namespace zoe {

// f32 [T,H,W,3] in -1..1 -> f32 [T,H,W,1]: r + 256 g + 65536 b, where r, g and b are what to_rgb8 of media/pixels.h makes.
Value to_rgb_words(const Value& frames);

// The bytes of such numbers; `rgb` has three a word.
void from_rgb_words(std::span<const float> words, std::span<std::uint8_t> rgb);

}  // namespace zoe
