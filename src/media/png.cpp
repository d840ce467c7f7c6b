// .png: one image, a sheet of numbered frames, or a folder of images.
#include <png.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "media/frame_sink.h"

namespace zoe {

namespace {

// An RGB picture, rows from the top: [height, width, 3].
struct Picture {
  Picture(int width_, int height_)
      : width(width_), height(height_), rgb(3 * static_cast<std::size_t>(width_) * static_cast<std::size_t>(height_)) {}
  std::size_t row_bytes() const { return 3 * static_cast<std::size_t>(width); }
  std::uint8_t* at(int left, int top) {
    return rgb.data() + static_cast<std::size_t>(top) * row_bytes() + 3 * static_cast<std::size_t>(left);
  }

  int width, height;
  std::vector<std::uint8_t> rgb;
};

// Writes pictures of one video, with its settings as text chunks right behind the header.
class PngWriter {
 public:
  explicit PngWriter(const VideoSettings& settings) : software_(settings.software), text_(metadata_text(settings)) {}

  void write(const Picture& picture, const SinkTarget& target) {
    OutputFile file(target, "wb");
    Png png;
    png_set_write_fn(
        png.png, &file,
        [](png_structp from, png_bytep bytes, std::size_t size) {
          static_cast<OutputFile*>(png_get_io_ptr(from))->write({bytes, size});
        },
        nullptr);
    png_set_IHDR(png.png, png.info, static_cast<png_uint_32>(picture.width), static_cast<png_uint_32>(picture.height), 8,
                 PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_compression_level(png.png, 3);  // twice as fast as the default, a few percent larger
    png_set_filter(png.png, PNG_FILTER_TYPE_BASE, PNG_ALL_FILTERS);
    add_text(png, "Software", software_);
    add_text(png, "Title", text_.title);
    add_text(png, "Comment", text_.json);
    png_write_info(png.png, png.info);
    for (int y = 0; y < picture.height; ++y)
      png_write_row(png.png, picture.rgb.data() + static_cast<std::size_t>(y) * picture.row_bytes());
    png_write_end(png.png, nullptr);
    file.close();
  }

 private:
  // libpng's two objects. Its errors, and those of the file, are exceptions, which pass through libpng's frames.
  struct Png {
    Png()
        : png(png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, on_error, on_warning)),
          info(png ? png_create_info_struct(png) : nullptr) {
      if (!info) {
        png_destroy_write_struct(&png, nullptr);
        fail(ErrorKind::out_of_memory, "output", "no memory to write a .png.");
      }
    }
    Png(const Png&) = delete;
    Png& operator=(const Png&) = delete;
    ~Png() { png_destroy_write_struct(&png, &info); }
    static void on_error(png_structp, png_const_charp text) {
      fail(ErrorKind::unsupported, "output", "cannot write a .png: {}. Choose another output suffix.", text);
    }
    static void on_warning(png_structp, png_const_charp) {}

    png_structp png;
    png_infop info;
  };

  // An iTXt chunk: UTF-8, not compressed, so that it is found with any tool.
  static void add_text(Png& png, const char* keyword, std::string& text) {
    if (text.empty()) return;
    std::string key = keyword, none;
    png_text chunk{};
    chunk.compression = PNG_ITXT_COMPRESSION_NONE;
    chunk.key = key.data();
    chunk.text = text.data();
    chunk.lang = none.data();
    chunk.lang_key = none.data();
    png_set_text(png.png, png.info, &chunk, 1);
  }

  std::string software_;
  MetadataText text_;
};

void copy_into(Picture& image, int left, int top, std::span<const std::uint8_t> rgb, int width) {
  const std::size_t row_bytes = 3 * static_cast<std::size_t>(width);
  const auto rows = static_cast<int>(rgb.size() / row_bytes);
  for (int y = 0; y < rows; ++y)
    std::memcpy(image.at(left, top + y), rgb.data() + static_cast<std::size_t>(y) * row_bytes, row_bytes);
}

void fill(Picture& image, int left, int top, int width, int height, std::uint8_t grey) {
  for (int y = top; y < top + height; ++y) std::memset(image.at(left, y), grey, 3 * static_cast<std::size_t>(width));
}

// Digits of 3 x 5 dots; a row's bits from the left.
constexpr std::uint8_t kDigits[10][5] = {{7, 5, 5, 5, 7}, {2, 6, 2, 2, 7}, {7, 1, 7, 4, 7}, {7, 1, 7, 1, 7}, {5, 5, 7, 1, 1},
                                         {7, 4, 7, 1, 7}, {7, 4, 7, 5, 7}, {7, 1, 1, 2, 2}, {7, 5, 7, 5, 7}, {7, 5, 7, 1, 7}};
constexpr int kDigitWidth = 3, kDigitHeight = 5;

// Draws a number that ends before `right`, cut there.
void draw_number(Picture& image, int number, int left, int top, int right, int scale) {
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
  SheetSink(const SinkTarget& target, const VideoSettings& settings)
      : target_(target),
        layout_(sheet_layout(settings)),
        width_(settings.width),
        height_(settings.height),
        picture_(layout_.width, layout_.height),
        writer_(settings) {
    fill(picture_, 0, 0, layout_.width, layout_.height, 24);
  }

  void write(std::span<const std::uint8_t> rgb) override {
    const int left = layout_.gap + index_ % layout_.columns * (width_ + layout_.gap);
    const int top = layout_.gap + index_ / layout_.columns * (layout_.bar + height_ + layout_.gap);
    ++index_;
    draw_number(picture_, index_, left, top + layout_.scale, left + width_, layout_.scale);
    copy_into(picture_, left, top + layout_.bar, rgb, width_);
  }

  void finish() override { writer_.write(picture_, target_); }

 private:
  SinkTarget target_;
  SheetLayout layout_;
  int width_, height_, index_ = 0;
  Picture picture_;
  PngWriter writer_;
};

// One image, or a folder of them.
class ImagesSink : public FrameSink {
 public:
  ImagesSink(const SinkTarget& target, const VideoSettings& settings, bool folder)
      : target_(target), folder_(folder), picture_(settings.width, settings.height), writer_(settings) {}

  void write(std::span<const std::uint8_t> rgb) override {
    copy_into(picture_, 0, 0, rgb, picture_.width);
    const std::string number = fmt::format("{:04}.png", ++index_);
    writer_.write(picture_, folder_ ? SinkTarget{target_.path / number, target_.name / number} : target_);
  }
  void finish() override {}

 private:
  SinkTarget target_;
  bool folder_;
  int index_ = 0;
  Picture picture_;
  PngWriter writer_;
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

std::unique_ptr<FrameSink> png_sink(VideoFormat format, const SinkTarget& target, const VideoSettings& settings) {
  if (format == VideoFormat::png && settings.frames > 1) return std::make_unique<SheetSink>(target, settings);
  return std::make_unique<ImagesSink>(target, settings, format == VideoFormat::folder);
}

}  // namespace zoe
