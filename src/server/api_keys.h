// Keys of clients, as a file has them: "NAME sha256:HEX" a line, # begins a comment. The keys themselves are nowhere.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace zoe::server {

class ApiKeys {
 public:
  ApiKeys() = default;  // none: everybody is let in, under no name
  // invalid_argument: a line that is none, or no key at all.
  explicit ApiKeys(const std::filesystem::path& file);
  bool empty() const { return digests_.empty(); }
  // Whose key it is. Every digest is compared, each in the same time.
  std::optional<std::string> owner(std::string_view key) const;

 private:
  std::vector<std::pair<std::string, std::string>> digests_;  // by name
};

// Adds a key to a file, which may not exist yet, and returns it.
std::string add_api_key(const std::filesystem::path& file, std::string_view name);

}  // namespace zoe::server
