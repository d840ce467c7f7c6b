// Pictures of any size and a video's own: how one becomes the other.
#pragma once

#include "media/image.h"
#include "pipeline/model.h"
#include "pipeline/request.h"

namespace zoe {

// The picture as a frame of width x height.
Image fitted(const Image& image, int width, int height, Fit fit);

// A pixel's value as the VAE takes it, in -1..1: 2 (value / 255) - 1.
inline float signed_pixel(std::uint8_t value) { return 2.0f * (static_cast<float>(value) / 255.0f) - 1.0f; }

// The request with the size that it leaves open: that of a picture's shape. Where width and height are both open the area is the
// model's; sides are rounded to what the model makes (the nearest multiple below, as Wan's documents do it).
Request with_shape_of(int width, int height, Request request, const ModelConfig& model);

}  // namespace zoe
