// The jobs of a server: the queue that devices take from, those that run, and whoever listens to one. The store has them on disk;
// what is here is what changes faster than it is worth storing.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include "server/folders.h"
#include "server/http.h"
#include "server/job_store.h"
#include "server/pace.h"

namespace zoe::server {

// How far a running job is.
struct JobProgress {
  std::string phase;  // "load", "encode", "denoise", "decode"
  int step = 0;       // done
  std::int64_t frame = 0, frames = 0;
  int percent = 0;
  std::optional<double> seconds_left;
  int preview_step = 0;  // that the preview shows; 0: there is none
};

// A job on a device. All others read how it was taken and how far it is, and may stop it.
struct RunningJob {
  enum class Stop : std::uint8_t { none, cancelled, removed, shutdown };
  explicit RunningJob(JobRecord as_taken) : taken(std::move(as_taken)), record(taken) {}

  const JobRecord taken;
  JobRecord record;                 // the worker's own, who writes into it how it ends
  std::atomic<bool> cancel{false};  // what the session looks at
  std::atomic<Stop> stop{Stop::none};

  JobProgress progress() const {
    const std::lock_guard lock(mutex);
    return now;
  }
  mutable std::mutex mutex;
  JobProgress now;
};

// A job as it is at the moment of asking.
struct JobView {
  JobRecord record;
  std::optional<JobProgress> progress;         // of one that runs
  std::optional<std::int64_t> queue_position;  // of one that waits
};

struct QueueLimits {
  std::int64_t most = 100, most_of_owner = 100;  // jobs that wait or run
};

class Jobs {
 public:
  Jobs(JobStore& store, Folders folders, QueueLimits limits);
  ~Jobs();

  // What a job's video object is as JSON; set before anything else is called.
  std::function<std::string(const JobView&)> describe;

  // Refusal queue_full or stopping; else the job is stored, and files that `place` puts into its folder are there before it is.
  JobStore::Added add(JobRecord job, const std::function<void(const std::string& id)>& place);
  std::optional<JobView> find(std::string_view id) const;
  JobView view(JobRecord record) const;
  bool cancel(const std::string& id);  // false: it was done
  bool remove(const std::string& id);
  std::int64_t queue_length() const;
  std::int64_t running() const;
  std::vector<JobRecord> waiting() const;  // and running, in order
  bool is_full() const;

  // Of the threads of devices. Waits; null when the server stops.
  std::shared_ptr<RunningJob> take(const std::string& device);
  void progressed(RunningJob& job, bool now);  // tells those who listen, at most ten times a second but `now`
  void preview_drawn(RunningJob& job, int step);
  bool wants_preview(const std::string& id) const;
  void finish(const std::shared_ptr<RunningJob>& job);    // its record says how it ended
  void put_back(const std::shared_ptr<RunningJob>& job);  // as one that waits

  void preview_fetched(const std::string& id);
  void listen(const std::string& id, std::shared_ptr<EventStream> stream);
  // Once, when it is done or gone (then nothing); `is_gone` of who waits cancels it.
  void when_done(const std::string& id, std::function<bool()> is_gone, std::function<void(std::optional<JobView>)> then);

  void stop_taking();                   // no job is added or begun from here on
  void stop_running(bool only_cancel);  // those that run are told to stop and be put back
  bool wait_idle(std::chrono::milliseconds most);
  void end_streams();

 private:
  using Clock = std::chrono::steady_clock;
  struct Listener {
    std::shared_ptr<EventStream> stream;
    std::int64_t told_position = -1;
  };
  struct Waiter {
    std::function<bool()> is_gone;
    std::function<void(std::optional<JobView>)> then;
  };

  JobView view_locked(JobRecord record) const;
  std::int64_t position_locked(std::int64_t sequence) const;
  void tell(const std::string& id, std::string_view event, std::string_view data);
  void tell_queue_locked();
  bool leave_queue_locked(const JobRecord& record);  // false: it did not wait there
  // With `then`s taken out, to be called without the lock.
  std::vector<Waiter> done_locked(const std::string& id, const std::optional<JobView>& view);
  void keep();

  JobStore& store_;
  const Folders folders_;
  const QueueLimits limits_;
  mutable std::mutex mutex_;
  std::condition_variable work_, idle_;
  std::map<std::int64_t, JobRecord> queue_;
  std::unordered_map<std::string, std::shared_ptr<RunningJob>> running_;
  std::map<std::string, std::int64_t, std::less<>> owned_;  // jobs that wait, run or are being added, by owner
  std::int64_t open_ = 0;                                   // all of them
  std::unordered_map<std::string, std::vector<Listener>> listeners_;
  std::unordered_map<std::string, std::vector<Waiter>> waiters_;
  std::unordered_map<std::string, Clock::time_point> told_, fetched_;
  bool stops_ = false;
  std::atomic<bool> ends_{false};
  std::thread keeper_;
};

}  // namespace zoe::server
