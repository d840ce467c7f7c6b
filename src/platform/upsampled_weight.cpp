#include "platform/upsampled_weight.h"

#include <array>
#include <cstddef>

namespace zoe {

void sum_taps(std::span<const float> taps, int phase, std::span<float> sums) {
  // Taps [first, last) that fall on pixel 0 and 1 for even and odd positions.
  constexpr std::array<std::array<std::size_t, 3>, 2> kBounds{{{0, 1, 3}, {0, 2, 3}}};
  const auto &rows = kBounds[static_cast<std::size_t>(phase / 2)], &columns = kBounds[static_cast<std::size_t>(phase % 2)];
  for (std::size_t k = 0; k < taps.size() / 9; ++k)
    for (std::size_t i = 0; i < 2; ++i)
      for (std::size_t j = 0; j < 2; ++j) {
        float total = 0;
        for (std::size_t r = rows[i]; r < rows[i + 1]; ++r)
          for (std::size_t c = columns[j]; c < columns[j + 1]; ++c) total += taps[k * 9 + r * 3 + c];
        sums[k * 4 + i * 2 + j] = total;
      }
}

}  // namespace zoe
