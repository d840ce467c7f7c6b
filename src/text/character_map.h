// The character map of a SentencePiece model: what characters are replaced by before the pieces are looked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace zoe {

class CharacterMap {
 public:
  CharacterMap() = default;  // replaces nothing
  // The compiled map of a model: the size of a double-array trie (Darts), the trie, then the NUL-terminated replacements its leaves
  // point to. An invalid_argument error if that leads anywhere else; `where` and `file` name it.
  CharacterMap(std::string bytes, std::string_view where, std::string_view file);

  // As the tokenizers library applies it (SentencePiece itself takes the longest match at each place): what a person takes for one
  // character, if it is shorter than 6 bytes, is replaced as a whole by what its shortest known beginning stands for; other
  // code points each for itself.
  std::string apply(std::string_view text) const;

 private:
  bool is_sound() const;
  const char* find(std::string_view character) const;  // what the shortest beginning in the map stands for, or nullptr
  std::uint32_t unit(std::size_t i) const;

  std::string bytes_;
};

}  // namespace zoe
