#include "text/mojibake.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <bitset>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/error.h"
#include "text/unicode.h"

namespace zoe {
namespace {

// ---- Sequences of characters that tell of a wrong reading ----

// The classes of characters, then those that are not lists.
enum Class : std::uint32_t {
  common = 1 << 0,
  c1 = 1 << 1,
  bad = 1 << 2,
  law = 1 << 3,
  currency = 1 << 4,
  start_punctuation = 1 << 5,
  end_punctuation = 1 << 6,
  numeric = 1 << 7,
  kaomoji = 1 << 8,
  upper_accented = 1 << 9,
  lower_accented = 1 << 10,
  upper_common = 1 << 11,
  lower_common = 1 << 12,
  box = 1 << 13,
  latin_lower = 1 << 14,  // a to z
  latin_upper = 1 << 15,
  not_latin = 1 << 16,  // neither
  word = 1 << 17,       // \w of Python
  space = 1 << 18,      // \s of Python
  no_line_feed = 1 << 19,
  text_start = 1 << 20,  // no character: the place before the first
};
constexpr std::uint32_t accented = lower_accented | upper_accented, punctuation = start_punctuation | end_punctuation;
constexpr std::uint32_t latin = latin_lower | latin_upper;

struct ClassRange {
  std::uint32_t of;
  char16_t first, last;
};
constexpr ClassRange kClassRanges[] = {
#define ZOE_CHARACTERS(of, first, last) {of, first, last},
#include "text/mojibake_tables.inc"
#undef ZOE_CHARACTERS
};

std::uint32_t classes_of(char32_t c) {
  std::uint32_t classes = c == U'\n' ? std::uint32_t{0} : no_line_feed;
  classes |= c >= U'a' && c <= U'z' ? latin_lower : c >= U'A' && c <= U'Z' ? latin_upper : not_latin;
  if (is_space(c)) classes |= space;
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  if (c == U'_' || (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) ||
      (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO))
    classes |= word;
  for (const ClassRange& range : kClassRanges)
    if (c >= range.first && c <= range.last) classes |= range.of;
  return classes;
}

struct Set {  // of characters: whole classes and single ones
  std::uint32_t classes = 0;
  std::u32string_view characters{};
  constexpr Set(std::uint32_t of) : classes(of) {}
  constexpr Set(std::u32string_view single) : characters(single) {}
  constexpr Set(std::uint32_t of, std::u32string_view single) : classes(of), characters(single) {}
  bool operator==(const Set&) const = default;
};

using Sequence = std::vector<Set>;

const std::vector<Sequence>& sequences() {
  constexpr std::uint32_t sign = box | punctuation | currency | numeric | law;
  const Set arabic_second{common | currency | bad | numeric | start_punctuation, U"ŸŠ®°µ»"};
  static const std::vector<Sequence> all = {
      {c1},
      // Signs that hardly anyone types, beside letters with accents or other signs.
      {bad | accented | sign, bad},
      {bad, accented | sign},
      {latin, lower_common | upper_common, bad},
      // A capital or an accent after what ends a word or a number.
      {lower_accented | lower_common | box | end_punctuation | currency | numeric, upper_accented},
      {box | end_punctuation | currency | numeric, lower_accented},
      {lower_accented | box | end_punctuation, currency},
      {space, upper_accented, currency},
      {upper_accented | box, numeric | law},
      {accented | box | currency | end_punctuation, start_punctuation, numeric},
      {accented | currency | numeric | box | law, end_punctuation, start_punctuation},
      {currency | numeric | box, start_punctuation},
      {latin_lower, upper_accented, start_punctuation | currency},
      {box, kaomoji},
      {accented | currency | numeric | punctuation | law, box},
      {box, end_punctuation},
      {accented, punctuation, word},
      {Set(U"Œœ"), not_latin},
      {upper_accented, Set(U"°")},
      // windows-1252
      {Set(U"ÂÃÎÐ"), {punctuation, U"€œŠš¢£Ÿž\u00a0\u00ad®©°·»–—´"}},
      {Set(U"×"), Set(U"²³")},
      {Set(U"ØÙ"), arabic_second, Set(U"ØÙ"), arabic_second},
      {Set(U"à"), Set(U"²µ¹¼½¾")},
      // MacRoman
      {Set(U"√"), Set(U"±∂†≠®™´≤≥¥µø")},
      {Set(U"≈"), Set(U"°¢")},
      {Set(U"‚"), Set(U"Ä"), Set(U"ìîïòôúùû†°¢π")},
      {Set(U"‚"), Set(U"âó"), Set(U"àä°ê")},
      // windows-1251
      {Set(U"в"), Set(U"Ђ")},
      {Set(U"ВГРС"), {c1 | bad | punctuation | currency, U"°µ"}, Set(U"ВГРС")},
      {Set(U"Г"), Set(U"ў"), Set(U"В"), Set(U"Ђ"), Set(U"В"), no_line_feed, {latin, U" "}},
      // The byte A0 became a plain space, or goes before what it is.
      {Set(U"Ã"), Set(U"\u00a0¡")},
      {latin_lower, Set(U"ÃÂ"), Set(U" ")},
      {latin_lower, space, Set(U"ÃÂ"), Set(U" ")},
      {text_start, Set(U"ÃÂ"), Set(U" ")},
      {{latin_lower | end_punctuation, U".,?!"}, Set(U"Â"), {punctuation, U" "}},
      // windows-1253 and 1257
      {Set(U"β"), Set(U"€"), Set(U"™\u00a0Ά\u00ad®°")},
      {Set(U"ΒΓΞΟ"), {c1 | bad | punctuation | currency, U"°"}, Set(U"ΒΓΞΟ")},
      {Set(U"ā"), Set(U"€")},
  };
  return all;
}

// The sequences with their sets numbered, so that a character is a row of bits: in which of the sets it is.
class SequenceTable {
 public:
  SequenceTable() {
    std::vector<Set> sets;
    for (const Sequence& sequence : sequences()) {
      std::vector<Bits>& bits = sequences_.emplace_back();
      for (const Set& set : sequence) {
        const auto at = std::find(sets.begin(), sets.end(), set) - sets.begin();
        if (at == std::ssize(sets)) sets.push_back(set);
        bits.push_back(bit(static_cast<std::size_t>(at)));
      }
      starts_ |= bits[0];
    }
    ZOE_INTERNAL_CHECK(sets.size() <= kMaxSets);
    for (std::size_t i = 0; i < sets.size(); ++i) {
      for (std::size_t c = 0; c < kClasses; ++c) sets_with_[c][i] = (sets[i].classes >> c & 1) != 0;
      for (const char32_t c : sets[i].characters) single_.emplace_back(c, bit(i));
    }
    for (char32_t c = 0; c < kTabled; ++c) tabled_[c] = find(c);
  }

