// What VACE sees beside the noise: a video, a mask of what is to be made of it, and pictures to take the looks of things from, as
// `control`. A stage before the steps. (WanVACEPipeline of Diffusers; arXiv:2503.07598.)
//
// Its channels are the latents of what is kept of the video (the rest mid grey), those of what is not kept, and the mask itself,
// each square of pixels that a latent stands for as channels. Without a mask all is to be made, seen by the video; without a video
// that is mid grey. A reference picture is one latent frame in front, of which nothing is to be made; in the steps the video is
// longer by so many frames, and they are cut off behind the last. Several stand there in reverse order, as in Diffusers.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "pipeline/recipe.h"
#include "pipeline/video_encode.h"
#include "pipeline/video_input.h"

namespace zoe {

class ControlCondition {
 public:
  // Reads pictures and looks at videos; errors name the request's fields.
  ControlCondition(const Request& request, const RecipeContext& context);
  ControlCondition(const ControlCondition&) = delete;
  ControlCondition& operator=(const ControlCondition&) = delete;

  // The request with what it leaves open, where there is a video.
  Request settle_request(Request request) const;
  void settle(const Settled& settled);                              // of the video without references; once, before the rest
  void set_tiles(std::int64_t tiles) { encode_.set_tiles(tiles); }  // see VideoEncode

  // Channels of the control, of a VAE.
  static std::int64_t channels(const WanVaeConfig& vae) {
    return 2 * vae.z_dim + vae.scale_factor_spatial * vae.scale_factor_spatial;
  }
  std::int64_t references() const { return static_cast<std::int64_t>(reference_images_.size()); }  // latent frames in front

  // Plans, and a stage at the end that makes the tensors `control`, f32 [channels,references + T,h,w], and `control_scale`, f32
  // [hints].
  void add_to(Program& program) const;
  void run(StageRun& run) const;

 private:
  PixelVideo reference(std::size_t i) const;
  // Of the video's frames the pixels that are to be made, or those that are kept; the others mid grey.
  PixelVideo masked(bool made) const;
  std::vector<float> on_white(const Image& image) const;  // [H,W,3] in -1..1
  Type control_type() const;

  const ModelConfig& model_;
  const Fit fit_;
  const Spelling spelling_;
  const double scale_;
  std::optional<VideoInput> video_, mask_;
  std::vector<Image> reference_images_;
  Settled settled_;
  VideoEncode encode_;
  struct Mask {
    std::vector<std::uint8_t> grey;  // [H,W]
    bool has_made, has_kept;         // whether there are such pixels
  };
  std::vector<Image> frames_;                   // empty: no video
  std::vector<Mask> masks_;                     // of each frame; empty: all white
  std::vector<std::vector<float>> references_;  // [H,W,3]
};

}  // namespace zoe
