#include "text/character_map.h"

#include <utf8proc.h>

#include <cstring>
#include <utility>

#include "base/error.h"
#include "text/unicode.h"

namespace zoe {
namespace {

// A unit of the trie holds the label of the edge to it, whether a leaf hangs on it, and the offset of its children.
bool is_leaf(std::uint32_t unit) { return unit >> 31 != 0; }
bool has_leaf(std::uint32_t unit) { return (unit & 0x100) != 0; }
std::size_t offset(std::uint32_t unit) { return static_cast<std::size_t>(unit >> 10) << ((unit & 0x200) >> 6); }
std::uint32_t label(std::uint32_t unit) { return unit & 0x800000ffu; }  // of a leaf: no byte
std::size_t value(std::uint32_t leaf) { return leaf & 0x7fffffffu; }

}  // namespace

std::uint32_t CharacterMap::unit(std::size_t i) const {
  std::uint32_t value = 0;
  std::memcpy(&value, bytes_.data() + 4 + 4 * i, 4);
  return value;
}

bool CharacterMap::is_sound() const {
  std::uint32_t trie_bytes = 0;
  if (bytes_.size() < 4) return false;
  std::memcpy(&trie_bytes, bytes_.data(), 4);
  if (trie_bytes % 4 != 0 || trie_bytes >= bytes_.size() - 4 || bytes_.back() != '\0') return false;
  const std::size_t units = trie_bytes / 4, replacements = bytes_.size() - 4 - trie_bytes;
  for (std::size_t i = 0; i < units; ++i) {
    if (is_leaf(unit(i))) continue;  // nothing goes on from here
    const std::size_t children = i ^ offset(unit(i));
    if ((children | 0xff) >= units) return false;
    if (has_leaf(unit(i)) && value(unit(children)) >= replacements) return false;
  }
  return units > 0;
}

CharacterMap::CharacterMap(std::string bytes, std::string_view where, std::string_view file) : bytes_(std::move(bytes)) {
  check(bytes_.empty() || is_sound(), ErrorKind::invalid_argument, where,
        "cannot load {}: got a damaged character map of {} bytes, expected a trie and its replacements. Fetch the file again.",
        file, bytes_.size());
}

const char* CharacterMap::find(std::string_view character) const {
  std::uint32_t trie_bytes = 0;
  std::memcpy(&trie_bytes, bytes_.data(), 4);
  std::size_t at = offset(unit(0));
  for (const char c : character) {
    const auto byte = static_cast<std::uint8_t>(c);
    if (byte == 0) return nullptr;
    at ^= byte;
    const std::uint32_t here = unit(at);
    if (label(here) != byte) return nullptr;
    at ^= offset(here);
    if (has_leaf(here)) return bytes_.data() + 4 + trie_bytes + value(unit(at));
  }
  return nullptr;
}

std::string CharacterMap::apply(std::string_view text) const {
  if (bytes_.empty()) return std::string(text);
  constexpr std::size_t kTooLong = 6;  // bytes of what is replaced as a whole
  std::string out;
  out.reserve(text.size());
  const auto replace = [&](std::string_view part) {
    const char* replacement = find(part);
    if (replacement) out += replacement;
    return replacement != nullptr;
  };
  for (utf8proc_int32_t state = 0; !text.empty();) {
    char32_t code = 0, next = 0;
    std::size_t length = decode_utf8(text, &code);
    if (length == 0) break;
    while (length < text.size()) {
      const std::size_t more = decode_utf8(text.substr(length), &next);
      if (more == 0 ||
          utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(code), static_cast<utf8proc_int32_t>(next), &state))
        break;
      length += more;
      code = next;
    }
    std::string_view character = text.substr(0, length);
    text.remove_prefix(length);
    if (length < kTooLong && replace(character)) continue;
    while (!character.empty()) {
      const std::size_t size = decode_utf8(character, &code);
      if (!replace(character.substr(0, size))) out += character.substr(0, size);
      character.remove_prefix(size);
    }
  }
  return out;
}

}  // namespace zoe
