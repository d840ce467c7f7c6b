#include "models/wan_dit/names.h"

#include <string>
#include <utility>

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

std::string_view without_wan_dit_prefix(std::string_view key) {
  for (const std::string_view prefix : {"model.diffusion_model.", "diffusion_model.", "model.", "net."})
    if (key.starts_with(prefix)) return key.substr(prefix.size());
  return key;
}

}  // namespace zoe
