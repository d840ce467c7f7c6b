// The tiny decoder of latents that previews may use (TAEHV: taew2_1, taew2_2 and its like), told by its file's shapes.
#pragma once

#include <array>
#include <cstdint>

#include "checkpoint/checkpoint.h"

namespace zoe {

struct TinyDecoderConfig {
  std::int64_t z_dim;                    // channels of a latent
  std::array<std::int64_t, 4> channels;  // of the first level's pictures, of each next one's, and behind the last
  std::array<std::int64_t, 3> grows;     // frames that a level makes of one
  std::int64_t patch_size;               // pixels a side of the squares that the last convolution makes

  std::int64_t scale_factor_spatial() const { return 8 * patch_size; }
  std::int64_t scale_factor_temporal() const { return grows[0] * grows[1] * grows[2]; }
};

// Of a file with the published names (decoder.1.weight, ...), its encoder beside the decoder or not. invalid_argument names what is
// missing or of no such shape.
TinyDecoderConfig infer_tiny_decoder_config(const Checkpoint& file);

}  // namespace zoe
