// The published members of the family: configurations and defaults as in their Diffusers folders.
#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "pipeline/model.h"

namespace zoe {

namespace {

struct Member {
  std::string_view name;
  int heads, ffn_dim, layers, in_channels;  // heads of 128
  std::optional<double> boundary_ratio;
  GenerationDefaults defaults;
  int encoded_images = 0;  // that the transformer sees through CLIP: one, or first and last
  double flow_shift = 3;
  int out_channels = 16;  // as the VAE's z_dim; 48 is that of Wan 2.2
  int hint_every = 0;     // of VACE: a hint every so many blocks, from the first on
};

// Two experts: the settings of Wan's own configuration (steps, guidance of high and low noise).
constexpr GenerationDefaults kTwoExperts{.num_inference_steps = 40, .guidance_scale = 4.0, .guidance_scale_2 = 3.0};
constexpr GenerationDefaults kTwoExpertsOfImages{.num_inference_steps = 40, .guidance_scale = 3.5, .guidance_scale_2 = 3.5};
constexpr GenerationDefaults kTwoLedExperts{.guidance_scale_2 = 5.0};  // of WanVACEPipeline: VACE-Fun is not Wan's own

constexpr GenerationDefaults kFirstFrame{.height = 704, .width = 1280, .num_frames = 121, .fps = 24};
constexpr GenerationDefaults k720p{.height = 720, .width = 1280};
constexpr GenerationDefaults kFirstAndLast{.height = 720, .width = 1280, .guidance_scale = 5.5};

constexpr Member kMembers[] = {{"wan2.1-t2v-1.3b", 12, 8960, 30, 16, {}, {}},
                               {"wan2.1-t2v-14b", 40, 13824, 40, 16, {}, {}},
                               {"wan2.1-i2v-14b-480p", 40, 13824, 40, 36, {}, {}, 1},
                               {"wan2.1-i2v-14b-720p", 40, 13824, 40, 36, {}, k720p, 1},
                               {"wan2.1-flf2v-14b-720p", 40, 13824, 40, 36, {}, kFirstAndLast, 2, 16},
                               {"wan2.2-t2v-a14b", 40, 13824, 40, 16, 0.875, kTwoExperts},
                               {"wan2.2-i2v-a14b", 40, 13824, 40, 36, 0.9, kTwoExpertsOfImages},
                               {"wan2.2-ti2v-5b", 24, 14336, 30, 48, {}, kFirstFrame, 0, 5, 48},
                               {"wan2.1-vace-1.3b", 12, 8960, 30, 16, {}, {}, 0, 3, 16, 2},
                               {"wan2.1-vace-14b", 40, 13824, 40, 16, {}, {}, 0, 3, 16, 5},
                               {"wan2.2-vace-fun-a14b", 40, 13824, 40, 16, 0.875, kTwoLedExperts, 0, 3, 16, 5}};

// The VAE of Wan 2.2; that of Wan 2.1 is what an empty configuration means.
constexpr const char* kVae22 = R"({"is_residual": true, "base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "in_channels": 12,
  "out_channels": 12, "patch_size": 2, "scale_factor_spatial": 16, "latents_mean": [
  -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825,
  -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502, -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230,
  -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667],
  "latents_std": [
  0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978,
  0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659, 0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093,
  0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744]})";

Umt5Config umt5_xxl() {
  return parse_umt5_config(
      parse_json_object(R"({"vocab_size": 256384, "d_model": 4096, "d_kv": 64, "num_heads": 64, "d_ff": 10240, "num_layers": 24,
    "feed_forward_proj": "gated-gelu", "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6, "model_type": "umt5"})",
                        "umt5-xxl"));
}

ClipVisionConfig clip_vision_h() {
  return parse_clip_vision_config(
      parse_json_object(R"({"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16,
    "image_size": 224, "patch_size": 14, "hidden_act": "gelu", "layer_norm_eps": 1e-5})",
                        "clip vit-h"));
}

WanDitConfig wan_dit(const Member& member) {
  std::string images;
  if (member.encoded_images > 0) images = fmt::format(R"(, "image_dim": 1280, "added_kv_proj_dim": {})", 128 * member.heads);
  if (member.encoded_images > 1) images += fmt::format(R"(, "pos_embed_seq_len": {})", 2 * clip_vision_h().tokens());
  std::string hints;
  if (member.hint_every) {
    std::vector<int> layers;
    for (int layer = 0; layer < member.layers; layer += member.hint_every) layers.push_back(layer);
    hints = fmt::format(R"(, "_class_name": "WanVACETransformer3DModel", "vace_layers": [{}])", fmt::join(layers, ", "));
  }
  return parse_wan_dit_config(parse_json_object(
      fmt::format(R"({{"num_attention_heads": {}, "attention_head_dim": 128, "ffn_dim": {}, "num_layers": {},
    "in_channels": {}, "out_channels": {}, "text_dim": 4096, "freq_dim": 256, "patch_size": [1, 2, 2], "cross_attn_norm": true,
    "qk_norm": "rms_norm_across_heads", "eps": 1e-6, "rope_max_seq_len": 1024{}{}}})",
                  member.heads, member.ffn_dim, member.layers, member.in_channels, member.out_channels, images, hints),
      member.name));
}

}  // namespace

GenerationDefaults first_frame_defaults() { return kFirstFrame; }
GenerationDefaults two_expert_defaults(const WanDitConfig& transformer) {
  if (!transformer.vace_layers.empty()) return kTwoLedExperts;
  return transformer.condition_channels() > 0 ? kTwoExpertsOfImages : kTwoExperts;
}

std::vector<std::string> published_model_names() {
  std::vector<std::string> names;
  for (const Member& member : kMembers) names.emplace_back(member.name);
  return names;
}

std::optional<ModelConfig> published_model(std::string_view name) {
  const auto* const member =
      std::find_if(std::begin(kMembers), std::end(kMembers), [&](const Member& each) { return each.name == name; });
  if (member == std::end(kMembers)) return {};
  ModelConfig model;
  model.name = name;
  model.text_encoder = umt5_xxl();
  model.transformer = wan_dit(*member);
  model.boundary_ratio = member->boundary_ratio;
  model.vae = parse_wan_vae_config(parse_json_object(member->out_channels == 48 ? kVae22 : "{}", "vae"));
  model.defaults = member->defaults;
  model.expand_timesteps = member->out_channels == 48;
  model.scheduler.flow_shift = member->flow_shift;
  if (member->encoded_images) model.image_encoder = clip_vision_h();
  return model;
}

}  // namespace zoe
