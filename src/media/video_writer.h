// Writes a video, one frame at a time, to a file that appears complete or not at all.
//
//   check_output("out.mp4", settings);                   // before generating: every refusal that can be known then
//   auto writer = VideoWriter::open("out.mp4", settings);
//   for (...) writer->write(rgb);
//   writer->finish();
//
// Errors: invalid_argument for a mistake of the caller, io if the system refuses (full disk, no permission), unsupported if FFmpeg
// was built without an encoder. FFmpeg's log is captured process-wide from the first use on: nothing of it reaches stderr, the last
// lines are part of the error's text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/files.h"

namespace zoe {

enum class VideoFormat {
  mp4,     // .mp4: H.264 (x264, crf 18), yuv420p, BT.709 limited range, index first; even sizes only
  webm,    // .webm: VP9 (libvpx, crf 20), yuv420p, BT.709 limited range
  gif,     // .gif: one palette for all frames, ordered dither, repeats for ever; delays are whole centiseconds, right on average
  png,     // .png: the image, or with several frames one sheet of them in reading order, each with its number above it
  folder,  // no suffix, or a trailing slash: a folder of 0001.png, 0002.png ...
};

// The format that a path's suffix names (upper or lower case); invalid_argument for an unknown suffix.
VideoFormat video_format(const std::filesystem::path& path);

struct VideoSettings {
  int width = 0, height = 0;  // pixels, up to 16384
  int frames = 0;             // exactly as many are written before finish()
  double fps = 16;
  int threads = 1;            // of the encoder (mp4, webm); the file depends on it, memory too
  std::string software = {};  // "Zoetrope 0.1.0"
  // Written as one JSON object of strings, in this order, into the comment of mp4, webm, gif and every png; the value of "prompt"
  // is also the title of mp4, webm and png.
  std::vector<std::pair<std::string, std::string>> metadata = {};
};

// Throws what open() would throw: unknown suffix, sizes or rates the format cannot hold, a missing or unwritable folder, a folder
// of frames that is not empty. Leaves nothing behind.
void check_output(const std::filesystem::path& path, const VideoSettings& settings);

// Anonymous memory (bytes) a writer needs at its peak, caller's frames not included. Measured, see video_writer.cpp.
std::size_t encoder_bytes(VideoFormat format, const VideoSettings& settings);

class FrameSink;

class VideoWriter {
 public:
  static std::unique_ptr<VideoWriter> open(const std::filesystem::path& path, const VideoSettings& settings);
  ~VideoWriter();  // without finish(): nothing remains of the file

  // rgb: [H,W,3], 8 bits. Copied or encoded before it returns.
  void write(std::span<const std::uint8_t> rgb);
  // Completes the file and puts it in place. After an error of write() or finish() only destruction is left.
  void finish();

 private:
  VideoWriter(const std::filesystem::path& path, VideoFormat format, const VideoSettings& settings);

  int frames_, written_ = 0;
  std::size_t frame_bytes_;
  PendingOutput output_;
  std::unique_ptr<FrameSink> sink_;  // declared last: closes its file before output_ removes it
};

}  // namespace zoe
