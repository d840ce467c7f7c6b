// What video to video starts from: a video's latents, with as much noise as the first step that is taken expects. A stage before
// the steps. (WanVideoToVideoPipeline of Diffusers.)
#pragma once

#include <span>
#include <vector>

#include "pipeline/recipe.h"
#include "pipeline/video_encode.h"
#include "pipeline/video_input.h"

namespace zoe {

// Steps that are left out of so many: all but the last `strength` of them, rounded down. invalid_argument if none is left.
int skipped_steps(int steps, double strength, Spelling spelling);
inline constexpr double kDefaultStrength = 0.8;

class StartVideo {
 public:
  StartVideo(const Request& request, const RecipeContext& context);

  Request settle_request(Request request) const { return input_.settle_request(std::move(request), model_); }
  void settle(const Settled& settled);
  void set_tiles(std::int64_t tiles) { encode_.set_tiles(tiles); }  // see VideoEncode

  void add_to(Program& program) const;  // plans, and one stage at the end
  void run(StageRun& run);
  // Behind run(): noise becomes (1 - sigma) latents + sigma noise.
  void mix_into(std::span<float> noise, float sigma) const;

 private:
  PixelVideo pixel_video() const;

  const ModelConfig& model_;
  const Fit fit_;
  const Spelling spelling_;
  VideoInput input_;
  VideoEncode encode_;
  std::vector<Image> frames_;
  std::vector<float> latents_;
};

}  // namespace zoe
