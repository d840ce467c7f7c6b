// .png: one image, a sheet of numbered frames, or a folder of images.
extern "C" {
#include <libavcodec/packet.h>
#include <libavutil/crc.h>
#include <libavutil/frame.h>
#include <libavutil/pixfmt.h>
}

#include <algorithm>
#include <cmath>
#include <cstring>

#include "media/ffmpeg.h"
#include "media/frame_sink.h"

namespace zoe {

namespace {

void append_u32(std::vector<std::uint8_t>& bytes, std::uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<std::uint8_t>(value >> shift));
}

// Appends an iTXt chunk: uncompressed UTF-8 text, no language (PNG specification, 11.3.3.4).
void append_text_chunk(std::vector<std::uint8_t>& bytes, std::string_view keyword, std::string_view text) {
  if (text.empty()) return;
  std::vector<std::uint8_t> chunk{'i', 'T', 'X', 't'};
  chunk.insert(chunk.end(), keyword.begin(), keyword.end());
  chunk.insert(chunk.end(), 5, 0);  // end of keyword, not compressed, method, empty language, empty translated keyword
  chunk.insert(chunk.end(), text.begin(), text.end());
  append_u32(bytes, static_cast<std::uint32_t>(chunk.size() - 4));
  bytes.insert(bytes.end(), chunk.begin(), chunk.end());
  append_u32(bytes, ~av_crc(av_crc_get_table(AV_CRC_32_IEEE_LE), 0xffffffffu, chunk.data(), chunk.size()));
}

// Encodes RGB images of one size, with the settings as text chunks right behind the header.
class PngEncoder {
 public:
  PngEncoder(int width, int height, const VideoSettings& settings)
      : encoder_({.codec = "png",
                  .pixel_format = AV_PIX_FMT_RGB24,
                  .width = width,
                  .height = height,
                  .rate_num = 1,
                  .rate_den = 1,
                  .options = {{"pred", "mixed"}, {"compression_level", "3"}}}) {
    const MetadataText text = metadata_text(settings);
    append_text_chunk(text_, "Software", settings.software);
    append_text_chunk(text_, "Title", text.title);
    append_text_chunk(text_, "Comment", text.json);
  }

  AVFrame& frame() { return encoder_.frame(); }

  void write_to(const std::filesystem::path& path) {
    encoder_.encode(index_++, [&](AVPacket& packet) {
      const Bytes image(packet.data, static_cast<std::size_t>(packet.size));
      constexpr std::size_t kHeader = 8 + 25;  // signature and IHDR
      write_file(path, "wb", {image.first(kHeader), text_, image.subspan(kHeader)});
    });
  }

