#include "media/image.h"

#include <cstdio>
// Behind <cstdio>, which they want and do not include.
#include <jerror.h>
#include <jpeglib.h>
#include <png.h>
#include <webp/decode.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <span>
#include <string>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"

namespace zoe {

namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{1} << 29;
constexpr std::string_view kKinds = "a PNG, JPEG or WebP picture";

using Bytes = std::span<const std::uint8_t>;

// The file at hand, for errors.
struct Source {
  const std::filesystem::path& path;
  std::string_view where;
  Bytes bytes;

  std::string_view text() const { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }
  [[noreturn]] void refuse(std::string_view why) const {
    fail(ErrorKind::invalid_argument, where, "{} cannot be read: {}. Save it again, or choose another picture.", path.string(),
         why);
  }
  void check_size(std::int64_t width, std::int64_t height) const {
    if (width <= 0 || height <= 0) refuse(fmt::format("it has no pixels ({}x{})", width, height));
    check(width <= kMaxImagePixels / height, ErrorKind::invalid_argument, where,
          "{} is too large: got {}x{} pixels, expected at most {} million in all. Make it smaller.", path.string(), width, height,
          kMaxImagePixels / 1'000'000);
  }
  void check_still(bool still) const {
    check(still, ErrorKind::invalid_argument, where,
          "{} is animated: got several pictures, expected one. Save the frame that is meant as a picture.", path.string());
  }
};

// --- Orientation ---------------------------------------------------------------------------------------------------------------

// The orientation of an EXIF block, 1 to 8, as the TIFF header in it says; 1 where it says nothing sensible.
int exif_orientation(Bytes block) {
  constexpr std::string_view kName("Exif\0\0", 6);
  if (block.size() >= kName.size() && std::memcmp(block.data(), kName.data(), kName.size()) == 0)
    block = block.subspan(kName.size());
  if (block.size() < 8) return 1;
  const bool little = block[0] == 'I';
  const auto number = [&](std::size_t at, std::size_t count) {
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < count; ++i) value |= std::uint32_t{block[at + i]} << 8 * (little ? i : count - 1 - i);
    return value;
  };
  if (block[0] != block[1] || (!little && block[0] != 'M') || number(2, 2) != 42) return 1;
  const std::size_t first = number(4, 4);
  if (first > block.size() - 2) return 1;
  constexpr std::uint32_t kOrientation = 0x0112, kShort = 3;
  constexpr std::size_t kEntryBytes = 12;
  const std::size_t entries = number(first, 2);
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t entry = first + 2 + i * kEntryBytes;
    if (entry + kEntryBytes > block.size()) return 1;
    if (number(entry, 2) != kOrientation) continue;
    const std::uint32_t value = number(entry + 8, 2);
    return number(entry + 2, 2) == kShort && value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

// The picture as it is meant to be seen.
Image upright(Image image, int orientation) {
  if (orientation == 1) return image;
  const bool swaps = orientation >= 5;  // rows are columns
  Image out = swaps ? black_image(image.height, image.width) : black_image(image.width, image.height);
  const bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool from_bottom = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  for (int y = 0; y < out.height; ++y)
    for (int x = 0; x < out.width; ++x) {
      int column = swaps ? y : x, row = swaps ? x : y;
      if (from_right) column = image.width - 1 - column;
      if (from_bottom) row = image.height - 1 - row;
      std::copy_n(image.row(row) + 3 * static_cast<std::ptrdiff_t>(column), 3, out.row(y) + 3 * static_cast<std::ptrdiff_t>(x));
    }
  return out;
}

// --- Transparency --------------------------------------------------------------------------------------------------------------

std::uint8_t scaled(unsigned int value, unsigned int by) {  // value * by / 255, rounded
  const unsigned int product = value * by + 128;
  return static_cast<std::uint8_t>(((product >> 8) + product) >> 8);
}

Image over_black(const Source& source, Bytes rgba, int width, int height) {
  Image image = black_image(width, height);
  bool transparent = false;
  for (std::size_t i = 0; i < image.rgb.size() / 3; ++i) {
    const std::uint8_t* const pixel = rgba.data() + 4 * i;
    transparent |= pixel[3] != 255;
    for (std::size_t c = 0; c < 3; ++c) image.rgb[3 * i + c] = scaled(pixel[c], pixel[3]);
  }
  if (transparent) log(LogLevel::notice, fmt::format("what is transparent in {} is shown over black", source.path.string()));
  return image;
}

// --- PNG -----------------------------------------------------------------------------------------------------------------------

constexpr std::string_view kPngSignature("\x89PNG\r\n\x1a\n", 8);

// Whether a chunk of this type comes before the pixels: "acTL" makes an animation of it.
bool has_chunk(std::string_view file, std::string_view type) {
  for (std::size_t at = kPngSignature.size(); at + 8 <= file.size();) {
    const std::string_view found = file.substr(at + 4, 4);
    if (found == type) return true;
    if (found == "IDAT") return false;
    std::size_t length = 0;
    for (std::size_t i = 0; i < 4; ++i) length = length << 8 | static_cast<unsigned char>(file[at + i]);
    at += length + 12;
  }
  return false;
}

class PngReader {
 public:
  explicit PngReader(const Source& source)
      : source_(source),
        left_(source.bytes),
        png_(png_create_read_struct(PNG_LIBPNG_VER_STRING, this, on_error, on_warning)),
        info_(png_ ? png_create_info_struct(png_) : nullptr) {
    if (!info_) {
      png_destroy_read_struct(&png_, nullptr, nullptr);
      fail(ErrorKind::out_of_memory, source.where, "no memory to read {}.", source.path.string());
    }
  }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;
  ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }

