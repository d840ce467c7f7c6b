#include "base/error.h"

namespace zoe {

const char* name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::invalid_argument: return "invalid argument";
    case ErrorKind::unsupported: return "unsupported";
    case ErrorKind::out_of_memory: return "out of memory";
    case ErrorKind::io: return "input/output";
    case ErrorKind::compile: return "compile";
    case ErrorKind::device: return "device";
    case ErrorKind::cancelled: return "cancelled";
    case ErrorKind::internal: return "internal";
  }
  return "unknown";
}

namespace {

// File names and JSON keys reach messages as they are, so a newline or an escape sequence in one must not reach the terminal.
std::string one_line(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (unsigned char c : text) {
    if (c == '\n') out += "\\n";
    else if (c == '\t') out += ' ';
    else if (c < 0x20 || c == 0x7f) out += fmt::format("\\x{:02x}", c);
    else out += static_cast<char>(c);
  }
  return out;
}

}  // namespace

Error::Error(ErrorKind kind, std::string_view where, std::string_view message)
    : std::runtime_error(one_line(fmt::format("[{}] {}", where, message))), kind_(kind) {}

}  // namespace zoe
