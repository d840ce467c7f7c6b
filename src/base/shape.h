// Shapes: the extents of a dense row-major tensor, outermost first.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

namespace zoe {

class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims) : dims_(dims) {}
  explicit Shape(std::vector<std::int64_t> dims) : dims_(std::move(dims)) {}

  int rank() const { return static_cast<int>(dims_.size()); }
  // Extent of an axis; negative axes count from the end. The axis must exist.
  std::int64_t dim(int axis) const { return dims_[static_cast<std::size_t>(axis < 0 ? axis + rank() : axis)]; }
  std::int64_t& dim(int axis) { return dims_[static_cast<std::size_t>(axis < 0 ? axis + rank() : axis)]; }
  const std::vector<std::int64_t>& dims() const { return dims_; }

  // Product of all extents; 1 for rank 0. Shapes from files are checked for overflow where they are read.
  std::int64_t count() const { return count(0, rank()); }
  // Product of the extents of axes [begin, end).
  std::int64_t count(int begin, int end) const;

  std::string str() const;  // "[1,32760,5120]"
  friend bool operator==(const Shape&, const Shape&) = default;

 private:
  std::vector<std::int64_t> dims_;
};

// The shape both broadcast to by the usual rule (align at the last axis, 1 stretches); rank 0 result and false if they do not.
bool broadcast(const Shape& a, const Shape& b, Shape* out);

}  // namespace zoe
