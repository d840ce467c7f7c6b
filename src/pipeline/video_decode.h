// Latents to frames through the VAE, group by group: a stage that recipes share.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "pipeline/recipe.h"

namespace zoe {

class VideoDecode {
 public:
  explicit VideoDecode(const RecipeContext& context);
  void settle(const Settled& settled);  // sizes; once, before the rest

  void add_to(Program& program, std::size_t caller_bytes) const;  // plans, and the stage at its end
  // `latents`: normalised, [C,T,h,w]. Frames go to the callbacks.
  void run(const std::vector<float>& latents, std::size_t video, StageRun& run) const;

 private:
  NamedGraph trace(std::int64_t latent_frames, bool first) const;
  std::vector<float> denormalised(const std::vector<float>& latents) const;
  Type latent_type(std::int64_t frames) const;

  const ModelConfig& model_;
  DType dtype_;
  Platform& platform_;
  std::size_t free_bytes_;
  Settled settled_;
  std::int64_t group_frames_ = 0;  // latent frames a group behind the first; 0: there is none
};

}  // namespace zoe
