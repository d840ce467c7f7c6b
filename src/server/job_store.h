// Jobs in a file of SQLite: what a call has stored when it returns outlives the process and, the log being synced, the machine's
// power. Writes of several threads that come together are one transaction. Usable from any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/job_record.h"

namespace zoe::server {

class JobStore {
 public:
  // io: the file cannot be opened or is none of ours; unsupported: of a later version.
  explicit JobStore(const std::filesystem::path& path);
  ~JobStore();

  struct Added {
    JobRecord job;
    bool is_new = true;  // else the job that had the owner's idempotency key before
  };
  Added add(JobRecord job);
  // Later, in the order of the calls; lost with the machine's power, not with the process.
  void mark_started(const std::string& id, double at, const std::string& device);
  void mark_progress(const std::string& id);  // it got further: its starts count anew
  // Back into the queue, as if it had not begun.
  void mark_queued(const std::string& id);
  // False where there is no such job that waits or runs: it was removed, or is done.
  bool finish(const JobRecord& job);
  bool remove(const std::string& id);
  std::vector<JobRecord> requeue_all();  // those that wait or run, in order, all of them queued now

  std::optional<JobRecord> find(std::string_view id) const;
  std::optional<JobRecord> find_by_key(std::string_view owner, std::string_view key) const;
  struct Page {
    std::optional<std::string> owner;  // none: all
    std::optional<JobStatus> status = {};
    std::int64_t after = 0;  // a sequence; 0: from the begin
    bool ascending = false;
    int limit = 20;
  };
  std::vector<JobRecord> list(const Page& page) const;
  // Jobs that are done, the oldest first: id, completed_at, bytes.
  struct Done {
    std::string id;
    double completed_at;
    std::int64_t bytes;
  };
  std::vector<Done> done() const;
  std::vector<std::string> ids() const;
  std::int64_t count(JobStatus status) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace zoe::server
