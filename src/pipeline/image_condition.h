// What image to video starts from: its pictures as the VAE sees them, and which frames they are. A stage that recipes share.
//
// A video of the pictures, mid grey between them, goes through the VAE's encoder (the mean of its distribution, normalised as
// latents are); beside its channels stand four of a mask, one for each frame of a latent frame: 1 where the frame is a picture. The
// first latent frame is one frame, which fills all four. (WanImageToVideoPipeline of Diffusers; arXiv:2503.20314.)
//
// Of a model with expand_timesteps the picture itself, through the encoder, is the first latent frame: no video, no mask.
//
// Where the model has an image encoder (CLIP), that sees the pictures as they are in their files: the shorter side scaled to the
// encoder's size, the middle of the longer one; of two pictures both where it has a place for two, else the first.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "pipeline/recipe.h"
#include "pipeline/video_encode.h"

namespace zoe {

class ImageCondition {
 public:
  // Reads the pictures of a request; errors name its fields. `both`: the last image is as needed as the first.
  ImageCondition(const Request& request, const RecipeContext& context, bool both);
  ~ImageCondition();
  ImageCondition(const ImageCondition&) = delete;
  ImageCondition& operator=(const ImageCondition&) = delete;

  // The request with the size that it leaves open: the first picture's shape (with_shape_of).
  Request with_size(Request request) const;
  void settle(const Settled& settled);                              // sizes; once, before the rest
  void set_tiles(std::int64_t tiles) { encode_.set_tiles(tiles); }  // see VideoEncode

  // Channels of the condition, of a VAE.
  static std::int64_t channels(const WanVaeConfig& vae) { return vae.scale_factor_temporal + vae.z_dim; }

  // Plans, and stages at the end: one that makes the tensor `condition`, f32 [channels,T,h,w], or `first_frame`, f32 [z,1,h,w];
  // before it, of a model with an image encoder, one that makes `image_tokens`, f32 [1,tokens of all pictures,width].
  void add_to(Program& program) const;
  std::size_t stages() const { return model_.image_encoder ? 2 : 1; }
  void run(std::size_t stage, StageRun& run);
  // f32 [z,1,h,w] behind run(), of a model with expand_timesteps.
  const std::vector<float>& first_frame() const { return condition_; }

 private:
  struct Picture;

  void add_encoder(Program& program) const;
  void encode(StageRun& run) const;
  void make_condition(StageRun& run);
  PixelVideo pixel_video() const;
  bool is_blank(std::int64_t begin, std::int64_t end) const;
  // Pixels in -1..1 of frames [begin, begin + count), [count,H,W,3]; empty where all are mid grey.
  std::vector<float> pixels(std::int64_t begin, std::int64_t count) const;
  Type condition_type() const;
  const char* tensor_name() const { return model_.expand_timesteps ? "first_frame" : "condition"; }

  const ModelConfig& model_;
  const DType dtype_;
  const Spelling spelling_;
  Settled settled_;
  VideoEncode encode_;
  std::vector<Picture> pictures_;
  std::vector<float> condition_;
};

}  // namespace zoe
