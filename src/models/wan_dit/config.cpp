#include "models/wan_dit/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "base/error.h"
#include "base/nearest.h"

namespace zoe {

WanDitConfig parse_wan_dit_config(const JsonObject& json) {
  const auto require = [&](std::string_view key, std::string_view supported) {
    const std::string value = json.string(key, std::string(supported));
    check(value == supported, ErrorKind::unsupported, json.where(), "{} is not supported: got {}, expected \"{}\".", key,
          in_quotes(value), supported);
  };
  constexpr const char* kPlain = "WanTransformer3DModel";
  const bool is_vace = json.string("_class_name", kPlain) == "WanVACETransformer3DModel";
  if (!is_vace) require("_class_name", kPlain);
  require("qk_norm", "rms_norm_across_heads");
  constexpr std::int64_t kWidest = 1 << 17;
  WanDitConfig config{
      .patch_size = {1, 2, 2},
      .num_heads = json.integer("num_attention_heads", 1, 1024, 40),
      .head_dim = json.integer("attention_head_dim", 2, 1024, 128),
      .in_channels = json.integer("in_channels", 1, 4096, 16),
      .out_channels = 0,
      .text_dim = json.integer("text_dim", 1, kWidest, 4096),
      .image_dim = json.integer("image_dim", 1, kWidest, 0),
      .image_positions = json.integer("pos_embed_seq_len", 1, kWidest, 0),
      .freq_dim = json.integer("freq_dim", 2, kWidest, 256),
      .ffn_dim = json.integer("ffn_dim", 1, kWidest, 13824),
      .num_layers = json.integer("num_layers", 1, 512, 40),
      .rope_max_seq_len = json.integer("rope_max_seq_len", 1, 1 << 16, 1024),
      .cross_attn_norm = json.boolean("cross_attn_norm", true),
      .eps = json.number("eps", 0, 1, 1e-6),
      .vace_layers = {},
      .vace_channels = 0,
  };
  config.out_channels = json.integer("out_channels", 1, 4096, config.in_channels);
  check(config.in_channels >= config.out_channels, ErrorKind::invalid_argument, json.where(),
        "bad in_channels: got {}, expected at least out_channels, {}. Check the file.", config.in_channels, config.out_channels);
  if (json.has("patch_size")) {
    const auto patch = json.integers("patch_size", 1, 16, 3, 3);
    std::copy(patch.begin(), patch.end(), config.patch_size.begin());
  }
  for (const auto& [key, value] : {std::pair{"attention_head_dim", config.head_dim}, std::pair{"freq_dim", config.freq_dim}})
    check(value % 2 == 0, ErrorKind::invalid_argument, json.where(), "bad {}: got {}, expected an even number.", key, value);
  const std::int64_t added = json.integer("added_kv_proj_dim", 1, kWidest, 0);
  check((added != 0) == (config.image_dim != 0) && (added == 0 || added == config.dim()), ErrorKind::unsupported, json.where(),
        "bad added_kv_proj_dim: got {}, expected {}. Check the file.", added == 0 ? "none" : std::to_string(added),
        config.image_dim == 0 ? "none beside no image_dim" : fmt::format("{}, the width of the model", config.dim()));
  check(config.image_positions == 0 || config.image_dim != 0, ErrorKind::invalid_argument, json.where(),
        "bad pos_embed_seq_len: got {}, expected none beside no image_dim. Check the file.", config.image_positions);
  if (is_vace) {
    config.vace_layers = json.has("vace_layers") ? json.integers("vace_layers", 0, 511, 1, 512)
                                                 : std::vector<std::int64_t>{0, 5, 10, 15, 20, 25, 30, 35};
    config.vace_channels = json.integer("vace_in_channels", 1, 4096, 96);
    const auto& layers = config.vace_layers;
    check(layers[0] == 0 && std::adjacent_find(layers.begin(), layers.end(), std::greater_equal<>()) == layers.end() &&
              layers.back() < config.num_layers,
          ErrorKind::invalid_argument, json.where(),
          "bad vace_layers: got {}, expected 0 and then rising numbers below {}. Check the file.", fmt::join(layers, ", "),
          config.num_layers);
    check(config.image_dim == 0, ErrorKind::unsupported, json.where(),
          "bad image_dim: got {}, expected none beside vace_layers. Choose another model.", config.image_dim);
  }
  check(config.dim() <= kWidest, ErrorKind::invalid_argument, json.where(),
        "num_attention_heads x attention_head_dim is too large: got {} x {}, expected at most {}.", config.num_heads,
        config.head_dim, kWidest);
  return config;
}

}  // namespace zoe
