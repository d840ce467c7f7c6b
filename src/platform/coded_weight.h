// The weight of a linear with codes, as it lies in a device's memory where a kernel wants nothing else: codes [N,K], rows one
// behind the other, then their scales, f32 [N]. It is made on the host as the weight is loaded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/weight_reader.h"
#include "ir/value.h"

namespace zoe {

constexpr std::string_view kCodedLayout = "i8 codes, rows";
std::size_t coded_scales_offset(const Type& weight);  // in bytes, a multiple of 256; the codes begin at 0
std::size_t coded_bytes(const Type& weight);
void pack_coded(const Type& weight, const WeightReader& source, std::byte* packed);

// Codes of row `row` of a weight: of its numbers in the weight's dtype. `numbers` is room for two rows of f32. The scale.
float encode_weight_row(const Type& weight, const WeightReader& source, std::int64_t row, std::span<float> numbers,
                        std::int8_t* codes);

}  // namespace zoe
