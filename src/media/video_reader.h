// Videos to frames: files that FFmpeg reads, and folders of pictures.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>

#include "media/image.h"

namespace zoe {

// The frames of a video, one after another, all of one size.
class VideoReader {
 public:
  virtual ~VideoReader() = default;
  virtual std::optional<Image> next() = 0;  // none behind the last
};

// Opens a file (its first video stream; turned as its display matrix says; pixels of the file's own matrix and range, BT.601 or,
// from 720 rows on, BT.709 where it names none), or a folder of PNG, JPEG and WebP pictures (read_image), in the order of their
// names: runs of digits by their value. Rates are not looked at: a frame is a frame.
//
// Errors name `where` and the file, here and in next(). invalid_argument: no video, no pictures, damaged, frames of several sizes
// or of more than kMaxImagePixels; unsupported: no decoder here; io: it cannot be read.
std::unique_ptr<VideoReader> open_video(const std::filesystem::path& path, std::string_view where);

// Of a file. Of builds without decoders it is always unsupported.
std::unique_ptr<VideoReader> open_movie(const std::filesystem::path& path, std::string_view where);

}  // namespace zoe
