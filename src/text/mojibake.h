// Mojibake: text whose UTF-8 was read as another encoding ("sÃ£o" for "são"). Which text that is, and reading it again.
//
// The method and its classes of characters are ftfy's (fix_encoding of 6.3): some characters are neighbours so seldom that they
// tell of a wrong reading, and whether the bytes behind them are UTF-8 in one of ten encodings decides what was meant.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace zoe {

// Repair goes on until nothing changes. What has it go on too long is an invalid_argument error.
class RepairLimit {
 public:
  explicit RepairLimit(std::size_t characters) : left_(characters) {}
  void spend(std::size_t characters);

 private:
  std::size_t left_;
};

// Whether the text holds a sequence that tells of a wrong reading.
bool is_mojibake(std::u32string_view text);

// Rereads what can be reread: the whole text, else the parts of it that look like UTF-8 on their own; characters that only Latin-1
// has become those of windows-1252. As often as that changes something.
std::u32string fix_encoding(std::u32string text, RepairLimit* limit);

// The control characters U+0080 to U+009F as the characters windows-1252 has there.
void fix_c1_controls(std::u32string* text);

}  // namespace zoe
