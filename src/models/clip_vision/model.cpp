#include "models/clip_vision/model.h"

#include <fmt/format.h>

#include <cmath>

#include "models/gelu_erf.h"
#include "ops/norm_scale_shift.h"

namespace zoe {

namespace {

constexpr std::string_view kPrefix = "vision_model.";

struct Weights {
  const ClipVisionConfig& config;
  DType dtype;
  std::string prefix;
  int block;

  Value weight(std::string_view name, DType kind, Shape shape, Shape stored = {}) const {
    return parameter(fmt::format("{}{}", prefix, name), kind, std::move(shape), block, std::move(stored));
  }
  Value norm(std::string_view name, const Value& x) const {
    const auto vector = [&](const char* kind) {
      return weight(fmt::format("{}.{}", name, kind), DType::f32, {config.hidden_size});
    };
    return norm_scale_shift(x, {}, {}, {.eps = config.eps, .weight = vector("weight"), .bias = vector("bias")});
  }
  Value project(std::string_view name, const Value& x, std::int64_t out, const Value& residual = {}) const {
    return linear(x, weight(fmt::format("{}.weight", name), dtype, {out, x.dim(-1)}),
                  {.bias = weight(fmt::format("{}.bias", name), dtype, {out}), .residual = residual});
  }
};

// x [1,L,D] -> [1,L,D]
Value trace_layer(const Weights& layer, const Value& x) {
  const std::int64_t width = layer.config.hidden_size, heads = layer.config.num_heads;
  const Value n = layer.norm("layer_norm1", x);
  const auto of_heads = [&](std::string_view name) {
    return reshape(layer.project(fmt::format("self_attn.{}_proj", name), n, width), {1, x.dim(1), heads, width / heads});
  };
  const Value q = of_heads("q"), k = of_heads("k"), v = of_heads("v");
  const Value mixed = attention(q, k, v, 1.0 / std::sqrt(static_cast<double>(width / heads)));
  const Value middle = layer.project("self_attn.out_proj", reshape(mixed, x.shape()), width, x);
  const Value hidden = gelu_erf(layer.project("mlp.fc1", layer.norm("layer_norm2", middle), layer.config.intermediate_size));
  return layer.project("mlp.fc2", hidden, width, middle);
}

// Behind so many layers.
Graph trace_layers(const ClipVisionConfig& config, DType dtype, std::int64_t layers, bool last_norm) {
  const std::int64_t grid = config.image_size / config.patch_size, patch = config.patch_size, width = config.hidden_size;
  const Value pixels = input("pixels", DType::f32, {3, config.image_size, config.image_size});
  const Weights embeddings{config, dtype, fmt::format("{}embeddings.", kPrefix), 0};
  // The convolution whose stride is its kernel is a product with the patches as rows.
  const Value by_patch = permute(reshape(cast(pixels, dtype), {3, grid, patch, grid, patch}), {1, 3, 0, 2, 4});
  const Value kernel = embeddings.weight("patch_embedding.weight", dtype, {width, 3 * patch * patch}, {width, 3, patch, patch});
  const Value patches = linear(reshape(by_patch, {1, grid * grid, 3 * patch * patch}), kernel);
  const Value of_class = reshape(embeddings.weight("class_embedding", dtype, {width}), {1, 1, width});
  const Value positions =
      reshape(embeddings.weight("position_embedding.weight", dtype, {config.tokens(), width}), {1, config.tokens(), width});
  const Weights whole{config, dtype, std::string(kPrefix), 0};
  Value x = whole.norm("pre_layrnorm", concat({of_class, patches}, 1) + positions);
  for (std::int64_t i = 0; i < layers; ++i)
    x = trace_layer({config, dtype, fmt::format("{}encoder.layers.{}.", kPrefix, i), static_cast<int>(i) + 1}, x);
  if (last_norm) x = Weights{config, dtype, std::string(kPrefix), static_cast<int>(layers) + 1}.norm("post_layernorm", x);
  return make_graph("clip_vision", {pixels}, {cast(x, DType::f32)});
}

}  // namespace

Graph trace_clip_vision(const ClipVisionConfig& config, DType dtype) {
  return trace_layers(config, dtype, config.num_layers - 1, false);
}

std::vector<ExpectedTensor> clip_vision_tensors(const ClipVisionConfig& config) {
  return parameters_of(trace_layers(config, DType::f32, config.num_layers, true));
}

std::vector<TensorAlias> clip_vision_aliases(const ClipVisionConfig& config) {
  std::vector<TensorAlias> aliases;
  for (const ExpectedTensor& tensor : clip_vision_tensors(config))
    aliases.push_back({tensor.name, tensor.name.substr(kPrefix.size())});
  return aliases;
}

}  // namespace zoe
