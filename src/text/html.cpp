#include "text/html.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <utility>

#include "text/unicode.h"

namespace zoe {
namespace {

constexpr std::pair<std::string_view, std::string_view> kEntities[] = {
#include "text/html_entities.inc"
};

// What the numbers 0x80 to 0x9f mean in HTML: the characters of windows-1252, itself where that has none.
constexpr std::array<char16_t, 32> kWindows1252 = {
    0x20ac, 0x0081, 0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021, 0x02c6, 0x2030, 0x0160, 0x2039, 0x0152, 0x008d, 0x017d, 0x008f,
    0x0090, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014, 0x02dc, 0x2122, 0x0161, 0x203a, 0x0153, 0x009d, 0x017e, 0x0178};

// What the reference of a number stands for; some numbers stand for nothing.
void append_numbered(std::uint32_t code, std::string* out) {
  if (code >= 0x80 && code <= 0x9f) return append_utf8(kWindows1252[code - 0x80], out);
  if (code == 0 || (code >= 0xd800 && code <= 0xdfff) || code > 0x10ffff) return append_utf8(0xfffd, out);
  const bool control = (code < 0x20 && code != '\t' && code != '\n' && code != '\f' && code != '\r') || code == 0x7f;
  const bool not_a_character = (code >= 0xfdd0 && code <= 0xfdef) || (code & 0xfffe) == 0xfffe;
  if (!control && !not_a_character) append_utf8(code, out);
}

// Reads a reference at the '&' that `text` begins with, writes what it stands for and returns the number of bytes read.
std::size_t replace_reference(std::string_view text, std::string* out) {
  std::size_t end = 1;
  if (text.size() > 2 && text[1] == '#') {
    const bool hex = text[2] == 'x' || text[2] == 'X';
    const std::uint32_t base = hex ? 16 : 10;
    std::uint32_t code = 0;
    const std::size_t begin = end = hex ? 3 : 2;
    for (; end < text.size(); ++end) {
      const char c = text[end];
      std::uint32_t digit = base;
      if (c >= '0' && c <= '9') digit = static_cast<std::uint32_t>(c - '0');
      else if (c >= 'a' && c <= 'f') digit = static_cast<std::uint32_t>(c - 'a' + 10);
      else if (c >= 'A' && c <= 'F') digit = static_cast<std::uint32_t>(c - 'A' + 10);
      if (digit >= base) break;
      code = std::min(code * base + digit, 0x110000u);  // stays beyond the last character however many digits follow
    }
    if (end > begin) {
      append_numbered(code, out);
      return end + (end < text.size() && text[end] == ';' ? 1 : 0);
    }
    return out->push_back('&'), 1;
  }
  // A name is up to 32 characters and perhaps a semicolon.
  constexpr std::string_view kEndsName = "\t\n\f <&#;";
  for (int characters = 0; end < text.size() && characters < 32 && kEndsName.find(text[end]) == std::string_view::npos;
       ++characters) {
    for (++end; end < text.size() && (text[end] & 0xc0) == 0x80;) ++end;
  }
  if (end > 1 && end < text.size() && text[end] == ';') ++end;
  // If it is no known name, its longest beginning that is one counts, semicolon or not. None is shorter than two letters.
  const std::string_view name = text.substr(1, end - 1);
  for (std::size_t length = name.size(); length > 1; --length) {
    if (const std::string_view* value = html_entity(name.substr(0, length))) return out->append(*value), 1 + length;
  }
  return out->push_back('&'), 1;
}

}  // namespace

const std::string_view* html_entity(std::string_view name) {
  const auto it =
      std::lower_bound(std::begin(kEntities), std::end(kEntities), name, [](const auto& e, auto n) { return e.first < n; });
  return it != std::end(kEntities) && it->first == name ? &it->second : nullptr;
}

std::string html_unescape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const std::size_t plain = std::min(text.find('&'), text.size());
    out.append(text.substr(0, plain));
    text.remove_prefix(plain);
    if (!text.empty()) text.remove_prefix(replace_reference(text, &out));
  }
  return out;
}

}  // namespace zoe
