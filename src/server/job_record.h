// A job as it is kept: what was asked for, and what has become of it.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace zoe::server {

enum class JobStatus : std::uint8_t { queued, in_progress, completed, failed };
std::string_view name(JobStatus status);
JobStatus parse_status(std::string_view text);  // invalid_argument for another word

// The time of records, now.
inline double unix_seconds() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

struct JobRecord {
  std::int64_t sequence = 0;  // of the store: the queue's order
  std::string id, owner, model;
  JobStatus status = JobStatus::queued;
  bool cancelled = false;
  double created_at = 0, started_at = 0, completed_at = 0;  // Unix seconds; 0: not yet
  std::string request;                                      // JSON of a Request; files lie in the job's folder, LoRAs are names
  std::string seconds;                                      // as it was asked for, or follows
  std::int64_t width = 0, height = 0, num_frames = 0, steps = 0;
  double fps = 0;
  std::string device;        // that runs or ran it
  std::string remixed_from;  // an id
  std::string error_code, error_message;
  std::string notes = "[]", timings;    // JSON; timings "" until it is done
  std::int64_t bytes = 0;               // of its files
  int starts = 0;                       // since it last got further
  std::string idempotency_key, digest;  // what a repeated POST must be
};

}  // namespace zoe::server
