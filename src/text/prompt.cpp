#include "text/prompt.h"

#include <cstdint>

#include "base/error.h"
#include "text/html.h"
#include "text/repair.h"
#include "text/unicode.h"

namespace zoe {

std::string prompt_clean(std::string_view prompt) {
  check(prompt.size() <= kMaxPromptBytes, ErrorKind::invalid_argument, "prompt",
        "too long: got {} bytes, expected at most {}. Shorten it.", prompt.size(), kMaxPromptBytes);
  char32_t code = 0;
  for (std::size_t i = 0; i < prompt.size();) {
    const std::size_t length = decode_utf8(prompt.substr(i), &code, true);
    check(length > 0, ErrorKind::invalid_argument, "prompt",
          "not valid UTF-8: got byte 0x{:02x} at offset {}, expected UTF-8. Convert the text.",
          static_cast<std::uint8_t>(prompt[i]), i);
    i += length;
  }
  const std::string text = html_unescape(html_unescape(repair_text(prompt)));
  std::string out;
  bool gap = false;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = decode_utf8(std::string_view(text).substr(i), &code);
    if (is_space(code)) {
      gap = true;
    } else {
      if (gap && !out.empty()) out.push_back(' ');
      gap = false;
      out.append(text, i, length);
    }
    i += length;
  }
  return out;
}

}  // namespace zoe
