// The VAEs of Wan 2.1 and 2.2 as graphs that work through a video group by group (arXiv:2503.20314; Diffusers' AutoencoderKLWan).
//
// Every convolution over time is causal: it sees its frame and the two before. What it needs of earlier groups is a state, an
// input and an output of the graph: the last frames of its input. All states start as zeros, which is causal padding. The first
// latent frame of a video is one pixel frame, each later one stands for four, so the first has a graph of its own (`first`).
// Groups of any number of latent frames give what one by one would.
//
// That of Wan 2.2 takes pictures as squares of pixels, and each of its levels but the decoder's last adds its input, resized by
// means or repetition, to its result (Diffusers' WanResidualDownBlock and WanResidualUpBlock).
//
// Pictures are channels-last, [frames, height, width, channels], without a batch axis. `dtype` is that of products, stream and
// states; norms are computed in f32 (ops/channel_norm.h).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ir/graph.h"
#include "models/wan_vae/config.h"

namespace zoe {

struct WanVaeGraph {
  Graph graph;
  std::vector<Type> states;  // of the whole model, the same for the first and for later groups
  // Numbers of the states that the graph's inputs from 1 on are, and its outputs from `results` on.
  std::vector<std::size_t> reads, writes;
  std::size_t results;  // outputs that are no states
  // Of a part of the model that begins where another one ends (a decoder's image side): the states before this one are the other's,
  // and of what it makes of a cut-out picture so many rows and columns of the cut-out, along each edge, are not the whole
  // picture's.
  std::size_t first_state = 0;
  std::int64_t reach = 0;
  // Of a decoder's image side: the same of what enters each doubling of the picture but the first, in its rows and columns.
  std::vector<std::int64_t> reaches = {};
};

struct PictureSize {
  std::int64_t height, width;
};

// Inputs:  latent f32 [T,h,w,z_dim], not normalised, then states. T is 1 for the first group.
// Outputs: frames f32 [T',s h,s w,3], s = scale_factor_spatial, clamped to -1..1 (T' is 1 for the first group, else 4T), then
// states. With stage_outputs, results are followed by what post_quant_conv, conv_in, mid_block, each of up_blocks and conv_out
// return.
WanVaeGraph trace_wan_vae_decode(const WanVaeConfig& config, DType dtype, std::int64_t latent_frames, std::int64_t height,
                                 std::int64_t width, bool first, bool stage_outputs = false);

// The same in two parts, for pictures that are decoded tile by tile. The latent side, up to the last convolution at the latents'
// resolution (the attention of the middle block sees the whole picture), has features in place of frames: `dtype` [T,h,w,channels],
// of Wan 2.2 two of them, what enters the first level and what its blocks made of that. The image side begins with these, of a
// cut-out of any size, and ends with its frames; convolutions see zeros beyond the cut-out, hence WanVaeGraph::reach. With `crops`
// what enters each doubling of the picture but the first is cut to that size, as less and less is needed around a tile: behind the
// features come crop_1, crop_2, ... i32, the numbers of the pixels that stay, of all frames.
WanVaeGraph trace_wan_vae_decode_latent_side(const WanVaeConfig& config, DType dtype, std::int64_t latent_frames,
                                             std::int64_t height, std::int64_t width, bool first);
WanVaeGraph trace_wan_vae_decode_image_side(const WanVaeConfig& config, DType dtype, std::int64_t latent_frames,
                                            std::int64_t height, std::int64_t width, bool first,
                                            std::span<const PictureSize> crops = {});

// Inputs:  frames f32 [T,H,W,3] in -1..1, then states. T is 1 for the first group, else a multiple of 4; H and W of s.
// Outputs: mean and logvar f32 [T',H/s,W/s,z_dim] (T' is 1 for the first group, else T/4; logvar as it comes, not clamped), states.
WanVaeGraph trace_wan_vae_encode(const WanVaeConfig& config, DType dtype, std::int64_t frames, std::int64_t height,
                                 std::int64_t width, bool first);

// The same in two parts, as the decoder's. The image side ends with what the last level, which is the first at the latents'
// resolution, is given: one feature, `dtype` [T',h,w,channels], of a cut-out as high and wide as a multiple of s; the latent side
// makes mean and logvar of that.
WanVaeGraph trace_wan_vae_encode_image_side(const WanVaeConfig& config, DType dtype, std::int64_t frames, std::int64_t height,
                                            std::int64_t width, bool first);
WanVaeGraph trace_wan_vae_encode_latent_side(const WanVaeConfig& config, DType dtype, std::int64_t frames, std::int64_t height,
                                             std::int64_t width, bool first);

// Of a video that does not change for a while, the lower levels of the encoder give for each group what they gave for the one
// before, and their states stay what they are: such a group needs the levels from `from_level` on alone. The graph of a later
// group, whose results are followed by what each level above from_level (but the first) is given, `dtype` [..]; where from_level is
// not 0, its first input is `settled`, what that level was given for the group before, in the place of frames.
WanVaeGraph trace_wan_vae_encode_from(const WanVaeConfig& config, DType dtype, std::int64_t frames, std::int64_t height,
                                      std::int64_t width, std::int64_t from_level);
// How many frames before a group's own what `level` is given for it depends on.
std::int64_t wan_vae_frames_seen(const WanVaeConfig& config, std::int64_t level);

}  // namespace zoe
