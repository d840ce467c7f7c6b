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
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/files.h"

namespace zoe {

enum class VideoFormat {
  mp4,     // .mp4: H.264 (x264), yuv420p, BT.709 limited range, index first; even sizes only
  mov,     // .mov: the same in QuickTime's container
  mkv,     // .mkv: the same in Matroska
  webm,    // .webm: VP9 (libvpx), yuv420p, BT.709 limited range
  gif,     // .gif: one palette for all frames, ordered dither, repeats for ever; delays are whole centiseconds, right on average
  png,     // .png: the image, or with several frames one sheet of them in reading order, each with its number above it
  folder,  // no suffix, a trailing slash, or a folder that exists: a folder of 0001.png, 0002.png ...
};

// The format that a path's suffix names (upper or lower case); invalid_argument for an unknown suffix, a suffix without a name, and
// "-". What begins with a number is no suffix: `wan2.1` and `wan2.1-run` are folders.
VideoFormat video_format(const std::filesystem::path& path);

// The path of one of several videos: out.mp4 is out-0001.mp4 for number 1, and the folder wan2.1 is wan2.1-0001.
std::filesystem::path numbered_output(const std::filesystem::path& path, std::size_t number);

// The crf of a format where VideoSettings has none.
int default_crf(VideoFormat format);

struct VideoSettings {
  int width = 0, height = 0;  // pixels, up to 16384
  int frames = 0;             // exactly as many are written before finish()
  double fps = 16;
  int threads = 1;  // most of the encoder (all but gif, png, folder); the file depends on it, memory too
  // Constant rate factor: the quality of H.264 (0 to 51) and VP9 (0 to 63), smaller is better and larger files; invalid_argument
  // for the other formats, which have none.
  std::optional<int> crf = {};
  std::string software = {};  // "Zoetrope 0.1.0"
  // Written as one JSON object of strings, in this order, into the comment of every format and every png of a
  // folder; the value of "prompt" is also the title, but of gif.
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
