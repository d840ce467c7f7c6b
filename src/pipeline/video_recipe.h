// The recipe of members that step the latents of a video: prompts, an image where the member takes one, steps by one transformer
// (Wan 2.1) or two experts (Wan 2.2 A14B: one for high and one for low noise), frames.
//
// Follows WanPipeline and WanImageToVideoPipeline of Diffusers: the same prompt cleaning, rounding of sizes, noise, guidance and
// schedulers. A step whose timestep is at least boundary_ratio * num_train_timesteps is the high-noise expert's (`transformer`,
// guidance_scale), the others are the low-noise one's (`transformer_2`, guidance_scale_2); the scheduler's state runs across.
// Whether there is guidance at all is decided by guidance_scale alone.
#pragma once

#include <memory>

#include "pipeline/recipe.h"

namespace zoe {

// A kind of members: what they are called, and what they take beside a prompt.
struct VideoKind {
  std::string_view name;  // "image to video"
  Members one, two;       // by the number of transformers
  // Pictures that it starts from (image_condition.h): none, the first frame or none, the first frame and maybe the last, or both.
  enum class Images : std::uint8_t { none, maybe, first, both } images;
  bool (*fits)(const ModelConfig& model);
};

class VideoRecipe : public Recipe {
 public:
  VideoRecipe(const VideoKind& kind, const ModelConfig& model);
  std::string_view name() const override { return kind_.name; }
  Members member() const override { return two_experts_ ? kind_.two : kind_.one; }
  std::vector<std::string> components() const override;
  std::unique_ptr<Work> plan(const Request& request, const RecipeContext& context) const override;

 private:
  const VideoKind& kind_;
  bool two_experts_, image_encoder_;
};

}  // namespace zoe
