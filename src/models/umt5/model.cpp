#include "models/umt5/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "ops/rms_norm.h"

namespace zoe {

namespace {

void check_tokens_in_range(std::int64_t tokens) {
  constexpr std::int64_t kMost = 32768;  // the bias alone is heads x tokens x tokens
  check(tokens >= 1 && tokens <= kMost, ErrorKind::invalid_argument, "umt5", "bad number of tokens: got {}, expected 1 to {}.",
        tokens, kMost);
}

struct Block {
  const Umt5Config& config;
  DType dtype;
  std::string prefix;
  int block;

  Value weight(std::string_view name, DType kind, Shape shape) const {
    return parameter(fmt::format("{}.{}.weight", prefix, name), kind, std::move(shape), block);
  }

  // [1,L,D] -> [1,L,D]
  Value attend(const Value& x, const Value& buckets, const Value& key_bias) const {
    const std::int64_t length = x.dim(1), heads = config.num_heads, inner = config.inner_dim();
    const Value n = rms_norm(x, weight("layer.0.layer_norm", dtype, {config.d_model}), config.eps);
    const auto project = [&](std::string_view name) {
      const Value w = weight(fmt::format("layer.0.SelfAttention.{}", name), dtype, {inner, config.d_model});
      return reshape(linear(n, w), {1, length, heads, config.d_kv});
    };
    const Value q = project("q"), k = project("k"), v = project("v");
    // The table stays in f32, the dtype of attention biases.
    const Value table = weight("layer.0.SelfAttention.relative_attention_bias", DType::f32, {config.buckets, heads});
    const Value by_position = reshape(gather(table, buckets), {1, length, length, heads});
    const Value bias = permute(by_position, {0, 3, 1, 2}) + key_bias;  // [1,N,L,L] + [1,1,1,L]
    const Value attended = reshape(attention(q, k, v, 1.0, bias), {1, length, inner});
    return linear(attended, weight("layer.0.SelfAttention.o", dtype, {config.d_model, inner}), {.residual = x});
  }

  // [1,L,D] -> [1,L,D]
  Value feed_forward(const Value& x) const {
    const Value n = rms_norm(x, weight("layer.1.layer_norm", dtype, {config.d_model}), config.eps);
    const Shape wide{config.d_ff, config.d_model};
    const Value gate = linear(n, weight("layer.1.DenseReluDense.wi_0", dtype, wide), {.activation = Activation::gelu_tanh});
    const Value hidden = gate * linear(n, weight("layer.1.DenseReluDense.wi_1", dtype, wide));
    return linear(hidden, weight("layer.1.DenseReluDense.wo", dtype, {config.d_model, config.d_ff}), {.residual = x});
  }
};

}  // namespace

Graph trace_umt5(const Umt5Config& config, DType dtype, std::int64_t tokens, bool block_outputs) {
  check_tokens_in_range(tokens);
  const Value embedded = input("embedded", DType::f32, {1, tokens, config.d_model});
  const Value buckets = input("buckets", DType::i32, {tokens * tokens});
  const Value key_bias = input("key_bias", DType::f32, {tokens});
  const Value key_row = reshape(key_bias, {1, 1, 1, tokens});
  Value x = cast(embedded, dtype);
  std::vector<Value> blocks;
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    const Block block{config, dtype, fmt::format("encoder.block.{}", i), static_cast<int>(i) + 1};
    x = block.feed_forward(block.attend(x, buckets, key_row));
    blocks.push_back(x);
  }
  const Value final_weight =
      parameter("encoder.final_layer_norm.weight", dtype, {config.d_model}, static_cast<int>(config.num_layers) + 1);
  std::vector<Value> outputs{cast(rms_norm(x, final_weight, config.eps), DType::f32)};
  if (block_outputs) outputs.insert(outputs.end(), blocks.begin(), blocks.end());
  return make_graph("umt5", {embedded, buckets, key_bias}, std::move(outputs));
}

std::vector<ExpectedTensor> umt5_tensors(const Umt5Config& config) {
  std::vector<ExpectedTensor> tensors{{kUmt5Embedding, {config.vocab_size, config.d_model}}};
  for (ExpectedTensor& tensor : parameters_of(trace_umt5(config, DType::f32, 1))) tensors.push_back(std::move(tensor));
  return tensors;
}

std::vector<std::int32_t> relative_position_buckets(const Umt5Config& config, std::int64_t tokens) {
  check_tokens_in_range(tokens);
  const std::int64_t half = config.buckets / 2, exact = half / 2;
  const auto bucket = [&](std::int64_t distance) {
    if (distance < exact) return distance;
    const float octaves = std::log(static_cast<float>(distance) / static_cast<float>(exact)) /
                          static_cast<float>(std::log(static_cast<double>(config.max_distance) / static_cast<double>(exact)));
    return std::min(exact + static_cast<std::int64_t>(octaves * static_cast<float>(half - exact)), half - 1);
  };
  std::vector<std::int64_t> by_distance(static_cast<std::size_t>(tokens));
  for (std::int64_t distance = 0; distance < tokens; ++distance) by_distance[static_cast<std::size_t>(distance)] = bucket(distance);
  std::vector<std::int32_t> buckets(static_cast<std::size_t>(tokens * tokens));
  for (std::int64_t query = 0; query < tokens; ++query) {
    for (std::int64_t key = 0; key < tokens; ++key) {
      const std::int64_t near = by_distance[static_cast<std::size_t>(std::abs(key - query))];
      buckets[static_cast<std::size_t>(query * tokens + key)] = static_cast<std::int32_t>(key > query ? half + near : near);
    }
  }
  return buckets;
}

}  // namespace zoe
