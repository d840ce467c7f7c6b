// Transformers of Wan's shapes that were trained for a computation which is not done here.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace zoe {

// What they were trained for, as "sparse attention (VSA)": told by a key of their own, or, where they have none, by the name they
// are published under. Empty: nothing is known against them.
std::string foreign_training(std::span<const std::string> keys, std::string_view name);

}  // namespace zoe