  bool match(std::u32string_view text) const {
    if (text.empty()) return false;
    Bits next = sets_of(text[0]);
    if (matches_at(sets_of_classes(text_start), text)) return true;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const Bits here = next;
      if (i + 1 < text.size()) next = sets_of(text[i + 1]);
      if ((here & starts_).any() && matches_at(here, text.substr(i + 1))) return true;
    }
    return false;
  }

 private:
  static constexpr char32_t kTabled = 0x2600;  // beyond are next to none of these characters
  static constexpr std::size_t kMaxSets = 128, kClasses = 21;
  using Bits = std::bitset<kMaxSets>;
  static Bits bit(std::size_t i) { return Bits{}.set(i); }

  bool matches_at(const Bits& first, std::u32string_view rest) const {
    return std::any_of(sequences_.begin(), sequences_.end(), [&](const std::vector<Bits>& sequence) {
      if ((sequence[0] & first).none() || sequence.size() - 1 > rest.size()) return false;
      for (std::size_t i = 1; i < sequence.size(); ++i)
        if ((sequence[i] & sets_of(rest[i - 1])).none()) return false;
      return true;
    });
  }

  Bits sets_of_classes(std::uint32_t classes) const {
    Bits sets;
    for (std::size_t c = 0; c < sets_with_.size(); ++c)
      if ((classes >> c & 1) != 0) sets |= sets_with_[c];
    return sets;
  }
  Bits find(char32_t c) const {
    Bits sets = sets_of_classes(classes_of(c));
    for (const auto& [single, of] : single_)
      if (single == c) sets |= of;
    return sets;
  }
  Bits sets_of(char32_t c) const { return c < kTabled ? tabled_[c] : find(c); }

