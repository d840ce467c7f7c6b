// In place of ffmpeg.cpp, movie.cpp and gif.cpp where FFmpeg is left out (ZOE_PORTABLE).
#include "base/error.h"
#include "media/ffmpeg.h"
#include "media/frame_sink.h"
#include "media/read_comment.h"

namespace zoe {

void require_encoder(const char* codec) {
  fail(ErrorKind::unsupported, "output",
       "this build has no FFmpeg, whose encoder {} would be needed. Choose a .png or a folder of frames (a path without suffix).",
       codec);
}

std::unique_ptr<FrameSink> movie_sink(VideoFormat format, const std::filesystem::path&, const VideoSettings&) {
  require_encoder(format == VideoFormat::mp4 ? "libx264" : "libvpx-vp9");
  return nullptr;
}

std::unique_ptr<FrameSink> gif_sink(const std::filesystem::path&, const VideoSettings&) {
  require_encoder("gif");
  return nullptr;
}

std::string movie_comment(const std::filesystem::path& path, std::string_view where) {
  fail(ErrorKind::unsupported, where, "this build has no FFmpeg, which reads {}. Choose a .png or a folder of frames.", path.string());
}

}  // namespace zoe
