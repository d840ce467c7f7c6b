// Lists as text.
#pragma once

#include <algorithm>
#include <string_view>
#include <vector>

namespace zoe {

// What stands between separators, one part at least: "" is one empty part, "a," are two. The parts lie in `text`.
inline std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(separator, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

}  // namespace zoe
