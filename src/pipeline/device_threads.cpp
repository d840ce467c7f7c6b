#include "pipeline/device_threads.h"

#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "platform/group.h"
#include "platform/platform.h"

namespace zoe {

// Does one piece of work at a time, which may throw nothing.
class DeviceThreads::Worker {
 public:
  explicit Worker(Platform& device) : thread_([this, &device](const std::stop_token& stop) { loop(device, stop); }) {}

  void start(std::function<void()> work) {
    const std::lock_guard lock(mutex_);
    work_ = std::move(work);
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !work_; });
  }

 private:
  void loop(Platform& device, const std::stop_token& stop) {
    device.enter_thread();
    std::unique_lock lock(mutex_);
    while (changed_.wait(lock, stop, [&] { return static_cast<bool>(work_); })) {
      lock.unlock();
      work_();
      lock.lock();
      work_ = {};
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::function<void()> work_;  // empty: none is asked for
  std::jthread thread_;         // the last: it uses the others
};

DeviceThreads::DeviceThreads(std::span<Platform* const> devices) : devices_(devices.begin(), devices.end()) {}
DeviceThreads::~DeviceThreads() = default;

void DeviceThreads::all(std::size_t count, const std::function<void(std::size_t)>& work) {
  ZOE_INTERNAL_CHECK(count >= 1 && count <= devices_.size());
  if (count == 1) return work(0);
  while (workers_.size() + 1 < count) workers_.push_back(std::make_unique<Worker>(*devices_[workers_.size() + 1]));
  DeviceGroup& group = *devices_[0]->group();
  std::mutex mutex;
  std::exception_ptr first;
  const auto guarded = [&, target = log_target()](std::size_t rank) {
    const LogScope log_scope(target);
    try {
      work(rank);
    } catch (...) {
      {
        const std::lock_guard lock(mutex);
        if (!first) first = std::current_exception();
      }
      group.give_up();
    }
  };
  for (std::size_t rank = 1; rank < count; ++rank) workers_[rank - 1]->start([&guarded, rank] { guarded(rank); });
  guarded(0);
  for (std::size_t rank = 1; rank < count; ++rank) workers_[rank - 1]->wait();
  if (!first) return;
  group.recover();
  std::rethrow_exception(first);
}

}  // namespace zoe
