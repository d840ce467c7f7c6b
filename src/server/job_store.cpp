#include "server/job_store.h"

#include <sqlite3.h>

#include <condition_variable>
#include <deque>
#include <future>
#include <mutex>
#include <thread>

#include "base/error.h"

namespace zoe::server {

std::string_view name(JobStatus status) {
  constexpr std::string_view kNames[] = {"queued", "in_progress", "completed", "failed"};
  return kNames[static_cast<std::size_t>(status)];
}

JobStatus parse_status(std::string_view text) {
  using enum JobStatus;
  for (const JobStatus status : {queued, in_progress, completed, failed})
    if (name(status) == text) return status;
  fail(ErrorKind::invalid_argument, "status", "got \"{}\", expected queued, in_progress, completed or failed.", text);
}

namespace {

constexpr int kVersion = 1;
constexpr const char* kTables = R"sql(
  CREATE TABLE jobs (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, model TEXT NOT NULL,
    status TEXT NOT NULL, cancelled INTEGER NOT NULL, created_at REAL NOT NULL, started_at REAL NOT NULL,
    completed_at REAL NOT NULL, request TEXT NOT NULL, seconds TEXT NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL,
    num_frames INTEGER NOT NULL, steps INTEGER NOT NULL, fps REAL NOT NULL, device TEXT NOT NULL, remixed_from TEXT NOT NULL,
    error_code TEXT NOT NULL, error_message TEXT NOT NULL, notes TEXT NOT NULL, timings TEXT NOT NULL, bytes INTEGER NOT NULL,
    starts INTEGER NOT NULL, idempotency_key TEXT, digest TEXT NOT NULL);
  CREATE INDEX jobs_by_status ON jobs (status, sequence);
  CREATE INDEX jobs_by_owner ON jobs (owner, sequence);
  CREATE UNIQUE INDEX jobs_by_key ON jobs (owner, idempotency_key) WHERE idempotency_key IS NOT NULL;
)sql";
constexpr std::string_view kColumns =
    "sequence, id, owner, model, status, cancelled, created_at, started_at, completed_at, request, seconds, width, height, "
    "num_frames, steps, fps, device, remixed_from, error_code, error_message, notes, timings, bytes, starts, "
    "ifnull(idempotency_key, ''), digest";

class Database;

// One statement, with its values bound in order.
class Statement {
 public:
  Statement(sqlite3* database, std::string_view text) : database_(database) {
    check_code(sqlite3_prepare_v2(database, text.data(), static_cast<int>(text.size()), &statement_, nullptr));
  }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;
  ~Statement() { sqlite3_finalize(statement_); }

  Statement& operator<<(std::int64_t value) { return bound(sqlite3_bind_int64(statement_, ++at_, value)); }
  Statement& operator<<(double value) { return bound(sqlite3_bind_double(statement_, ++at_, value)); }
  Statement& operator<<(std::string_view text) {
    return bound(sqlite3_bind_text64(statement_, ++at_, text.data(), text.size(), SQLITE_TRANSIENT, SQLITE_UTF8));
  }
  Statement& null() { return bound(sqlite3_bind_null(statement_, ++at_)); }

  bool next() {
    column_ = 0;
    const int code = sqlite3_step(statement_);
    if (code == SQLITE_ROW) return true;
    if (code != SQLITE_DONE) check_code(code);
    return false;
  }
  std::int64_t integer() { return sqlite3_column_int64(statement_, column_++); }
  double number() { return sqlite3_column_double(statement_, column_++); }
  std::string text() {
    const auto* const bytes = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column_));
    return {bytes ? bytes : "", static_cast<std::size_t>(sqlite3_column_bytes(statement_, column_++))};
  }

 private:
  Statement& bound(int code) {
    check_code(code);
    return *this;
  }
  void check_code(int code) const {
    check(code == SQLITE_OK, ErrorKind::io, "jobs", "the database says no: {}. Free space there, or see to its folder.",
          sqlite3_errmsg(database_));
  }

  sqlite3* database_;
  sqlite3_stmt* statement_ = nullptr;
  int at_ = 0, column_ = 0;
};

