// How frames leave a device: as 8-bit pixels, made by the decoder's last kernel.
#pragma once

#include "ir/value.h"

namespace zoe {

// f32 in -1..1 -> u8 of the same shape: what to_rgb8 of media/pixels.h makes of each value.
Value to_rgb8(const Value& frames);

}  // namespace zoe
