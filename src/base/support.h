// The answer to "can you do this?". An expected no is a value with a reason, not an exception.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>

namespace zoe {

class Support {
 public:
  static Support yes() { return Support({}, true); }
  template <class... Args>
  static Support no(fmt::format_string<Args...> reason, Args&&... args) {
    return Support(fmt::format(reason, std::forward<Args>(args)...), false);
  }
  explicit operator bool() const { return supported_; }
  const std::string& reason() const { return reason_; }  // of a no

 private:
  Support(std::string reason, bool supported) : reason_(std::move(reason)), supported_(supported) {}

  std::string reason_;
  bool supported_;
};

}  // namespace zoe
