// Sizes in bytes as text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace zoe {

// Both in one unit, GiB where either is as large, with as many digits (or in as small a unit) as it takes to see that they differ:
// "0.3 GiB" and "0.3 GiB" is no reason. Equal sizes have equal texts.
std::pair<std::string, std::string> bytes_apart(std::size_t a, std::size_t b);
std::string bytes_text(std::size_t bytes);  // "12.3 GiB", "90 MiB"

// "8GiB", "512MiB", "6.5 GB" or a whole number of bytes. invalid_argument, which names `where`, for what is none or below `least`.
std::uint64_t parse_bytes(std::string_view where, std::string_view text, std::uint64_t least = 1);

}  // namespace zoe
