// What a run says on stdout: a bar on a terminal, plain lines otherwise, nothing with --quiet.
#pragma once

#include <chrono>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "pipeline/callbacks.h"

namespace zoe::cli {

// Any thread may report.
class Reporter {
 public:
  Reporter(bool quiet, bool verbose);
  void line(std::string_view text);    // whole lines; clears the bar first
  void detail(std::string_view text);  // only with --verbose
  void progress(const Progress& progress);

 private:
  void clear_bar();  // under the lock

  std::mutex mutex_;
  bool quiet_, verbose_, terminal_;
  bool bar_shown_ = false;
  std::chrono::steady_clock::time_point phase_start_;
  std::optional<Phase> phase_;  // and which video, that the time counts for
  std::size_t video_ = 0, first_done_ = 0, last_done_ = 0;
  int last_tenth_ = -1;
};

}  // namespace zoe::cli
