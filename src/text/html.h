// HTML character references.
#pragma once

#include <string>
#include <string_view>

namespace zoe {

// One pass of Python's `html.unescape` over valid UTF-8.
std::string html_unescape(std::string_view text);

// What an entity's name (without '&', with its semicolon if it has one) stands for, in UTF-8, or nullptr.
const std::string_view* html_entity(std::string_view name);

}  // namespace zoe
