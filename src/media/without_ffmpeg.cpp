// In place of ffmpeg.cpp, movie.cpp and gif.cpp where FFmpeg is left out (ZOE_PORTABLE).
#include "base/error.h"
#include "media/ffmpeg.h"
#include "media/frame_sink.h"

namespace zoe {

void require_encoder(const char* codec) {
  fail(ErrorKind::unsupported, "output",
       "this build has no FFmpeg, whose encoder {} would be needed. Choose a .png or a folder of frames (a path without suffix).",
       codec);
}

std::unique_ptr<FrameSink> movie_sink(VideoFormat format, const SinkTarget&, const VideoSettings&) {
  require_encoder(format == VideoFormat::mp4 ? "libx264" : "libvpx-vp9");
  return nullptr;
}

std::unique_ptr<FrameSink> gif_sink(const SinkTarget&, const VideoSettings&) {
  require_encoder("gif");
  return nullptr;
}

}  // namespace zoe
