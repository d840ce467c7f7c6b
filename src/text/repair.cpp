#include "text/repair.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <utility>

#include "base/error.h"
#include "text/html.h"
#include "text/mojibake.h"
#include "text/unicode.h"

namespace zoe {
namespace {

constexpr std::size_t kSegment = 1'000'000;              // characters that are repaired together, at most
constexpr std::size_t kMaxWork = std::size_t{64} << 20;  // characters looked at in all passes together

// UTF-8 in normal form C or, with UTF8PROC_COMPAT, KC.
std::string normalize(const std::string& text, int more_options = 0) {
  utf8proc_uint8_t* made = nullptr;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE | more_options);
  const utf8proc_ssize_t size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                             static_cast<utf8proc_ssize_t>(text.size()), &made, options);
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(made, &std::free);
  check(size >= 0, ErrorKind::internal, "prompt", "cannot normalize: got {}.", utf8proc_errmsg(size));
  return {reinterpret_cast<const char*>(made), static_cast<std::size_t>(size)};
}

// ---- HTML ----

char32_t to_upper(char32_t c) { return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))); }

// Python's str.upper for the characters that have names in HTML: some become several.
std::u32string upper(std::u32string_view text) {
  constexpr std::pair<char32_t, std::u32string_view> kLonger[] = {{U'ß', U"SS"}, {U'ŉ', U"ʼN"},  {U'ﬀ', U"FF"}, {U'ﬁ', U"FI"},
                                                                  {U'ﬂ', U"FL"}, {U'ﬃ', U"FFI"}, {U'ﬄ', U"FFL"}};
  std::u32string out;
  for (const char32_t c : text) {
    const auto* longer = std::find_if(std::begin(kLonger), std::end(kLonger), [&](const auto& pair) { return pair.first == c; });
    if (longer != std::end(kLonger)) out += longer->second;
    else out.push_back(to_upper(c));
  }
  return out;
}

// What a reference such as "&eacute;" or "&#233;" stands for, or itself. Names in capitals that mean nothing in HTML, as whole
// words were put into capitals after their letters were named, are the capital letter.
std::u32string reference(std::u32string_view text) {
  const std::string whole(text.begin(), text.end());  // ASCII
  const std::string name = whole.substr(1);
  if (const std::string_view* value = html_entity(name)) return from_utf8(*value);
  const std::string unescaped = html_unescape(whole);
  if (name[0] == '#') return unescaped.find(';') == std::string::npos ? from_utf8(unescaped) : std::u32string(text);
  std::string lower = name;
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  const bool capitals = std::none_of(name.begin(), name.end(), [](char c) { return c >= 'a' && c <= 'z'; });
  const std::string_view* value = capitals && unescaped == whole ? html_entity(lower) : nullptr;
  return value ? upper(from_utf8(*value)) : std::u32string(text);
}

void unescape(std::u32string* text) {
  constexpr std::size_t kLongestName = 24;
  const auto in_name = [](char32_t c) { return (c >= U'0' && c <= U'9') || (c >= U'A' && c <= U'Z') || (c >= U'a' && c <= U'z'); };
  if (text->find(U'&') == std::u32string::npos) return;
  std::u32string out;
  out.reserve(text->size());
  const std::u32string_view all = *text;
  for (std::size_t i = 0; i < all.size();) {
    std::size_t end = i + 1;
    if (all[i] == U'&') {
      if (end < all.size() && all[end] == U'#') ++end;
      const std::size_t name = end;
      while (end < all.size() && end - name <= kLongestName && in_name(all[end])) ++end;
      if (end > name && end - name <= kLongestName && end < all.size() && all[end] == U';') {
        out += reference(all.substr(i, end + 1 - i));
        i = end + 1;
        continue;
      }
    }
    out.push_back(all[i++]);
  }
  *text = std::move(out);
}

// ---- Characters ----

constexpr std::pair<char32_t, std::u32string_view> kLigatures[] = {
    {U'Ĳ', U"IJ"}, {U'ĳ', U"ij"}, {U'ŉ', U"ʼn"},  {U'Ǆ', U"DŽ"},  {U'ǅ', U"Dž"}, {U'ǆ', U"dž"}, {U'Ǉ', U"LJ"}, {U'ǈ', U"Lj"},
    {U'ǉ', U"lj"}, {U'Ǌ', U"NJ"}, {U'ǋ', U"Nj"},  {U'ǌ', U"nj"},  {U'Ǳ', U"DZ"}, {U'ǲ', U"Dz"}, {U'ǳ', U"dz"}, {U'ﬀ', U"ff"},
    {U'ﬁ', U"fi"}, {U'ﬂ', U"fl"}, {U'ﬃ', U"ffi"}, {U'ﬄ', U"ffl"}, {U'ﬅ', U"ſt"}, {U'ﬆ', U"st"}};

// The block of halfwidth and fullwidth forms.
constexpr char32_t kFirstForm = 0xff01, kEndForms = 0xfff0;

std::u32string_view normal_width(char32_t form) {
  static const auto table = [] {
    std::array<std::u32string, kEndForms - kFirstForm> forms;
    for (std::size_t i = 0; i < forms.size(); ++i)
      forms[i] = from_utf8(normalize(to_utf8(std::u32string(1, static_cast<char32_t>(kFirstForm + i))), UTF8PROC_COMPAT));
    return forms;
  }();
  return table[form - kFirstForm];
}

