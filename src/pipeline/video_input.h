// A video that a request gives, as frames of the video that is made.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "media/image.h"
#include "pipeline/model.h"
#include "pipeline/request.h"

namespace zoe {

class VideoInput {
 public:
  // Opens it and looks at its first frame; errors are those of open_video. `field`: as errors call it.
  VideoInput(const std::filesystem::path& path, std::string field);

  const std::string& field() const { return field_; }
  int width() const { return width_; }
  int height() const { return height_; }

  // The request with what it leaves open: the size (with_shape_of), and the number of frames, the model's or, where the video has
  // fewer, as many as it has of one more than a multiple of `temporal`, with a notice.
  Request settle_request(Request request, const ModelConfig& model) const;
  // Its first `frames` frames, fitted. invalid_argument if it has fewer, with what to lower; a notice if it has more.
  std::vector<Image> read(std::int64_t frames, int width, int height, Fit fit, std::int64_t temporal, Spelling spelling) const;
  // A single frame is as many as are asked for.
  bool is_still() const { return is_still_; }

 private:
  std::int64_t count(std::int64_t most) const;

  std::filesystem::path path_;
  std::string field_;
  int width_ = 0, height_ = 0;
  bool is_still_ = false;
};

}  // namespace zoe
