// The umT5 encoder as a graph (arXiv:2304.09151; Transformers' UMT5EncoderModel).
//
// Pre-norm blocks without biases: RMS norm, attention with an additive bias looked up by relative position in each layer and no
// scaling of the scores, residual; RMS norm, gelu_tanh(wi_0 x) * (wi_1 x), wo, residual; a final RMS norm.
#pragma once

#include <cstdint>
#include <vector>

#include "ir/graph.h"
#include "models/umt5/config.h"

namespace zoe {

// Inputs:  embedded f32 [1,L,d_model] (rows of kUmt5Embedding), buckets i32 [L*L] (relative_position_buckets),
//          key_bias f32 [L] (0 for a token, -inf for padding; at least one token).
// Outputs: last_hidden_state f32 [1,L,d_model]; with block_outputs, then the stream behind each block, [1,L,d_model] in `dtype`.
// `dtype` is that of products and stream; norms and softmax are in f32. Block i is block i + 1, the final norm the one after.
Graph trace_umt5(const Umt5Config& config, DType dtype, std::int64_t tokens, bool block_outputs = false);

// The bucket of key k as seen from query q, at [q * tokens + k]; bidirectional: below a quarter of the buckets one a position,
// then logarithmically wider up to max_distance, for each direction. In f32, as the reference: the edges fall as there.
std::vector<std::int32_t> relative_position_buckets(const Umt5Config& config, std::int64_t tokens);

}  // namespace zoe
