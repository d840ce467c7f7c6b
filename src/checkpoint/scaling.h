// Weights stored as small numbers with scales in tensors of their own, beside them: fp8, int8, mxfp8 and nvfp4 as ComfyUI, LightX2V
// and their converters write them. Where a checkpoint is opened, a scale becomes part of the tensor that it belongs to.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/safetensors.h"

namespace zoe {

// What the stored numbers of a tensor are multiplied by. Of a matrix, with f = factors[row] (or the only one), all products in f32:
//   f * number,  (f * block scale) * number,  then * column_factors[column]
// With a rotation, each group of so many columns of that is then multiplied by the regular Hadamard matrix of this size, H4 x H4 x
// ... / sqrt(size) with H4 = [1 1 1 -1; 1 1 -1 1; 1 -1 1 1; -1 1 1 1], which is its own inverse (ConvRot).
struct Scaling {
  std::string name;  // of the convention: "F8_E4M3 scaled", "int8_tensorwise", "mxfp8", ...
  std::vector<float> factors;
  std::vector<float> column_factors;  // empty: none
  std::int64_t block = 0;             // so many columns share a block scale; 0: there are none
  // [rows, columns / block] e4m3 or e8m0, padded to multiples of 128 and 4, in the tiles of cuBLAS: 128 x 4 bytes each, of which
  // row r and column c are at (r % 32) * 16 + r / 32 * 4 + c.
  TensorEntry blocks = {};
  std::int64_t rotation = 0;  // 0: none

  std::size_t size_bytes() const { return (factors.size() + column_factors.size()) * sizeof(float) + blocks.bytes.size(); }
};

// Finds the scales among `tensors` (sorted by name), puts them into the entries they belong to, and takes out what is then no
// tensor of the model: scales, marks, and what only the quantisation of activations would need. `metadata` is that of the files.
// Known are
//   [prefix]scaled_fp8, X.scale_weight                                   fp8 with a scale
//   X.comfy_quant or _quantization_metadata, X.weight_scale (_2), ...    float8_e4m3fn, float8_e5m2, int8_tensorwise (and ConvRot),
//                                                                        mxfp8, nvfp4
//   X.weight_scale beside fp8 or int8 numbers                            as LightX2V has it
// Errors: unsupported names a convention that is not known (int4 of AWQ, SVDQuant, ...); invalid_argument a scale without its
// weight, of another shape, or that is no finite number.
void fold_scales(std::vector<TensorEntry>& tensors, const std::map<std::string, std::string>& metadata, std::string_view where);

// The weight behind an entry with a scaling. A block scale that is no number is an error of fetch().
WeightPtr scaled_weight_of(const TensorEntry& tensor, std::string_view where);

}  // namespace zoe
