#include "server/http.h"

#include <algorithm>

namespace zoe::server {

TemporaryFile::~TemporaryFile() {
  std::error_code status;
  std::filesystem::remove(path_, status);
}

void TemporaryFile::add_suffix(const std::string& suffix) {
  std::filesystem::path longer = path_;
  longer += suffix;
  std::filesystem::rename(path_, longer);
  path_ = std::move(longer);
}

std::string_view HttpRequest::header(std::string_view name) const {
  const auto found = std::find_if(headers.begin(), headers.end(), [&](const auto& each) { return each.first == name; });
  return found == headers.end() ? std::string_view() : found->second;
}

std::optional<std::string> HttpRequest::argument(std::string_view name) const {
  const auto found = std::find_if(query.begin(), query.end(), [&](const auto& each) { return each.first == name; });
  if (found == query.end()) return {};
  return found->second;
}

}  // namespace zoe::server
