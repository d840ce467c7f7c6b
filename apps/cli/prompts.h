// Prompts from a file or stdin.
#pragma once

#include <string>
#include <vector>

namespace zoe::cli {

// One prompt a line of UTF-8; "-" is stdin. Empty lines and a byte order mark are passed over. Errors name the line.
std::vector<std::string> read_prompts(const std::string& path);

}  // namespace zoe::cli
