// Where a VideoWriter's frames go: one implementation a kind of file. Internal to this folder.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "media/video_writer.h"

namespace zoe {

class FrameSink {
 public:
  virtual ~FrameSink() = default;
  virtual void write(std::span<const std::uint8_t> rgb) = 0;
  virtual void finish() = 0;  // flushes and closes; called once
};

// Where a sink writes, and what errors call it: the path that the file will have.
struct SinkTarget {
  std::filesystem::path path, name;
};

std::unique_ptr<FrameSink> movie_sink(VideoFormat format, const SinkTarget& target,
                                      const VideoSettings& settings);  // mp4, mov, mkv, webm
std::unique_ptr<FrameSink> gif_sink(const SinkTarget& target, const VideoSettings& settings);
std::unique_ptr<FrameSink> png_sink(VideoFormat format, const SinkTarget& target, const VideoSettings& settings);  // png, folder

// The picture with all frames: cells of a frame with a bar for its number above it, `gap` pixels between and around.
struct SheetLayout {
  int columns, rows;
  int scale, gap, bar;  // pixels: of a dot of a digit, between cells, height of the number's bar
  int width, height;    // of the whole picture
};
SheetLayout sheet_layout(const VideoSettings& settings);

// How many of a writer's threads its encoder gets. x264 works on a frame in each, which follow one another by some rows: it has no
// use for more than one for 32 rows, and the size of the file does not depend on them. libvpx takes tiles of columns.
int encoder_threads(VideoFormat format, const VideoSettings& settings);

// What every format stores: the settings as JSON, and the prompt (or "") as valid UTF-8.
struct MetadataText {
  std::string json, title;
};
MetadataText metadata_text(const VideoSettings& settings);

// A file being written, every step checked. Modes as fopen: "wb" a new file, "r+b" changes one.
class OutputFile {
 public:
  OutputFile(const SinkTarget& target, const char* mode);
  void write(std::span<const std::uint8_t> bytes);
  void seek_from_end(long offset);
  void close();  // what was still buffered is written here

 private:
  void check_system(bool ok) const;
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::filesystem::path name_;
  std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace zoe
