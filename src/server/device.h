// A device and the thread that gives it one job after another. Models stay on it from job to job as long as they fit; of those that
// are in the way the one used longest ago goes first.
#pragma once

#include <atomic>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/dtype.h"
#include "pipeline/session.h"
#include "platform/platform.h"
#include "server/shared.h"

namespace zoe::server {

struct DeviceSetup {
  std::string name;  // "cuda:1"; of two of one name the second is "cpu#2"
  std::shared_ptr<Platform> platform;
  DType dtype;
  SessionOptions session;
  double save_seconds;
};

class Device {
 public:
  Device(DeviceSetup setup, Shared shared);
  ~Device();  // waits for its thread; Jobs::stop_taking() first
  void start();

  const DeviceSetup& setup() const { return setup_; }
  std::vector<std::string> loaded() const;  // names of models

  struct Plan {
    Settled settled;
    MemoryStatement memory;
    std::string refusal;
  };
  // What a request would take, without a turn of the session that may be running: plans are compiled anew for it the first time.
  Plan plan(const ServedModel& model, const Request& request);

 private:
  struct Loaded {
    const ServedModel* model;
    std::unique_ptr<Session> session;
  };
  void work();
  void run(const std::shared_ptr<RunningJob>& job);
  void make(RunningJob& job, const ServedModel& model);
  Session& session_of(const ServedModel& model);
  std::unique_ptr<Session> new_session(const ServedModel& model) const;
  bool forget_oldest(const ServedModel& but);

  const DeviceSetup setup_;
  const Shared shared_;
  mutable std::mutex mutex_;                  // of loaded_'s list; sessions are the thread's own
  std::list<Loaded> loaded_;                  // the one used last first
  std::atomic<std::uint64_t> free_bytes_{0};  // the most that a session was offered
  std::mutex planning_;
  std::list<Loaded> planners_;
  std::thread thread_;
};

}  // namespace zoe::server
