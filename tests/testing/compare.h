// The one comparison of tensors in tests: relative RMS error, largest difference, and where it is.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>

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

// Whether the sums of a product have one order, whatever rows are beside them and how many threads there are. Those of oneDNN in
// f32 on cores with AVX2 alone have several.
inline bool sums_have_one_order() {
  for (const char* const variable : {"DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA"})
    if (const char* const limit = std::getenv(variable))
      if (const std::string_view isa = limit; isa != "ALL" && isa != "DEFAULT" && !isa.starts_with("AVX512")) return false;
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512f");
#else
  return false;
#endif
}

// Passes if the values are equal; where sums_have_one_order() does not hold also if they are that close.
template <class Values>
::testing::AssertionResult same_sums(const Values& got, const Values& expected, double tolerance = 1e-5) {
  if (got == expected) return ::testing::AssertionSuccess();
  if (got.size() != expected.size())
    return ::testing::AssertionFailure() << "got " << got.size() << " values, expected " << expected.size();
  const double relative = relative_rms(got, expected);
  auto result = !sums_have_one_order() && relative <= tolerance ? ::testing::AssertionSuccess() : ::testing::AssertionFailure();
  return result << "relative RMS difference " << relative << " (allowed " << (sums_have_one_order() ? 0.0 : tolerance) << ")";
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
