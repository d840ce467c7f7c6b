// Characters and UTF-8. Text is worked on as code points; what comes from outside and goes on to the tokenizer is UTF-8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace zoe {

// Length of the UTF-8 character at the start of `text` (not empty) and its code point; 0 if there is none (RFC 3629). The halves
// of UTF-16 pairs are taken as characters only if `surrogates` says so.
std::size_t decode_utf8(std::string_view text, char32_t* code, bool surrogates = false);

void append_utf8(char32_t code, std::string* out);

std::string to_utf8(std::u32string_view text);
std::u32string from_utf8(std::string_view valid);

// Python's str.isspace, which is also what \s of its regular expressions matches.
bool is_space(char32_t c);

}  // namespace zoe
