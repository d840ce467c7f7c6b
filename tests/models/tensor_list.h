// Lists of tensors as text, to compare what a model expects with the key lists of real checkpoints.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "testing/sparse_checkpoint.h"

namespace zoe::testing {

// "name [shape]" of each, sorted.
template <class Tensors>
std::vector<std::string> names_and_shapes(const Tensors& tensors) {
  std::vector<std::string> lines;
  for (const auto& tensor : tensors) lines.push_back(tensor.name + " " + tensor.shape.str());
  std::sort(lines.begin(), lines.end());
  return lines;
}

// tests/fixtures/checkpoints/<part>/keys.txt
inline std::vector<std::string> recorded_names_and_shapes(const std::string& part) {
  return names_and_shapes(read_checkpoint_list(std::string(ZOE_FIXTURES) + "/checkpoints/" + part + "/keys.txt"));
}

}  // namespace zoe::testing
