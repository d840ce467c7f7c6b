// What a Wan VAE (2.1 or 2.2) is: the values of its config.json that matter, and the tensors its checkpoint must hold.
#pragma once

#include <cstdint>
#include <vector>

#include "base/json.h"
#include "checkpoint/expected.h"

namespace zoe {

struct WanVaeConfig {
  std::int64_t base_dim;                          // channels of the encoder's widest pictures
  std::int64_t decoder_base_dim;                  // of the decoder's
  std::int64_t z_dim;                             // channels of a latent
  std::vector<std::int64_t> dim_mult;             // of base_dim, a level each; every level but the last halves height and width
  std::int64_t num_res_blocks;                    // a level's, one more in the decoder
  std::vector<bool> temporal_downsample;          // of each level but the last: does it halve the frames too
  bool is_residual;                               // Wan 2.2: a level adds its input to its result, resized without weights
  std::int64_t patch_size;                        // Wan 2.2: pictures are taken as squares of so many pixels a side; else 1
  std::vector<double> latents_mean, latents_std;  // [z_dim]: normalised latents are (z - mean) / std
  std::int64_t scale_factor_spatial, scale_factor_temporal;  // pixels a latent column, frames a latent frame
};

// From a Diffusers config.json of AutoencoderKLWan, missing values as its defaults. Errors: invalid_argument names a bad value;
// unsupported names what no member of the family has (attention at other scales, levels that are resized in other ways).
WanVaeConfig parse_wan_vae_config(const JsonObject& json);

// Names and shapes as in Diffusers' files: those that tracing asks for. The graphs declare kernels of two axes with a third, and
// 1x1x1 ones as matrices.
std::vector<ExpectedTensor> wan_vae_tensors(const WanVaeConfig& config);

}  // namespace zoe