  Image read() {
    png_set_read_fn(png_, this, [](png_structp png, png_bytep out, std::size_t count) {
      auto& self = *static_cast<PngReader*>(png_get_io_ptr(png));
      if (count > self.left_.size()) self.source_.refuse("it is cut off");
      std::copy_n(self.left_.begin(), count, out);
      self.left_ = self.left_.subspan(count);
    });
    png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
    png_read_info(png_, info_);
    const auto width = static_cast<std::int64_t>(png_get_image_width(png_, info_)),
               height = static_cast<std::int64_t>(png_get_image_height(png_, info_));
    source_.check_size(width, height);
    png_set_expand(png_);
    png_set_strip_16(png_);
    png_set_gray_to_rgb(png_);
    png_set_add_alpha(png_, 255, PNG_FILLER_AFTER);
    png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    const auto row_bytes = 4 * static_cast<std::size_t>(width);
    ZOE_INTERNAL_CHECK(png_get_rowbytes(png_, info_) == row_bytes);
    rgba_.resize(row_bytes * static_cast<std::size_t>(height));
    for (std::int64_t y = 0; y < height; ++y) rows_.push_back(rgba_.data() + static_cast<std::size_t>(y) * row_bytes);
    png_read_image(png_, rows_.data());
    png_read_end(png_, info_);
    png_bytep block = nullptr;
    png_uint_32 block_bytes = 0;
    const bool has_exif = png_get_eXIf_1(png_, info_, &block_bytes, &block) != 0;
    return upright(over_black(source_, rgba_, static_cast<int>(width), static_cast<int>(height)),
                   has_exif ? exif_orientation({block, block_bytes}) : 1);
  }

 private:
  static void on_error(png_structp png, png_const_charp text) {
    static_cast<PngReader*>(png_get_error_ptr(png))->source_.refuse(text);
  }
  static void on_warning(png_structp, png_const_charp) {}

  const Source& source_;
  Bytes left_;
  std::vector<std::uint8_t> rgba_;
  std::vector<png_bytep> rows_;
  png_structp png_;
  png_infop info_;
};

// --- JPEG ----------------------------------------------------------------------------------------------------------------------

// libjpeg's errors are exceptions, which pass through its frames.
class JpegReader {
 public:
  explicit JpegReader(const Source& source) : source_(source) {
    jpeg_.err = jpeg_std_error(&errors_);
    jpeg_.client_data = this;
    errors_.error_exit = [](j_common_ptr jpeg) { of(jpeg).source_.refuse(of(jpeg).message(jpeg)); };
    errors_.emit_message = [](j_common_ptr jpeg, int level) {
      // Harmless ones: bytes between segments, an unknown Adobe code, scans of a progressive picture in an odd order.
      const int code = jpeg->err->msg_code;
      if (level < 0 && code != JWRN_EXTRANEOUS_DATA && code != JWRN_ADOBE_XFORM && code != JWRN_BOGUS_PROGRESSION)
        of(jpeg).source_.refuse(of(jpeg).message(jpeg));
    };
    progress_.progress_monitor = [](j_common_ptr jpeg) {
      constexpr int kMostScans = 500;  // a progressive picture has about ten, a bomb as many as its bytes can hold
      if (reinterpret_cast<j_decompress_ptr>(jpeg)->input_scan_number > kMostScans)
        of(jpeg).source_.refuse(fmt::format("it has more than {} scans", kMostScans));
    };
    jpeg_create_decompress(&jpeg_);
    jpeg_.progress = &progress_;
  }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;
  ~JpegReader() { jpeg_destroy_decompress(&jpeg_); }

  Image read() {
    jpeg_mem_src(&jpeg_, source_.bytes.data(), static_cast<unsigned long>(source_.bytes.size()));
    constexpr unsigned int kMostBytes = 0xFFFF;
    jpeg_save_markers(&jpeg_, JPEG_APP0 + 1, kMostBytes);
    jpeg_read_header(&jpeg_, TRUE);
    source_.check_size(jpeg_.image_width, jpeg_.image_height);
    const bool four = jpeg_.num_components == 4;
    jpeg_.out_color_space = four ? JCS_CMYK : JCS_RGB;
    int orientation = 1;
    for (const jpeg_marker_struct* marker = jpeg_.marker_list; marker; marker = marker->next)
      if (const int said = exif_orientation({marker->data, marker->data_length}); orientation == 1) orientation = said;
    jpeg_start_decompress(&jpeg_);
    Image image = black_image(static_cast<int>(jpeg_.output_width), static_cast<int>(jpeg_.output_height));
    std::vector<std::uint8_t> inks(four ? 4 * static_cast<std::size_t>(image.width) : 0);
    while (jpeg_.output_scanline < jpeg_.output_height) {
      std::uint8_t* const row = image.row(static_cast<int>(jpeg_.output_scanline));
      JSAMPROW to = four ? inks.data() : row;
      jpeg_read_scanlines(&jpeg_, &to, 1);
      // Inks are stored inverted, as Adobe's programs do.
      for (std::size_t i = 0; i < inks.size() / 4; ++i) {
        const std::uint8_t light = inks[4 * i + 3];
        for (std::size_t c = 0; c < 3; ++c)
          row[3 * i + c] = static_cast<std::uint8_t>(light - scaled(255u - inks[4 * i + c], light));
      }
    }
    jpeg_finish_decompress(&jpeg_);
    return upright(std::move(image), orientation);
  }

