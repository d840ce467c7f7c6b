#include "apps/cli/progress.h"

#include <unistd.h>

#include <cstdio>

#include "base/error.h"

namespace zoe::cli {

namespace {

const char* name(Phase phase) {
  switch (phase) {
    case Phase::encode: return "encode";
    case Phase::denoise: return "denoise";
    case Phase::decode: return "decode";
  }
  return "";
}

}  // namespace

Reporter::Reporter(bool quiet, bool verbose) : quiet_(quiet), verbose_(verbose), terminal_(::isatty(STDOUT_FILENO) != 0) {}

void Reporter::clear_bar() {
  if (bar_shown_) std::fputs("\r\x1b[K", stdout);
  bar_shown_ = false;
}

void Reporter::line(std::string_view text) {
  if (quiet_ || std::ferror(stdout)) return;  // what cannot be printed is said at the end; the run goes on
  clear_bar();
  fmt::print("{}\n", text);
  std::fflush(stdout);
}

void Reporter::detail(std::string_view text) {
  if (verbose_) line(text);
}

void Reporter::progress(const Progress& progress) {
  if (quiet_ || std::ferror(stdout) || progress.phase == Phase::encode) return;
  const auto now = std::chrono::steady_clock::now();
  if (progress.done == 0 || (progress.phase == Phase::decode && progress.done == 1)) {
    phase_start_ = now;
    last_tenth_ = -1;
    if (progress.done == 0) return;
  }
  const double elapsed = std::chrono::duration<double>(now - phase_start_).count();
  const double per_step = elapsed / progress.done;
  const double left = per_step * (progress.total - progress.done);
  if (terminal_) {
    constexpr int kWidth = 30;
    const int full = kWidth * progress.done / progress.total;
    fmt::print("\r\x1b[K{} [{}{}] {}/{}  {:.2f} s/step  {:.0f} s left", name(progress.phase),
               std::string(static_cast<std::size_t>(full), '#'), std::string(static_cast<std::size_t>(kWidth - full), ' '),
               progress.done, progress.total, per_step, left);
    bar_shown_ = true;
    if (progress.done == progress.total) clear_bar();
  } else {
    const int tenth = 10 * progress.done / progress.total;  // at most ten lines a phase
    if (tenth == last_tenth_) return;
    last_tenth_ = tenth;
    fmt::print("{} {}/{}  {:.2f} s/step  {:.0f} s left\n", name(progress.phase), progress.done, progress.total, per_step, left);
  }
  std::fflush(stdout);
}

}  // namespace zoe::cli
