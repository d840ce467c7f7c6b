#include "apps/cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <vector>

#include "base/error.h"

namespace zoe::cli {

namespace {

// Columns of the terminal now; it may change at any time.
std::size_t columns() {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::string clock_text(double seconds) {
  const auto whole = static_cast<std::int64_t>(seconds + 0.5);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
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
  if (quiet_ || std::ferror(stdout) || progress.phase == Phase::encode || progress.total == 0) return;
  constexpr std::size_t kNoWait = 64 << 20;  // bytes that are there at once
  if (progress.phase == Phase::load && progress.total < kNoWait) return;
  const std::lock_guard lock(mutex_);
  const auto now = std::chrono::steady_clock::now();
  if (progress.done == 0 || progress.done < last_done_ || phase_start_ == std::chrono::steady_clock::time_point() ||
      phase_ != progress.phase || video_ != progress.video) {
    phase_start_ = now;
    phase_ = progress.phase;
    video_ = progress.video;
    first_done_ = progress.done;
    last_tenth_ = -1;
  }
  last_done_ = progress.done;
  if (progress.done == 0) return;
  const double done = static_cast<double>(progress.done), total = static_cast<double>(progress.total);
  const double elapsed = std::chrono::duration<double>(now - phase_start_).count();
  const double timed = done - static_cast<double>(first_done_);  // what was done in that time
  std::string at, rate;
  if (progress.phase == Phase::load) {
    at = fmt::format("{:.1f}/{:.1f} GB", done / 1e9, total / 1e9);
    if (timed > 0 && elapsed > 0) rate = fmt::format("{:.2f} GB/s", timed / elapsed / 1e9);
  } else {
    at = fmt::format("{}/{}", progress.done, progress.total);
    if (timed > 0) rate = fmt::format("{:.2f} s/step", elapsed / timed);
  }
  const std::string start = fmt::format("{} {}", name(progress.phase), at);
  const std::string so_far = clock_text(elapsed);
  const std::string left = timed > 0 ? fmt::format("{} left", clock_text(elapsed / timed * (total - done))) : "";
  if (!terminal_) {
    const int tenth = static_cast<int>(10 * progress.done / progress.total);  // at most ten lines a phase
    if (tenth == last_tenth_) return;
    last_tenth_ = tenth;
    std::string text = start;
    for (const std::string& piece : {rate, so_far, left})
      if (!piece.empty()) text += "  " + piece;
    fmt::print("{}\n", text);
    std::fflush(stdout);
    return;
  }
  // What there is room for, the most useful first; the bar takes what is left. The last column stays empty: some terminals wrap
  // there.
  const std::size_t room = columns() - 1;
  std::string text = start.substr(0, room), after;
  for (const std::string& piece : {left, so_far, rate})
    if (!piece.empty() && text.size() + after.size() + 2 + piece.size() <= room) after += "  " + piece;
  const std::size_t used = text.size() + after.size() + 3;
  if (used + 8 <= room) {
    const std::size_t width = std::min<std::size_t>(30, room - used);
    const auto full = static_cast<std::size_t>(static_cast<double>(width) * done / total);
    text += fmt::format(" [{}{}]", std::string(full, '#'), std::string(width - full, ' '));
  }
  fmt::print("\r\x1b[K{}{}", text, after);
  bar_shown_ = true;
  if (progress.done == progress.total) clear_bar();
  std::fflush(stdout);
}

}  // namespace zoe::cli