  std::vector<std::vector<Bits>> sequences_;
  Bits starts_;
  std::array<Bits, kClasses> sets_with_;
  std::vector<std::pair<char32_t, Bits>> single_;
  std::vector<Bits> tabled_ = std::vector<Bits>(kTabled);
};

// ---- Encodings with a character a byte ----

struct CodePage {
  std::string_view name;
  std::array<char16_t, 128> characters;  // of the bytes from 0x80
};
#define ZOE_CODE_PAGE(name, ...) {name, {__VA_ARGS__}},
constexpr CodePage kCodePages[] = {
#include "text/mojibake_tables.inc"
};
#undef ZOE_CODE_PAGE

constexpr char32_t kReplacement = 0xfffd;
constexpr char kLost = 0x1a;  // the byte of a character that was replaced by U+FFFD: it is unknown

class Encoding {
 public:
  // In the order in which they are tried.
  static const std::vector<Encoding>& all() {
    static const std::vector<Encoding> encodings = [] {
      std::vector<Encoding> made(1);
      for (const CodePage& page : kCodePages) made.emplace_back(page);
      return made;
    }();
    return encodings;
  }

  Encoding() {  // Latin-1
    for (int byte = 0x80; byte < 0x100; ++byte) bytes_.emplace_back(static_cast<char32_t>(byte), static_cast<char>(byte));
  }
  explicit Encoding(const CodePage& page) : has_holes_(page.name.starts_with("windows")), may_lose_a0_(page.name != "mac-roman") {
    for (int byte = 0x80; byte < 0x100; ++byte)
      bytes_.emplace_back(page.characters[static_cast<std::size_t>(byte - 0x80)], static_cast<char>(byte));
    std::sort(bytes_.begin(), bytes_.end());
  }

  // Windows' pages have holes, through which the control characters of Latin-1 fall, and programs that replace what is in them.
  bool has_holes() const { return has_holes_; }
  // Not MacRoman, where an en dash before a space would be taken for a damaged character.
  bool may_lose_a0() const { return may_lose_a0_; }

  std::optional<std::string> encode(std::u32string_view text) const {
    std::string bytes;
    bytes.reserve(text.size());
    for (const char32_t c : text) {
      if (has_holes_ && c == kReplacement) {
        bytes.push_back(kLost);
      } else if (c < 0x80) {
        if (has_holes_ && c == static_cast<char32_t>(kLost)) return {};
        bytes.push_back(static_cast<char>(c));
      } else {
        const auto it = std::lower_bound(bytes_.begin(), bytes_.end(), std::pair<char32_t, char>(c, '\0'),
                                         [](const auto& a, const auto& b) { return a.first < b.first; });
        if (it == bytes_.end() || it->first != c) return {};
        bytes.push_back(it->second);
      }
    }
    return bytes;
  }

 private:
  std::vector<std::pair<char32_t, char>> bytes_;  // from 0x80, by character
  bool has_holes_ = false;
  bool may_lose_a0_ = true;
};

const CodePage& windows_1252() { return kCodePages[0]; }

// ---- UTF-8 with damage ----

class ByteSet {
 public:
  constexpr ByteSet(std::initializer_list<std::pair<int, int>> ranges) {
    for (const auto& [first, last] : ranges)
      for (int byte = first; byte <= last; ++byte) words_[static_cast<std::size_t>(byte) / 64] |= std::uint64_t{1} << (byte % 64);
  }
  constexpr bool has(char c) const {
    const auto byte = static_cast<std::uint8_t>(c);
    return (words_[byte / 64] >> (byte % 64) & 1) != 0;
  }

