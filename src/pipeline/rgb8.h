// How frames leave a device: as 8-bit pixels, made by the decoder's last kernel.
#pragma once

#include "ir/value.h"

namespace zoe {

// f32 in -1..1 -> u8 of the same shape: round(255 * clamp(x / 2 + 0.5, 0, 1)), ties to even, NaN 0: Diffusers' postprocess and
// numpy's round.
Value to_rgb8(const Value& frames);

}  // namespace zoe
