// Kernels of the size that a compiler's fused chains have, and what they compute.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "platform/cpu/compiler.h"

namespace zoe::testing {

using KernelFunction = void (*)(const float* x, float* y, long columns, long rows);

inline const std::string kKernelPrelude = R"(static inline float row_sum(const float* x, long n) {
  float partial[32] = {};
  for (long i = 0; i < n; i += 32)
    for (int j = 0; j < 32; ++j) partial[j] += x[i + j];
  for (int half = 16; half > 0; half /= 2)
    for (int j = 0; j < half; ++j) partial[j] += partial[j + half];
  return partial[0];
}
// A rational tanh.
static inline float soft(float x) {
  const float s = x * x;
  return x * (27.0f + s) / (27.0f + 9.0f * s);
}
)";

// A row's mean is taken off, the rest normalized, scaled, and passed through `number` % 4 + 1 rounds of an activation.
inline cpu::CppKernel make_kernel(int number, float scale = 1) {
  std::string body;
  for (int round = 0; round <= number % 4; ++round)
    body += fmt::format("      v = soft(v) + {:#g}f * v;  // round {}\n", 0.25 * (round + 1), round);
  return {fmt::format("norm_{}", number), fmt::format(R"(struct Limits {{ long columns; }};
static float square(float x) {{ return x * x; }}
extern "C" void norm_{0}(const float* __restrict x, float* __restrict y, long columns, long rows) {{
  const Limits limits{{columns}};
  for (long row = 0; row < rows; ++row, x += columns, y += columns) {{
    const float mean = row_sum(x, columns) / float(columns);
    for (long i = 0; i < limits.columns; ++i) y[i] = square(x[i] - mean);
    const float scale = 1.0f / __builtin_sqrtf(row_sum(y, columns) / float(columns) + 1e-6f);
    for (long i = 0; i < columns; ++i) {{
      float v = (x[i] - mean) * scale * {1:#.6g}f + {0}.0f;
{2}      y[i] = v;
    }}
  }}
}})",
                                                      number, scale, body)};
}

inline std::vector<cpu::CppKernel> make_kernels(int count) {
  std::vector<cpu::CppKernel> kernels;
  for (int i = 0; i < count; ++i) kernels.push_back(make_kernel(i));
  return kernels;
}

// "" or what is wrong with the function of make_kernel(number, scale).
inline std::string check_kernel(void* function, int number, float scale = 1) {
  constexpr long kColumns = 64, kRows = 3;
  std::vector<float> x(kColumns * kRows), y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i * i));
  reinterpret_cast<KernelFunction>(function)(x.data(), y.data(), kColumns, kRows);
  for (long row = 0; row < kRows; ++row) {
    double mean = 0, square = 0;
    const std::span<const float> values(x.data() + row * kColumns, kColumns);
    for (const float value : values) mean += value / double{kColumns};
    for (const float value : values) square += (value - mean) * (value - mean) / double{kColumns};
    for (std::size_t i = 0; i < kColumns; ++i) {
      double v = (values[i] - mean) / std::sqrt(square + 1e-6) * scale + number;
      for (int round = 0; round <= number % 4; ++round) v = v * (27 + v * v) / (27 + 9 * v * v) + 0.25 * (round + 1) * v;
      const double got = y[static_cast<std::size_t>(row) * kColumns + i];
      if (!(std::abs(got - v) <= 1e-4 * (1 + std::abs(v))))
        return fmt::format("norm_{} [{},{}]: got {}, expected {}", number, row, i, got, v);
    }
  }
  return {};
}

}  // namespace zoe::testing