 private:
  std::array<std::uint64_t, 4> words_{};
};

using BytePattern = std::vector<ByteSet>;

// The bytes that the first fitting pattern takes at the start of `bytes`, or 0.
std::size_t match(std::span<const BytePattern> patterns, std::string_view bytes) {
  for (const BytePattern& pattern : patterns) {
    if (pattern.size() > bytes.size()) continue;
    std::size_t i = 0;
    while (i < pattern.size() && pattern[i].has(bytes[i])) ++i;
    if (i == pattern.size()) return i;
  }
  return 0;
}

// Calls write(taken bytes) where a pattern fits; other bytes are copied.
template <class F>
std::string replace(std::span<const BytePattern> patterns, std::string_view bytes, F&& write) {
  std::string out;
  out.reserve(bytes.size());
  while (!bytes.empty()) {
    const std::size_t taken = match(patterns, bytes);
    if (taken > 0) out += write(bytes.substr(0, taken));
    else out.push_back(bytes[0]);
    bytes.remove_prefix(std::max<std::size_t>(taken, 1));
  }
  return out;
}

constexpr ByteSet kSpace{{' ', ' '}}, kTail{{0x80, 0xbf}};

// Characters whose byte A0 became a space. Not all: those which nobody writes are left out (of two bytes), those which would make
// another's script of Latin letters (E4 and up), and 85, which may have become dots.
const std::vector<BytePattern>& lost_a0() {
  static constexpr ByteSet kRest{{0x80, 0x84}, {0x86, 0x9f}, {0xa1, 0xbf}};
  static const std::vector<BytePattern> patterns = {
      {{{0xc2, 0xc3}, {0xc5, 0xc5}, {0xce, 0xce}, {0xd0, 0xd0}, {0xd9, 0xd9}}, kSpace},
      {{{0xe2, 0xe3}}, kSpace, kRest},
      {{{0xe0, 0xe3}}, kRest, kSpace},
      {{{0xf0, 0xf0}}, kSpace, kTail, kTail},
      {{{0xf0, 0xf0}}, kTail, kSpace, kTail},
      {{{0xf0, 0xf0}}, kTail, kTail, kSpace},
  };
  return patterns;
}

// Puts A0 back. An "à" that stands alone also gets back the space that fell together with it, but not where a Portuguese word
// goes on ("às", "àquele").
std::string restore_a0(const std::string& bytes) {
  std::string words;
  for (std::string_view rest = bytes; !rest.empty();) {
    constexpr std::string_view kLone = "\xc3 ";
    constexpr std::string_view kGoesOn[] = {" ", "quele", "quela", "quilo", "s "};
    const bool lone = rest.starts_with(kLone) && std::none_of(std::begin(kGoesOn), std::end(kGoesOn), [&](std::string_view end) {
                        return rest.substr(kLone.size()).starts_with(end);
                      });
    words += lone ? "\xc3\xa0 " : std::string(1, rest[0]);
    rest.remove_prefix(lone ? kLone.size() : 1);
  }
  return replace(lost_a0(), words, [](std::string_view taken) {
    std::string restored(taken);
    std::replace(restored.begin(), restored.end(), ' ', '\xa0');
    return restored;
  });
}

// Characters of which a byte is not known any more become U+FFFD.
std::string replace_lossy(const std::string& bytes) {
  static constexpr ByteSet kLostByte{{kLost, kLost}}, kQuestion{{'?', '?'}}, kGone{{kLost, kLost}, {'?', '?'}};
  static constexpr ByteSet kTailOrLost{{kLost, kLost}, {0x80, 0xbf}}, kTailOrGone{{kLost, kLost}, {'?', '?'}, {0x80, 0xbf}};
  static constexpr ByteSet kFirst3{{0xe0, 0xef}}, kFirst4{{0xf0, 0xf4}};
  static constexpr ByteSet kHalf{{0xed, 0xed}}, kHigh{{0xa0, 0xaf}}, kLow{{0xb0, 0xbf}};
  static const std::vector<BytePattern> patterns = {
      {{{0xc2, 0xdf}}, kLostByte},
      {{{0xc2, 0xc3}}, kQuestion},
      {kHalf, kHigh, kGone, kHalf, kLow, kTailOrGone},
      {kHalf, kHigh, kTailOrGone, kHalf, kLow, kGone},
      {kFirst3, kGone, kTailOrLost},
      {kFirst3, kTailOrLost, kGone},
      {kFirst4, kGone, kTailOrLost, kTailOrLost},
      {kFirst4, kTailOrLost, kGone, kTailOrLost},
      {kFirst4, kTailOrLost, kTailOrLost, kGone},
      {kLostByte},
  };
  return replace(patterns, bytes, [](std::string_view) { return "\xef\xbf\xbd"; });
}

bool append_strict(std::string_view bytes, std::u32string* out) {
  while (!bytes.empty()) {
    char32_t code = 0;
    const std::size_t length = decode_utf8(bytes, &code);
    if (length == 0) return false;
    out->push_back(code);
    bytes.remove_prefix(length);
  }
  return true;
}

// UTF-8, in which `variants` may be: pairs of UTF-16 as two characters of three bytes (CESU-8), and C0 80 for NUL (Java).
std::optional<std::u32string> decode(std::string_view bytes, bool variants) {
  std::u32string out;
  if (!variants) return append_strict(bytes, &out) ? std::optional(std::move(out)) : std::nullopt;
  // Where a byte of `low` to `high` is, or nothing more than a line feed (so read by the expressions of ftfy).
  const auto is = [&](std::size_t i, int low, int high) {
    const auto byte = i < bytes.size() ? static_cast<std::uint8_t>(bytes[i]) : 0;
    return byte >= low && byte <= high;
  };
  const auto ends = [&](std::size_t i) { return i == bytes.size() || (i + 1 == bytes.size() && bytes[i] == '\n'); };
  while (!bytes.empty()) {
    std::size_t plain = 0;
    for (; plain < bytes.size(); ++plain) {
      if (is(plain, 0xc0, 0xc0) && (is(plain + 1, 0x80, 0x80) || ends(plain + 1))) break;
      if (is(plain, 0xed, 0xed) && (is(plain + 1, 0xa0, 0xbf) ? is(plain + 2, 0x80, 0xbf) || ends(plain + 2) : ends(plain + 1)))
        break;
    }
    if (plain > 0) {
      if (!append_strict(bytes.substr(0, plain), &out)) return {};
      bytes.remove_prefix(plain);
    } else if (is(0, 0xc0, 0xc0)) {
      if (bytes.size() == 1) return {};
      out.push_back(U'\0');
      bytes.remove_prefix(2);
    } else {
      const bool pair = bytes.size() >= 6 && is(1, 0xa0, 0xaf) && is(2, 0x80, 0xbf) && is(3, 0xed, 0xed) &&
                        ((is(4, 0xb0, 0xbf) && (is(5, 0x80, 0xbf) || ends(5))));
      if (!pair) return {};  // half a pair is no character
      const auto bits = [&](std::size_t i, unsigned mask) { return static_cast<std::uint8_t>(bytes[i]) & mask; };
      out.push_back(0x10000 + (bits(1, 0x0f) << 16 | bits(2, 0x3f) << 10 | bits(4, 0x0f) << 6 | bits(5, 0x3f)));
      bytes.remove_prefix(6);
    }
  }
  return out;
}

// ---- Parts that look like misread UTF-8 on their own ----

// What the bytes of UTF-8 are in the encodings that are most often taken for it.
class Utf8Clues {
 public:
  Utf8Clues() {
    const auto add = [](int first, int last, std::bitset<kSize>* set) {
      for (int byte = first; byte <= last; ++byte) {
        set->set(static_cast<std::size_t>(byte));
        for (const CodePage& page : kCodePages)
          if (page.name.starts_with("windows")) set->set(page.characters[static_cast<std::size_t>(byte - 0x80)]);
      }
    };
    add(0xc2, 0xdf, &first_[0]);
    add(0xe0, 0xef, &first_[1]);
    add(0xf0, 0xf0, &first_[2]);
    add(0xf3, 0xf3, &first_[2]);
    add(0x80, 0xbf, &continuation_);
    // Signs that may well stand for themselves beside a misread character.
    strict_ = continuation_;
    for (const char32_t c : std::u32string_view(U"–—―‘’‚“”„•…")) strict_.reset(c);
    continuation_.set(U' ');  // it was A0
  }

