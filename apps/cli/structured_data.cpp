#include "apps/cli/structured_data.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "base/codes.h"
#include "base/dtype.h"
#include "base/error.h"

namespace zoe::cli {

namespace {

class Normal {
 public:
  explicit Normal(unsigned seed) : generator_(seed) {}
  float operator()() { return normal_(generator_); }
  std::int64_t below(std::int64_t count) { return static_cast<std::int64_t>(generator_() % static_cast<std::uint64_t>(count)); }

 private:
  std::mt19937_64 generator_;
  std::normal_distribution<float> normal_;
};

// Rows of numbers that stand for others, in f64: what is multiplied.
std::vector<double> products(const std::vector<double>& a, const std::vector<double>& b, std::int64_t depth) {
  const auto k = static_cast<std::size_t>(depth);
  std::vector<double> results;
  for (std::size_t row = 0; row < a.size(); row += k)
    for (std::size_t column = 0; column < b.size(); column += k) {
      double sums[8] = {};
      for (std::size_t i = 0; i < k; ++i) sums[i % 8] += a[row + i] * b[column + i];
      double total = 0;
      for (const double sum : sums) total += sum;
      results.push_back(total);
    }
  return results;
}

// Three bits behind the leading one, down to 2^-9; to the nearest, ties to even.
double e4m3(double x) {
  constexpr double kMost = 448;
  int exponent = 0;
  std::frexp(x, &exponent);
  const double unit = std::ldexp(1.0, std::max(exponent - 4, -9));
  return std::clamp(std::nearbyint(x / unit) * unit, -kMost, kMost);
}

template <class Encode>
std::vector<double> each_row(const std::vector<float>& values, std::int64_t depth, const Encode& encode) {
  std::vector<double> all;
  for (std::size_t begin = 0; begin < values.size(); begin += static_cast<std::size_t>(depth)) {
    const auto first = values.begin() + static_cast<std::ptrdiff_t>(begin);
    encode(std::vector<float>(first, first + depth), all);
  }
  return all;
}

}  // namespace

std::vector<std::string> product_kinds() {
  return {"normal", "tokens of other lengths", "1% channels x 20", "0.1% channels x 100", "behind GELU"};
}

std::vector<float> product_rows(std::string_view kind, std::int64_t rows, std::int64_t depth, unsigned seed) {
  Normal normal(seed);
  std::vector<float> channels(static_cast<std::size_t>(depth), 1.0f);
  const auto enlarge = [&](std::int64_t count, float factor) {
    for (std::int64_t i = 0; i < std::max<std::int64_t>(count, 1); ++i)
      channels[static_cast<std::size_t>(normal.below(depth))] = factor;
  };
  if (kind == "1% channels x 20") enlarge(depth / 100, 20);
  if (kind == "0.1% channels x 100") enlarge(depth / 1000, 100);
  std::vector<float> values;
  for (std::int64_t row = 0; row < rows; ++row) {
    const float length = kind == "tokens of other lengths" ? std::exp(0.7f * normal()) : 1.0f;
    for (const float channel : channels) {
      const float x = length * channel * normal();
      values.push_back(kind == "behind GELU" ? 0.5f * x * (1 + std::erf(x / std::sqrt(2.0f))) : x);
    }
  }
  for (float& value : values) value = bf16_to_f32(f32_to_bf16(value));
  return values;
}

std::vector<std::string> attention_kinds() { return {"normal", "regions", "regions, offset keys", "regions, offset keys, sink"}; }

AttentionOperands attention_operands(std::string_view kind, std::int64_t frames, std::int64_t height, std::int64_t width,
                                     std::int64_t heads, std::int64_t channels, unsigned seed) {
  Normal normal(seed);
  const std::int64_t tokens = frames * height * width;
  const auto count = static_cast<std::size_t>(tokens * heads * channels);
  AttentionOperands made{std::vector<float>(count), std::vector<float>(count), std::vector<float>(count)};
  const auto at = [&](std::int64_t token, std::int64_t head) {
    return static_cast<std::size_t>((token * heads + head) * channels);
  };
  if (kind == "normal") {
    for (auto* operand : {&made.q, &made.k, &made.v})
      for (float& x : *operand) x = normal();
  } else {
    // Tokens of a region share a direction: of 4 frames and 8 x 8 patches, for odd heads of all frames.
    constexpr std::int64_t kFrames = 4, kSide = 8;
    for (std::int64_t head = 0; head < heads; ++head) {
      const std::int64_t across = (width + kSide - 1) / kSide, down = (height + kSide - 1) / kSide,
                         along = head % 2 ? 1 : (frames + kFrames - 1) / kFrames;
      const auto vectors = [&](std::int64_t number) {
        std::vector<std::vector<float>> all(static_cast<std::size_t>(number),
                                            std::vector<float>(static_cast<std::size_t>(channels)));
        for (auto& each : all)
          for (float& x : each) x = 0.9f * normal();
        return all;
      };
      const auto directions = vectors(across * down * along), contents = vectors(across * down * along);
      std::vector<float> offset(static_cast<std::size_t>(channels)), value_offset(offset);
      if (kind != "regions") {
        for (int i = 0; i < 6; ++i)
          offset[static_cast<std::size_t>(normal.below(channels))] = (i % 2 ? 1.0f : -1.0f) * (8 + 4 * std::abs(normal()) / 2);
        for (int i = 0; i < 4; ++i) value_offset[static_cast<std::size_t>(normal.below(channels))] = 6;
      }
      for (std::int64_t token = 0; token < tokens; ++token) {
        const std::int64_t frame = token / (height * width), y = token / width % height, x = token % width;
        const auto region = static_cast<std::size_t>(((head % 2 ? 0 : frame / kFrames) * down + y / kSide) * across + x / kSide);
        const float length = std::exp(0.3f * normal());
        for (std::int64_t c = 0; c < channels; ++c) {
          const auto channel = static_cast<std::size_t>(c), i = at(token, head) + channel;
          made.q[i] = length * (0.6f * normal() + directions[region][channel]);
          made.k[i] = 0.6f * normal() + directions[region][channel] + offset[channel];
          made.v[i] = 0.7f * normal() + 0.7f * contents[region][channel] + value_offset[channel];
        }
      }
      if (kind.ends_with("sink")) {
        // Queries share a direction; the first keys lie along it, 12 above the rest, and have little to give.
        constexpr std::int64_t kSinks = 32;
        constexpr float kAbove = 12, kShared = 3;
        const float size = std::sqrt(static_cast<float>(channels));
        std::vector<float> direction(static_cast<std::size_t>(channels));  // of length 1
        for (float& x : direction) x = (normal() < 0 ? -1.0f : 1.0f) / size;
        for (std::int64_t token = 0; token < tokens; ++token)
          for (std::int64_t c = 0; c < channels; ++c) {
            const auto channel = static_cast<std::size_t>(c), i = at(token, head) + channel;
            made.q[i] += kShared * direction[channel];
            if (token >= kSinks) continue;
            made.k[i] += kAbove * size / kShared * direction[channel];
            made.v[i] *= 0.1f;
          }
      }
    }
  }
  for (auto* operand : {&made.q, &made.k, &made.v})
    for (float& x : *operand) x = bf16_to_f32(f32_to_bf16(x));
  return made;
}

std::vector<double> exact_product(const std::vector<float>& x, const std::vector<float>& w, std::int64_t depth) {
  return products({x.begin(), x.end()}, {w.begin(), w.end()}, depth);
}

std::vector<float> product_of_codes(const std::vector<float>& x, const std::vector<float>& w, std::int64_t depth) {
  const auto k = static_cast<std::size_t>(depth);
  const auto coded = [&](const std::vector<float>& values) {
    std::pair<std::vector<std::int8_t>, std::vector<float>> made;
    made.first.resize(values.size());
    for (std::size_t begin = 0; begin < values.size(); begin += k) {
      const auto first = values.begin() + static_cast<std::ptrdiff_t>(begin);
      std::vector<float> row(first, first + depth);
      made.second.push_back(encode_row(row, made.first.data() + begin));
    }
    return made;
  };
  const auto [a, a_scales] = coded(x);
  const auto [b, b_scales] = coded(w);
  std::vector<float> results;
  for (std::size_t row = 0; row < a_scales.size(); ++row)
    for (std::size_t column = 0; column < b_scales.size(); ++column) {
      std::int32_t sum = 0;
      for (std::size_t i = 0; i < k; ++i) sum += a[row * k + i] * b[column * k + i];
      results.push_back(static_cast<float>(sum) * a_scales[row] * b_scales[column]);
    }
  return results;
}

std::vector<double> product_of_plain_codes(const std::vector<float>& x, const std::vector<float>& w, std::int64_t depth) {
  const auto coded = [&](const std::vector<float>& values) {
    return each_row(values, depth, [](std::vector<float> row, std::vector<double>& to) {
      std::vector<std::int8_t> codes(row.size());
      const float scale = encode_as_it_is(row, codes.data());
      for (const std::int8_t code : codes) to.push_back(code * static_cast<double>(scale));
    });
  };
  return products(coded(x), coded(w), depth);
}

std::vector<double> product_of_e4m3(const std::vector<float>& x, const std::vector<float>& w, std::int64_t depth) {
  const auto coded = [&](const std::vector<float>& values) {
    return each_row(values, depth, [](std::vector<float> row, std::vector<double>& to) {
      float most = 1e-12f;
      for (const float value : row) most = std::max(most, std::abs(value));
      const double scale = static_cast<double>(most) / 448;
      for (const float value : row) to.push_back(e4m3(static_cast<double>(value) / scale) * scale);
    });
  };
  return products(coded(x), coded(w), depth);
}

std::vector<double> exact_attention(const AttentionOperands& operands, std::int64_t tokens, std::int64_t heads,
                                    std::int64_t channels) {
  const auto d = static_cast<std::size_t>(channels), stride = static_cast<std::size_t>(heads * channels);
  std::vector<double> results(operands.q.size()), scores(static_cast<std::size_t>(tokens));
  for (std::size_t head = 0; head < static_cast<std::size_t>(heads); ++head)
    for (std::size_t query = 0; query < scores.size(); ++query) {
      const float* const q = operands.q.data() + query * stride + head * d;
      double largest = -HUGE_VAL, total = 0;
      for (std::size_t key = 0; key < scores.size(); ++key) {
        const float* const k = operands.k.data() + key * stride + head * d;
        double dot = 0;
        for (std::size_t c = 0; c < d; ++c) dot += static_cast<double>(q[c]) * static_cast<double>(k[c]);
        scores[key] = dot / std::sqrt(static_cast<double>(channels));
        largest = std::max(largest, scores[key]);
      }
      for (double& score : scores) total += score = std::exp(score - largest);
      double* const result = results.data() + query * stride + head * d;
      for (std::size_t key = 0; key < scores.size(); ++key)
        for (std::size_t c = 0; c < d; ++c)
          result[c] += scores[key] / total * static_cast<double>(operands.v[key * stride + head * d + c]);
    }
  return results;
}

Distance distance(const std::vector<double>& got, const std::vector<double>& expected) {
  ZOE_INTERNAL_CHECK(got.size() == expected.size() && !got.empty());
  double error = 0, own = 0, power = 0, together = 0, largest = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double off = got[i] - expected[i];
    error += off * off, own += got[i] * got[i], power += expected[i] * expected[i], together += got[i] * expected[i];
    largest = std::max(largest, std::abs(off));
  }
  const double count = static_cast<double>(got.size());
  return {std::sqrt(error / power), together / std::sqrt(own * power), largest / std::sqrt(power / count)};
}

}  // namespace zoe::cli
