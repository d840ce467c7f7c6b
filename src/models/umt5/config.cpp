#include "models/umt5/config.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/nearest.h"

namespace zoe {

Umt5Config parse_umt5_config(const JsonObject& json) {
  const auto require = [&](std::string_view key, std::string_view supported) {
    const std::string value = json.string(key, std::string(supported));
    check(value == supported, ErrorKind::unsupported, json.where(),
          "{} is not supported: got {}, expected \"{}\". Use an umT5 encoder.", key, in_quotes(value), supported);
  };
  require("model_type", "umt5");
  require("feed_forward_proj", "gated-gelu");
  require("dense_act_fn", "gelu_new");
  check(!json.boolean("is_decoder", false), ErrorKind::unsupported, json.where(),
        "is_decoder is not supported: got true, expected false. Use the encoder's folder.");
  constexpr std::int64_t kWidest = 1 << 17;
  Umt5Config config{
      .vocab_size = json.integer("vocab_size", 1, 1 << 24),
      .d_model = json.integer("d_model", 1, kWidest),
      .d_ff = json.integer("d_ff", 1, kWidest),
      .num_heads = json.integer("num_heads", 1, 1024),
      .d_kv = json.integer("d_kv", 1, 1024),
      .num_layers = json.integer("num_layers", 1, 512),
      .buckets = json.integer("relative_attention_num_buckets", 4, 1 << 16, 32),
      .max_distance = json.integer("relative_attention_max_distance", 2, 1 << 24, 128),
      .eps = json.number("layer_norm_epsilon", 0, 1, 1e-6),
      .tie_embeddings = json.boolean("tie_word_embeddings", true),
  };
  check(config.inner_dim() <= kWidest, ErrorKind::invalid_argument, json.where(),
        "num_heads x d_kv is too large: got {} x {}, expected at most {}.", config.num_heads, config.d_kv, kWidest);
  check(config.buckets % 2 == 0, ErrorKind::invalid_argument, json.where(),
        "bad relative_attention_num_buckets: got {}, expected an even number.", config.buckets);
  check(config.max_distance > config.buckets / 4, ErrorKind::invalid_argument, json.where(),
        "bad relative_attention_max_distance: got {}, expected more than {}, a quarter of relative_attention_num_buckets.",
        config.max_distance, config.buckets / 4);
  return config;
}

std::vector<TensorAlias> umt5_aliases(const Umt5Config& config) {
  return {{kUmt5Embedding, "encoder.embed_tokens.weight", !config.tie_embeddings}};
}

}  // namespace zoe
