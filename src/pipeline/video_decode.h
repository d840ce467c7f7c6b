// Latents to frames through the VAE, group by group: a stage that recipes share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "pipeline/picture_tiles.h"
#include "pipeline/recipe.h"

namespace zoe {

class VideoDecode {
 public:
  explicit VideoDecode(const RecipeContext& context);
  // Sizes; once, before the rest. Where tiles are not asked for, each device of a group gets one, if that makes them much smaller.
  void settle(const Settled& settled);  // vae_tiles 0: as many as suit the devices
  std::int64_t tiles() const { return settled_.vae_tiles; }
  // In how many tiles pictures are made of what the latents' side of the decoder gives: more take less memory, and more time for
  // what they overlap by. Frames are the same where convolutions of any size give the same bits. At once they are handed out at the
  // end.
  void set_tiles(std::int64_t tiles);
  // More tiles than these take less memory; 0: they would not.
  std::int64_t more_tiles() const;

  void add_to(Program& program, std::size_t caller_bytes) const;  // plans, and the stage at its end
  // `latents`: normalised, [C,T,h,w]. Frames go to the callbacks.
  void run(const std::vector<float>& latents, std::size_t video, StageRun& run) const;

 private:
  using TakeFrame = std::function<void(const PictureTile* tile, std::int64_t number, std::span<const std::uint8_t> frame,
                                       std::int64_t frame_width)>;
  void decode(const std::vector<const PictureTile*>& tiles, const StageRun& run, const TakeFrame& take_frame) const;
  NamedGraph trace(std::int64_t latent_frames, bool first) const;
  NamedGraph trace_latent_side(std::int64_t latent_frames, bool first) const;
  NamedGraph trace_tile(std::int64_t latent_frames, bool first) const;
  void add_tiles_to(Program& program, Stage& stage) const;
  void make_features(StageRun& run) const;
  void begin_tile(std::size_t number, const StageRun& run) const;
  // What a tile's plan makes of its window, and how many pixels of the picture one of those stands for.
  const PictureTiles& seen() const { return crops_.empty() ? tiles_ : crops_.back(); }
  std::int64_t seen_scale() const { return scale_ >> crops_.size(); }
  bool gets_much_smaller(const PictureTiles& tiles) const;
  bool is_tiled() const { return tiles_.tiles.size() > 1; }
  // Tile i is made on device i % used_devices().
  int used_devices() const { return std::clamp(static_cast<int>(tiles_.tiles.size()), 1, devices_); }
  std::size_t groups() const {
    return static_cast<std::size_t>(group_frames_ ? (settled_.latent_frames - 1) / group_frames_ + 1 : 1);
  }
  std::vector<float> denormalised(const std::vector<float>& latents) const;
  Type latent_type(std::int64_t frames) const;

  const ModelConfig& model_;
  DType dtype_;
  Platform& platform_;
  std::size_t free_bytes_;
  int devices_ = 1;
  Settled settled_;
  std::int64_t group_frames_ = 0;             // latent frames a group behind the first; 0: there is none
  PictureTiles tiles_;                        // of the features, in their pixels; none: pictures are made as one
  std::vector<PictureTiles> crops_;           // the same tiles, each time twice as large, with less around them
  std::vector<Type> features_;                // of one latent frame
  std::int64_t scale_ = 1;                    // pixels of a frame that one of the features' stands for
  std::size_t first_state_ = 0, states_ = 0;  // of the image side
};

}  // namespace zoe
