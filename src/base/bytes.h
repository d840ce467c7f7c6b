// Sizes in bytes as text.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

namespace zoe {

// Both in one unit, GiB where either is as large, with as many digits (or in as small a unit) as it takes to see that they differ:
// "0.3 GiB" and "0.3 GiB" is no reason. Equal sizes have equal texts.
std::pair<std::string, std::string> bytes_apart(std::size_t a, std::size_t b);

}  // namespace zoe