  // Length of the longest run of such characters that begins at `at`, or 0.
  std::size_t match(std::u32string_view text, std::size_t at) const {
    if (at > 0 && in(strict_, text[at - 1])) return 0;  // mending the middle of a garble makes it worse
    std::size_t end = at;
    for (bool found = true; found && end < text.size();) {
      found = false;
      for (std::size_t tails = 1; tails <= 3 && !found; ++tails) {
        if (!in(first_[tails - 1], text[end]) || end + tails >= text.size()) continue;
        const auto rest = text.substr(end + 1, tails);
        found = std::all_of(rest.begin(), rest.end(), [&](char32_t c) { return in(continuation_, c); });
        if (found) end += 1 + tails;
      }
    }
    return end - at;
  }

 private:
  static constexpr std::size_t kSize = 0x2200;
  static bool in(const std::bitset<kSize>& set, char32_t c) { return c < kSize && set[c]; }
  std::array<std::bitset<kSize>, 3> first_;
  std::bitset<kSize> continuation_, strict_;
};

constexpr int kMaxNesting = 100;

std::u32string fix_encoding(std::u32string text, RepairLimit* limit, int nesting);

std::u32string fix_parts(std::u32string_view text, RepairLimit* limit, int nesting) {
  static const Utf8Clues clues;
  std::u32string out;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = clues.match(text, i);
    if (length == 0) {
      out.push_back(text[i++]);
      continue;
    }
    std::u32string part(text.substr(i, length));
    if (length < text.size() && is_mojibake(part)) part = fix_encoding(std::move(part), limit, nesting + 1);
    out += part;
    i += length;
  }
  return out;
}

