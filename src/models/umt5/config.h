// What an umT5 encoder is: the values of its config.json that matter, and the tensors that its checkpoint must hold.
#pragma once

#include <cstdint>
#include <vector>

#include "base/json.h"
#include "checkpoint/expected.h"

namespace zoe {

struct Umt5Config {
  std::int64_t vocab_size;  // rows of the embedding table
  std::int64_t d_model;     // width of the stream
  std::int64_t d_ff;        // width of the gated feed-forward
  std::int64_t num_heads;   // attention heads,
  std::int64_t d_kv;        // each so wide
  std::int64_t num_layers;
  std::int64_t buckets;       // relative_attention_num_buckets: half for each direction
  std::int64_t max_distance;  // relative_attention_max_distance: all positions farther away share a bucket
  double eps;                 // layer_norm_epsilon
  bool tie_embeddings;        // tie_word_embeddings: the encoder's table is the shared one

  std::int64_t inner_dim() const { return num_heads * d_kv; }
};

// The tensor whose rows are the embedded tokens, [vocab_size, d_model]. No graph holds it: callers gather the rows they need.
inline constexpr const char* kUmt5Embedding = "shared.weight";

// From a Transformers config.json. Errors: invalid_argument names a bad value; unsupported names another kind of T5 (model_type
// other than umt5, a feed-forward other than gated-gelu with gelu_new, a decoder).
Umt5Config parse_umt5_config(const JsonObject& json);

// Names and shapes as in the files of Transformers' UMT5EncoderModel: those that tracing asks for, and the embedding.
std::vector<ExpectedTensor> umt5_tensors(const Umt5Config& config);
// encoder.embed_tokens.weight may stand for the embedding, or beside it; if embeddings are not tied it is the one that is read.
std::vector<TensorAlias> umt5_aliases(const Umt5Config& config);

}  // namespace zoe
