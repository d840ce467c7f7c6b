// Latents to frames for previews, by a tiny decoder instead of a linear map: a file of TAEHV, compiled and run as any component.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "compiler/compile.h"
#include "compiler/weights.h"
#include "models/tiny_decoder/config.h"
#include "pipeline/model.h"
#include "pipeline/statement.h"

namespace zoe {

class PreviewDecoder {
 public:
  // Takes its memory of the platform at once, and keeps it: what a request is planned with later is what is left. The platform
  // outlives it. invalid_argument: the file is no tiny decoder, or one of another VAE.
  PreviewDecoder(const std::filesystem::path& file, const ModelConfig& model, const Settled& settled, Platform& platform,
                 DType dtype, const CompileOptions& options);
  ~PreviewDecoder();

  std::int64_t frames() const { return latent_frames_ * config_.scale_factor_temporal() - leading(); }
  std::int64_t height() const { return height_ * config_.scale_factor_spatial(); }
  std::int64_t width() const { return width_ * config_.scale_factor_spatial(); }
  // Normalised latents [C,T,h,w] to frames [height,width,3], one after the other.
  void decode(std::span<const float> latents, const std::function<void(std::span<const std::uint8_t>)>& frame);

 private:
  std::int64_t leading() const { return config_.scale_factor_temporal() - 1; }  // frames in front that belong to no video

  TinyDecoderConfig config_;
  std::int64_t latent_frames_, height_, width_;  // of the latents
  Platform& platform_;
  std::unique_ptr<Stream> stream_;
  Plan plan_;  // of one latent frame
  std::unique_ptr<WeightStore> weights_;
  std::vector<Tensor> inputs_, outputs_;
  Tensor workspace_;
};

}  // namespace zoe
