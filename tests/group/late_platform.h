// A CPU device whose copies run as late as they may, or at any moment before: streams keep them until something waits for an event
// behind them, as a busy copy engine does. Kernels run as they are given. So whatever was to stay for a copy, and did not, or was
// to be there, and is not, shows in the numbers.
#pragma once

#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <random>
#include <utility>
#include <vector>

#include "base/error.h"
#include "platform/group.h"
#include "platform/implementation.h"
#include "platform/platform.h"

namespace zoe::testing {

// Work is done by whoever waits for it, also that of other devices: one at a time.
class LateQueue {
 public:
  explicit LateQueue(const Platform* device_) : device(device_) {}
  void add(std::function<void()> work) {
    const std::lock_guard lock(mutex());
    work_.push_back(std::move(work));
  }
  std::size_t end() const {
    const std::lock_guard lock(mutex());
    return done_ + work_.size();
  }
  void run(std::size_t end) {
    const std::lock_guard lock(mutex());
    while (done_ < end) {
      const std::function<void()> work = std::move(work_.front());
      work_.pop_front();
      ++done_;
      work();
    }
  }
  const Platform* const device;

 private:
  static std::recursive_mutex& mutex() {
    static std::recursive_mutex one;
    return one;
  }
  std::deque<std::function<void()>> work_;
  std::size_t done_ = 0;
};

struct LateEvent : Event {
  LateEvent(std::shared_ptr<LateQueue> queue_, std::size_t position_) : queue(std::move(queue_)), position(position_) {}
  bool reached() override { return wait(), true; }
  void wait() override { queue->run(position); }
  double seconds_since(Event&) override { return 0; }
  const std::shared_ptr<LateQueue> queue;
  const std::size_t position;
};

class LateStream : public Stream {
 public:
  LateStream(const Platform* device, unsigned seed, bool at_any_moment)
      : queue_(std::make_shared<LateQueue>(device)), random_(seed), at_any_moment_(at_any_moment) {}
  ~LateStream() override { synchronize(); }
  void synchronize() override { queue_->run(queue_->end()); }
  std::unique_ptr<Event> record_event() override { return std::make_unique<LateEvent>(queue_, queue_->end()); }
  // What a device's kernels wait for is done now: they do not wait.
  void wait_for(Event& event) override {
    const auto& late = static_cast<LateEvent&>(event);
    if (late.queue->device == queue_->device) return late.queue->run(late.position);
    add([queue = late.queue, position = late.position] { queue->run(position); });
  }
  void add(std::function<void()> work) {
    queue_->add(std::move(work));
    if (at_any_moment_ && random_() % 4 == 0) synchronize();
  }

 private:
  const std::shared_ptr<LateQueue> queue_;
  std::minstd_rand random_;
  const bool at_any_moment_;
};

class LatePlatform : public Platform {
 public:
  explicit LatePlatform(bool at_any_moment) : cpu_(open_platform("cpu", {.threads = 1})), at_any_moment_(at_any_moment) {
    for (const Implementation& row : cpu_->implementations()) table_.push_back(row.name == "exchange" ? exchange_row(*this) : row);
  }
  const DeviceInfo& info() const override { return cpu_->info(); }
  std::uint64_t free_bytes() const override { return cpu_->free_bytes(); }
  std::shared_ptr<Buffer> allocate(std::size_t size_bytes, std::string_view what) override {
    return cpu_->allocate(size_bytes, what);
  }
  std::unique_ptr<Stream> make_stream() override {
    return std::make_unique<LateStream>(this, 17u * ++streams_ + static_cast<unsigned>(rank()), at_any_moment_);
  }
  void enter_thread() const override { cpu_->enter_thread(); }
  void upload(Stream& stream, const void* host, Slot device, std::size_t size_bytes) override {
    stream.synchronize();
    std::memcpy(device.data(), host, size_bytes);
  }
  void download(Stream& stream, Slot device, void* host, std::size_t size_bytes) override {
    stream.synchronize();
    std::memcpy(host, device.data(), size_bytes);
  }
  void copy(Stream& stream, Slot from, Slot to, std::size_t size_bytes) override {
    static_cast<LateStream&>(stream).add([from, to, size_bytes] { std::memcpy(to.data(), from.data(), size_bytes); });
  }
  void pull(Stream& stream, Slot to, Platform&, Slot from, std::size_t size_bytes) override {
    check(--good_pulls >= 0, ErrorKind::device, "late", "device {} is lost.", rank());
    copy(stream, from, to, size_bytes);
  }
  int good_pulls = std::numeric_limits<int>::max();  // the next one fails, and all behind it
  std::span<const Implementation> implementations() const override { return table_; }

 private:
  const std::unique_ptr<Platform> cpu_;
  const bool at_any_moment_;
  unsigned streams_ = 0;
  std::vector<Implementation> table_;
};

inline std::unique_ptr<Platform> late_group(int devices, bool at_any_moment) {
  std::vector<std::unique_ptr<Platform>> all;
  for (int i = 0; i < devices; ++i) all.push_back(std::make_unique<LatePlatform>(at_any_moment));
  return DeviceGroup::form(std::move(all));
}

}  // namespace zoe::testing
