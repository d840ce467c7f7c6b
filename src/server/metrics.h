// Numbers for Prometheus, in its text format: counters, and histograms of seconds.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace zoe::server {

class Metrics {
 public:
  // `labels` as the format has them: R"(stage="denoise")", or "".
  void count(std::string_view name, std::string_view labels = {}, double by = 1);
  void observe(std::string_view name, double seconds, std::string_view labels = {});
  // Of a counter, for tests.
  double value(std::string_view name, std::string_view labels = {}) const;

  struct Gauge {
    std::string name, labels;
    double value;
  };
  // All that was counted, and what is now.
  std::string text(const std::vector<Gauge>& now) const;

 private:
  static constexpr std::array<double, 16> kBounds{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                                  0.5,   1,      2.5,   5,    10,    30,   120, 600};
  struct Histogram {
    std::array<std::uint64_t, kBounds.size() + 1> counts{};
    double sum = 0;
    std::uint64_t count = 0;
  };
  mutable std::mutex mutex_;
  std::map<std::string, std::map<std::string, double, std::less<>>, std::less<>> counters_;
  std::map<std::string, std::map<std::string, Histogram, std::less<>>, std::less<>> histograms_;
};

}  // namespace zoe::server
