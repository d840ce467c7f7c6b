// Weights that are made up: of any tensor, at memory speed, so that models of full size run where their files are not.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/weight_reader.h"

namespace zoe {

// Element i of the tensor follows from `seed`, `name` and i alone, whatever is read in whichever pieces; in bf16 and f16 it is the
// f32 value rounded. Evenly spread around a mean, scaled so that activations stay in range through any number of layers:
//   vectors named *.bias     0 +- 0.02
//   other vectors            1 +- 0.1 (the weights of norms; extents of 1 do not count)
//   tables (*_table)         0, standard deviation 1/sqrt(last extent)
//   matrices and kernels     0, standard deviation 1/sqrt(elements of a row)
WeightPtr random_weight(std::uint64_t seed, std::string_view name, Shape shape);

// The same for a tensor that is stored in an encoding narrower than bf16: its bytes are made up, so that numbers are spread around
// 0 with about that standard deviation. The last extent is a multiple of the encoding's block.
WeightPtr random_stored_weight(std::uint64_t seed, std::string_view name, Shape shape, const Encoding& encoding);

}  // namespace zoe