 private:
  static JpegReader& of(j_common_ptr jpeg) { return *static_cast<JpegReader*>(jpeg->client_data); }
  static std::string message(j_common_ptr jpeg) {
    std::array<char, JMSG_LENGTH_MAX> text{};
    jpeg->err->format_message(jpeg, text.data());
    return text.data();
  }

  const Source& source_;
  jpeg_decompress_struct jpeg_{};
  jpeg_error_mgr errors_{};
  jpeg_progress_mgr progress_{};
};

// --- WebP ----------------------------------------------------------------------------------------------------------------------

// The content of a chunk of a RIFF file, or nothing.
Bytes riff_chunk(Bytes file, std::string_view type) {
  constexpr std::size_t kHeader = 12;
  for (std::size_t at = kHeader; at + 8 <= file.size();) {
    std::size_t length = 0;
    for (std::size_t i = 0; i < 4; ++i) length |= std::size_t{file[at + 4 + i]} << 8 * i;
    if (length > file.size() - at - 8) return {};
    if (std::memcmp(file.data() + at, type.data(), 4) == 0) return file.subspan(at + 8, length);
    at += 8 + length + length % 2;
  }
  return {};
}

Image read_webp(const Source& source) {
  WebPBitstreamFeatures features{};
  const VP8StatusCode status = WebPGetFeatures(source.bytes.data(), source.bytes.size(), &features);
  if (status != VP8_STATUS_OK) source.refuse(status == VP8_STATUS_NOT_ENOUGH_DATA ? "it is cut off" : "it is damaged");
  source.check_still(!features.has_animation);
  source.check_size(features.width, features.height);
  int width = 0, height = 0;
  const std::unique_ptr<std::uint8_t, void (*)(void*)> rgba(
      WebPDecodeRGBA(source.bytes.data(), source.bytes.size(), &width, &height), WebPFree);
  if (!rgba) source.refuse("it is cut off or damaged");
  const Bytes pixels{rgba.get(), 4 * static_cast<std::size_t>(width) * static_cast<std::size_t>(height)};
  return upright(over_black(source, pixels, width, height), exif_orientation(riff_chunk(source.bytes, "EXIF")));
}

// --- What a file is ------------------------------------------------------------------------------------------------------------

// What else people give, by its first bytes; "" for what is unknown.
std::string_view other_kind(std::string_view file) {
  if (file.starts_with("GIF8")) return "a GIF";
  if (file.starts_with("BM")) return "a BMP";
  if (file.starts_with("II*\0") || file.starts_with("MM\0*")) return "a TIFF";
  if (file.starts_with("\xff\x0a") || file.starts_with(std::string_view("\0\0\0\x0cJXL ", 8))) return "a JPEG XL";
  if (file.size() >= 12 && file.substr(4, 4) == "ftyp") {
    const std::string_view brand = file.substr(8, 4);
    if (brand == "avif" || brand == "avis") return "an AVIF";
    if (brand.starts_with("hei") || brand.starts_with("hev") || brand == "mif1") return "a HEIC";
    return "a video";
  }
  if (file.starts_with("\x1a\x45\xdf\xa3")) return "a video";
  if (file.starts_with("<svg") || file.starts_with("<?xml")) return "an SVG";
  return "";
}

}  // namespace

Image read_image(const std::filesystem::path& path, std::string_view where) {
  const std::string text = read_file(path, where, kMaxFileBytes);
  const Source source{path, where, {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}};
  const std::string_view file = text;
  if (file.starts_with(kPngSignature)) {
    source.check_still(!has_chunk(file, "acTL"));
    return PngReader(source).read();
  }
  if (file.starts_with("\xff\xd8\xff")) return JpegReader(source).read();
  if (file.starts_with("RIFF") && file.substr(std::min<std::size_t>(8, file.size())).starts_with("WEBP")) return read_webp(source);
  const std::string_view kind = other_kind(file);
  check(kind.empty(), ErrorKind::unsupported, where, "{} is {}, expected {}. Save it as one of these.", path.string(), kind,
        kKinds);
  fail(ErrorKind::invalid_argument, where, "{} is no picture: got {} bytes that begin otherwise, expected {}. Choose another file.",
       path.string(), file.size(), kKinds);
}

}  // namespace zoe
