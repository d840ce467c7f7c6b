// What image to video starts from: its pictures as the VAE sees them, and which frames they are. A stage that recipes share.
//
// Images::first and both:
// A video of the pictures, mid grey between them, goes through the VAE's encoder (the mean of its distribution, normalised as
// latents are); beside its channels stand four of a mask, one for each frame of a latent frame: 1 where the frame is a picture. The
// first latent frame is one frame, which fills all four. (WanImageToVideoPipeline of Diffusers; arXiv:2503.20314.)
//
// Images::first_latent: the picture alone, as a video of one frame, takes the place of the first latent frame in what the
// transformer sees at every step, and in what is decoded (expand_timesteps of that pipeline).
//
// Where the model has an image encoder (CLIP), that sees the pictures as they are in their files: the shorter side scaled to the
// encoder's size, the middle of the longer one.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "pipeline/video_recipe.h"

namespace zoe {

class ImageCondition {
 public:
  // Reads the pictures of a request; errors name its fields.
  ImageCondition(const Request& request, const RecipeContext& context, VideoKind::Images form);
  ~ImageCondition();
  ImageCondition(const ImageCondition&) = delete;
  ImageCondition& operator=(const ImageCondition&) = delete;

  // The request with the size that it leaves open: the first picture's shape. Where width and height are both open the area is the
  // model's; sides are rounded to what the model makes (the nearest multiple below, as Wan's documents do it).
  Request with_size(Request request) const;
  void settle(const Settled& settled);  // sizes; once, before the rest

  // Channels of the condition, of a VAE.
  static std::int64_t channels(const WanVaeConfig& vae) { return vae.scale_factor_temporal + vae.z_dim; }

  VideoKind::Images form() const { return form_; }

  // Plans, and stages at the end: one that makes the tensor `condition`, f32 [channels,T,h,w], or `first_frame`, f32 [z_dim,1,h,w];
  // before it, of a model with an image encoder, one that makes `image_tokens`, f32 [1,tokens of all pictures,width].
  void add_to(Program& program) const;
  std::size_t stages() const { return model_.image_encoder ? 2 : 1; }
  void run(std::size_t stage, StageRun& run);
  // latents [z_dim,T,h,w], behind the stages.
  void put_first_frame(std::vector<float>& latents) const;

 private:
  struct Picture;

  void add_encoder(Program& program) const;
  void encode(StageRun& run) const;
  void make_condition(StageRun& run);
  NamedGraph trace(std::int64_t frames, bool first) const;
  std::int64_t group_latents(std::int64_t group) const { return group == 0 ? 1 : group_frames_; }
  // Pixels in -1..1 of frames [begin, begin + count), [count,H,W,3]; empty where all are mid grey.
  std::vector<float> pixels(std::int64_t begin, std::int64_t count) const;
  std::int64_t frames() const { return form_ == VideoKind::Images::first_latent ? 1 : settled_.latent_frames; }  // of the condition
  std::int64_t mask_channels() const { return form_ == VideoKind::Images::first_latent ? 0 : model_.vae.scale_factor_temporal; }
  std::string_view tensor() const { return form_ == VideoKind::Images::first_latent ? "first_frame" : "condition"; }
  Type condition_type() const;

  const ModelConfig& model_;
  const VideoKind::Images form_;
  const DType dtype_;
  const Platform& platform_;
  const Spelling spelling_;
  Settled settled_;
  std::int64_t group_frames_ = 0;  // latent frames a group behind the first; 0: there is none
  std::vector<Picture> pictures_;
  std::vector<float> first_frame_;  // [z_dim,1,h,w]
};

}  // namespace zoe
