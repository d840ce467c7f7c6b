// Where the operands of a concat go, in elements: each operand is `runs` runs, which lie `step` apart in the result.
#pragma once

#include <cstdint>
#include <vector>

#include "ir/value.h"

namespace zoe {

struct ConcatLayout {
  explicit ConcatLayout(const Node& concat) {
    const int axis = concat.as<AxisAttributes>().axis;
    const Shape& shape = concat.types[0].shape;
    const std::int64_t inner = shape.count(axis + 1, shape.rank());
    step = shape.dim(axis) * inner;
    runs = shape.count(0, axis);
    std::int64_t offset = 0;
    for (const Value& operand : concat.inputs) {
      operands.push_back({offset, operand.dim(axis) * inner});
      offset += operand.dim(axis) * inner;
    }
  }

  struct Operand {
    std::int64_t offset, length;  // of its first run, and of each
  };
  std::vector<Operand> operands;
  std::int64_t step = 0, runs = 0;
};

}  // namespace zoe
