#include "base/log.h"

#include <mutex>
#include <utility>

namespace zoe {

struct LogTarget {
  explicit LogTarget(LogSink given) : sink(std::move(given)) {}
  const LogSink sink;
  std::mutex mutex;
};

namespace {
thread_local std::shared_ptr<LogTarget> target;
}  // namespace

std::shared_ptr<LogTarget> log_target() { return target; }

LogScope::LogScope(LogSink sink) : LogScope(sink ? std::make_shared<LogTarget>(std::move(sink)) : nullptr) {}
LogScope::LogScope(std::shared_ptr<LogTarget> next) : before_(std::exchange(target, std::move(next))) {}
LogScope::~LogScope() { target = std::move(before_); }

void log(LogLevel level, std::string_view message) {
  if (!target) return;
  const std::lock_guard lock(target->mutex);
  target->sink(level, message);
}

}  // namespace zoe
