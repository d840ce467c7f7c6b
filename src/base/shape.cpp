#include "base/shape.h"

#include <fmt/format.h>

#include <algorithm>

namespace zoe {

std::int64_t Shape::count(int begin, int end) const {
  std::int64_t product = 1;
  for (int axis = begin; axis < end; ++axis) product *= dim(axis);
  return product;
}

std::string Shape::str() const { return fmt::format("[{}]", fmt::join(dims_, ",")); }

bool broadcast(const Shape& a, const Shape& b, Shape* out) {
  const int rank = std::max(a.rank(), b.rank());
  std::vector<std::int64_t> dims(static_cast<std::size_t>(rank));
  for (int i = 1; i <= rank; ++i) {
    const std::int64_t da = i <= a.rank() ? a.dim(-i) : 1, db = i <= b.rank() ? b.dim(-i) : 1;
    if (da != db && da != 1 && db != 1) return *out = Shape(), false;
    dims[static_cast<std::size_t>(rank - i)] = da == 1 ? db : da;
  }
  return *out = Shape(std::move(dims)), true;
}

}  // namespace zoe
