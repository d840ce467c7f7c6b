// A 3x3 kernel over a picture made twice as high and wide is four kernels of 2x2 over the original, one for each parity of row and
// column: of its nine taps only four fall on different pixels. For an even row they are the row above (tap 0) and its own (taps 1
// and 2 summed), for an odd one its own (taps 0 and 1 summed) and the row below (tap 2); columns likewise.
#pragma once

#include <span>

namespace zoe {

// [.., 3, 3] to the [.., 2, 2] of one phase: 0 even row and column, 1 even row, 2 even column, 3 odd ones. Sums are in f32.
void sum_taps(std::span<const float> taps, int phase, std::span<float> sums);

}  // namespace zoe
