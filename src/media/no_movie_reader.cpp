// Of the portable program, which has none of FFmpeg's decoders.
#include "base/error.h"
#include "media/video_reader.h"

namespace zoe {

std::unique_ptr<VideoReader> open_movie(const std::filesystem::path& path, std::string_view where) {
  fail(ErrorKind::unsupported, where, "this build reads no files of videos: got {}, expected a folder of its frames as pictures.",
       path.string());
}

}  // namespace zoe
