#include "platform/override_rules.h"

#include "base/error.h"
#include "base/nearest.h"
#include "base/split.h"

namespace zoe {

OverrideRules parse_override_rules(std::string_view text) {
  constexpr std::string_view kNever = "no-";
  OverrideRules rules;
  for (const std::string_view part : split(text, ',')) {
    check(!part.empty() && part != kNever, ErrorKind::invalid_argument, "--override",
          "got {}, expected names of rows, with no- in front for never, or require, separated by commas.", in_quotes(text));
    if (part == "require") rules.require = true;
    else if (part.starts_with(kNever)) rules.never.emplace_back(part.substr(kNever.size()));
    else rules.first.emplace_back(part);
  }
  return rules;
}

}  // namespace zoe
