#include "models/clip_vision/config.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/nearest.h"

namespace zoe {

ClipVisionConfig parse_clip_vision_config(const JsonObject& json) {
  const auto require = [&](std::string_view key, std::string_view supported, std::string_view otherwise) {
    const std::string value = json.string(key, std::string(otherwise));
    check(value == supported, ErrorKind::unsupported, json.where(),
          "{} is not supported: got {}, expected \"{}\". Use the image encoder of Wan 2.1.", key, in_quotes(value), supported);
  };
  require("model_type", "clip_vision_model", "clip_vision_model");
  require("hidden_act", "gelu", "quick_gelu");
  constexpr std::int64_t kWidest = 1 << 16;
  const ClipVisionConfig config{
      .hidden_size = json.integer("hidden_size", 1, kWidest, 768),
      .intermediate_size = json.integer("intermediate_size", 1, kWidest, 3072),
      .num_layers = json.integer("num_hidden_layers", 2, 512, 12),
      .num_heads = json.integer("num_attention_heads", 1, 1024, 12),
      .image_size = json.integer("image_size", 1, 4096, 224),
      .patch_size = json.integer("patch_size", 1, 4096, 32),
      .eps = json.number("layer_norm_eps", 0, 1, 1e-5),
  };
  check(json.integer("num_channels", 1, 1024, 3) == 3, ErrorKind::unsupported, json.where(),
        "num_channels is not supported: expected 3. Use the image encoder of Wan 2.1.");
  check(config.hidden_size % config.num_heads == 0, ErrorKind::invalid_argument, json.where(),
        "bad num_attention_heads: got {}, expected a divisor of hidden_size {}. Check the file.", config.num_heads,
        config.hidden_size);
  check(config.image_size % config.patch_size == 0, ErrorKind::invalid_argument, json.where(),
        "bad patch_size: got {}, expected a divisor of image_size {}. Check the file.", config.patch_size, config.image_size);
  return config;
}

}  // namespace zoe
