// The Wan 2.1 diffusion transformer as two graphs (arXiv:2503.20314; Diffusers' WanTransformer3DModel), also with the hints of
// VACE (arXiv:2503.07598; Diffusers' WanVACETransformer3DModel).
//
// trace_wan_context turns text states into the keys and values of every block's cross-attention, once a request;
// trace_wan_dit predicts the noise of one latent at one timestep, for each of a batch of B texts: guidance has two.
//
// `precision`: of stream, products and attention (precision.h), mostly one dtype. As in Diffusers, the time embedder, the
// modulation tables and the LayerNorm weights are in f32; every norm and every modulation is computed in f32 (ops/). Blocks: 0
// the embeddings, block i is i + 1, with the block of VACE that makes its hint, num_layers + 1 the head.
#pragma once

#include <cstdint>
#include <vector>

#include "base/support.h"
#include "ir/graph.h"
#include "models/precision.h"
#include "models/wan_dit/config.h"

namespace zoe {

// Inputs:  text f32 [B,R,text_dim]; of a model with an image_dim also image_tokens f32 [1,S,image_dim], S image_rows.
// Outputs: k_0, v_0, k_1, v_1, ... [B,R,N,Dh] in the blocks' dtype of attention; keys are RMS-normed across heads. Then those of
// VACE's blocks, vace_k_0,
//          vace_v_0, ..., and where there are image tokens, image_k_0, image_v_0, ... [1,S,N,Dh].
Graph trace_wan_context(const WanDitConfig& config, const ComponentPrecision& precision, std::int64_t text_rows,
                        std::int64_t batch = 1, std::int64_t image_rows = 0);
// What the first outputs are called: k_0, v_0, ...
std::vector<std::string> wan_context_outputs(const WanDitConfig& config);

struct WanDitSizes {
  std::int64_t frames, height, width;  // of the latent; multiples of the patch
  std::int64_t text_rows;              // R
  std::int64_t batch = 1;              // B
  std::int64_t image_rows = 0;         // S, of a model with an image_dim
  bool first_frame = false;            // it is given: taken as it is, at timestep 0 (Wan 2.2 TI2V)
  bool negative_keys = false;          // the second of two texts is a negative prompt of normalized attention guidance
  // Of the tokens a device has its share: those from number device * share on, the last ones filled up with others that no
  // result comes from. Before self-attention devices exchange heads for tokens, so that each sees all tokens with its share of the
  // heads (Ulysses, arXiv:2309.14509); the noise is whole on all of them.
  std::int64_t devices = 1, device = 0;
};

// Inputs:  latent f32 [out_channels,F,H,W], timestep f32 [1,freq_dim] (timestep_sinusoid), cos_full and sin_signed f32 [L,1,Dh]
//          (rotary_tables), text_bias f32 [B,R], then k_0, v_0, k_1, v_1, ... as trace_wan_context returns them (of images, too),
//          and where there are more channels, condition f32 [in_channels - out_channels,F,H,W], which stand behind the latent's.
//          With first_frame: timestep is [2,freq_dim], its first row that of the first frame (0), and behind all others
//          timestep_of_frame i32 [F], the row of each latent frame, and first_frame f32 [out_channels,1,H,W], which stands in the
//          latent's place; patches are of one frame.
//          Of VACE behind all others control f32 [vace_channels,F,H,W] and control_scale f32 [hints], the weight of each hint.
//          With negative_keys, of B = 2, the last is nag f32 [3] (normalized_guidance.h): the stream is one, that of the first
//          text.
// Outputs: of each text its noise f32 [out_channels,F,H,W]; with block_outputs, then the stream behind each block, [B,L,D] in
//          the stream's dtype.
// L = F/pt * H/ph * W/pw tokens. All texts have one latent and one timestep, so that what comes before the first cross-attention
// is computed once. Images are seen by an attention of their own, with the texts' queries, whose result is added. text_bias is
// added to the cross-attention's scores: the logarithm of how often a text row counts. The rows of padding are all the same, so
// that they are one row with a count; -inf leaves a row out.
//
// Errors: invalid_argument if a size is not a positive multiple of the patch or has more patches than rope_max_seq_len;
// unsupported if tokens cannot be shared among so many devices, see shares_tokens().
Graph trace_wan_dit(const WanDitConfig& config, const ComponentPrecision& precision, const WanDitSizes& sizes,
                    bool block_outputs = false);

// Whether so many devices can share the tokens of a video of these sizes.
Support shares_tokens(const WanDitConfig& config, const WanDitSizes& sizes, std::int64_t devices);

// [cos(t w_i)..., sin(t w_i)...] with w_i = 10000^(-i / (freq_dim/2)). Frequencies and angles are rounded to f32 as the reference
// does, their functions are the exact ones rounded once.
std::vector<float> timestep_sinusoid(const WanDitConfig& config, float timestep);

struct RotaryTables {
  std::vector<float> cos_full, sin_signed;  // [L,1,Dh] for rotary_interleaved
};

// The angles of each token along time, height and width, worked out in f64: of a head's Dh columns 2*(Dh/6) (integer division)
// belong to the height, as many to the width, the rest, in front, to time; theta 10000 for each axis. Errors as trace_wan_dit.
RotaryTables rotary_tables(const WanDitConfig& config, std::int64_t frames, std::int64_t height, std::int64_t width);

}  // namespace zoe
