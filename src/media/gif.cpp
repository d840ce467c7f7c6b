// .gif: the frames are kept until all colours are known, then share one palette.
extern "C" {
#include <libavutil/frame.h>
#include <libavutil/pixfmt.h>
}

#include <cmath>
#include <cstring>

#include "media/ffmpeg.h"
#include "media/frame_sink.h"
#include "media/palette.h"

namespace zoe {

namespace {

// A GIF89a comment extension with the JSON, and the trailer that ends the file.
std::vector<std::uint8_t> comment_and_trailer(const std::string& json) {
  std::vector<std::uint8_t> bytes{0x21, 0xfe};
  for (std::size_t at = 0; at < json.size(); at += 255) {
    const std::string block = json.substr(at, 255);
    bytes.push_back(static_cast<std::uint8_t>(block.size()));
    bytes.insert(bytes.end(), block.begin(), block.end());
  }
  bytes.insert(bytes.end(), {0x00, 0x3b});
  return bytes;
}

class GifSink : public FrameSink {
 public:
  GifSink(const SinkTarget& target, const VideoSettings& settings)
      : target_(target),
        fps_(settings.fps),
        width_(settings.width),
        json_(metadata_text(settings).json),
        file_("gif", target,
              {.codec = "gif",
               .pixel_format = AV_PIX_FMT_PAL8,
               .width = settings.width,
               .height = settings.height,
               .rate_num = 100,
               .rate_den = 1},
              {}, "", {{"loop", "0"}}) {}

  void write(std::span<const std::uint8_t> rgb) override { frames_.emplace_back(rgb.begin(), rgb.end()); }

  void finish() override {
    const std::vector<Rgb> palette = make_palette(frames_, 255);
    // The 256th entry is transparent: the encoder uses it for pixels that stay as they were.
    std::array<std::uint32_t, 256> entries{};
    for (std::size_t i = 0; i < palette.size(); ++i)
      entries[i] = 0xff000000u | static_cast<std::uint32_t>(palette[i][0] << 16 | palette[i][1] << 8 | palette[i][2]);
    PaletteMap map(palette);
    for (std::size_t i = 0; i < frames_.size(); ++i) {
      AVFrame& frame = file_.frame();
      map.map(frames_[i], width_, frame.data[0], frame.linesize[0]);
      std::memcpy(frame.data[1], entries.data(), sizeof entries);
      file_.encode(std::llround(static_cast<double>(i) * 100 / fps_));
    }
    file_.finish();
    // FFmpeg writes no comments into GIFs; one may stand anywhere before the trailer, the file's last byte.
    OutputFile file(target_, "r+b");
    file.seek_from_end(-1);
    file.write(comment_and_trailer(json_));
    file.close();
  }

 private:
  SinkTarget target_;
  double fps_;
  int width_;
  std::string json_;
  std::vector<std::vector<std::uint8_t>> frames_;  // each [H,W,3]
  EncodedFile file_;
};

}  // namespace

std::unique_ptr<FrameSink> gif_sink(const SinkTarget& target, const VideoSettings& settings) {
  return std::make_unique<GifSink>(target, settings);
}

}  // namespace zoe
