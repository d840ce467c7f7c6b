// A weight with something done to it while it is read: what the layers of a LoRA file say, whatever their kind.
//
// Each is a reader around another one. Sums are made in f32 and rounded once to what is asked for; an element has the same bits in
// whatever pieces it is read. What takes time to make (factors in f32, norms) is made by the first fetch() or read() and lives as
// long as the reader: make one for a load, and let it go.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/weight_reader.h"

namespace zoe {

// A tensor of a LoRA file, and what errors call it: `where` is the file, `key` the name there.
struct ChangeTensor {
  WeightPtr weight;  // null: there is none
  std::string where, key;
};

// All of these fail in fetch(), as invalid_argument, where a tensor of the change has a NaN or an infinity.

// base + scale * up @ down. up [rows,r], down [r,columns], with extents behind the first flattened, as are those of `base`.
WeightPtr add_low_rank(WeightPtr base, ChangeTensor up, ChangeTensor down, double scale);
// The same sum, to be kept beside a weight: with those of other files it is one product, up @ down of the ranks one behind the
// other.
struct LowRankChange {
  ChangeTensor up, down;
  double scale;
  std::int64_t rank() const;
};
// A factor of it: up [rows,rank], each column times its scale, or down transposed, [columns,rank]; zeros past the last rank, and
// where there is no change at all. In f32 until it is read. Fails in fetch() as the others do.
WeightPtr low_rank_factor(std::vector<LowRankChange> changes, bool is_up, std::int64_t rows_or_columns, std::int64_t rank);
// base + scale * (a1 @ b1) * (a2 @ b2), elements multiplied: LoHa. a [rows,r], b [r,columns].
WeightPtr add_hadamard(WeightPtr base, ChangeTensor a1, ChangeTensor b1, ChangeTensor a2, ChangeTensor b2, double scale);
// A matrix, or the product of two where `second` is there.
struct ChangeMatrix {
  ChangeTensor first, second = {};
  std::int64_t rows() const;
  std::int64_t columns() const;
};
// base + scale * kron(w1, w2): LoKr. w1 [a,b], w2 [rows/a,columns/b].
WeightPtr add_kronecker(WeightPtr base, ChangeMatrix w1, ChangeMatrix w2, double scale);
// base + scale * difference, of as many elements.
WeightPtr add_difference(WeightPtr base, ChangeTensor difference, double scale);
// base + strength * (value - base); at strength 1 the value itself.
WeightPtr set_value(WeightPtr base, ChangeTensor value, double strength);
// DoRA: base + strength * (changed * magnitude / |changed| - base), |changed| the Euclidean norm of each row, or of each column.
// magnitude [rows], or [columns].
WeightPtr set_magnitude(WeightPtr base, WeightPtr changed, ChangeTensor magnitude, bool of_columns, double strength);

}  // namespace zoe
