#include "pipeline/verify_codes.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/codes.h"
#include "ir/graph.h"
#include "platform/coded_weight.h"

namespace zoe {

namespace {

// Codes of rows of `width` numbers, a scale for each `rows_a_scale` of them.
struct Coded {
  std::vector<std::int8_t> codes;
  std::vector<float> scales;  // of each row
};
Coded encode(std::span<const float> values, std::size_t width, std::size_t rows_a_scale) {
  Coded made;
  const std::size_t rows = values.size() / width;
  for (std::size_t first = 0; first < rows; first += rows_a_scale) {
    const auto part = values.subspan(first * width, std::min(rows_a_scale, rows - first) * width);
    std::vector<std::int8_t> codes(part.size());
    made.scales.insert(made.scales.end(), part.size() / width, encode_as_it_is(part, codes.data()));
    made.codes.insert(made.codes.end(), codes.begin(), codes.end());
  }
  return made;
}

// One head's positions [L,D] of an operand.
std::vector<float> head_of(const Node& node, const std::vector<float>& values, int operand, std::int64_t batch, std::int64_t head) {
  const HeadsLayout layout = heads_layout(node, operand);
  const std::int64_t width = node.types[0].shape.dim(3), length = node.inputs[static_cast<std::size_t>(operand)].dim(1);
  std::vector<float> made;
  for (std::int64_t position = 0; position < length; ++position) {
    const float* const from = values.data() + (batch * length + position) * layout.step + layout.first + head * width;
    made.insert(made.end(), from, from + width);
  }
  return made;
}

}  // namespace

std::vector<std::int64_t> looked_at(std::int64_t count) {
  constexpr std::int64_t kMost = 64;
  const std::int64_t many = std::min(count, kMost);
  std::vector<std::int64_t> all;
  for (std::int64_t i = 0; i < many; ++i) all.push_back(many == 1 ? 0 : i * (count - 1) / (many - 1));
  return all;
}

CodeSums sums_of_codes(std::span<const float> x, std::span<const std::int64_t> rows, const Type& weight,
                       const WeightReader& source) {
  const auto depth = static_cast<std::size_t>(weight.shape.dim(1)), columns = static_cast<std::size_t>(weight.shape.dim(0));
  CodeSums made;
  std::vector<std::int8_t> x_codes(rows.size() * depth), w_codes(depth);
  std::vector<float> numbers(2 * depth);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto from = x.subspan(static_cast<std::size_t>(rows[i]) * depth, depth);
    std::copy(from.begin(), from.end(), numbers.begin());
    made.x_scales.push_back(encode_row(std::span(numbers).first(depth), x_codes.data() + i * depth));
  }
  made.sums.resize(rows.size() * columns);
  for (std::size_t column = 0; column < columns; ++column) {
    made.w_scales.push_back(encode_weight_row(weight, source, static_cast<std::int64_t>(column), numbers, w_codes.data()));
    for (std::size_t i = 0; i < rows.size(); ++i) {
      std::int32_t sum = 0;
      for (std::size_t k = 0; k < depth; ++k) sum += x_codes[i * depth + k] * w_codes[k];
      made.sums[i * columns + column] = sum;
    }
  }
  return made;
}

AttentionCodes attention_codes_of(std::string_view row) {
  // kernels/coded_attention.cu: tiles of 128 keys.
  if (row == "i8_attention") return {.keys_a_scale = 128, .keys_a_highest = 128, .centred_values = true};
  return {};
}

std::vector<double> attention_from_codes(const Node& attention, const std::array<std::vector<float>, 3>& operands,
                                         std::span<const std::int64_t> queries, const AttentionCodes& how) {
  const Shape& shape = attention.types[0].shape;
  const auto heads = static_cast<std::size_t>(shape.dim(2)), width = static_cast<std::size_t>(shape.dim(3)),
             keys = static_cast<std::size_t>(attention.inputs[1].dim(1));
  const double scale = attention.as<AttentionAttributes>().scale;
  const std::size_t keys_a_highest = how.keys_a_highest == 0 ? keys : static_cast<std::size_t>(how.keys_a_highest);
  std::vector<double> results(static_cast<std::size_t>(shape.dim(0)) * queries.size() * heads * width);
  for (std::int64_t batch = 0; batch < shape.dim(0); ++batch)
    for (std::size_t head = 0; head < heads; ++head) {
      const auto of = [&](int operand) {
        return head_of(attention, operands[static_cast<std::size_t>(operand)], operand, batch, static_cast<std::int64_t>(head));
      };
      std::vector<float> k = of(1);
      const std::vector<float> v = of(2);
      std::vector<float> channels(v.size()), middles(width);
      for (std::size_t d = 0; d < width; ++d) {
        double mean = 0;
        float low = HUGE_VALF, high = -HUGE_VALF;
        for (std::size_t key = 0; key < keys; ++key) {
          mean += static_cast<double>(k[key * width + d]) / static_cast<double>(keys);
          low = std::min(low, v[key * width + d]), high = std::max(high, v[key * width + d]);
        }
        if (how.centred_values) middles[d] = low * 0.5f + high * 0.5f;
        for (std::size_t key = 0; key < keys; ++key) {
          k[key * width + d] -= static_cast<float>(mean);
          channels[d * keys + key] = v[key * width + d] - middles[d];
        }
      }
      const Coded q_codes = encode(of(0), width, 1), k_codes = encode(k, width, static_cast<std::size_t>(how.keys_a_scale)),
                  v_codes = encode(channels, keys, 1);
      for (std::size_t i = 0; i < queries.size(); ++i) {
        const auto query = static_cast<std::size_t>(queries[i]);
        std::vector<double> weights(keys);
        for (std::size_t key = 0; key < keys; ++key) {
          std::int32_t sum = 0;
          for (std::size_t d = 0; d < width; ++d) sum += q_codes.codes[query * width + d] * k_codes.codes[key * width + d];
          weights[key] = sum * static_cast<double>(q_codes.scales[query]) * static_cast<double>(k_codes.scales[key]) * scale;
        }
        const double highest = *std::max_element(weights.begin(), weights.end());
        double total = 0;
        for (std::size_t first = 0; first < keys; first += keys_a_highest) {
          const auto begin = weights.begin() + static_cast<std::ptrdiff_t>(first),
                     end = begin + static_cast<std::ptrdiff_t>(std::min(keys_a_highest, keys - first));
          const double top = *std::max_element(begin, end);
          std::for_each(begin, end, [&](double& weight) {
            weight = std::nearbyint(255 * std::exp(weight - top)) * std::exp(top - highest);
            total += weight;
          });
        }
        double* const to = results.data() + ((static_cast<std::size_t>(batch) * queries.size() + i) * heads + head) * width;
        for (std::size_t d = 0; d < width; ++d) {
          double sum = 0;
          for (std::size_t key = 0; key < keys; ++key) sum += weights[key] * v_codes.codes[d * keys + key];
          to[d] = sum * static_cast<double>(v_codes.scales[d]) / total + static_cast<double>(middles[d]);
        }
      }
    }
  return results;
}

}  // namespace zoe
