// Text to video: Wan 2.1 (one transformer) and Wan 2.2 A14B (two experts, one for high and one for low noise).
//
// Follows WanPipeline of Diffusers: the same prompt cleaning, rounding of sizes, noise, guidance and schedulers. A step whose timestep
// is at least boundary_ratio * num_train_timesteps is the high-noise expert's (`transformer`, guidance_scale), the others are the
// low-noise one's (`transformer_2`, guidance_scale_2); the scheduler's state runs across. Whether there is guidance at all is
// decided by guidance_scale alone.
#pragma once

#include <memory>

#include "pipeline/recipe.h"

namespace zoe {

class TextToVideo : public Recipe {
 public:
  explicit TextToVideo(const ModelConfig& model);
  std::string_view name() const override { return "text to video"; }
  std::vector<std::string> components() const override;
  std::unique_ptr<Work> plan(const Request& request, const RecipeContext& context) const override;

 private:
  bool two_experts_;
};

}  // namespace zoe
