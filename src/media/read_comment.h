// Internal to this folder.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace zoe {

// The comment of a file that FFmpeg reads, "" if it has none.
std::string movie_comment(const std::filesystem::path& path, std::string_view where);

}  // namespace zoe
