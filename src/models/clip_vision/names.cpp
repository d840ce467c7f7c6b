#include "models/clip_vision/names.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/nearest.h"

namespace zoe {

const NameMap& clip_vision_transformers_names() {
  static const NameMap map({{"embeddings", "vision_model.embeddings"},
                            {"pre_layrnorm", "vision_model.pre_layrnorm"},
                            {"encoder", "vision_model.encoder"},
                            {"post_layernorm", "vision_model.post_layernorm"}});
  return map;
}

const NameMap& clip_vision_open_clip_names() {
  static const NameMap map({
      {"cls_embedding", "vision_model.embeddings.class_embedding"},
      {"pos_embedding", "vision_model.embeddings.position_embedding.weight"},
      {"patch_embedding", "vision_model.embeddings.patch_embedding"},
      {"pre_norm", "vision_model.pre_layrnorm"},
      {"post_norm", "vision_model.post_layernorm"},
      {"transformer.*.norm1", "vision_model.encoder.layers.*.layer_norm1"},
      {"transformer.*.norm2", "vision_model.encoder.layers.*.layer_norm2"},
      {"transformer.*.attn.to_qkv", "vision_model.encoder.layers.*.self_attn.q_proj", 0, 3},
      {"transformer.*.attn.to_qkv", "vision_model.encoder.layers.*.self_attn.k_proj", 1, 3},
      {"transformer.*.attn.to_qkv", "vision_model.encoder.layers.*.self_attn.v_proj", 2, 3},
      {"transformer.*.attn.proj", "vision_model.encoder.layers.*.self_attn.out_proj"},
      {"transformer.*.mlp.0", "vision_model.encoder.layers.*.mlp.fc1"},
      {"transformer.*.mlp.2", "vision_model.encoder.layers.*.mlp.fc2"},
  });
  return map;
}

InferredConfig infer_clip_vision_config(const NamedTensors& tensors) {
  constexpr std::int64_t kHead = 80;
  const TensorEntry &patches = tensors.at("vision_model.embeddings.patch_embedding.weight"),
                    &positions = tensors.at("vision_model.embeddings.position_embedding.weight"),
                    &wide = tensors.at("vision_model.encoder.layers.0.mlp.fc1.weight");
  const std::int64_t hidden = tensors.at("vision_model.embeddings.class_embedding").shape.count();
  check(patches.shape.rank() == 4 && wide.shape.rank() == 2 && hidden > 0 && hidden % kHead == 0, ErrorKind::invalid_argument,
        tensors.checkpoint.where(),
        "bad shape of {}: got {} beside a width of {}, expected a kernel of a multiple of {}, the width of a head. "
        "Give a config.json beside the file.",
        in_quotes(patches.name), patches.shape.str(), hidden, kHead);
  const std::int64_t tokens = positions.shape.count() / hidden - 1;
  std::int64_t side = 0, layers = 0;
  while ((side + 1) * (side + 1) <= tokens) ++side;
  while (tensors.find(fmt::format("vision_model.encoder.layers.{}.layer_norm1.weight", layers))) ++layers;
  return {fmt::format(R"({{"model_type": "clip_vision_model", "hidden_act": "gelu", "hidden_size": {}, "intermediate_size": {},
    "num_hidden_layers": {}, "num_attention_heads": {}, "image_size": {}, "patch_size": {}, "layer_norm_eps": 1e-5}})",
                      hidden, wide.shape.dim(0), layers, hidden / kHead, side * patches.shape.dim(2), patches.shape.dim(2)),
          "heads of 80, eps 1e-5, exact GELU"};
}

}  // namespace zoe
