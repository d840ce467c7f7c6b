// The one error type of the engine, and the checks that throw it.
//
// Message form: `[where] what is wrong: got X, expected Y. What to do.` on one line.
// `what()` is the whole line; `kind()` decides the exit code of the command (and, later, an HTTP status).
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace zoe {

enum class ErrorKind {
  invalid_argument,  // the caller asked for something that makes no sense, or a file is broken
  unsupported,       // it makes sense, but this build or device cannot do it
  out_of_memory,     // it would not fit; the message names the request and what is free
  io,                // the operating system refused a file operation
  compile,           // a generated kernel did not build
  device,            // a platform's library reported a failure
  cancelled,         // the caller asked to stop
  internal,          // a bug of ours
};

const char* name(ErrorKind kind);

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, std::string_view where, std::string_view message);
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

// Throws an Error whose text is `[where] message`; control characters of the message are escaped so that it stays one line.
template <class... Args>
[[noreturn]] void fail(ErrorKind kind, std::string_view where, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(kind, where, fmt::format(format, std::forward<Args>(args)...));
}

// For callers' mistakes: throws unless `ok`.
template <class... Args>
void check(bool ok, ErrorKind kind, std::string_view where, fmt::format_string<Args...> format, Args&&... args) {
  if (!ok) [[unlikely]]
    throw Error(kind, where, fmt::format(format, std::forward<Args>(args)...));
}

// For our own mistakes: no input from outside may reach one.
#define ZOE_INTERNAL_CHECK(ok) \
  ((ok) ? void() : ::zoe::fail(::zoe::ErrorKind::internal, "internal", "{}:{}: `{}` does not hold", __FILE_NAME__, __LINE__, #ok))

}  // namespace zoe
