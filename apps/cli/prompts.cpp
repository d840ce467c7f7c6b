#include "apps/cli/prompts.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/files.h"
#include "text/prompt.h"

namespace zoe::cli {

namespace {

constexpr std::size_t kMaxBytes = 16 << 20, kMaxPrompts = 9999;
constexpr std::string_view kWhere = "--prompt-file";

std::string read_stdin() {
  std::string text;
  char bytes[4096];
  while (true) {
    const ssize_t got = ::read(STDIN_FILENO, bytes, sizeof bytes);
    if (got < 0 && errno == EINTR) continue;
    const int error = errno;
    check(got >= 0, ErrorKind::io, kWhere, "cannot read stdin: {}.", std::strerror(error));
    if (got == 0) return text;
    text.append(bytes, static_cast<std::size_t>(got));
    check(text.size() <= kMaxBytes, ErrorKind::invalid_argument, kWhere, "stdin is too large: expected at most {} bytes.",
          kMaxBytes);
  }
}

}  // namespace

std::vector<std::string> read_prompts(const std::string& path) {
  constexpr auto kind = ErrorKind::invalid_argument;
  std::string text = path == "-" ? read_stdin() : read_file(path, kWhere, kMaxBytes);
  check(!text.starts_with("\xff\xfe") && !text.starts_with("\xfe\xff"), kind, kWhere, "{} is UTF-16, expected UTF-8. Save it so.",
        path);
  if (text.starts_with("\xef\xbb\xbf")) text.erase(0, 3);  // a byte order mark
  std::vector<std::string> prompts;
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.find_first_not_of(" \t") == std::string::npos) continue;
    check(line.find('\0') == std::string::npos, kind, kWhere, "line {} of {} holds a NUL byte. Remove it.", number, path);
    try {
      prompt_clean(line);
    } catch (const Error& error) {  // what is wrong with it, and where
      const std::string_view what = error.what();
      fail(error.kind(), kWhere, "line {} of {}: {}", number, path, what.substr(what.find(']') + 2));
    }
    prompts.push_back(std::move(line));
  }
  check(!prompts.empty() && prompts.size() <= kMaxPrompts, kind, kWhere,
        "bad number of prompts in {}: got {}, expected 1 to {} lines. Write one prompt a line.", path, prompts.size(), kMaxPrompts);
  return prompts;
}

}  // namespace zoe::cli
