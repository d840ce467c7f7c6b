// The product of two thin matrices, [rows,r] and [r,columns], a piece of a row at a time: what a LoRA adds to a weight.
#pragma once

#include <cstdint>
#include <vector>

#include "base/weight_reader.h"

namespace zoe {

// 64 columns of a row: sums of so many fit four wide registers. Aligned, as a register that straddled two lines would take both.
struct alignas(64) PanelRow {
  float values[64];
};

// Immutable; any thread may ask. Holds both factors in f32. An element is the same sum in the same order, on every machine and in
// whatever pieces it is asked for: products by falling row of `down`, each rounded, added one by one.
class ThinProduct {
 public:
  // scale * up @ down; extents behind the first count as one. Reads both factors, which must have been fetched.
  ThinProduct(const WeightReader& up, const WeightReader& down, double scale);

  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return columns_; }

  // Elements [column, column + count) of a row, added to `out` or written there.
  void add(std::int64_t row, std::int64_t column, std::int64_t count, float* out) const { each(row, column, count, out, true); }
  void write(std::int64_t row, std::int64_t column, std::int64_t count, float* out) const { each(row, column, count, out, false); }

 private:
  void each(std::int64_t row, std::int64_t column, std::int64_t count, float* out, bool add) const;

  std::int64_t rows_, columns_, rank_;
  std::vector<float> up_;         // [rows,r], scaled
  std::vector<PanelRow> panels_;  // [panel,r], zeros behind the last column
};

}  // namespace zoe
