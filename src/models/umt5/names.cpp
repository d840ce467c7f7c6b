#include "models/umt5/names.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/nearest.h"
#include "models/umt5/config.h"

namespace zoe {

const NameMap& umt5_original_names() {
  static const NameMap map({
      {"token_embedding", "shared"},
      {"blocks.*.norm1", "encoder.block.*.layer.0.layer_norm"},
      {"blocks.*.attn.q", "encoder.block.*.layer.0.SelfAttention.q"},
      {"blocks.*.attn.k", "encoder.block.*.layer.0.SelfAttention.k"},
      {"blocks.*.attn.v", "encoder.block.*.layer.0.SelfAttention.v"},
      {"blocks.*.attn.o", "encoder.block.*.layer.0.SelfAttention.o"},
      {"blocks.*.pos_embedding.embedding", "encoder.block.*.layer.0.SelfAttention.relative_attention_bias"},
      {"blocks.*.norm2", "encoder.block.*.layer.1.layer_norm"},
      {"blocks.*.ffn.gate.0", "encoder.block.*.layer.1.DenseReluDense.wi_0"},
      {"blocks.*.ffn.fc1", "encoder.block.*.layer.1.DenseReluDense.wi_1"},
      {"blocks.*.ffn.fc2", "encoder.block.*.layer.1.DenseReluDense.wo"},
      {"norm", "encoder.final_layer_norm"},
  });
  return map;
}

const NameMap& umt5_llama_names() {
  static const NameMap map({
      {"token_embd", "shared"},
      {"enc.blk.*.attn_norm", "encoder.block.*.layer.0.layer_norm"},
      {"enc.blk.*.attn_q", "encoder.block.*.layer.0.SelfAttention.q"},
      {"enc.blk.*.attn_k", "encoder.block.*.layer.0.SelfAttention.k"},
      {"enc.blk.*.attn_v", "encoder.block.*.layer.0.SelfAttention.v"},
      {"enc.blk.*.attn_o", "encoder.block.*.layer.0.SelfAttention.o"},
      {"enc.blk.*.attn_rel_b", "encoder.block.*.layer.0.SelfAttention.relative_attention_bias"},
      {"enc.blk.*.ffn_norm", "encoder.block.*.layer.1.layer_norm"},
      {"enc.blk.*.ffn_gate", "encoder.block.*.layer.1.DenseReluDense.wi_0"},
      {"enc.blk.*.ffn_up", "encoder.block.*.layer.1.DenseReluDense.wi_1"},
      {"enc.blk.*.ffn_down", "encoder.block.*.layer.1.DenseReluDense.wo"},
      {"enc.output_norm", "encoder.final_layer_norm"},
  });
  return map;
}

InferredConfig infer_umt5_config(const NamedTensors& tensors) {
  const auto shape = [&](std::string_view name) {
    const TensorEntry& tensor = tensors.at(name);
    check(tensor.shape.rank() == 2 && tensor.shape.count() > 0, ErrorKind::invalid_argument, tensors.checkpoint.where(),
          "bad shape of {}: got {}, expected a matrix. Check the file.", in_quotes(tensor.name), tensor.shape.str());
    return tensor.shape;
  };
  const std::string block = "encoder.block.0.layer.";
  const Shape table = shape(tensors.find(kUmt5Embedding) || !tensors.find("encoder.embed_tokens.weight")
                                ? kUmt5Embedding
                                : "encoder.embed_tokens.weight"),
              bias = shape(block + "0.SelfAttention.relative_attention_bias.weight"), q = shape(block + "0.SelfAttention.q.weight"),
              wide = shape(block + "1.DenseReluDense.wi_0.weight");
  check(q.dim(0) % bias.dim(1) == 0, ErrorKind::invalid_argument, tensors.checkpoint.where(),
        "bad shape of the relative attention bias: got {} heads, expected a divisor of {}. Check the file.", bias.dim(1), q.dim(0));
  int layers = 0;
  while (tensors.find(fmt::format("encoder.block.{}.layer.0.layer_norm.weight", layers))) ++layers;
  return {
      fmt::format(
          R"({{"model_type": "umt5", "feed_forward_proj": "gated-gelu", "vocab_size": {}, "d_model": {}, "d_ff": {}, "num_heads": {},
    "d_kv": {}, "num_layers": {}, "relative_attention_num_buckets": {}, "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6}})",
          table.dim(0), table.dim(1), wide.dim(0), bias.dim(1), q.dim(0) / bias.dim(1), layers, bias.dim(0)),
      "relative positions up to 128, eps 1e-6"};
}

}  // namespace zoe