class Database {
 public:
  Database(const std::filesystem::path& path, int flags) {
    const int code = sqlite3_open_v2(path.c_str(), &handle_, flags, nullptr);
    const std::string reason = handle_ ? sqlite3_errmsg(handle_) : "no memory";
    if (code != SQLITE_OK) sqlite3_close(handle_);
    check(code == SQLITE_OK, ErrorKind::io, "jobs", "cannot open {}: {}.", path.string(), reason);
    constexpr int kWaitMilliseconds = 5000;
    sqlite3_busy_timeout(handle_, kWaitMilliseconds);
  }
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;
  ~Database() { sqlite3_close(handle_); }
  operator sqlite3*() const { return handle_; }  // NOLINT(google-explicit-constructor)
  void run(const char* text) const {
    char* message = nullptr;
    const int code = sqlite3_exec(handle_, text, nullptr, nullptr, &message);
    const std::string reason = message ? message : "";
    sqlite3_free(message);
    check(code == SQLITE_OK, ErrorKind::io, "jobs", "the database says no: {}. Free space there, or see to its folder.", reason);
  }
  int changes() const { return sqlite3_changes(handle_); }

 private:
  sqlite3* handle_ = nullptr;
};

JobRecord read_job(Statement& row) {
  JobRecord job;
  job.sequence = row.integer();
  for (std::string* text : {&job.id, &job.owner, &job.model}) *text = row.text();
  job.status = parse_status(row.text());
  job.cancelled = row.integer() != 0;
  for (double* at : {&job.created_at, &job.started_at, &job.completed_at}) *at = row.number();
  job.request = row.text();
  job.seconds = row.text();
  for (std::int64_t* number : {&job.width, &job.height, &job.num_frames, &job.steps}) *number = row.integer();
  job.fps = row.number();
  for (std::string* text : {&job.device, &job.remixed_from, &job.error_code, &job.error_message, &job.notes, &job.timings})
    *text = row.text();
  job.bytes = row.integer();
  job.starts = static_cast<int>(row.integer());
  job.idempotency_key = row.text();
  job.digest = row.text();
  return job;
}

std::vector<JobRecord> read_jobs(Statement& rows) {
  std::vector<JobRecord> jobs;
  while (rows.next()) jobs.push_back(read_job(rows));
  return jobs;
}

}  // namespace

struct JobStore::State {
  Database writes, reads;
  mutable std::mutex reads_mutex;

  std::mutex mutex;
  std::condition_variable changed;
  struct Task {
    std::function<void(Database&)> work;
    std::promise<void> done;
  };
  std::deque<Task> tasks;
  bool ends = false;
  std::thread writer;

  explicit State(const std::filesystem::path& path)
      : writes(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX),
        reads(path, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX) {}

  // Each task is whole or undone; all that wait share a transaction, and so one sync of the log.
  void write() {
    for (;;) {
      std::deque<Task> batch;
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return ends || !tasks.empty(); });
        if (tasks.empty()) return;
        batch.swap(tasks);
      }
      std::vector<std::exception_ptr> errors(batch.size());
      try {
        writes.run("BEGIN IMMEDIATE");
        for (std::size_t i = 0; i < batch.size(); ++i) {
          try {
            writes.run("SAVEPOINT task");
            batch[i].work(writes);
            writes.run("RELEASE task");
          } catch (...) {
            errors[i] = std::current_exception();
            writes.run("ROLLBACK TO task");
            writes.run("RELEASE task");
          }
        }
        writes.run("COMMIT");
      } catch (...) {
        sqlite3_exec(writes, "ROLLBACK", nullptr, nullptr, nullptr);
        std::fill(errors.begin(), errors.end(), std::current_exception());
      }
      for (std::size_t i = 0; i < batch.size(); ++i) errors[i] ? batch[i].done.set_exception(errors[i]) : batch[i].done.set_value();
    }
  }

  std::future<void> later(std::function<void(Database&)> work) {
    const std::lock_guard lock(mutex);
    tasks.push_back({std::move(work), {}});
    changed.notify_one();
    return tasks.back().done.get_future();
  }
  void now(std::function<void(Database&)> work) { later(std::move(work)).get(); }
};

