#include "server/api_keys.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <sstream>
#include <system_error>

#include "base/error.h"
#include "base/files.h"
#include "base/nearest.h"
#include "base/sha256.h"

namespace zoe::server {

namespace {

constexpr std::string_view kDigest = "sha256:";
constexpr std::size_t kHexDigits = 64;

bool equal_in_constant_time(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  volatile unsigned char differ = 0;
  for (std::size_t i = 0; i < a.size(); ++i) differ = static_cast<unsigned char>(differ | (a[i] ^ b[i]));
  return differ == 0;
}

bool is_name(std::string_view text) {
  constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-@";
  return !text.empty() && text.size() <= 64 && text.find_first_not_of(kLetters) == text.npos;
}

}  // namespace

ApiKeys::ApiKeys(const std::filesystem::path& file) {
  constexpr std::size_t kMostBytes = 1 << 20;
  std::istringstream lines(read_file(file, "--api-key-file", kMostBytes));
  std::size_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    line.resize(std::min(line.find('#'), line.size()));
    std::istringstream words(line);
    std::string name, digest, more;
    words >> name >> digest >> more;
    if (name.empty()) continue;
    check(is_name(name) && more.empty() && digest.starts_with(kDigest) && digest.size() == kDigest.size() + kHexDigits &&
              digest.find_first_not_of("0123456789abcdef", kDigest.size()) == digest.npos,
          ErrorKind::invalid_argument, "--api-key-file",
          "{}, line {}: expected NAME sha256:HEX, as zoe serve --new-key NAME writes it.", file.string(), number);
    digests_.emplace_back(name, digest.substr(kDigest.size()));
  }
  check(!digests_.empty(), ErrorKind::invalid_argument, "--api-key-file",
        "{} has no key: nobody could get in. Make one with --new-key NAME.", file.string());
}

std::optional<std::string> ApiKeys::owner(std::string_view key) const {
  const std::string digest = sha256(key);
  std::optional<std::string> found;
  for (const auto& [name, known] : digests_)
    if (equal_in_constant_time(digest, known)) found = name;
  return found;
}

std::string add_api_key(const std::filesystem::path& file, std::string_view name) {
  check(is_name(name), ErrorKind::invalid_argument, "--new-key",
        "got {}, expected a name of at most 64 letters, digits and _ . - @.", in_quotes(name));
  std::array<unsigned char, 24> bytes{};
  check(::getrandom(bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()), ErrorKind::io, "--new-key",
        "the system gives no random bytes.");
  std::string key = "zoe-";
  for (const unsigned char byte : bytes) key += fmt::format("{:02x}", byte);
  const std::string line = fmt::format("{} {}{}\n", name, kDigest, sha256(key));
  const int out = ::open(file.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  const bool ok = out >= 0 && ::write(out, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  const int reason = errno;
  if (out >= 0) ::close(out);
  check(ok, ErrorKind::io, "--new-key", "cannot write {}: {}.", file.string(), std::generic_category().message(reason));
  return key;
}

}  // namespace zoe::server
