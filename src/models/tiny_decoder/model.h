// The tiny decoder as a graph that works through a video some latent frames at a time (madebyollin's TAEHV): three levels of
// convolutions within a frame, each with three blocks that see the frame before. It was trained on normalised latents.
#pragma once

#include <cstdint>
#include <vector>

#include "ir/graph.h"
#include "models/tiny_decoder/config.h"

namespace zoe {

struct TinyDecoderGraph {
  Graph graph;
  std::size_t states;  // each block's last frame, zeros at first: the last inputs, and the last outputs
};

// Inputs:  latent f32 [T,h,w,z_dim], normalised, then states.
// Outputs: frames f32 [t T,s h,s w,3], black -1 to white 1 and what is beyond, then states. Of a video's frames the first t - 1
// belong to no frame of it. s and t: the config's scale factors.
TinyDecoderGraph trace_tiny_decoder(const TinyDecoderConfig& config, DType dtype, std::int64_t latent_frames, std::int64_t height,
                                    std::int64_t width);

std::vector<ExpectedTensor> tiny_decoder_tensors(const TinyDecoderConfig& config);

}  // namespace zoe
