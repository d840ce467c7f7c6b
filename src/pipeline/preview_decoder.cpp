#include "pipeline/preview_decoder.h"

#include <utility>

#include "base/error.h"
#include "checkpoint/component_weights.h"
#include "compiler/run.h"
#include "models/tiny_decoder/model.h"
#include "pipeline/rgb8.h"

namespace zoe {

PreviewDecoder::PreviewDecoder(const std::filesystem::path& file, const ModelConfig& model, const Settled& settled,
                               Platform& platform, DType dtype, const CompileOptions& options)
    : latent_frames_(settled.latent_frames),
      height_(settled.latent_height),
      width_(settled.latent_width),
      platform_(platform),
      stream_(platform.make_stream()) {
  const Checkpoint checkpoint(file, "--preview-decoder");
  config_ = infer_tiny_decoder_config(checkpoint);
  check(config_.z_dim == model.vae.z_dim && config_.scale_factor_spatial() == model.vae.scale_factor_spatial &&
            config_.scale_factor_temporal() == model.vae.scale_factor_temporal,
        ErrorKind::invalid_argument, "--preview-decoder",
        "{} is of another VAE: got latents of {} channels, {} pixels and {} frames, expected {}, {} and {}. taew2_1 is for the VAE "
        "of "
        "Wan 2.1, taew2_2 for that of 2.2.",
        file.string(), config_.z_dim, config_.scale_factor_spatial(), config_.scale_factor_temporal(), model.vae.z_dim,
        model.vae.scale_factor_spatial, model.vae.scale_factor_temporal);
  TinyDecoderGraph traced = trace_tiny_decoder(config_, dtype, 1, height_, width_);
  traced.graph.outputs[0] = to_rgb8(traced.graph.outputs[0]);
  plan_ = compile(make_graph("tiny_decoder", traced.graph.inputs, traced.graph.outputs), platform_, options);
  weights_ = std::make_unique<WeightStore>(platform_, ComponentWeights(checkpoint, tiny_decoder_tensors(config_)));
  weights_->load(plan_);
  const Plan* const only = &plan_;
  workspace_ = make_workspace(platform_, {&only, 1});
  for (const Value& value : plan_.graph.inputs) inputs_.push_back(make_tensor(platform_, value.type(), "a preview"));
  for (const Value& value : plan_.graph.outputs) outputs_.push_back(make_tensor(platform_, value.type(), "a preview"));
}

PreviewDecoder::~PreviewDecoder() = default;

void PreviewDecoder::decode(std::span<const float> latents, const std::function<void(std::span<const std::uint8_t>)>& frame) {
  const auto plane = static_cast<std::size_t>(height_ * width_), channels = static_cast<std::size_t>(config_.z_dim),
             count = static_cast<std::size_t>(latent_frames_);
  for (std::size_t state = 1; state < inputs_.size(); ++state)
    platform_.zero(*stream_, inputs_[state].slot(), inputs_[state].size_bytes());
  std::vector<float> latent(plane * channels);
  std::vector<std::uint8_t> made(outputs_[0].size_bytes());
  const auto frame_bytes = made.size() / static_cast<std::size_t>(config_.scale_factor_temporal());
  std::int64_t skipped = 0;
  for (std::size_t t = 0; t < count; ++t) {
    for (std::size_t c = 0; c < channels; ++c)
      for (std::size_t i = 0; i < plane; ++i) latent[i * channels + c] = latents[(c * count + t) * plane + i];
    upload(platform_, *stream_, latent, inputs_[0]);
    run(plan_, *stream_, *weights_, inputs_, outputs_, workspace_);
    platform_.download(*stream_, outputs_[0].slot(), made.data(), made.size());
    stream_->synchronize();
    // What was written is read next.
    for (std::size_t state = 1; state < inputs_.size(); ++state) std::swap(inputs_[state], outputs_[state]);
    for (std::size_t begin = 0; begin < made.size(); begin += frame_bytes)
      if (skipped++ >= leading()) frame({made.data() + begin, frame_bytes});
  }
}

}  // namespace zoe