// One reading again, or the text itself.
std::u32string reread(const std::u32string& text, RepairLimit* limit, int nesting) {
  limit->spend(text.size());
  const auto ascii = [](char32_t c) { return c < 0x80; };
  if (std::all_of(text.begin(), text.end(), ascii) || !is_mojibake(text)) return text;
  for (const Encoding& encoding : Encoding::all()) {
    std::optional<std::string> bytes = encoding.encode(text);
    if (!bytes) continue;
    if (encoding.may_lose_a0()) {
      bool lost = false;
      for (std::size_t i = 0; i < bytes->size() && !lost; ++i) lost = match(lost_a0(), std::string_view(*bytes).substr(i)) > 0;
      if (lost) bytes = restore_a0(*bytes);
    }
    if (encoding.has_holes()) bytes = replace_lossy(*bytes);
    const bool variants = bytes->find_first_of("\xed\xc0") != std::string::npos;
    if (std::optional<std::u32string> decoded = decode(*bytes, variants)) return *std::move(decoded);
  }
  std::u32string fixed = fix_parts(text, limit, nesting);
  if (fixed != text) return fixed;
  // Latin-1 that was to be windows-1252, or some characters of it.
  fix_c1_controls(&fixed);
  return fixed;
}

std::u32string fix_encoding(std::u32string text, RepairLimit* limit, int nesting) {
  check(nesting < kMaxNesting, ErrorKind::invalid_argument, "prompt",
        "cannot be repaired: got text misread in itself {} times over, expected less. Write it anew.", nesting);
  for (;;) {
    std::u32string next = reread(text, limit, nesting);
    if (next == text) return text;
    text = std::move(next);
  }
}

}  // namespace

void RepairLimit::spend(std::size_t characters) {
  check(characters <= left_, ErrorKind::invalid_argument, "prompt",
        "cannot be repaired: got text that still changes after very many passes, expected broken characters or nested references "
        "to come to an end. Write it anew.");
  left_ -= characters;
}

bool is_mojibake(std::u32string_view text) {
  static const SequenceTable table;
  return table.match(text);
}

std::u32string fix_encoding(std::u32string text, RepairLimit* limit) { return fix_encoding(std::move(text), limit, 0); }

void fix_c1_controls(std::u32string* text) {
  for (char32_t& c : *text)
    if (c >= 0x80 && c < 0xa0) c = windows_1252().characters[c - 0x80];
}

}  // namespace zoe
