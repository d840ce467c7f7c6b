// Cleaning of prompts before they are tokenized.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace zoe {

constexpr std::size_t kMaxPromptBytes = std::size_t{1} << 20;

// What Diffusers' Wan pipeline does to a prompt where ftfy is installed, and Wan's own code always: `ftfy.fix_text` (repair.h);
// then HTML character references are replaced, twice, as Python's `html.unescape` does; then every run of Unicode white space
// becomes one space, and none is left at the ends. Text that is not UTF-8 or longer than kMaxPromptBytes is an invalid_argument
// error.
std::string prompt_clean(std::string_view prompt);

}  // namespace zoe
