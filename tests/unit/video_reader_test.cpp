// Videos as files and folders have the frames that were put into them (tests/fixtures/videos, by the command ffmpeg).
#include "media/video_reader.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "media/video_writer.h"
#include "testing/temporary_folder.h"
#include "testing/write_safetensors.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;

const fs::path kFrames = fs::path(ZOE_FIXTURES) / "models/vace/video", kVideos = fs::path(ZOE_FIXTURES) / "videos";

std::vector<Image> all_of(const fs::path& path) {
  const std::unique_ptr<VideoReader> reader = open_video(path, "test");
  std::vector<Image> frames;
  while (std::optional<Image> frame = reader->next()) frames.push_back(std::move(*frame));
  return frames;
}

const std::vector<Image>& originals() {
  static const std::vector<Image> frames = all_of(kFrames);
  return frames;
}

// Of all values of all frames; 255 where sizes or numbers differ.
int largest_difference(const std::vector<Image>& got, const std::vector<Image>& expected) {
  if (got.size() != expected.size()) return 255;
  int most = 0;
  for (std::size_t f = 0; f < got.size(); ++f) {
    if (got[f].width != expected[f].width || got[f].height != expected[f].height) return 255;
    for (std::size_t i = 0; i < got[f].rgb.size(); ++i)
      most = std::max(most, std::abs(int{got[f].rgb[i]} - int{expected[f].rgb[i]}));
  }
  return most;
}

TEST(VideoReader, ReadsFramesOfAFolderInTheOrderOfTheirNumbers) {
  ASSERT_EQ(originals().size(), 9u);
  EXPECT_NE(originals()[0], originals()[8]);
  const testing::TemporaryFolder temporary;
  const fs::path folder = temporary.path() / "frames";
  fs::create_directory(folder);
  const char* const names[] = {"a 1.PNG", "a 2.png", "a 10.png", "a 100.png", "b1.png", "b02.png", "b2.png", "b3.png", "c.png"};
  for (std::size_t i = 0; i < 9; ++i) fs::copy_file(kFrames / fmt::format("{:03}.png", i), folder / names[i]);
  testing::write_bytes(folder / "notes.txt", "no picture");
  const std::vector<Image> frames = all_of(folder);
  ASSERT_EQ(frames.size(), 9u);
  for (std::size_t i = 0; i < 9; ++i) EXPECT_EQ(frames[i], originals()[i]) << names[i];
}

TEST(VideoReader, ReadsFilesThatLoseNothing) {
  EXPECT_EQ(all_of(kVideos / "exact.mkv"), originals());
  // A quarter turn to the left, as ffmpeg shows it: the first row is the first column, from below.
  const std::vector<Image> turned = all_of(kVideos / "turned.mov");
  ASSERT_EQ(turned.size(), 2u);
  const Image& upright = originals()[1];
  ASSERT_EQ(turned[1].width, upright.height);
  ASSERT_EQ(turned[1].height, upright.width);
  for (int y = 0; y < upright.height; ++y)
    for (int x = 0; x < upright.width; ++x)
      for (int c = 0; c < 3; ++c)
        ASSERT_EQ(turned[1].row(upright.width - 1 - x)[3 * y + c], upright.row(y)[3 * x + c]) << x << "," << y;
}

// Red on white: by the wrong matrix or range red would be off by ten levels and more.
TEST(VideoReader, KnowsMatrixAndRange) {
  for (const char* name : {"untagged.mp4", "bt709.mp4"})
    EXPECT_LE(largest_difference(all_of(kVideos / name), originals()), 3) << name;
  const std::vector<Image> tall = all_of(kVideos / "tall.mp4"), jpeg = all_of(kVideos / "full_range.avi");
  ASSERT_EQ(tall.size(), 2u);
  EXPECT_EQ(tall[0].height, 720);
  const auto expect_red = [](const Image& image, int x, int y, int tolerance) {
    const int expected[] = {255, 0, 0};
    for (int c = 0; c < 3; ++c) EXPECT_NEAR(image.row(y)[3 * x + c], expected[c], tolerance) << c;
  };
  expect_red(originals()[0], 13, 16, 0);
  expect_red(tall[0], 4, 360, 3);
  expect_red(jpeg[0], 13, 16, 6);
}

TEST(VideoReader, ReadsWhatTheWriterWrites) {
  const testing::TemporaryFolder temporary;
  for (const char* name : {"a.mp4", "a.mov", "a.mkv", "a.webm", "a.gif"}) {
    const fs::path path = temporary.path() / name;
    const auto writer = VideoWriter::open(path, {.width = 48, .height = 32, .frames = 9});
    for (const Image& frame : originals()) writer->write(frame.rgb);
    writer->finish();
    const std::vector<Image> frames = all_of(path);
    ASSERT_EQ(frames.size(), 9u) << name;
    EXPECT_EQ(frames[0].width, 48) << name;
    double error = 0;
    for (std::size_t f = 0; f < 9; ++f)
      for (std::size_t i = 0; i < frames[f].rgb.size(); ++i) error += std::abs(int{frames[f].rgb[i]} - int{originals()[f].rgb[i]});
    EXPECT_LT(error / (9.0 * 48 * 32 * 3), 8) << name;
  }
}

// Decoders hide damage where they can: no frame of theirs that is not whole is taken in silence.
TEST(VideoReader, RefusesFramesThatAreDamaged) {
  const testing::TemporaryFolder temporary;
  const fs::path path = temporary.path() / "damaged.mp4";
  std::ifstream file(kVideos / "bt709.mp4", std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(file), {}};
  int named = 0, refused = 0;
  constexpr int kTimes = 20;
  for (std::size_t i = 0; i < kTimes; ++i) {
    std::string bytes = whole;
    for (std::size_t at = whole.size() / 4 + whole.size() / 2 * i / kTimes, end = at + 12; at < end; ++at) bytes[at] ^= 0x5a;
    testing::write_bytes(path, bytes);
    try {
      all_of(path);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::invalid_argument) << error.what();
      ++refused;
      named += std::string_view(error.what()).find("is damaged at frame ") != std::string_view::npos;
    }
  }
  EXPECT_GE(refused, kTimes - 4) << "some bytes mean little";
  EXPECT_GE(named, kTimes / 2);
}

TEST(VideoReader, SaysWhatIsNoVideo) {
  const testing::TemporaryFolder temporary;
  const auto error_of = [&](const std::string& bytes) {
    testing::write_bytes(temporary.path() / "x", bytes);
    try {
      all_of(temporary.path() / "x");
    } catch (const Error& error) {
      return std::string(name(error.kind())) + " " + error.what();
    }
    return std::string("none");
  };
  std::ifstream file(kVideos / "exact.mkv", std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  EXPECT_EQ(error_of(bytes), "none");
  for (const std::string& bad : {std::string(), std::string("text"), bytes.substr(0, 100), bytes.substr(0, 4)})
    EXPECT_TRUE(error_of(bad).starts_with("invalid argument [test] ")) << error_of(bad);
}

}  // namespace
}  // namespace zoe
