// What a job holds besides what callers see: the plans of its parts. Internal to this folder.
#pragma once

#include <cstdint>
#include <vector>

#include "compiler/compile.h"
#include "models/wan_vae/model.h"
#include "pipeline/generate.h"

namespace zoe {

inline constexpr std::int64_t kMaxTokens = 512;  // of the pipeline, whatever the tokenizer allows

struct Job::Plans {
  std::vector<std::vector<std::int32_t>> tokens;  // of each prompt, then of the negative prompt where guidance needs it
  std::int64_t text_rows = 0;                     // keys of the cross-attention
  Plan text, context, step;
  WanVaeGraph first_graph, group_graph;
  Plan decode_first, decode_group;  // the latter empty for one latent frame
  std::int64_t group_frames = 0;    // latent frames a group
  bool stream_text = false;         // the encoder's weights come and go block by block
  bool keep_resident = false;       // more than one prompt: transformer and VAE stay
};

}  // namespace zoe
