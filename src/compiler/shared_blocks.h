// Blocks of one component's weights that stay on some device of a group, for its others: what comes and goes there is copied from
// device to device, and this process packs and keeps only what stays on none.
//
// Each device's BlockStream says what it is about to pack, then that it is there; the others take copies for as long as it is.
// All devices use the component's weights in the same state: what forgets them on one forgets them on all, before any packs again.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "platform/platform.h"

namespace zoe {

class SharedBlocks {
 public:
  struct Held {
    Platform* device = nullptr;
    std::shared_ptr<Buffer> buffer;  // lives until who copies from it lets it go
    std::size_t offset = 0;
  };

  using Offsets = std::map<std::string, std::size_t>;  // in a buffer, by what is in a block

  // The device is packing these, and says soon that they are there, or withdraws them.
  void announce(const Platform& device, const Offsets& blocks);
  void publish(Platform& device, const Offsets& blocks, const std::shared_ptr<Buffer>& buffer);
  // Nobody may begin to copy what the device had from here on.
  void withdraw(const Platform& device) noexcept;
  // On another device than `own`; nothing: it stays on none. Waits while those that will have it still pack.
  std::optional<Held> find(const std::string& key, const Platform& own);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::map<const Platform*, Held>> held_;  // by key; without a buffer while it is packed
};

}  // namespace zoe
