// Messages from the library to whoever runs it. The library itself never prints.
#pragma once

#include <functional>
#include <string_view>

namespace zoe {

enum class LogLevel {
  detail,  // only with --verbose: plans, sizes, timings
  notice,  // something the user asked for is done differently (rounded, truncated, widened): always shown unless quiet
};

using LogSink = std::function<void(LogLevel, std::string_view)>;

// Sets where messages go; the default drops them. Not thread-safe against concurrent log() calls: set it at start-up.
void set_log_sink(LogSink sink);
void log(LogLevel level, std::string_view message);

}  // namespace zoe
