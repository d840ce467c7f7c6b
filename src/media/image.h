// Still pictures: files to 8-bit RGB, and resizing with the bits of Pillow.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

namespace zoe {

struct Image {
  int width = 0, height = 0;
  std::vector<std::uint8_t> rgb;  // [height, width, 3]

  std::size_t row_bytes() const { return 3 * static_cast<std::size_t>(width); }
  const std::uint8_t* row(int y) const { return rgb.data() + static_cast<std::size_t>(y) * row_bytes(); }
  std::uint8_t* row(int y) { return rgb.data() + static_cast<std::size_t>(y) * row_bytes(); }
  bool operator==(const Image&) const = default;
};

Image black_image(int width, int height);

// Of a picture that is read; more is taken for a file that was made to fill memory.
inline constexpr std::int64_t kMaxImagePixels = 100'000'000;

// A PNG, JPEG or WebP file, told by its first bytes. Turned as its EXIF orientation says; grey and palettes become RGB, of 16 bits
// the upper 8 are taken (as Pillow does), what is transparent is shown over black (with a notice), colour profiles are not
// applied. JPEG has the pixels of libjpeg-turbo, as Pillow's.
//
// Errors name `where` and the file. invalid_argument: no picture, cut or damaged, animated, more than kMaxImagePixels;
// unsupported: another kind of picture (named); io: it cannot be read.
Image read_image(const std::filesystem::path& path, std::string_view where);

// The part [left, left + width) x [top, top + height).
Image crop(const Image& image, int left, int top, int width, int height);
void paste(Image& image, int left, int top, const Image& part);

enum class ResizeFilter : std::uint8_t { lanczos, bicubic };  // lanczos over 3 pixels, bicubic with a = -0.5

// The same bits as Image.resize of Pillow 13: two passes, each with weights of 22 bits behind the point and 8-bit results.
// Smaller pictures are made with the filter widened.
Image resize(const Image& image, int width, int height, ResizeFilter filter);

}  // namespace zoe
