// Names in error messages: the nearest known name, and text from outside cut to a readable length.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace zoe {

// The known name with the smallest edit distance to `name` (the first of equals), or "" if none is nearer than half (or another
// `part`) of the longer of the two. Names beyond 256 bytes are never near. 100,000 names of 60 characters take well under a second.
std::string nearest(std::string_view name, std::span<const std::string> known, std::size_t part = 2);

// `text` in double quotes, cut to about 100 bytes (never inside a UTF-8 character) with "..." for what is left out.
std::string in_quotes(std::string_view text);

}  // namespace zoe
