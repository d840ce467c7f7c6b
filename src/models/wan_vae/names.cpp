#include "models/wan_vae/names.h"

#include <fmt/format.h>

#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/nearest.h"

namespace zoe {

namespace {

constexpr std::pair<std::string_view, std::string_view> kResidual[] = {{"residual.0", "norm1"},
                                                                       {"residual.2", "conv1"},
                                                                       {"residual.3", "norm2"},
                                                                       {"residual.6", "conv2"},
                                                                       {"shortcut", "conv_shortcut"}};
constexpr std::string_view kResampling[] = {"resample", "time_conv"};

constexpr int kMostBlocks = 64;

}  // namespace

std::shared_ptr<const NameMap> wan_vae_original_names(const std::function<bool(std::string_view)>& has) {
  std::vector<NameRule> rules{{"conv1", "quant_conv"}, {"conv2", "post_quant_conv"}};
  const auto residual = [&](const std::string& stored, const std::string& name) {
    for (const auto& [from, to] : kResidual) rules.push_back({fmt::format("{}.{}", stored, from), fmt::format("{}.{}", name, to)});
  };
  const auto resampling = [&](const std::string& stored, const std::string& name) {
    for (const std::string_view word : kResampling)
      rules.push_back({fmt::format("{}.{}", stored, word), fmt::format("{}.{}", name, word)});
  };
  for (const std::string half : {"encoder", "decoder"}) {
    rules.push_back({half + ".conv1", half + ".conv_in"});
    rules.push_back({half + ".middle.1", half + ".mid_block.attentions.0"});
    residual(half + ".middle.0", half + ".mid_block.resnets.0");
    residual(half + ".middle.2", half + ".mid_block.resnets.1");
    rules.push_back({half + ".head.0", half + ".norm_out"});
    rules.push_back({half + ".head.2", half + ".conv_out"});
  }
  // Wan 2.2: a level is a list of its own, its blocks and then what changes the size.
  if (has("decoder.upsamples.0.upsamples.0.residual.2.weight")) {
    residual("encoder.downsamples.*.downsamples.*", "encoder.down_blocks.*.resnets.*");
    residual("decoder.upsamples.*.upsamples.*", "decoder.up_blocks.*.resnets.*");
    int blocks = 0;
    while (blocks < kMostBlocks && has(fmt::format("encoder.downsamples.0.downsamples.{}.residual.2.weight", blocks))) ++blocks;
    resampling(fmt::format("encoder.downsamples.*.downsamples.{}", blocks), "encoder.down_blocks.*.downsampler");
    resampling(fmt::format("decoder.upsamples.*.upsamples.{}", blocks + 1), "decoder.up_blocks.*.upsampler");
    return std::make_shared<const NameMap>(std::move(rules));
  }
  residual("encoder.downsamples.*", "encoder.down_blocks.*");
  resampling("encoder.downsamples.*", "encoder.down_blocks.*");
  // The decoder's levels have one block more than the encoder's, and but for the last one an upsampler behind them.
  int level = 0, block = 0;
  for (int i = 0; i < kMostBlocks; ++i) {
    const std::string stored = fmt::format("decoder.upsamples.{}", i);
    if (has(stored + ".residual.2.weight")) {
      residual(stored, fmt::format("decoder.up_blocks.{}.resnets.{}", level, block++));
    } else if (has(stored + ".resample.1.weight")) {
      resampling(stored, fmt::format("decoder.up_blocks.{}.upsamplers.0", level++));
      block = 0;
    }
  }
  return std::make_shared<const NameMap>(std::move(rules));
}

InferredConfig infer_wan_vae_config(const NamedTensors& tensors) {
  const auto extent = [&](std::string_view name, int axis) {
    const TensorEntry& tensor = tensors.at(name);
    check(axis < tensor.shape.rank(), ErrorKind::invalid_argument, tensors.checkpoint.where(),
          "bad shape of {}: got {}, expected at least {} extents. Check the file.", in_quotes(tensor.name), tensor.shape.str(),
          axis + 1);
    return tensor.shape.dim(axis);
  };
  const bool is_residual = tensors.find("encoder.down_blocks.0.resnets.0.conv1.weight") != nullptr;
  const std::int64_t base = extent("encoder.conv_in.weight", 0), z = extent("decoder.conv_in.weight", 1);
  std::vector<std::int64_t> multiples;  // of each level
  std::vector<bool> halves_frames;      // of each level but the last
  int blocks = 0;                       // of a level
  const auto take_level = [&](std::int64_t channels) {
    check(base > 0 && channels % base == 0, ErrorKind::invalid_argument, tensors.checkpoint.where(),
          "got a level of {} channels, expected a multiple of {}. Give a config.json beside the file.", channels, base);
    multiples.push_back(channels / base);
  };
  if (is_residual) {
    for (int level = 0; level < kMostBlocks; ++level) {
      const std::string name = fmt::format("encoder.down_blocks.{}.", level);
      int here = 0;
      while (here < kMostBlocks && tensors.find(fmt::format("{}resnets.{}.conv1.weight", name, here))) ++here;
      if (here == 0) break;
      blocks = here;
      take_level(extent(name + "resnets.0.conv1.weight", 0));
      if (tensors.find(name + "downsampler.resample.1.weight"))
        halves_frames.push_back(tensors.find(name + "downsampler.time_conv.weight") != nullptr);
    }
  } else {
    int here = 0;
    std::int64_t channels = 0;
    for (int i = 0; i < kMostBlocks; ++i) {
      const std::string name = fmt::format("encoder.down_blocks.{}.", i);
      const TensorEntry* const block = tensors.find(name + "conv1.weight");
      if (block && block->shape.rank() > 0) {
        channels = block->shape.dim(0);
        ++here;
      }
      const bool is_resampling = tensors.find(name + "resample.1.weight") != nullptr;
      if (here > 0 && !block) {  // the end of a level
        take_level(channels);
        blocks = here;
        here = 0;
      }
      if (is_resampling) halves_frames.push_back(tensors.find(name + "time_conv.weight") != nullptr);
      if (!block && !is_resampling) break;
    }
  }
  std::string json =
      fmt::format(R"({{"_class_name": "AutoencoderKLWan", "base_dim": {}, "z_dim": {}, "num_res_blocks": {}, "dim_mult": [{}],
    "temperal_downsample": [{}])",
                  base, z, blocks, fmt::join(multiples, ", "), fmt::join(halves_frames, ", "));
  if (is_residual)
    json += fmt::format(R"(, "is_residual": true, "decoder_base_dim": {}, "in_channels": {}, "out_channels": {}, "patch_size": 2)",
                        extent("decoder.conv_out.weight", 1) / (multiples.empty() ? 1 : multiples.front()),
                        extent("encoder.conv_in.weight", 1), extent("decoder.conv_out.weight", 0));
  return {json + "}", "the published mean and deviation of latents"};
}

}  // namespace zoe
