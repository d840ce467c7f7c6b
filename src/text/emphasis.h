// Weights of a prompt's parts, as ComfyUI writes them: "a (red:1.3) circle, (small)".
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace zoe {

struct WeightedText {
  std::string text;
  double weight;
  bool operator==(const WeightedText&) const = default;
};

// What stands in parentheses has the weight behind its last colon, -10 to 10, or without one 1.1 times that of what is around it;
// all else has weight 1. Parentheses nest up to 32 deep, a weight that is said holds alone. \( and \) are plain parentheses. Parts
// in order, none of them empty. invalid_argument errors, with the place in bytes from 1: a parenthesis without its other, nothing
// within two of them, a bad weight.
std::vector<WeightedText> parse_emphasis(std::string_view prompt, std::string_view where);

}  // namespace zoe
