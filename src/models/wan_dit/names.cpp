#include "models/wan_dit/names.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/nearest.h"

namespace zoe {

namespace {

using Pair = std::pair<std::string_view, std::string_view>;

constexpr Pair kWhole[] = {
    {"patch_embedding", "patch_embedding"},
    {"vace_patch_embedding", "vace_patch_embedding"},
    {"pose_patch_embedding", "pose_patch_embedding"},
    {"time_embedding.0", "condition_embedder.time_embedder.linear_1"},
    {"time_embedding.2", "condition_embedder.time_embedder.linear_2"},
    {"time_projection.1", "condition_embedder.time_proj"},
    {"text_embedding.0", "condition_embedder.text_embedder.linear_1"},
    {"text_embedding.2", "condition_embedder.text_embedder.linear_2"},
    {"img_emb.proj.0", "condition_embedder.image_embedder.norm1"},
    {"img_emb.proj.1", "condition_embedder.image_embedder.ff.net.0.proj"},
    {"img_emb.proj.3", "condition_embedder.image_embedder.ff.net.2"},
    {"img_emb.proj.4", "condition_embedder.image_embedder.norm2"},
    {"img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed"},
    {"head.head", "proj_out"},
    {"head.modulation", "scale_shift_table"},
};

// Of a block; those of VACE are blocks with two products more.
constexpr Pair kBlock[] = {
    {"self_attn.q", "attn1.to_q"},
    {"self_attn.k", "attn1.to_k"},
    {"self_attn.v", "attn1.to_v"},
    {"self_attn.o", "attn1.to_out.0"},
    {"self_attn.norm_q", "attn1.norm_q"},
    {"self_attn.norm_k", "attn1.norm_k"},
    {"cross_attn.q", "attn2.to_q"},
    {"cross_attn.k", "attn2.to_k"},
    {"cross_attn.v", "attn2.to_v"},
    {"cross_attn.o", "attn2.to_out.0"},
    {"cross_attn.norm_q", "attn2.norm_q"},
    {"cross_attn.norm_k", "attn2.norm_k"},
    {"cross_attn.k_img", "attn2.add_k_proj"},
    {"cross_attn.v_img", "attn2.add_v_proj"},
    {"cross_attn.norm_k_img", "attn2.norm_added_k"},
    {"norm3", "norm2"},  // in front of the cross-attention; the original's norm2 has no tensors
    {"ffn.0", "ffn.net.0.proj"},
    {"ffn.2", "ffn.net.2"},
    {"modulation", "scale_shift_table"},
    {"before_proj", "proj_in"},
    {"after_proj", "proj_out"},
};

// What Animate has beside: how faces move.
constexpr Pair kAnimate[] = {
    {"motion_encoder.enc.net_app.convs.0.0", "motion_encoder.conv_in"},
    {"motion_encoder.enc.net_app.convs.0.1", "motion_encoder.conv_in.act_fn"},
    {"motion_encoder.enc.net_app.convs.8", "motion_encoder.conv_out"},
    {"motion_encoder.enc.fc.*", "motion_encoder.motion_network.*"},
    {"motion_encoder.dec.direction.weight", "motion_encoder.motion_synthesis_weight"},
    {"face_encoder.conv1_local.conv", "face_encoder.conv1_local"},
    {"face_encoder.conv2.conv", "face_encoder.conv2"},
    {"face_encoder.conv3.conv", "face_encoder.conv3"},
    {"face_encoder.out_proj", "face_encoder.out_proj"},
    {"face_encoder.padding_tokens", "face_encoder.padding_tokens"},
    {"face_adapter.fuser_blocks.*.linear1_q", "face_adapter.*.to_q"},
    {"face_adapter.fuser_blocks.*.linear2", "face_adapter.*.to_out"},
    {"face_adapter.fuser_blocks.*.q_norm", "face_adapter.*.norm_q"},
    {"face_adapter.fuser_blocks.*.k_norm", "face_adapter.*.norm_k"},
};
constexpr Pair kMotionBlock[] = {
    {"conv1.0", "conv1"}, {"conv1.1", "conv1.act_fn"}, {"conv2.1", "conv2"}, {"conv2.2", "conv2.act_fn"}, {"skip.1", "conv_skip"}};

std::vector<NameRule> original_rules() {
  std::vector<NameRule> rules;
  const auto add = [&](std::string stored, std::string name) { rules.push_back({std::move(stored), std::move(name)}); };
  for (const auto& [stored, name] : kWhole) add(std::string(stored), std::string(name));
  for (const std::string blocks : {"blocks.*.", "vace_blocks.*."})
    for (const auto& [stored, name] : kBlock) add(blocks + std::string(stored), blocks + std::string(name));
  for (const auto& [stored, name] : kAnimate) add(std::string(stored), std::string(name));
  for (int block = 0; block < 7; ++block)
    for (const auto& [stored, name] : kMotionBlock)
      add("motion_encoder.enc.net_app.convs." + std::to_string(block + 1) + "." + std::string(stored),
          "motion_encoder.res_blocks." + std::to_string(block) + "." + std::string(name));
  const std::string both = "face_adapter.fuser_blocks.*.linear1_kv";
  rules.push_back({both, "face_adapter.*.to_k", 0, 2});
  rules.push_back({both, "face_adapter.*.to_v", 1, 2});
  return rules;
}

}  // namespace

const NameMap& wan_dit_original_names() {
  static const NameMap map(original_rules());
  return map;
}

InferredConfig infer_wan_dit_config(const NamedTensors& tensors, const JsonObject* original) {
  constexpr std::int64_t kHead = 128;
  const std::string& where = tensors.checkpoint.where();
  const auto extent = [&](std::string_view name, int axis) {
    const TensorEntry& tensor = tensors.at(name);
    check(axis < tensor.shape.rank(), ErrorKind::invalid_argument, where,
          "bad shape of {}: got {}, expected at least {} extents. Check the file.", in_quotes(tensor.name), tensor.shape.str(),
          axis + 1);
    return tensor.shape.dim(axis);
  };
  const TensorEntry& table = tensors.at("scale_shift_table");
  const std::int64_t dim = table.shape.count() / 2;
  const std::int64_t heads = original ? original->integer("num_heads", 1, 1024) : dim / kHead;
  check(heads > 0 && dim % heads == 0 && (original || dim % kHead == 0), ErrorKind::invalid_argument, where,
        "bad shape of {}: got {}, expected two rows of a multiple of {}. Give a config.json beside the file that says the heads.",
        in_quotes(table.name), table.shape.str(),
        original ? fmt::format("{} heads", heads) : fmt::format("{}, the width of a head", kHead));
  const TensorEntry& kernel = tensors.at("patch_embedding.weight");
  const bool is_kernel = kernel.shape.rank() == 5;
  std::array<std::int64_t, 3> patch{1, 2, 2};
  if (is_kernel)
    for (int axis = 0; axis < 3; ++axis) patch[static_cast<std::size_t>(axis)] = kernel.shape.dim(axis + 2);
  const std::int64_t volume = patch[0] * patch[1] * patch[2];
  check(volume > 0, ErrorKind::invalid_argument, where, "bad shape of {}: got {}, expected a kernel. Check the file.",
        in_quotes(kernel.name), kernel.shape.str());
  std::int64_t layers = 0, hints = 0;
  while (tensors.find(fmt::format("blocks.{}.ffn.net.0.proj.weight", layers))) ++layers;
  while (tensors.find(fmt::format("vace_blocks.{}.proj_out.weight", hints))) ++hints;
  const TensorEntry* const control = tensors.find("vace_patch_embedding.weight");
  const bool is_animate = tensors.find("motion_encoder.motion_synthesis_weight") != nullptr;
  std::string json = fmt::format(
      R"({{"_class_name": "{}", "patch_size": [{}], "num_attention_heads": {}, "attention_head_dim": {}, "in_channels": {},
    "out_channels": {}, "text_dim": {}, "freq_dim": {}, "ffn_dim": {}, "num_layers": {}, "cross_attn_norm": {}, "eps": {})",
      control      ? "WanVACETransformer3DModel"
      : is_animate ? "WanAnimateTransformer3DModel"
                   : "WanTransformer3DModel",
      fmt::join(patch, ", "), heads, dim / heads, kernel.shape.count() / (dim * volume), extent("proj_out.weight", 0) / volume,
      extent("condition_embedder.text_embedder.linear_1.weight", 1), extent("condition_embedder.time_embedder.linear_1.weight", 1),
      extent("blocks.0.ffn.net.0.proj.weight", 0), layers,
      tensors.find("blocks.0.norm2.weight") || tensors.find("blocks.0.norm2.bias") ? "true" : "false",
      original ? original->number("eps", 0, 1, 1e-6) : 1e-6);
  if (tensors.find("condition_embedder.image_embedder.norm1.weight")) {
    const std::int64_t width = extent("condition_embedder.image_embedder.norm1.weight", 0);
    json += fmt::format(R"(, "image_dim": {})", width);
    if (const TensorEntry* const positions = tensors.find("condition_embedder.image_embedder.pos_embed"))
      json += fmt::format(R"(, "pos_embed_seq_len": {})", positions->shape.count() / std::max<std::int64_t>(width, 1));
  }
  if (tensors.find("blocks.0.attn2.add_k_proj.weight"))
    json += fmt::format(R"(, "added_kv_proj_dim": {})", extent("blocks.0.attn2.add_k_proj.weight", 1));
  if (control) {
    std::vector<std::int64_t> places;
    if (original && original->has("vace_layers")) {
      places = original->integers("vace_layers", 0, 511, 1, 512);
    } else {
      check(hints > 0 && layers % hints == 0, ErrorKind::invalid_argument, where,
            "got {} VACE blocks beside {} layers, expected a divisor of them. Give a config.json with vace_layers beside the file.",
            hints, layers);
      for (std::int64_t i = 0; i < hints; ++i) places.push_back(i * (layers / hints));
    }
    json += fmt::format(R"(, "vace_in_channels": {}, "vace_layers": [{}])", control->shape.count() / (dim * volume),
                        fmt::join(places, ", "));
  }
  std::string assumed = original ? "at most 1024 tokens an axis" : "heads of 128, eps 1e-6, at most 1024 tokens an axis";
  if (!is_kernel) assumed += ", patches of 1x2x2";
  if (control && !original) assumed += ", VACE's hints evenly spread";
  return {json + "}", std::move(assumed)};
}

