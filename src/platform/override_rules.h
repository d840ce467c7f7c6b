// What a caller says about the rows of a platform's table (implementation.h), by their names; the order of the table holds for the
// rest.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace zoe {

struct OverrideRules {
  std::vector<std::string> first = {};  // asked before the others
  std::vector<std::string> never = {};
  bool require = false;  // a row of `first` that says no is an error
};

// "ROW,no-ROW,require" in any number and order: what --override says. `invalid_argument` for an empty part; names are looked up
// where the platform is known.
OverrideRules parse_override_rules(std::string_view text);

}  // namespace zoe
