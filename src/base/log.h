// Messages from the library to whoever runs it. The library itself never prints.
#pragma once

#include <functional>
#include <memory>
#include <string_view>

namespace zoe {

enum class LogLevel {
  detail,  // only with --verbose: plans, sizes, timings
  notice,  // something the user asked for is done differently (rounded, truncated, widened): always shown unless quiet
};

using LogSink = std::function<void(LogLevel, std::string_view)>;
struct LogTarget;  // a sink that several threads share

// Where this thread's messages go: null, the state of a new thread, drops them.
std::shared_ptr<LogTarget> log_target();

// While it lives, messages of the thread that made it go to its sink; then to where they went before. Nothing is shared by all
// threads: each use of the library has its own sink. Threads that the library starts take over the target of the one that starts
// them, so a sink is called from any of these, by one at a time. A sink may throw nothing and log nothing.
class LogScope {
 public:
  explicit LogScope(LogSink sink);
  explicit LogScope(std::shared_ptr<LogTarget> target);  // of a thread that works for another: that one's log_target()
  ~LogScope();
  LogScope(const LogScope&) = delete;
  LogScope& operator=(const LogScope&) = delete;

 private:
  std::shared_ptr<LogTarget> before_;
};

void log(LogLevel level, std::string_view message);

}  // namespace zoe