 private:
  Encoder encoder_;
  std::int64_t index_ = 0;
  std::vector<std::uint8_t> text_;  // whole chunks
};

void copy_into(AVFrame& image, int left, int top, std::span<const std::uint8_t> rgb, int width) {
  const std::size_t row_bytes = 3 * static_cast<std::size_t>(width);
  const auto rows = static_cast<int>(rgb.size() / row_bytes);
  for (int y = 0; y < rows; ++y)
    std::memcpy(image.data[0] + static_cast<std::ptrdiff_t>(top + y) * image.linesize[0] + 3 * left,
                rgb.data() + static_cast<std::size_t>(y) * row_bytes, row_bytes);
}

void fill(AVFrame& image, int left, int top, int width, int height, std::uint8_t grey) {
  for (int y = top; y < top + height; ++y)
    std::memset(image.data[0] + static_cast<std::ptrdiff_t>(y) * image.linesize[0] + 3 * left, grey,
                3 * static_cast<std::size_t>(width));
}

// Digits of 3 x 5 dots; a row's bits from the left.
constexpr std::uint8_t kDigits[10][5] = {{7, 5, 5, 5, 7}, {2, 6, 2, 2, 7}, {7, 1, 7, 4, 7}, {7, 1, 7, 1, 7}, {5, 5, 7, 1, 1},
                                         {7, 4, 7, 1, 7}, {7, 4, 7, 5, 7}, {7, 1, 1, 2, 2}, {7, 5, 7, 5, 7}, {7, 5, 7, 1, 7}};
constexpr int kDigitWidth = 3, kDigitHeight = 5;

// Draws a number that ends before `right`, cut there.
void draw_number(AVFrame& image, int number, int left, int top, int right, int scale) {
  for (const char digit : std::to_string(number)) {
    for (int y = 0; y < kDigitHeight; ++y)
      for (int x = 0; x < kDigitWidth; ++x)
        if (kDigits[digit - '0'][y] >> (kDigitWidth - 1 - x) & 1 && left + (x + 1) * scale <= right)
          fill(image, left + x * scale, top + y * scale, scale, scale, 235);
    left += (kDigitWidth + 1) * scale;
  }
}

class SheetSink : public FrameSink {
 public:
  SheetSink(const std::filesystem::path& path, const VideoSettings& settings)
      : path_(path),
        layout_(sheet_layout(settings)),
        width_(settings.width),
        height_(settings.height),
        encoder_(layout_.width, layout_.height, settings) {
    fill(encoder_.frame(), 0, 0, layout_.width, layout_.height, 24);
  }

  void write(std::span<const std::uint8_t> rgb) override {
    AVFrame& image = encoder_.frame();
    const int left = layout_.gap + index_ % layout_.columns * (width_ + layout_.gap);
    const int top = layout_.gap + index_ / layout_.columns * (layout_.bar + height_ + layout_.gap);
    ++index_;
    draw_number(image, index_, left, top + layout_.scale, left + width_, layout_.scale);
    copy_into(image, left, top + layout_.bar, rgb, width_);
  }

  void finish() override { encoder_.write_to(path_); }

 private:
  std::filesystem::path path_;
  SheetLayout layout_;
  int width_, height_, index_ = 0;
  PngEncoder encoder_;
};

// One image, or a folder of them.
class ImagesSink : public FrameSink {
 public:
  ImagesSink(const std::filesystem::path& path, const VideoSettings& settings, bool folder)
      : path_(path), folder_(folder), width_(settings.width), encoder_(settings.width, settings.height, settings) {}

  void write(std::span<const std::uint8_t> rgb) override {
    copy_into(encoder_.frame(), 0, 0, rgb, width_);
    encoder_.write_to(folder_ ? path_ / fmt::format("{:04}.png", ++index_) : path_);
  }
  void finish() override {}

 private:
  std::filesystem::path path_;
  bool folder_;
  int width_, index_ = 0;
  PngEncoder encoder_;
};

}  // namespace

SheetLayout sheet_layout(const VideoSettings& settings) {
  SheetLayout layout{};
  // A few frames make a strip, more a picture that is roughly as wide as a screen.
  layout.columns = settings.frames <= 8
                       ? settings.frames
                       : std::min(settings.frames,
                                  static_cast<int>(std::ceil(std::sqrt(1.6 * settings.frames * settings.height / settings.width))));
  layout.rows = (settings.frames + layout.columns - 1) / layout.columns;
  layout.scale = std::clamp(std::min(settings.width, settings.height) / 64, 1, 5);
  layout.gap = 2 * layout.scale;
  layout.bar = (kDigitHeight + 2) * layout.scale;
  layout.width = layout.gap + layout.columns * (settings.width + layout.gap);
  layout.height = layout.gap + layout.rows * (layout.bar + settings.height + layout.gap);
  return layout;
}

std::unique_ptr<FrameSink> png_sink(VideoFormat format, const std::filesystem::path& path, const VideoSettings& settings) {
  if (format == VideoFormat::png && settings.frames > 1) return std::make_unique<SheetSink>(path, settings);
  return std::make_unique<ImagesSink>(path, settings, format == VideoFormat::folder);
}

}  // namespace zoe
