// Pixels to latents: a video through the VAE's encoder, group by group with states, as the decoder does it. What stages share that
// are given pictures or videos.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string_view>
#include <vector>

#include "pipeline/picture_tiles.h"
#include "pipeline/recipe.h"

namespace zoe {

// A video of the size that is made. What is mid grey throughout is not encoded anew at each group: wan_vae_frames_seen.
struct PixelVideo {
  std::int64_t frames = 1;                                             // one more than a multiple of 4
  std::function<bool(std::int64_t begin, std::int64_t end)> is_blank;  // whether frames [begin, end) are all mid grey
  // In -1..1, of frames [begin, begin + count), [count,H,W,3]; empty where they are blank.
  std::function<std::vector<float>(std::int64_t begin, std::int64_t count)> pixels;
};

class VideoEncode {
 public:
  explicit VideoEncode(const RecipeContext& context);
  VideoEncode(const VideoEncode&) = delete;
  VideoEncode& operator=(const VideoEncode&) = delete;

  // Sizes, and how the videos will be encoded; once, before the rest. vae_tiles 0: where no level is skipped, a tile a device.
  void settle(const Settled& settled, std::span<const PixelVideo> videos);
  // As VideoDecode::set_tiles: pictures are taken in tiles down to the latents' resolution. Then no level is skipped.
  void set_tiles(std::int64_t tiles);
  // The plans, and their uses in the stage that runs them.
  void add_to(Program& program, Stage& stage) const;
  // The mean of the encoder's distribution, normalised as latents are: f32 [z,T,h,w]. One of the videos, or one of one frame.
  // `whose`, as "the image's", is for errors; `encoded` is told how many latent frames are done, while the device is at work on
  // the next ones.
  std::vector<float> run(const PixelVideo& video, StageRun& run, std::string_view whose,
                         const std::function<void(std::int64_t latent_frames)>& encoded) const;

 private:
  NamedGraph trace(std::int64_t frames, std::optional<std::int64_t> from_level) const;
  NamedGraph trace_side(std::int64_t frames, bool first, bool of_image) const;
  void add_tiles_to(Program& program, Stage& stage) const;
  bool is_tiled() const { return tiles_.tiles.size() > 1; }
  // Tile i is taken by device i % used_devices().
  int used_devices() const { return std::clamp(static_cast<int>(tiles_.tiles.size()), 1, devices_); }
  struct Group {
    std::int64_t latent, latent_frames, begin, frames;
  };
  std::vector<Group> groups(const PixelVideo& video) const;
  // `mean` [T,h,w,z] of latent frames from `latent` on, normalised, into latents [z,F,h,w]. All are finite, or it throws.
  void take_mean(const std::vector<float>& mean, std::int64_t latent, std::string_view whose, std::vector<float>& latents) const;
  std::vector<float> cut_out(const std::vector<float>& frames, std::int64_t count, const PictureTile& tile) const;
  std::vector<float> run_tiles(const PixelVideo& video, StageRun& run, std::string_view whose,
                               const std::function<void(std::int64_t latent_frames)>& encoded) const;
  std::vector<float> run_whole(const PixelVideo& video, StageRun& run, std::string_view whose,
                               const std::function<void(std::int64_t latent_frames)>& encoded) const;
  std::set<std::int64_t> levels_of(std::span<const PixelVideo> videos) const;
  std::int64_t settled_level(const PixelVideo& video, std::int64_t begin, std::int64_t count) const;
  std::int64_t group_pixel_frames() const { return group_frames_ * model_.vae.scale_factor_temporal; }

  const ModelConfig& model_;
  const DType dtype_;
  const Platform& platform_;
  int devices_ = 1;
  std::int64_t height_ = 0, width_ = 0;
  std::int64_t group_frames_ = 0;  // latent frames a group behind the first; 0: there is none
  std::size_t states_ = 0;
  std::set<std::int64_t> levels_;  // from which groups behind the first are encoded
  std::int64_t frames_ = 1;        // of the longest video
  PictureTiles tiles_;             // of the latents; none: pictures are taken as one
  Type features_;                  // of one latent frame, between the two sides
  std::size_t first_state_ = 0;    // of the latents' side
};

}  // namespace zoe