JobStore::JobStore(const std::filesystem::path& path) {
  {
    // The reader needs the file to be there, as it is.
    const Database first(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX);
    first.run("PRAGMA journal_mode = WAL");
    std::int64_t version = 0;
    {
      Statement ask(first, "PRAGMA user_version");
      if (ask.next()) version = ask.integer();
    }
    check(version <= kVersion, ErrorKind::unsupported, "jobs",
          "{} is of a later version of the program: got {}, expected at most {}.", path.string(), version, kVersion);
    if (version == 0) {
      first.run("BEGIN IMMEDIATE");
      first.run(kTables);
      first.run(fmt::format("PRAGMA user_version = {}", kVersion).c_str());
      first.run("COMMIT");
    }
  }
  state_ = std::make_unique<State>(path);
  state_->writes.run("PRAGMA synchronous = FULL");
  state_->writer = std::thread([state = state_.get()] { state->write(); });
}

JobStore::~JobStore() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->ends = true;
    state_->changed.notify_one();
  }
  state_->writer.join();
}

JobStore::Added JobStore::add(JobRecord job) {
  Added added{.job = std::move(job)};
  state_->now([&](Database& database) {
    JobRecord& of = added.job;
    if (!of.idempotency_key.empty()) {
      Statement before(database, fmt::format("SELECT {} FROM jobs WHERE owner = ? AND idempotency_key = ?", kColumns));
      before << of.owner << of.idempotency_key;
      if (before.next()) {
        added = {read_job(before), false};
        return;
      }
    }
    Statement insert(database,
                     "INSERT INTO jobs (id, owner, model, status, cancelled, created_at, started_at, completed_at, request, "
                     "seconds, width, height, num_frames, steps, fps, device, remixed_from, error_code, error_message, notes, "
                     "timings, bytes, starts, idempotency_key, digest) "
                     "VALUES (?, ?, ?, 'queued', 0, ?, 0, 0, ?, ?, ?, ?, ?, ?, ?, '', ?, '', '', ?, '', 0, 0, ?, ?)");
    insert << of.id << of.owner << of.model << of.created_at << of.request << of.seconds << of.width << of.height << of.num_frames
           << of.steps << of.fps << of.remixed_from << of.notes;
    if (of.idempotency_key.empty()) insert.null();
    else insert << of.idempotency_key;
    insert << of.digest;
    insert.next();
    of.sequence = sqlite3_last_insert_rowid(database);
  });
  return added;
}

void JobStore::mark_started(const std::string& id, double at, const std::string& device) {
  state_->later([=](Database& database) {
    Statement update(database,
                     "UPDATE jobs SET status = 'in_progress', started_at = ?, device = ?, starts = starts + 1 WHERE id = ? AND "
                     "status = 'queued'");
    update << at << device << id;
    update.next();
  });
}

void JobStore::mark_progress(const std::string& id) {
  state_->later([=](Database& database) {
    Statement update(database, "UPDATE jobs SET starts = 0 WHERE id = ?");
    update << id;
    update.next();
  });
}

void JobStore::mark_queued(const std::string& id) {
  state_->now([&](Database& database) {
    Statement update(database,
                     "UPDATE jobs SET status = 'queued', started_at = 0, device = '', starts = 0 WHERE id = ? AND status = "
                     "'in_progress'");
    update << id;
    update.next();
  });
}