std::string wan_member(const JsonObject& config) {
  struct Member {
    std::string_view name, kind;  // of the class
    std::int64_t heads, layers, in_channels;
    bool has_image_encoder, has_positions;
  };
  constexpr std::string_view kPlain = "WanTransformer3DModel", kVace = "WanVACETransformer3DModel",
                             kAnimate = "WanAnimateTransformer3DModel";
  constexpr Member kMembers[] = {
      {"Wan2.1 T2V-1.3B", kPlain, 12, 30, 16, false, false},
      {"Wan2.1 T2V-14B, or an expert of Wan2.2 T2V-A14B", kPlain, 40, 40, 16, false, false},
      {"Wan2.1 I2V-14B, or Fun-14B-InP", kPlain, 40, 40, 36, true, false},
      {"Wan2.1 FLF2V-14B", kPlain, 40, 40, 36, true, true},
      {"an expert of Wan2.2 I2V-A14B, or of Fun-A14B-InP", kPlain, 40, 40, 36, false, false},
      {"Wan2.2 TI2V-5B", kPlain, 24, 30, 48, false, false},
      {"Wan2.1 VACE-1.3B", kVace, 12, 30, 16, false, false},
      {"Wan2.1 VACE-14B, or an expert of Wan2.2 VACE-Fun-A14B", kVace, 40, 40, 16, false, false},
      {"Wan2.1 Fun-1.3B-InP", kPlain, 12, 30, 36, true, false},
      {"Wan2.2 Animate-14B", kAnimate, 40, 40, 36, true, false},
  };
  const auto number = [&](std::string_view key, std::int64_t fallback) {
    return config.integer(key, 0, JsonObject::kMax, fallback);
  };
  for (const Member& member : kMembers)
    if (config.string("_class_name", "WanTransformer3DModel") == member.kind && number("num_attention_heads", 40) == member.heads &&
        number("attention_head_dim", 128) == 128 && number("num_layers", 40) == member.layers &&
        number("in_channels", 16) == member.in_channels && config.has("image_dim") == member.has_image_encoder &&
        config.has("pos_embed_seq_len") == member.has_positions)
      return std::string(member.name);
  return {};
}

std::string_view without_wan_dit_prefix(std::string_view key) {
  for (const std::string_view prefix : {"model.diffusion_model.", "diffusion_model.", "model.", "net."})
    if (key.starts_with(prefix)) return key.substr(prefix.size());
  return key;
}

}  // namespace zoe
