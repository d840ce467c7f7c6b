#include "pipeline/resident_memory.h"

#include <fstream>
#include <string>

namespace zoe {

std::size_t anonymous_memory_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("RssAnon:", 0) == 0) return static_cast<std::size_t>(std::stoull(line.substr(8))) * 1024;
  return 0;
}

}  // namespace zoe
