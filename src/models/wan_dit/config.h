// What a Wan diffusion transformer is: the values of its config.json that matter, and the tensors its checkpoint must hold.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/json.h"
#include "checkpoint/expected.h"

namespace zoe {

struct WanDitConfig {
  std::array<std::int64_t, 3> patch_size;  // latent frames, rows and columns that one token covers
  std::int64_t num_heads;                  // num_attention_heads,
  std::int64_t head_dim;                   // attention_head_dim: even, one rotary angle a pair
  std::int64_t in_channels, out_channels;  // in: the noise's, as many as out, and of image to video a condition's
  std::int64_t text_dim;                   // width of the text encoder's states
  std::int64_t image_dim;                  // of the image encoder's states; 0: the model sees none
  std::int64_t image_positions;  // pos_embed_seq_len: rows of these of all pictures together, each with an embedding; 0: any number
  std::int64_t freq_dim;         // of the timestep's sinusoid, even
  std::int64_t ffn_dim;
  std::int64_t num_layers;
  std::int64_t rope_max_seq_len;  // most tokens along one axis
  bool cross_attn_norm;           // an affine LayerNorm before the cross-attention
  double eps;
  // Of VACE: blocks behind which a hint is added, rising from 0, and the channels of what hints are made of; none: no hints.
  std::vector<std::int64_t> vace_layers;
  std::int64_t vace_channels;

  std::int64_t dim() const { return num_heads * head_dim; }
  std::int64_t condition_channels() const { return in_channels - out_channels; }
  std::int64_t patch_volume() const { return patch_size[0] * patch_size[1] * patch_size[2]; }
  friend bool operator==(const WanDitConfig&, const WanDitConfig&) = default;
};

// From a Diffusers config.json of WanTransformer3DModel or WanVACETransformer3DModel, missing values as their defaults. Errors:
// invalid_argument names a bad value; unsupported names what belongs to other members of the family (other norms, other classes).
WanDitConfig parse_wan_dit_config(const JsonObject& json);

// Names and shapes as in Diffusers' files: those that tracing asks for. The graphs declare patch_embedding.weight, a convolution's
// kernel [D,C,pt,ph,pw], as the matrix [D, C*pt*ph*pw] of the same elements.
std::vector<ExpectedTensor> wan_dit_tensors(const WanDitConfig& config);

}  // namespace zoe
