// How long things took on this machine, and so how long they will: seconds of a step and of the decode, by model and device.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace zoe::server {

struct VideoSize {
  std::int64_t width = 0, height = 0, num_frames = 0;
  double volume() const { return static_cast<double>(width) * static_cast<double>(height) * static_cast<double>(num_frames); }
  auto operator<=>(const VideoSize&) const = default;
};

class Pace {
 public:
  struct Seconds {
    double before = 0, step = 0, after = 0;  // loading and encoding; one step; decoding and writing
    bool same_size = true;                   // else scaled by pixels and frames
    double total(std::int64_t steps) const { return before + step * static_cast<double>(steps) + after; }
  };
  void learn(const std::string& model, const std::string& device, const VideoSize& size, const Seconds& seconds);
  // Nothing where the model has not run on the device. An empty device is any.
  std::optional<Seconds> guess(const std::string& model, const std::string& device, const VideoSize& size) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, std::string>, std::map<VideoSize, Seconds>> known_;
};

}  // namespace zoe::server
