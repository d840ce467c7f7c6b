#include "server/range.h"

#include <algorithm>
#include <charconv>

namespace zoe::server {

namespace {

// All of the text as a number; one that is too large for 64 bits is the largest.
std::optional<std::uint64_t> number(std::string_view text) {
  if (text.empty() || text.find_first_not_of("0123456789") != text.npos) return {};
  std::uint64_t value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  return status == std::errc::result_out_of_range ? ~std::uint64_t{0} : value;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

}  // namespace

ByteRange parse_range(std::string_view header, std::uint64_t size) {
  const ByteRange whole{ByteRange::Kind::whole, 0, size};
  constexpr std::string_view kUnit = "bytes=";
  if (!header.starts_with(kUnit) || header.find(',') != header.npos) return whole;
  const std::string_view said = trimmed(header.substr(kUnit.size()));
  const std::size_t dash = said.find('-');
  if (dash == said.npos) return whole;
  const std::string_view first = trimmed(said.substr(0, dash)), last = trimmed(said.substr(dash + 1));
  if (first.empty()) {
    const auto count = number(last);
    if (!count) return whole;
    const std::uint64_t bytes = std::min(*count, size);
    if (bytes == 0) return {ByteRange::Kind::none, 0, 0};
    return {ByteRange::Kind::part, size - bytes, bytes};
  }
  const auto begin = number(first);
  const auto end = last.empty() ? std::optional(~std::uint64_t{0}) : number(last);
  if (!begin || !end || *end < *begin) return whole;
  if (*begin >= size) return {ByteRange::Kind::none, 0, 0};
  return {ByteRange::Kind::part, *begin, std::min(*end, size - 1) - *begin + 1};
}

}  // namespace zoe::server
