// How much anonymous memory this process holds, as the operating system counts it.
#pragma once

#include <cstddef>

namespace zoe {

// Resident anonymous bytes now (RssAnon of /proc/self/status); 0 where the system does not tell.
std::size_t anonymous_memory_bytes();

// The largest growth seen since construction, at the moments sample() was called.
class MemoryWatch {
 public:
  MemoryWatch() : start_(anonymous_memory_bytes()) {}
  void sample() {
    const std::size_t now = anonymous_memory_bytes();
    if (now > start_ + peak_) peak_ = now - start_;
  }
  std::size_t peak_bytes() const { return peak_; }

 private:
  std::size_t start_, peak_ = 0;
};

}  // namespace zoe
