// The one comparison of tensors in tests: relative RMS error, largest difference, and where it is.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <string>

#include "base/shape.h"

namespace zoe::testing {

// sqrt(sum (got - expected)^2 / sum expected^2).
template <class Got, class Expected>
double relative_rms(const Got& got, const Expected& expected) {
  double error = 0, power = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double difference = static_cast<double>(got.at(i)) - static_cast<double>(expected[i]);
    error += difference * difference;
    power += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  return std::sqrt(error / power);
}

// Passes if sqrt(sum (got - expected)^2 / sum expected^2) <= tolerance. Fails, too, for expected values that could prove nothing:
// none, not finite, or all the same (one value alone may be anything but 0).
template <class Got, class Expected>
::testing::AssertionResult relative_rms_within(const Got& got, const Expected& expected, const Shape& shape, double tolerance) {
  const auto count = static_cast<std::size_t>(shape.count());
  if (got.size() != count || expected.size() != count || count == 0)
    return ::testing::AssertionFailure() << "got " << got.size() << " values, expected " << expected.size() << ", shape "
                                         << shape.str();
  double error = 0, power = 0, largest = -1;
  std::size_t worst = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const double difference = std::abs(static_cast<double>(got[i]) - static_cast<double>(expected[i]));
    if (!std::isfinite(difference)) {
      error = difference, largest = difference, worst = i;
      break;
    }
    if (difference > largest) largest = difference, worst = i;
    error += difference * difference;
    power += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  const bool flat =
      count > 1 ? std::all_of(expected.begin(), expected.end(), [&](auto value) { return value == expected[0]; }) : power == 0;
  if (flat) return ::testing::AssertionFailure() << "the expected values are all " << expected[0];
  const double relative = std::sqrt(error / power);
  std::string position;
  for (std::int64_t axis = shape.rank() - 1, rest = static_cast<std::int64_t>(worst); axis >= 0; --axis) {
    position = std::to_string(rest % shape.dim(static_cast<int>(axis))) + (position.empty() ? "" : ",") + position;
    rest /= shape.dim(static_cast<int>(axis));
  }
  auto result = relative <= tolerance ? ::testing::AssertionSuccess() : ::testing::AssertionFailure();
  return result << "relative RMS error " << relative << " (allowed " << tolerance << "), largest difference " << largest << " at ["
                << position << "]: got " << got[worst] << ", expected " << expected[worst];
}

}  // namespace zoe::testing
