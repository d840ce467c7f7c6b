// What 8-bit products and attention have to be, by plain loops: from the bits of their operands, as base/codes.h and ir/trace.h
// say.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/weight_reader.h"
#include "ir/value.h"

namespace zoe {

// So many numbers of `count` as are looked at, spread evenly: all of few.
std::vector<std::int64_t> looked_at(std::int64_t count);

// Sums of codes of rows of x with those of all rows of a weight, and the scales: (sum * x scale) * w scale is the product.
struct CodeSums {
  std::vector<std::int32_t> sums;  // [rows, columns]
  std::vector<float> x_scales, w_scales;
};
CodeSums sums_of_codes(std::span<const float> x, std::span<const std::int64_t> rows, const Type& weight,
                       const WeightReader& source);

// How an attention makes its codes: by the definition (ir/trace.h), or coarser, where a kernel gains by it.
struct AttentionCodes {
  std::int64_t keys_a_scale = 1;    // of k
  std::int64_t keys_a_highest = 0;  // weights are rounded below the highest of so many scores; 0: of all
  bool centred_values = false;      // codes of v are about the middle of its channel's range
};
// Of a row of a platform's table.
AttentionCodes attention_codes_of(std::string_view row);

// softmax(scale q k^T) v in f64 from codes of q, k and v [B,L,heads,D], of the given queries of each batch: [B,queries,N,D].
std::vector<double> attention_from_codes(const Node& attention, const std::array<std::vector<float>, 3>& operands,
                                         std::span<const std::int64_t> queries, const AttentionCodes& how);

}  // namespace zoe
