#include "compiler/shared_blocks.h"

namespace zoe {

void SharedBlocks::announce(const Platform& device, const Offsets& blocks) {
  const std::lock_guard lock(mutex_);
  for (const auto& [key, offset] : blocks) held_[key].try_emplace(&device);
}

void SharedBlocks::publish(Platform& device, const Offsets& blocks, const std::shared_ptr<Buffer>& buffer) {
  const std::lock_guard lock(mutex_);
  for (const auto& [key, offset] : blocks) held_[key][&device] = {&device, buffer, offset};
  changed_.notify_all();
}

void SharedBlocks::withdraw(const Platform& device) noexcept {
  const std::lock_guard lock(mutex_);
  for (auto& [key, devices] : held_) devices.erase(&device);
  changed_.notify_all();
}

std::optional<SharedBlocks::Held> SharedBlocks::find(const std::string& key, const Platform& own) {
  std::unique_lock lock(mutex_);
  for (;; changed_.wait(lock)) {
    bool is_coming = false;
    for (const auto& [device, held] : held_[key]) {
      if (device == &own) continue;
      if (held.buffer) return held;
      is_coming = true;
    }
    if (!is_coming) return {};
  }
}

}  // namespace zoe
