// Pictures have the pixels that Pillow reads, and are resized to its bits (tests/fixtures/images).
#include "media/image.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "testing/temporary_folder.h"
#include "testing/write_safetensors.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path kFolder = fs::path(ZOE_FIXTURES) / "images";

json recorded() {
  std::ifstream file(kFolder / "cases.json");
  return json::parse(file);
}

Image read(const std::string& name) { return read_image(kFolder / name, "test"); }

std::string bytes_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(Image, HasThePixelsOfPillow) {
  const json cases = recorded();
  for (const std::string name : cases.at("read")) {
    const Image got = read(name), expected = read(name + ".read.png");
    ASSERT_EQ(got.width, expected.width) << name;
    ASSERT_EQ(got.height, expected.height) << name;
    EXPECT_EQ(got.rgb, expected.rgb) << name;
  }
}

TEST(Image, IsResizedToTheBitsOfPillow) {
  const Image image = read("rgb.png");
  const json cases = recorded();
  for (const json& c : cases.at("resized")) {
    const ResizeFilter filter = c.at("filter") == "lanczos" ? ResizeFilter::lanczos : ResizeFilter::bicubic;
    EXPECT_EQ(resize(image, c.at("width"), c.at("height"), filter), read(c.at("file"))) << c;
  }
}

TEST(Image, TransparencyIsSaid) {
  std::vector<std::string> notices;
  const LogScope scope([&](LogLevel level, std::string_view text) {
    if (level == LogLevel::notice) notices.emplace_back(text);
  });
  read("rgb.png");
  EXPECT_TRUE(notices.empty());
  read("rgba.png");
  ASSERT_EQ(notices.size(), 1u);
  EXPECT_NE(notices[0].find("rgba.png is shown over black"), std::string::npos) << notices[0];
}

TEST(Image, PartsAreCutAndPasted) {
  const Image image = read("rgb.png"), part = crop(image, 3, 5, 10, 7);
  EXPECT_EQ(part.rgb[0], image.row(5)[9]);
  Image canvas = black_image(12, 8);
  paste(canvas, 1, 1, part);
  EXPECT_EQ(crop(canvas, 1, 1, 10, 7), part);
  EXPECT_EQ(canvas.rgb[0], 0);
}

// Cut anywhere or with any byte another: an error of the right kind or a picture, never a crash.
TEST(Image, DamageIsAnError) {
  const testing::TemporaryFolder folder;
  const fs::path path = folder.path() / "damaged";
  for (const std::string name :
       {"rgb.png", "orientation.png", "progressive.jpg", "orientation_6.jpg", "lossy.webp", "alpha.webp"}) {
    const std::string whole = bytes_of(kFolder / name);
    std::size_t cut = 0, read_anyway = 0;
    const auto attempt = [&](const std::string& bytes) {
      testing::write_bytes(path, bytes);
      try {
        read_image(path, "--image");
        return true;
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::invalid_argument) << name << ": " << error.what();
        EXPECT_NE(std::string(error.what()).find("[--image] "), std::string::npos) << error.what();
        return false;
      }
    };
    for (std::size_t size = 0; size + 8 < whole.size(); size += 61, ++cut) read_anyway += attempt(whole.substr(0, size));
    // What is behind the pixels may be missing.
    EXPECT_LE(read_anyway, cut / 8) << name;
    for (std::size_t at = 0; at < whole.size(); at += 29) {
      std::string changed = whole;
      changed[at] = static_cast<char>(changed[at] ^ 0x5a);
      attempt(changed);
    }
  }
}

}  // namespace
}  // namespace zoe
