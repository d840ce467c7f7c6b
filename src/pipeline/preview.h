// A small animated picture of what a run is making, drawn anew every few steps: the clean latents that a step predicts, through a
// linear map to RGB instead of the VAE, or a tiny decoder (preview_decoder.h).
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "pipeline/callbacks.h"
#include "pipeline/model.h"
#include "pipeline/preview_decoder.h"
#include "pipeline/statement.h"

namespace zoe {

// Red, green and blue, -1 to 1: a row a channel of normalised latents, and one that is added. Of the model's zoetrope.json, or of
// Wan's own VAEs, told by their statistics; empty: nobody knows (tests/fixtures/fit_latent_rgb.py finds it out).
std::vector<std::array<double, 3>> latent_rgb(const ModelConfig& model);

// Frame `frame` of latents [C,T,h,w] as 8-bit RGB [h,w,3].
std::vector<std::uint8_t> latent_frame_rgb(std::span<const float> latents, std::int64_t frames, std::int64_t frame,
                                           const std::vector<std::array<double, 3>>& map);

struct VideoSettings;

class Preview {
 public:
  // Half the video's size, a frame a latent frame; with a decoder as the video. The path's suffix says what it is: all formats of
  // media/video_writer.h but a folder. invalid_argument for what cannot be written, unsupported where latent_rgb() is empty and
  // there is no decoder.
  Preview(std::filesystem::path path, int every, const ModelConfig& model, const Settled& settled,
          std::unique_ptr<PreviewDecoder> decoder = {});
  // After every so many steps, and after a video's last, the picture is replaced. Where that fails a notice says so, once.
  void step(const StepDone& done);
  double seconds() const { return seconds_; }  // of drawing and writing

 private:
  VideoSettings picture() const;
  void draw(const std::vector<float>& latents, const StepDone& done) const;

  std::filesystem::path path_;
  int every_;
  std::unique_ptr<PreviewDecoder> decoder_;
  std::vector<std::array<double, 3>> map_;  // where there is no decoder
  std::int64_t frames_, height_, width_;    // of the latents
  int scale_;                               // pixels of the picture a latent
  double fps_;
  bool failed_ = false;
  double seconds_ = 0;
};

}  // namespace zoe
