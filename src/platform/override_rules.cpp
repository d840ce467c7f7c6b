#include "platform/override_rules.h"

#include <algorithm>

#include "base/error.h"
#include "base/nearest.h"

namespace zoe {

OverrideRules parse_override_rules(std::string_view text) {
  constexpr std::string_view kNever = "no-";
  OverrideRules rules;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view part = text.substr(begin, end - begin);
    check(!part.empty() && part != kNever, ErrorKind::invalid_argument, "--override",
          "got {}, expected names of rows, with no- in front for never, or require, separated by commas.", in_quotes(text));
    if (part == "require") rules.require = true;
    else if (part.starts_with(kNever)) rules.never.emplace_back(part.substr(kNever.size()));
    else rules.first.emplace_back(part);
    begin = end + 1;
  }
  return rules;
}

}  // namespace zoe