bool JobStore::finish(const JobRecord& job) {
  bool was_open = false;
  state_->now([&](Database& database) {
    Statement update(database,
                     "UPDATE jobs SET status = ?, cancelled = ?, completed_at = ?, error_code = ?, error_message = ?, notes = ?, "
                     "timings = ?, bytes = ?, device = ?, started_at = ? WHERE id = ? AND status IN ('queued', 'in_progress')");
    update << name(job.status) << static_cast<std::int64_t>(job.cancelled) << job.completed_at << job.error_code
           << job.error_message << job.notes << job.timings << job.bytes << job.device << job.started_at << job.id;
    update.next();
    was_open = database.changes() > 0;
  });
  return was_open;
}

bool JobStore::remove(const std::string& id) {
  bool was_there = false;
  state_->now([&](Database& database) {
    Statement gone(database, "DELETE FROM jobs WHERE id = ?");
    gone << id;
    gone.next();
    was_there = database.changes() > 0;
  });
  return was_there;
}

std::vector<JobRecord> JobStore::requeue_all() {
  std::vector<JobRecord> jobs;
  state_->now([&](Database& database) {
    database.run("UPDATE jobs SET status = 'queued' WHERE status = 'in_progress'");
    Statement rows(database, fmt::format("SELECT {} FROM jobs WHERE status = 'queued' ORDER BY sequence", kColumns));
    jobs = read_jobs(rows);
  });
  return jobs;
}

std::optional<JobRecord> JobStore::find(std::string_view id) const {
  const std::lock_guard lock(state_->reads_mutex);
  Statement rows(state_->reads, fmt::format("SELECT {} FROM jobs WHERE id = ?", kColumns));
  rows << id;
  if (!rows.next()) return {};
  return read_job(rows);
}

std::optional<JobRecord> JobStore::find_by_key(std::string_view owner, std::string_view key) const {
  const std::lock_guard lock(state_->reads_mutex);
  Statement rows(state_->reads, fmt::format("SELECT {} FROM jobs WHERE owner = ? AND idempotency_key = ?", kColumns));
  rows << owner << key;
  if (!rows.next()) return {};
  return read_job(rows);
}

std::vector<JobRecord> JobStore::list(const Page& page) const {
  const std::lock_guard lock(state_->reads_mutex);
  std::string text = fmt::format("SELECT {} FROM jobs WHERE 1", kColumns);
  if (page.owner) text += " AND owner = ?";
  if (page.status) text += " AND status = ?";
  if (page.after) text += page.ascending ? " AND sequence > ?" : " AND sequence < ?";
  text += page.ascending ? " ORDER BY sequence LIMIT ?" : " ORDER BY sequence DESC LIMIT ?";
  Statement rows(state_->reads, text);
  if (page.owner) rows << *page.owner;
  if (page.status) rows << name(*page.status);
  if (page.after) rows << page.after;
  rows << static_cast<std::int64_t>(page.limit);
  return read_jobs(rows);
}

std::vector<JobStore::Done> JobStore::done() const {
  const std::lock_guard lock(state_->reads_mutex);
  Statement rows(state_->reads,
                 "SELECT id, completed_at, bytes FROM jobs WHERE status IN ('completed', 'failed') ORDER BY completed_at");
  std::vector<Done> all;
  while (rows.next()) {
    Done each;
    each.id = rows.text();
    each.completed_at = rows.number();
    each.bytes = rows.integer();
    all.push_back(std::move(each));
  }
  return all;
}

std::vector<std::string> JobStore::ids() const {
  const std::lock_guard lock(state_->reads_mutex);
  Statement rows(state_->reads, "SELECT id FROM jobs");
  std::vector<std::string> all;
  while (rows.next()) all.push_back(rows.text());
  return all;
}

std::int64_t JobStore::count(JobStatus status) const {
  const std::lock_guard lock(state_->reads_mutex);
  Statement rows(state_->reads, "SELECT count(*) FROM jobs WHERE status = ?");
  rows << name(status);
  return rows.next() ? rows.integer() : 0;
}

}  // namespace zoe::server