// A change of single characters leaves the order of changes open: no result of one is what another looks for, but for "ŉ", which
// becomes a quote and n.
void replace_characters(std::u32string* text) {
  std::u32string out;
  out.reserve(text->size());
  for (const char32_t c : *text) {
    const auto* ligature =
        c < 0x132 ? std::end(kLigatures)
                  : std::find_if(std::begin(kLigatures), std::end(kLigatures), [&](const auto& pair) { return pair.first == c; });
    if (ligature != std::end(kLigatures)) out += ligature->second;
    else if (c == 0x3000) out.push_back(U' ');
    else if (c >= kFirstForm && c < kEndForms) out += normal_width(c);
    else out.push_back(c);
  }
  for (char32_t& c : out) {
    if (c == 0x2bc || (c >= 0x2018 && c <= 0x201b)) c = U'\'';
    else if (c >= 0x201c && c <= 0x201f) c = U'"';
  }
  *text = std::move(out);
}

void fix_line_breaks(std::u32string* text) {
  std::size_t to = 0;
  for (std::size_t i = 0; i < text->size(); ++i) {
    const char32_t c = (*text)[i];
    if (c == U'\r' && i + 1 < text->size() && (*text)[i + 1] == U'\n') continue;
    (*text)[to++] = c == U'\r' || c == 0x2028 || c == 0x2029 || c == 0x85 ? U'\n' : c;
  }
  text->resize(to);
}

void fix_surrogates(std::u32string* text) {
  const auto half = [](char32_t c, char32_t first) { return c >= first && c < first + 0x400; };
  std::size_t to = 0;
  for (std::size_t i = 0; i < text->size(); ++i) {
    char32_t c = (*text)[i];
    if (half(c, 0xd800) && i + 1 < text->size() && half((*text)[i + 1], 0xdc00))
      c = 0x10000 + ((c - 0xd800) << 10) + ((*text)[++i] - 0xdc00);
    else if (half(c, 0xd800) || half(c, 0xdc00)) c = 0xfffd;
    (*text)[to++] = c;
  }
  text->resize(to);
}

// ESC [ numbers letter: colours and movements of a terminal.
void remove_terminal_codes(std::u32string* text) {
  const auto in_numbers = [](char32_t c) {
    return c == U';' || utf8proc_category(static_cast<utf8proc_int32_t>(c)) == UTF8PROC_CATEGORY_ND;
  };
  std::size_t to = 0;
  for (std::size_t i = 0; i < text->size();) {
    if ((*text)[i] == 0x1b && i + 1 < text->size() && (*text)[i + 1] == U'[') {
      std::size_t end = i + 2;
      while (end < text->size() && in_numbers((*text)[end])) ++end;
      const char32_t letter = end < text->size() ? (*text)[end] | 0x20 : 0;
      if (letter >= U'a' && letter <= U'z') {
        i = end + 1;
        continue;
      }
    }
    (*text)[to++] = (*text)[i++];
  }
  text->resize(to);
}

// What shows nothing: ASCII's but for tab, line and form feed; old Arabic ones; the byte order mark; annotations.
void remove_controls(std::u32string* text) {
  std::erase_if(*text, [](char32_t c) {
    return (c < 0x20 && c != U'\t' && c != U'\n' && c != U'\f' && c != U'\r') || c == 0x7f || (c >= 0x206a && c < 0x2070) ||
           c == 0xfeff || (c >= 0xfff9 && c < 0xfffd);
  });
}

void compose(std::u32string* text) {
  constexpr char32_t kFirstToCompose = 0x300;  // below all is in normal form
  if (std::all_of(text->begin(), text->end(), [](char32_t c) { return c < kFirstToCompose; })) return;
  *text = from_utf8(normalize(to_utf8(*text)));
}

std::u32string repair_segment(std::u32string text, bool html, RepairLimit* limit) {
  for (;;) {
    limit->spend(text.size());
    const std::u32string before = text;
    if (html) unescape(&text);
    text = fix_encoding(std::move(text), limit);
    fix_c1_controls(&text);
    replace_characters(&text);
    fix_line_breaks(&text);
    fix_surrogates(&text);
    remove_terminal_codes(&text);
    remove_controls(&text);
    compose(&text);
    if (text == before) return text;
  }
}

}  // namespace

std::string repair_text(std::string_view utf8) {
  std::u32string text;
  text.reserve(utf8.size());
  for (char32_t code = 0; !utf8.empty();) {
    const std::size_t length = decode_utf8(utf8, &code, true);
    ZOE_INTERNAL_CHECK(length > 0);
    text.push_back(code);
    utf8.remove_prefix(length);
  }
  RepairLimit limit(kMaxWork);
  std::string out;
  bool html = true;  // until a line looks like HTML itself
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t line = text.find(U'\n', begin);
    const std::size_t size = std::min((line == std::u32string::npos ? text.size() : line + 1) - begin, kSegment);
    std::u32string segment = text.substr(begin, size);
    html = html && segment.find(U'<') == std::u32string::npos;
    out += to_utf8(repair_segment(std::move(segment), html, &limit));
    begin += size;
  }
  return out;
}

}  // namespace zoe
