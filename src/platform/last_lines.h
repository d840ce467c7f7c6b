// What messages quote of a compiler's log.
#pragma once

#include <string>
#include <string_view>

namespace zoe {

// The last `count` lines of a text, without the white space and zeros behind them.
inline std::string last_lines(std::string_view text, int count) {
  const std::size_t last = text.find_last_not_of(std::string_view(" \n\t\0", 4));
  text = text.substr(0, last == std::string_view::npos ? 0 : last + 1);
  std::size_t begin = text.size();
  for (; begin > 0; --begin)
    if (text[begin - 1] == '\n' && --count == 0) break;
  return std::string(text.substr(begin));
}

}  // namespace zoe
