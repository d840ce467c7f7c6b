// Operands of products and attention that have what makes 8 bits hard in trained transformers and what normal values have not: a
// few large channels, tokens of very different length, keys with a common offset, keys that all queries look at.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace zoe::cli {

// Kinds of rows x [rows, depth] in front of a product; weights are normal.
std::vector<std::string> product_kinds();
std::vector<float> product_rows(std::string_view kind, std::int64_t rows, std::int64_t depth, unsigned seed);

// Kinds of q, k and v [tokens, heads, channels] of a video of `frames` x `height` x `width` tokens.
std::vector<std::string> attention_kinds();
struct AttentionOperands {
  std::vector<float> q, k, v;
};
AttentionOperands attention_operands(std::string_view kind, std::int64_t frames, std::int64_t height, std::int64_t width,
                                     std::int64_t heads, std::int64_t channels, unsigned seed);

// In f64. x [rows, depth], w [columns, depth] -> [rows, columns]; softmax(q k^T / sqrt(channels)) v.
std::vector<double> exact_product(const std::vector<float>& x, const std::vector<float>& w, std::int64_t depth);
std::vector<double> exact_attention(const AttentionOperands& operands, std::int64_t tokens, std::int64_t heads,
                                    std::int64_t channels);

// A product from codes as ir/trace.h defines it, by plain loops: what every device has to give before its result is rounded.
std::vector<float> product_of_codes(const std::vector<float>& x, const std::vector<float>& w, std::int64_t depth);

// What 8 bits of another kind would give, for comparison: codes of i8 a row without a rotation, and numbers of e4m3 a row.
std::vector<double> product_of_plain_codes(const std::vector<float>& x, const std::vector<float>& w, std::int64_t depth);
std::vector<double> product_of_e4m3(const std::vector<float>& x, const std::vector<float>& w, std::int64_t depth);

// How far results are from what they should be.
struct Distance {
  double relative, cosine, largest;  // |a - b| / |b|; of the angle; the largest |a - b| in units of b's root mean square
};
Distance distance(const std::vector<double>& got, const std::vector<double>& expected);

}  // namespace zoe::cli
