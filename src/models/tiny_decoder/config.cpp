#include "models/tiny_decoder/config.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"

namespace zoe {

TinyDecoderConfig infer_tiny_decoder_config(const Checkpoint& file) {
  const auto shape = [&](const std::string& name) {
    const TensorEntry* const entry = file.find(name);
    check(entry != nullptr, ErrorKind::invalid_argument, file.where(),
          "is no tiny decoder: it has no {}. Expected a file of TAEHV, as taew2_1.pth or taew2_2.pth.", name);
    check(entry->shape.rank() == 4, ErrorKind::invalid_argument, file.where(),
          "is no tiny decoder: {} is {}, expected 4 axes. Expected a file of TAEHV, as taew2_1.pth or taew2_2.pth.", name,
          entry->shape.str());
    return entry->shape;
  };
  TinyDecoderConfig config{};
  const Shape first = shape("decoder.1.weight"), last = shape("decoder.22.weight");
  config.z_dim = first.dim(1);
  config.channels[0] = first.dim(0);
  for (std::size_t level = 0; level < 3; ++level) {
    const std::size_t grow = 6 * level + 7;
    config.grows[level] = shape(fmt::format("decoder.{}.conv.weight", grow)).dim(0) / config.channels[level];
    config.channels[level + 1] = shape(fmt::format("decoder.{}.weight", grow + 1)).dim(0);
    check(config.grows[level] == 1 || config.grows[level] == 2, ErrorKind::unsupported, file.where(),
          "level {} of the decoder makes {} frames of one, expected 1 or 2. Choose another file.", level, config.grows[level]);
  }
  config.patch_size = std::lround(std::sqrt(static_cast<double>(last.dim(0)) / 3));
  check(config.patch_size >= 1 && 3 * config.patch_size * config.patch_size == last.dim(0), ErrorKind::unsupported, file.where(),
        "decoder.22.weight makes {} channels, expected 3 for each pixel of a square. Choose another file.", last.dim(0));
  return config;
}

}  // namespace zoe
