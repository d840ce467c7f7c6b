#include "pipeline/fitted_image.h"

#include <algorithm>
#include <cmath>

namespace zoe {

Image fitted(const Image& image, int width, int height, Fit fit) {
  constexpr auto kFilter = ResizeFilter::lanczos;
  const std::int64_t across = std::int64_t{image.width} * height, down = std::int64_t{image.height} * width;  // equal: one shape
  const auto divided = [](std::int64_t a, std::int64_t b) { return std::max(static_cast<int>((2 * a + b) / (2 * b)), 1); };
  if (fit == Fit::stretch || across == down) return resize(image, width, height, kFilter);
  if (fit == Fit::crop) {
    const int part_width = across > down ? divided(down, height) : image.width;
    const int part_height = across > down ? image.height : divided(across, width);
    return resize(crop(image, (image.width - part_width) / 2, (image.height - part_height) / 2, part_width, part_height), width,
                  height, kFilter);
  }
  const int inner_width = across > down ? width : divided(across, image.height);
  const int inner_height = across > down ? divided(down, image.width) : height;
  Image frame = black_image(width, height);
  paste(frame, (width - inner_width) / 2, (height - inner_height) / 2, resize(image, inner_width, inner_height, kFilter));
  return frame;
}

Request with_shape_of(int width, int height, Request request, const ModelConfig& model) {
  if (request.width && request.height) return request;
  const auto& patch = model.transformer.patch_size;
  const std::int64_t spatial = model.vae.scale_factor_spatial, height_step = spatial * patch[1], width_step = spatial * patch[2];
  const double shape = static_cast<double>(height) / width;
  const auto side = [](double exact, std::int64_t step) {
    return std::max(static_cast<std::int64_t>(std::nearbyint(exact)) / step * step, step);
  };
  if (request.width) {
    request.height = side(static_cast<double>(*request.width) * shape, height_step);
  } else if (request.height) {
    request.width = side(static_cast<double>(*request.height) / shape, width_step);
  } else {
    const double area = static_cast<double>(model.defaults.height) * static_cast<double>(model.defaults.width);
    request.height = side(std::sqrt(area * shape), height_step);
    request.width = side(std::sqrt(area / shape), width_step);
  }
  return request;
}

}  // namespace zoe
