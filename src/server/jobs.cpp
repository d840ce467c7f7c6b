#include "server/jobs.h"

#include <fmt/format.h>

#include <thread>

#include "server/errors.h"

namespace zoe::server {

namespace {

std::string event_text(std::string_view event, std::string_view data) {
  return fmt::format("event: {}\ndata: {}\n\n", event, data);
}

bool is_done(const JobRecord& job) { return job.status == JobStatus::completed || job.status == JobStatus::failed; }

}  // namespace

Jobs::Jobs(JobStore& store, Folders folders, QueueLimits limits) : store_(store), folders_(std::move(folders)), limits_(limits) {
  for (JobRecord& job : store_.requeue_all()) {
    ++open_;
    ++owned_[job.owner];
    const std::int64_t sequence = job.sequence;
    queue_.emplace(sequence, std::move(job));
  }
  keeper_ = std::thread([this] { keep(); });
}

Jobs::~Jobs() {
  ends_ = true;
  keeper_.join();
}

JobStore::Added Jobs::add(JobRecord job, const std::function<void(const std::string& id)>& place) {
  const std::string owner = job.owner;
  {
    const std::lock_guard lock(mutex_);
    if (stops_) throw Refusal(503, "stopping", "[serve] the server stops. Send it again when it is back.");
    const auto full = [](std::int64_t most, std::string_view whose) {
      throw Refusal(
          429, "queue_full",
          fmt::format("[queue] {} are waiting or running already, the most {}. Wait for one, or cancel it.", most, whose));
    };
    if (open_ >= limits_.most) full(limits_.most, "that this server takes");
    if (const auto own = owned_.find(owner); own != owned_.end() && own->second >= limits_.most_of_owner)
      full(limits_.most_of_owner, "of one key");
    ++open_;
    ++owned_[owner];
  }
  const auto release = [&] {
    --open_;
    if (--owned_[owner] == 0) owned_.erase(owner);
  };
  JobStore::Added added;
  const std::string id = job.id;
  try {
    place(id);
    added = store_.add(std::move(job));
  } catch (...) {
    folders_.remove_all(id);
    const std::lock_guard lock(mutex_);
    release();
    throw;
  }
  const std::lock_guard lock(mutex_);
  if (!added.is_new) {
    folders_.remove_all(id);
    release();
    return added;
  }
  queue_.emplace(added.job.sequence, added.job);
  work_.notify_one();
  return added;
}

std::int64_t Jobs::position_locked(std::int64_t sequence) const {
  std::int64_t before = 0;
  for (const auto& [other, job] : queue_) {
    if (other >= sequence) break;
    ++before;
  }
  return before;
}

// What the store says is older than what is here, but for what is done.
JobView Jobs::view_locked(JobRecord record) const {
  JobView view{.record = std::move(record), .progress = {}, .queue_position = {}};
  if (is_done(view.record)) return view;
  if (const auto running = running_.find(view.record.id); running != running_.end()) {
    const RunningJob& job = *running->second;
    view.record.status = JobStatus::in_progress;
    view.record.started_at = job.taken.started_at;
    view.record.device = job.taken.device;
    view.progress = job.progress();
  } else if (queue_.contains(view.record.sequence)) {
    view.record.status = JobStatus::queued;
    view.queue_position = position_locked(view.record.sequence);
  }
  return view;
}

JobView Jobs::view(JobRecord record) const {
  const std::lock_guard lock(mutex_);
  return view_locked(std::move(record));
}

std::optional<JobView> Jobs::find(std::string_view id) const {
  std::optional<JobRecord> record = store_.find(id);
  if (!record) return {};
  JobView found = view(std::move(*record));
  // It may have ended between the two looks.
  if (!is_done(found.record) && !found.progress && !found.queue_position) {
    record = store_.find(id);
    if (!record) return {};
    found = view(std::move(*record));
  }
  return found;
}

bool Jobs::leave_queue_locked(const JobRecord& record) {
  if (queue_.erase(record.sequence) == 0) return false;
  --open_;
  if (--owned_[record.owner] == 0) owned_.erase(record.owner);
  tell_queue_locked();
  return true;
}

bool Jobs::cancel(const std::string& id) {
  std::optional<JobRecord> record = store_.find(id);
  if (!record || is_done(*record)) return false;
  {
    const std::lock_guard lock(mutex_);
    if (const auto running = running_.find(id); !leave_queue_locked(*record) && running != running_.end()) {
      RunningJob& job = *running->second;
      auto none = RunningJob::Stop::none;
      job.stop.compare_exchange_strong(none, RunningJob::Stop::cancelled);
      job.cancel = true;
      record->device = job.taken.device;
      record->started_at = job.taken.started_at;
    }
  }
  record->status = JobStatus::failed;
  record->cancelled = true;
  record->completed_at = unix_seconds();
  record->error_code = "cancelled";
  record->error_message = "[serve] cancelled by a client.";
  if (!store_.finish(*record)) return false;
  folders_.remove_leftovers(id);
  std::vector<Waiter> waiters;
  const JobView view{.record = *record, .progress = {}, .queue_position = {}};
  {
    const std::lock_guard lock(mutex_);
    waiters = done_locked(id, view);
  }
  for (const Waiter& waiter : waiters) waiter.then(view);
  return true;
}

bool Jobs::remove(const std::string& id) {
  const std::optional<JobRecord> record = store_.find(id);
  if (!record) return false;
  bool runs = false;
  {
    const std::lock_guard lock(mutex_);
    if (const auto running = running_.find(id); !leave_queue_locked(*record) && running != running_.end()) {
      running->second->stop = RunningJob::Stop::removed;
      running->second->cancel = true;
      runs = true;
    }
  }
  const bool removed = store_.remove(id);
  if (!runs) folders_.remove_all(id);  // else when the device has let go of them
  std::vector<Waiter> waiters;
  {
    const std::lock_guard lock(mutex_);
    if (removed) tell(id, "deleted", fmt::format(R"({{"id": "{}", "deleted": true}})", id));
    waiters = done_locked(id, {});
  }
  for (const Waiter& waiter : waiters) waiter.then({});
  return removed;
}

std::int64_t Jobs::queue_length() const {
  const std::lock_guard lock(mutex_);
  return static_cast<std::int64_t>(queue_.size());
}

std::int64_t Jobs::running() const {
  const std::lock_guard lock(mutex_);
  return static_cast<std::int64_t>(running_.size());
}

bool Jobs::is_full() const {
  const std::lock_guard lock(mutex_);
  return stops_ || open_ >= limits_.most;
}

std::vector<JobRecord> Jobs::waiting() const {
  const std::lock_guard lock(mutex_);
  std::vector<JobRecord> all;
  for (const auto& [id, job] : running_) all.push_back(job->taken);
  for (const auto& [sequence, job] : queue_) all.push_back(job);
  return all;
}

std::shared_ptr<RunningJob> Jobs::take(const std::string& device) {
  std::unique_lock lock(mutex_);
  work_.wait(lock, [&] { return stops_ || !queue_.empty(); });
  if (stops_) return nullptr;
  JobRecord record = std::move(queue_.begin()->second);
  queue_.erase(queue_.begin());
  record.status = JobStatus::in_progress;
  record.started_at = unix_seconds();
  record.device = device;
  ++record.starts;
  const auto job = std::make_shared<RunningJob>(std::move(record));
  const std::string& id = job->taken.id;
  job->now.phase = "load";
  job->now.frames = job->taken.num_frames;
  running_[id] = job;
  store_.mark_started(id, job->taken.started_at, device);
  if (listeners_.contains(id)) tell(id, "video", describe(view_locked(job->taken)));
  tell_queue_locked();
  return job;
}

void Jobs::tell(const std::string& id, std::string_view event, std::string_view data) {
  const auto found = listeners_.find(id);
  if (found == listeners_.end()) return;
  const std::string text = event_text(event, data);
  for (const Listener& listener : found->second) listener.stream->send(text);
}

void Jobs::tell_queue_locked() {
  if (listeners_.empty()) return;
  std::int64_t position = 0;
  for (const auto& [sequence, job] : queue_) {
    if (const auto found = listeners_.find(job.id); found != listeners_.end())
      for (Listener& listener : found->second)
        if (std::exchange(listener.told_position, position) != position)
          listener.stream->send(
              event_text("queue", fmt::format(R"({{"queue_position": {}, "queue_length": {}}})", position, queue_.size())));
    ++position;
  }
}

void Jobs::progressed(RunningJob& job, bool now) {
  constexpr auto kLeast = std::chrono::milliseconds(100);
  const JobProgress at = job.progress();
  const std::lock_guard lock(mutex_);
  if (!listeners_.contains(job.record.id)) return;
  const auto time = Clock::now();
  Clock::time_point& told = told_[job.record.id];
  if (!now && time - told < kLeast) return;
  told = time;
  tell(job.record.id, "progress",
       fmt::format(R"({{"phase": "{}", "progress": {}, "step": {}, "steps": {}, "frame": {}, "frames": {}, "seconds_left": {}}})",
                   at.phase, at.percent, at.step, job.record.steps, at.frame, at.frames,
                   at.seconds_left ? fmt::format("{:.2f}", *at.seconds_left) : "null"));
}

void Jobs::preview_drawn(RunningJob& job, int step) {
  {
    const std::lock_guard lock(job.mutex);
    job.now.preview_step = step;
  }
  const std::lock_guard lock(mutex_);
  const std::string& id = job.record.id;
  tell(id, "preview",
       fmt::format(R"({{"step": {}, "path": "/v1/videos/{}/content?variant=preview&step={}", "media_type": "image/gif"}})", step,
                   id, step));
}

bool Jobs::wants_preview(const std::string& id) const {
  constexpr auto kInterest = std::chrono::seconds(10);
  const std::lock_guard lock(mutex_);
  if (listeners_.contains(id)) return true;
  const auto fetched = fetched_.find(id);
  return fetched != fetched_.end() && Clock::now() - fetched->second < kInterest;
}

void Jobs::preview_fetched(const std::string& id) {
  const std::lock_guard lock(mutex_);
  if (running_.contains(id)) fetched_[id] = Clock::now();
}

std::vector<Jobs::Waiter> Jobs::done_locked(const std::string& id, const std::optional<JobView>& view) {
  if (const auto found = listeners_.find(id); found != listeners_.end()) {
    if (view) tell(id, "video", describe(*view));
    for (const Listener& listener : found->second) {
      listener.stream->send("data: [DONE]\n\n");
      listener.stream->end();
    }
    listeners_.erase(found);
  }
  told_.erase(id);
  fetched_.erase(id);
  std::vector<Waiter> waiters;
  if (const auto found = waiters_.find(id); found != waiters_.end()) {
    waiters = std::move(found->second);
    waiters_.erase(found);
  }
  return waiters;
}

void Jobs::finish(const std::shared_ptr<RunningJob>& job) {
  const JobRecord& record = job->record;
  const bool counts = job->stop != RunningJob::Stop::removed && store_.finish(record);
  const std::optional<JobRecord> now = store_.find(record.id);
  // Of one that was removed or cancelled meanwhile nothing stays but what it came with.
  if (!now) folders_.remove_all(record.id);
  else {
    folders_.remove_leftovers(record.id);
    if (now->status != JobStatus::completed) {
      std::error_code status;
      for (const auto& path : {folders_.video(record.id), folders_.thumbnail(record.id), folders_.sheet(record.id)})
        std::filesystem::remove(path, status);
    }
  }
  std::vector<Waiter> waiters;
  std::optional<JobView> view;
  if (now) view = JobView{.record = *now, .progress = {}, .queue_position = {}};
  bool removed = false;
  {
    const std::lock_guard lock(mutex_);
    running_.erase(record.id);
    removed = job->stop == RunningJob::Stop::removed;
    --open_;
    if (--owned_[record.owner] == 0) owned_.erase(record.owner);
    if (counts || !now) waiters = done_locked(record.id, view);
    idle_.notify_all();
  }
  // Who removes a job that runs leaves its files to this thread: also if that came when it was found done above.
  if (removed) folders_.remove_all(record.id);
  for (const Waiter& waiter : waiters) waiter.then(view);
}

void Jobs::put_back(const std::shared_ptr<RunningJob>& job) {
  store_.mark_queued(job->record.id);
  const std::lock_guard lock(mutex_);
  running_.erase(job->record.id);
  JobRecord record = job->record;
  record.status = JobStatus::queued;
  record.started_at = 0;
  record.device.clear();
  record.starts = 0;
  const std::int64_t sequence = record.sequence;
  queue_.emplace(sequence, std::move(record));
  idle_.notify_all();
}

void Jobs::listen(const std::string& id, std::shared_ptr<EventStream> stream) {
  const std::optional<JobRecord> record = store_.find(id);
  stream->send("retry: 2000\n\n");
  const std::lock_guard lock(mutex_);
  if (!record) return stream->end();
  JobView view = view_locked(*record);
  const bool is_open = view.progress || view.queue_position;
  // Done since, or before: what the store has now is its end.
  if (!is_open)
    if (std::optional<JobRecord> last = store_.find(id)) view.record = std::move(*last);
  stream->send(event_text("video", describe(view)));
  if (!is_open) {
    stream->send("data: [DONE]\n\n");
    return stream->end();
  }
  listeners_[id].push_back({stream, view.queue_position.value_or(-1)});
}

void Jobs::when_done(const std::string& id, std::function<bool()> is_gone, std::function<void(std::optional<JobView>)> then) {
  {
    const std::lock_guard lock(mutex_);
    const std::optional<JobRecord> record = store_.find(id);
    if (record && !is_done(*record)) {
      waiters_[id].push_back({std::move(is_gone), std::move(then)});
      return;
    }
  }
  then(find(id));
}

// Streams' signs of life, and clients that left.
void Jobs::keep() {
  constexpr auto kSign = std::chrono::seconds(15);
  constexpr auto kLook = std::chrono::milliseconds(200);
  auto last_sign = Clock::now();
  while (!ends_) {
    std::this_thread::sleep_for(kLook);
    const bool sign = Clock::now() - last_sign > kSign;
    if (sign) last_sign = Clock::now();
    std::vector<std::string> left;
    {
      const std::lock_guard lock(mutex_);
      for (auto entry = listeners_.begin(); entry != listeners_.end();) {
        std::erase_if(entry->second, [](const Listener& listener) { return listener.stream->is_closed(); });
        if (sign)
          for (const Listener& listener : entry->second) listener.stream->send(": here\n\n");
        entry = entry->second.empty() ? listeners_.erase(entry) : std::next(entry);
      }
      for (const auto& [id, waiters] : waiters_)
        for (const Waiter& waiter : waiters)
          if (waiter.is_gone()) left.push_back(id);
    }
    for (const std::string& id : left) cancel(id);
  }
}

void Jobs::stop_taking() {
  const std::lock_guard lock(mutex_);
  stops_ = true;
  work_.notify_all();
}

void Jobs::stop_running(bool only_cancel) {
  const std::lock_guard lock(mutex_);
  for (const auto& [id, job] : running_) {
    auto none = RunningJob::Stop::none;
    job->stop.compare_exchange_strong(none, RunningJob::Stop::shutdown);
    if (only_cancel) job->cancel = true;
  }
}

bool Jobs::wait_idle(std::chrono::milliseconds most) {
  std::unique_lock lock(mutex_);
  return idle_.wait_for(lock, most, [&] { return running_.empty(); });
}

void Jobs::end_streams() {
  const std::lock_guard lock(mutex_);
  for (const auto& [id, listeners] : listeners_)
    for (const Listener& listener : listeners) {
      listener.stream->send(event_text("stopping", "{}"));
      listener.stream->end();
    }
  listeners_.clear();
  waiters_.clear();  // the connections are answered when they close
}

}  // namespace zoe::server
