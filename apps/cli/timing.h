// What the benches share in timing.
#pragma once

#include <algorithm>
#include <chrono>
#include <vector>

namespace zoe::cli {

inline double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// The upper one of an even number; at least one value.
inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace zoe::cli
