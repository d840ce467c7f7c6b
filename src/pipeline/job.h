// What a job holds besides what callers see: the plans of its parts. Internal to this folder.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "compiler/run.h"
#include "models/wan_vae/model.h"
#include "pipeline/generate.h"
#include "schedulers/scheduler.h"

namespace zoe {

inline constexpr std::int64_t kMaxTokens = 512;  // of the pipeline, whatever the tokenizer allows

// As zoe::run.
using PlanRunner = std::function<void(const Plan&, Stream&, WeightStore&, std::span<const Tensor> inputs,
                                      std::span<const Tensor> outputs, const Tensor& workspace, const RunOptions&)>;

struct Job::Plans {
  PlanRunner run = zoe::run;
  std::vector<std::vector<std::int32_t>> tokens;  // of each prompt, then of the negative prompt where guidance needs it
  std::int64_t text_rows = 0;                     // keys of the cross-attention
  Plan text, context, step;
  // Guidance and the scheduler's step. Latents, prediction, unconditional prediction where guided, coefficients f32[update_row],
  // what is kept of earlier steps -> latents, what is kept of this one.
  Plan update;
  static std::int64_t update_row(const Scheduler& scheduler);
  WanVaeGraph first_graph, group_graph;
  Plan decode_first, decode_group;  // the latter empty for one latent frame
  std::int64_t group_frames = 0;    // latent frames a group
  bool stream_text = false;         // the encoder's weights come and go block by block
  bool keep_resident = false;       // more than one prompt: transformer and VAE stay
};

}  // namespace zoe
