// Devices of one host that work on one request: each has its memory, its streams and a thread of this process.
//
// Kernels of Opcode::all_to_all and all_gather hand pieces from device to device through an Exchange. Devices run equal plans, so
// that all of them come to the same exchanges in the same order; one that fails lets the others go (give_up).
// Pieces go by the devices' copy engines, in stream order (Platform::pull): measured on two H200 that is as fast as NCCL's
// all-to-all, leaves the multiprocessors to products and needs no other library.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "platform/implementation.h"
#include "platform/platform.h"

namespace zoe {

// Where the devices of a group, or of an equal share of it, hand each other pieces of what they made. Each comes from its own
// thread; they meet, and each stream pulls its pieces behind what made them. No device waits for the host.
class Exchange {
 public:
  // One that does not come within `patience` is named in the error of those that wait for it.
  Exchange(std::span<Platform* const> members, std::chrono::milliseconds patience) : patience_(patience), posts_(members.size()) {
    for (std::size_t i = 0; i < members.size(); ++i) posts_[i].device = members[i];
  }

  // Queues, for the member with this number: bytes [i * step, i * step + piece_bytes) of `from` go to member i, and those of `to`
  // from i * piece_bytes on come from it. A step of 0 gives all members the same piece.
  void run(std::size_t member, Stream& stream, Slot from, std::size_t step, Slot to, std::size_t piece_bytes);
  // The same on a stream that the member has for this, behind what `stream` was given so far: what is queued there next runs
  // beside it. Returns where the member has its pieces and the others have theirs.
  std::unique_ptr<Event> start(std::size_t member, Stream& stream, Slot from, std::size_t step, Slot to, std::size_t piece_bytes);
  // Whoever waits for a member does so no longer, and exchanges fail until recover(); from any thread.
  void give_up() noexcept;
  void recover();  // no member is in one any more

 private:
  struct Post {  // written by its member, read by the others between two meetings
    Platform* device = nullptr;
    Slot from;
    std::size_t step = 0;
    std::unique_ptr<Event> made, taken;  // what it hands out is there; it has what it wanted
    bool is_here = false;
    std::unique_ptr<Stream> beside;  // of start(); made when first needed
  };
  void meet(std::size_t member);

  const std::chrono::milliseconds patience_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Post> posts_;  // by member
  std::size_t waiting_ = 0;
  std::uint64_t meetings_ = 0;
  bool given_up_ = false;
};

class DeviceGroup {
 public:
  // The first of the devices, which has the others with it. One device is no group.
  static std::unique_ptr<Platform> form(std::vector<std::unique_ptr<Platform>> devices);

  std::span<Platform* const> devices() const { return devices_; }  // by rank
  std::size_t size() const { return devices_.size(); }
  // Of the `size` devices that device `rank` is among: ranks from a multiple of `size` on. Its number there is rank % size.
  std::shared_ptr<Exchange> among(int rank, int size);
  void give_up() noexcept;
  void recover();

 private:
  std::vector<Platform*> devices_;
  std::vector<std::unique_ptr<Platform>> others_;
  std::mutex mutex_;
  std::map<std::pair<int, int>, std::shared_ptr<Exchange>> exchanges_;  // by first rank and size
};

// The row of a device's table for all_to_all and all_gather. Its kernel is `unsupported` where the device is in no group of the
// size.
Implementation exchange_row(Platform& device);

}  // namespace zoe
