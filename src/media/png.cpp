// .png: one image, a sheet of numbered frames, or a folder of images.
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
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

void put_u32(std::uint8_t* at, std::size_t value) {
  for (int i = 0; i < 4; ++i) at[i] = static_cast<std::uint8_t>(value >> (24 - 8 * i));
}

// Chunks (PNG specification, 5.3) are written in place: open, append the data, close.
std::size_t open_chunk(std::vector<std::uint8_t>& bytes, const char (&type)[5]) {
  const std::size_t begin = bytes.size();
  bytes.resize(begin + 4);
  bytes.insert(bytes.end(), type, type + 4);
  return begin;
}

void close_chunk(std::vector<std::uint8_t>& bytes, std::size_t begin) {
  const std::size_t covered = bytes.size() - begin - 4;  // by the checksum: type and data
  put_u32(&bytes[begin], covered - 4);
  const std::size_t checksum = crc32_z(0, &bytes[begin + 4], covered);
  bytes.resize(bytes.size() + 4);
  put_u32(&bytes[bytes.size() - 4], checksum);
}

// An iTXt chunk: uncompressed UTF-8 text, no language (PNG specification, 11.3.3.4).
void append_text_chunk(std::vector<std::uint8_t>& bytes, std::string_view keyword, std::string_view text) {
  if (text.empty()) return;
  const std::size_t chunk = open_chunk(bytes, "iTXt");
  bytes.insert(bytes.end(), keyword.begin(), keyword.end());
  bytes.insert(bytes.end(), 5, 0);  // end of keyword, not compressed, method, empty language, empty translated keyword
  bytes.insert(bytes.end(), text.begin(), text.end());
  close_chunk(bytes, chunk);
}

// The five filters of PNG (specification, 9.2) for one row, as zlib gets it: the filter's number, then the differences.
void filter_row(int filter, const std::uint8_t* row, const std::uint8_t* above, std::size_t size, std::uint8_t* out) {
  *out++ = static_cast<std::uint8_t>(filter);
  for (std::size_t i = 0; i < size; ++i) {
    const int left = i >= 3 ? row[i - 3] : 0, up = above[i], corner = i >= 3 ? above[i - 3] : 0;
    int guess = 0;
    if (filter == 1) guess = left;
    if (filter == 2) guess = up;
    if (filter == 3) guess = (left + up) / 2;
    if (filter == 4) {
      const int to_left = std::abs(up - corner), to_up = std::abs(left - corner), to_corner = std::abs(left + up - 2 * corner);
      guess = to_left <= to_up && to_left <= to_corner ? left : to_up <= to_corner ? up : corner;
    }
    out[i] = static_cast<std::uint8_t>(row[i] - guess);
  }
}

// How well a filtered row is likely to compress: the sum of its differences' sizes, as the specification advises (12.8).
std::uint64_t cost_of(const std::vector<std::uint8_t>& filtered) {
  std::uint64_t cost = 0;
  for (std::size_t i = 1; i < filtered.size(); ++i)
    cost += static_cast<std::uint64_t>(std::abs(static_cast<int>(static_cast<std::int8_t>(filtered[i]))));
  return cost;
}

// A deflate stream at the end of `bytes`, which grows as it is filled.
class Deflater {
 public:
  explicit Deflater(std::vector<std::uint8_t>& bytes) : bytes_(bytes) {
    constexpr int kLevel = 3;  // twice as fast as the default, a few percent larger
    check(deflateInit(&stream_, kLevel) == Z_OK, ErrorKind::out_of_memory, "output", "no memory to compress a .png.");
  }
  Deflater(const Deflater&) = delete;
  Deflater& operator=(const Deflater&) = delete;
  ~Deflater() { deflateEnd(&stream_); }
  void add(const std::vector<std::uint8_t>& input) {
    stream_.next_in = const_cast<std::uint8_t*>(input.data());  // zlib's interface; it only reads
    stream_.avail_in = static_cast<uInt>(input.size());
    while (stream_.avail_in > 0) step(Z_NO_FLUSH);
  }
  void finish() {
    while (step(Z_FINISH) != Z_STREAM_END) {
    }
  }

 private:
  int step(int flush) {
    std::array<std::uint8_t, 1 << 16> out;
    stream_.next_out = out.data();
    stream_.avail_out = static_cast<uInt>(out.size());
    const int result = deflate(&stream_, flush);
    ZOE_INTERNAL_CHECK(result != Z_STREAM_ERROR);
    bytes_.insert(bytes_.end(), out.data(), stream_.next_out);
    return result;
  }
  std::vector<std::uint8_t>& bytes_;
  z_stream stream_ = {};
};

// Writes pictures of one video, with its settings as text chunks right behind the header.
class PngWriter {
 public:
  explicit PngWriter(const VideoSettings& settings) {
    const MetadataText text = metadata_text(settings);
    append_text_chunk(text_, "Software", settings.software);
    append_text_chunk(text_, "Title", text.title);
    append_text_chunk(text_, "Comment", text.json);
  }

  void write(const Picture& picture, const SinkTarget& target) {
    std::vector<std::uint8_t> bytes{0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    // Address space only, touched as it is filled: growing would copy.
    bytes.reserve(text_.size() + compressBound(picture.rgb.size() + static_cast<std::size_t>(picture.height)) + 256);
    const std::size_t header = open_chunk(bytes, "IHDR");
    bytes.resize(bytes.size() + 8);
    put_u32(&bytes[bytes.size() - 8], static_cast<std::size_t>(picture.width));
    put_u32(&bytes[bytes.size() - 4], static_cast<std::size_t>(picture.height));
    bytes.insert(bytes.end(), {8, 2, 0, 0, 0});  // 8 bits a channel, RGB, deflate, the five filters, not interlaced
    close_chunk(bytes, header);
    bytes.insert(bytes.end(), text_.begin(), text_.end());
    const std::size_t data = open_chunk(bytes, "IDAT");
    compress(picture, bytes);
    close_chunk(bytes, data);
    close_chunk(bytes, open_chunk(bytes, "IEND"));
    write_file(target, "wb", {bytes});
  }

 private:
  static void compress(const Picture& picture, std::vector<std::uint8_t>& bytes) {
    Deflater deflater(bytes);
    const std::size_t size = picture.row_bytes();
    const std::vector<std::uint8_t> zeros(size);
    std::vector<std::uint8_t> best(size + 1), tried(size + 1);
    const std::uint8_t* above = zeros.data();
    for (int y = 0; y < picture.height; ++y) {
      const std::uint8_t* const row = picture.rgb.data() + static_cast<std::size_t>(y) * size;
      std::uint64_t best_cost = UINT64_MAX;
      for (int filter = 0; filter < 5; ++filter) {
        filter_row(filter, row, above, size, tried.data());
        if (const std::uint64_t cost = cost_of(tried); cost < best_cost) best_cost = cost, best.swap(tried);
      }
      deflater.add(best);
      above = row;
    }
    deflater.finish();
  }

  std::vector<std::uint8_t> text_;  // whole chunks
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
