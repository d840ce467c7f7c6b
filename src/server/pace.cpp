#include "server/pace.h"

#include <cmath>

namespace zoe::server {

void Pace::learn(const std::string& model, const std::string& device, const VideoSize& size, const Seconds& seconds) {
  constexpr std::size_t kMostSizes = 200;
  constexpr double kOfNew = 0.5;
  const std::lock_guard lock(mutex_);
  std::map<VideoSize, Seconds>& sizes = known_[{model, device}];
  const auto [found, is_new] = sizes.try_emplace(size, seconds);
  if (!is_new)
    for (double Seconds::*each : {&Seconds::before, &Seconds::step, &Seconds::after})
      found->second.*each += kOfNew * (seconds.*each - found->second.*each);
  if (sizes.size() > kMostSizes) sizes.erase(sizes.begin() == found ? std::next(found) : sizes.begin());
}

std::optional<Pace::Seconds> Pace::guess(const std::string& model, const std::string& device, const VideoSize& size) const {
  const std::lock_guard lock(mutex_);
  std::optional<Seconds> best;
  double distance = 0;
  for (const auto& [key, sizes] : known_) {
    if (key.first != model || (!device.empty() && key.second != device)) continue;
    for (const auto& [known, seconds] : sizes) {
      if (known == size) return seconds;
      const double factor = size.volume() / known.volume(), apart = std::abs(std::log(factor));
      if (best && apart >= distance) continue;
      best = {.before = seconds.before, .step = seconds.step * factor, .after = seconds.after * factor, .same_size = false};
      distance = apart;
    }
  }
  return best;
}

}  // namespace zoe::server
