// CLIP's image encoder (Radford et al. 2021; transformers' CLIPVisionModel), as Wan 2.1 uses it: the states behind the last layer
// but one, with the class token, without the norm at the end.
#pragma once

#include <vector>

#include "ir/graph.h"
#include "models/clip_vision/config.h"

namespace zoe {

// Inputs:  pixels f32 [3,S,S], S the image's size, normalised by kClipMean and kClipStd.
// Outputs: states f32 [1,tokens,hidden_size].
// `dtype` is that of products, stream and attention; norms are computed in f32 with f32 weights. Blocks: 0 the embeddings, layer
// i is i + 1.
Graph trace_clip_vision(const ClipVisionConfig& config, DType dtype);

// Of values 0 to 1, by channel.
inline constexpr float kClipMean[3] = {0.48145466f, 0.4578275f, 0.40821073f}, kClipStd[3] = {0.26862954f, 0.26130258f, 0.27577711f};

}  // namespace zoe
