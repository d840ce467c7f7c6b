// Writes videos of every format, reads them back with FFmpeg and compares.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "base/error.h"
#include "compiler/run.h"
#include "ir/trace.h"
#include "media/video_writer.h"
#include "pipeline/rgb8.h"
#include "testing/read_video.h"
#include "testing/temporary_folder.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using testing::psnr;
using testing::read_video;
using testing::ReadVideo;
using Frame = std::vector<std::uint8_t>;  // [H,W,3]

class MediaTest : public ::testing::Test {
 protected:
  std::vector<std::string> content() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }
  const zoe::testing::TemporaryFolder temporary_;
  const fs::path folder_ = temporary_.path();
};

VideoSettings settings_of(int width, int height, int frames, double fps = 16) {
  return {.width = width,
          .height = height,
          .frames = frames,
          .fps = fps,
          .threads = 2,
          .software = "Zoetrope test",
          .metadata = {{"prompt", "a \"red\" ball\nnaïve 球"}, {"seed", "42"}}};
}

// A soft disc that moves over slopes of colour: smooth, so that chroma subsampling loses little.
Frame picture(const VideoSettings& settings, int t) {
  Frame frame;
  const double phase = 0.2 * t;
  for (int y = 0; y < settings.height; ++y)
    for (int x = 0; x < settings.width; ++x) {
      const double u = (x + 0.5) / settings.width, v = (y + 0.5) / settings.height;
      const double distance = std::hypot(u - 0.5 - 0.25 * std::cos(phase), v - 0.5 - 0.25 * std::sin(phase));
      const double disc = 1 / (1 + std::exp((distance - 0.2) * 30));
      for (const double value : {40 + 120 * u + disc * (180 - 120 * u), 60 + 100 * v - disc * 30, 150 - 80 * u * v - disc * 60})
        frame.push_back(static_cast<std::uint8_t>(std::lround(std::clamp(value, 0.0, 255.0))));
    }
  return frame;
}

std::vector<Frame> write_video(const fs::path& path, const VideoSettings& settings) {
  std::vector<Frame> frames;
  const auto writer = VideoWriter::open(path, settings);
  for (int t = 0; t < settings.frames; ++t) {
    frames.push_back(picture(settings, t));
    writer->write(frames.back());
  }
  EXPECT_FALSE(fs::exists(path));
  writer->finish();
  return frames;
}

std::string bytes_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The pixels of a cell of a sheet.
Frame cut(const ReadVideo& sheet, int left, int top, int width, int height) {
  Frame cell;
  for (int y = top; y < top + height; ++y) {
    const auto row = sheet.frames.at(0).begin() + 3 * (static_cast<std::ptrdiff_t>(y) * sheet.width + left);
    cell.insert(cell.end(), row, row + 3 * width);
  }
  return cell;
}

void expect_metadata(const std::string& comment, const std::string& title, const VideoSettings& settings) {
  const auto parsed = nlohmann::json::parse(comment);
  EXPECT_EQ(parsed.size(), settings.metadata.size());
  for (const auto& [key, value] : settings.metadata) EXPECT_EQ(parsed.at(key), value);
  EXPECT_EQ(title, settings.metadata.at(0).second);
}

// numpy's (np.float32(255) * np.clip(x / 2 + np.float32(0.5), 0, 1)).round(), NaN as 0.
std::uint8_t rounded(float x) {
  const float half = x / 2 + 0.5f;
  return std::isnan(x) ? 0 : static_cast<std::uint8_t>(std::nearbyint(255.0f * std::clamp(half, 0.0f, 1.0f)));
}

// What leaves a device. The first values with numpy's results; 0 is the tie 127.5.
TEST(Pixels, AreRoundedHalfToEvenLikeNumpy) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  std::vector<float> in{-1, 1, 0, -2, 7, kInf, -kInf, 0.5f, 1.0f / 255, -0.9f, 0.2f, std::numeric_limits<float>::quiet_NaN()};
  const std::vector<std::uint8_t> from_numpy{0, 255, 128, 0, 255, 255, 0, 191, 128, 13, 153, 0};
  for (int i = -70000; in.size() < 3 * 40000; i += 1) in.push_back(static_cast<float>(i) / 65536);
  const std::int64_t width = static_cast<std::int64_t>(in.size()) / 3 / 10;
  std::vector<std::uint8_t> expected(in.size()), got(in.size());
  std::transform(in.begin(), in.end(), expected.begin(), rounded);
  ASSERT_TRUE(std::equal(from_numpy.begin(), from_numpy.end(), expected.begin()));
  ASSERT_GT(
      std::count_if(in.begin(), in.end(), [](float x) { return 255 * (x / 2 + 0.5f) == std::floor(255 * (x / 2 + 0.5f)) + 0.5f; }),
      1);
  for (const bool compiled : {true, false}) {
    const auto platform = open_platform("cpu", {.threads = 2});
    const auto stream = platform->make_stream();
    const Value frames = input("frames", DType::f32, {2, 5, width, 3});
    const Plan plan = compile(make_graph("rgb8", {frames}, {to_rgb8(frames)}), *platform, {.compile = compiled});
    WeightStore no_weights(*platform, [](const std::string&) { return WeightPtr(); });
    const std::vector<Tensor> given{make_tensor(*platform, frames.type(), "frames")},
        made{make_tensor(*platform, plan.graph.outputs[0].type(), "rgb8")};
    upload(*platform, *stream, in, given[0]);
    const Plan* const only = &plan;
    run(plan, *stream, no_weights, given, made, make_workspace(*platform, {&only, 1}));
    EXPECT_EQ(made[0].type, (Type{DType::u8, frames.shape()}));
    platform->download(*stream, made[0].slot(), got.data(), got.size());
    stream->synchronize();
    EXPECT_EQ(got, expected) << (compiled ? "compiled" : "uncompiled");
  }
}

TEST(VideoFormat, ComesFromTheSuffix) {
  EXPECT_EQ(video_format("a.mp4"), VideoFormat::mp4);
  EXPECT_EQ(video_format("x/a.b.MP4"), VideoFormat::mp4);
  EXPECT_EQ(video_format("a.webm"), VideoFormat::webm);
  EXPECT_EQ(video_format("a.Mov"), VideoFormat::mov);
  EXPECT_EQ(video_format("a.mkv"), VideoFormat::mkv);
  EXPECT_EQ(video_format("a.gif"), VideoFormat::gif);
  EXPECT_EQ(video_format("a.png"), VideoFormat::png);
  EXPECT_EQ(video_format("frames"), VideoFormat::folder);
  EXPECT_EQ(video_format("frames.mp4/"), VideoFormat::folder);
}

// A number behind a point is part of a name, as a version is; a folder that exists is one, whatever its name.
TEST_F(MediaTest, FoldersWithPointsInTheirNames) {
  for (const char* name : {"wan2.1-run", "wan2.1", "v1.0.2", "a.7_b", "x.mp4/", "any.thing/", ".hidden", "./x/wan2.2-"})
    EXPECT_EQ(video_format(name), VideoFormat::folder) << name;
  for (const char* name : {"a.3gp", "a.7z", "wan2.1b", "any.thing", "a.", "a.x1"}) EXPECT_THROW(video_format(name), Error) << name;
  fs::create_directory(folder_ / "any.thing");
  EXPECT_EQ(video_format(folder_ / "any.thing"), VideoFormat::folder);
  write_video(folder_ / "wan2.1-run", settings_of(16, 16, 2));
  EXPECT_EQ(content(), (std::vector<std::string>{"any.thing", "wan2.1-run"}));
}

TEST(VideoFormat, NumbersKeepTheSuffix) {
  EXPECT_EQ(numbered_output("a.mp4", 7), "a-0007.mp4");
  EXPECT_EQ(numbered_output("x/a.b.PNG", 12), "x/a.b-0012.PNG");
  EXPECT_EQ(numbered_output("frames", 1), "frames-0001");
  EXPECT_EQ(numbered_output("frames/", 1), "frames-0001");
  EXPECT_EQ(numbered_output("wan2.1-run", 12345), "wan2.1-run-12345");
}

// The same pictures in QuickTime's container and in Matroska.
TEST_F(MediaTest, MovAndMkvAreTheMp4InOtherContainers) {
  const VideoSettings settings = settings_of(64, 48, 9);
  write_video(folder_ / "a.mp4", settings);
  const ReadVideo mp4 = read_video(folder_ / "a.mp4");
  for (const char* name : {"a.mov", "a.mkv"}) {
    write_video(folder_ / name, settings);
    const ReadVideo video = read_video(folder_ / name);
    EXPECT_EQ(video.codec, "h264") << name;
    EXPECT_TRUE(video.frames == mp4.frames) << name;
    EXPECT_NEAR(video.fps, 16, 1e-2) << name;
    EXPECT_EQ(video.colorspace, AVCOL_SPC_BT709) << name;
    EXPECT_EQ(video.color_range, AVCOL_RANGE_MPEG) << name;
    expect_metadata(video.tags.at("comment"), video.tags.at("title"), settings);
    EXPECT_EQ(video.tags.at("encoder"), "Zoetrope test") << name;
  }
  EXPECT_EQ(bytes_of(folder_ / "a.mov").substr(4, 8), "ftypqt  ");
  EXPECT_EQ(bytes_of(folder_ / "a.mkv").substr(0, 4), "\x1a\x45\xdf\xa3");
}

TEST_F(MediaTest, CrfTradesBytesForQuality) {
  for (const char* suffix : {".mp4", ".mov", ".mkv", ".webm"}) {
    std::size_t last_size = SIZE_MAX;
    double last_quality = 1e9;
    for (const int crf : {8, 20, 36, 50}) {
      VideoSettings settings = settings_of(128, 96, 9);
      settings.crf = crf;
      const fs::path path = folder_ / (std::to_string(crf) + suffix);
      const auto frames = write_video(path, settings);
      const std::size_t size = fs::file_size(path);
      const double quality = psnr(frames, read_video(path).frames);
      EXPECT_LT(size, last_size) << path;
      EXPECT_LT(quality, last_quality) << path;
      last_size = size, last_quality = quality;
    }
    VideoSettings settings = settings_of(128, 96, 9), same = settings;
    same.crf = default_crf(video_format(std::string("a") + suffix));
    write_video(folder_ / (std::string("default") + suffix), settings);
    write_video(folder_ / (std::string("same") + suffix), same);
    EXPECT_EQ(read_video(folder_ / (std::string("default") + suffix)).frames,
              read_video(folder_ / (std::string("same") + suffix)).frames);
  }
}

TEST_F(MediaTest, Mp4KeepsFramesRateColoursAndSettings) {
  const VideoSettings settings = settings_of(128, 96, 33);
  const auto frames = write_video(folder_ / "a.mp4", settings);
  const ReadVideo video = read_video(folder_ / "a.mp4");
  EXPECT_EQ(video.codec, "h264");
  EXPECT_EQ(video.width, 128);
  EXPECT_EQ(video.height, 96);
  EXPECT_DOUBLE_EQ(video.fps, 16);
  EXPECT_NEAR(video.seconds, 33.0 / 16, 1e-3);
  EXPECT_EQ(video.colorspace, AVCOL_SPC_BT709);
  EXPECT_EQ(video.color_range, AVCOL_RANGE_MPEG);
  for (std::size_t i = 0; i < video.times.size(); ++i) EXPECT_NEAR(video.times[i], static_cast<double>(i) / 16, 1e-3);
  const double quality = psnr(frames, video.frames);
  RecordProperty("psnr", std::to_string(quality));
  EXPECT_GT(quality, 38);
  expect_metadata(video.tags.at("comment"), video.tags.at("title"), settings);
  EXPECT_EQ(video.tags.at("encoder"), "Zoetrope test");
  const std::string bytes = bytes_of(folder_ / "a.mp4");
  EXPECT_LT(bytes.find("moov"), bytes.find("mdat"));  // starts to play before it is loaded
  EXPECT_EQ(content(), std::vector<std::string>{"a.mp4"});
}

TEST_F(MediaTest, TheSameInputGivesTheSameFile) {
  for (const char* suffix : {".mp4", ".mov", ".mkv", ".webm", ".gif", ".png"}) {
    const fs::path one = folder_ / (std::string("one") + suffix), two = folder_ / (std::string("two") + suffix);
    VideoSettings settings = settings_of(128, 128, 12);
    settings.threads = 4;
    write_video(one, settings);
    write_video(two, settings);
    // Matroska files have a random identity.
    if (suffix == std::string(".webm") || suffix == std::string(".mkv"))
      EXPECT_TRUE(read_video(one).frames == read_video(two).frames) << suffix;
    else EXPECT_TRUE(bytes_of(one) == bytes_of(two)) << suffix;
  }
}

TEST_F(MediaTest, FractionalRatesAndOneFrame) {
  write_video(folder_ / "a.mp4", settings_of(64, 64, 5, 30000.0 / 1001));
  EXPECT_NEAR(read_video(folder_ / "a.mp4").fps, 29.97003, 1e-4);
  for (const char* name : {"one.mp4", "one.webm", "one.gif", "one.png"}) {
    const auto frames = write_video(folder_ / name, settings_of(64, 64, 1));
    const ReadVideo video = read_video(folder_ / name);
    ASSERT_EQ(video.frames.size(), 1u) << name;
    EXPECT_GT(psnr(frames, video.frames), 33) << name;
  }
}

TEST_F(MediaTest, WebmOfOddSize) {
  const VideoSettings settings = settings_of(97, 75, 20, 24);
  const auto frames = write_video(folder_ / "a.webm", settings);
  const ReadVideo video = read_video(folder_ / "a.webm");
  EXPECT_EQ(video.codec, "vp9");
  EXPECT_EQ(video.width, 97);
  EXPECT_EQ(video.height, 75);
  EXPECT_NEAR(video.fps, 24, 1e-2);
  EXPECT_NEAR(video.seconds, 20.0 / 24, 2e-2);
  EXPECT_EQ(video.colorspace, AVCOL_SPC_BT709);
  EXPECT_EQ(video.color_range, AVCOL_RANGE_MPEG);
  EXPECT_GT(psnr(frames, video.frames), 36);
  expect_metadata(video.tags.at("comment"), video.tags.at("title"), settings);
  EXPECT_EQ(video.tags.at("encoder"), "Zoetrope test");
  EXPECT_NE(bytes_of(folder_ / "a.webm").find("Zoetrope test"),
            std::string::npos);  // the program's field, which FFmpeg does not show
}

TEST_F(MediaTest, GifKeepsTimeInTheMeanAndRepeats) {
  const VideoSettings settings = settings_of(96, 64, 33);
  const auto frames = write_video(folder_ / "a.gif", settings);
  const ReadVideo video = read_video(folder_ / "a.gif");
  EXPECT_EQ(video.width, 96);
  EXPECT_EQ(video.height, 64);
  EXPECT_NEAR(video.times.back(), 32.0 / 16, 0.006);  // delays alone would be 6 or 7 centiseconds: 1.92 or 2.24
  EXPECT_GT(psnr(frames, video.frames), 35);          // 255 colours, dithered
  const std::string bytes = bytes_of(folder_ / "a.gif");
  EXPECT_NE(bytes.find("NETSCAPE2.0"), std::string::npos);
  EXPECT_EQ(bytes.back(), ';');
  const std::size_t comment = bytes.rfind("\x21\xfe");
  ASSERT_NE(comment, std::string::npos);
  const auto length = static_cast<unsigned char>(bytes[comment + 2]);
  expect_metadata(bytes.substr(comment + 3, length), settings.metadata[0].second, settings);
  EXPECT_EQ(bytes.substr(comment + 3 + length), std::string("\0;", 2));
}

TEST_F(MediaTest, GifOfFewColoursIsExact) {
  VideoSettings settings = settings_of(16, 16, 3);
  const auto writer = VideoWriter::open(folder_ / "a.gif", settings);
  std::vector<Frame> frames;
  for (const std::uint8_t level : {10, 100, 200}) {
    frames.emplace_back(16 * 16 * 3, level);
    writer->write(frames.back());
  }
  writer->finish();
  EXPECT_EQ(read_video(folder_ / "a.gif").frames, frames);
}

TEST_F(MediaTest, PngOfOneFrameIsExact) {
  const VideoSettings settings = settings_of(33, 17, 1);
  const auto frames = write_video(folder_ / "a.png", settings);
  const ReadVideo image = read_video(folder_ / "a.png");
  EXPECT_EQ(image.frames, frames);
  const std::string bytes = bytes_of(folder_ / "a.png");
  EXPECT_EQ(bytes.substr(37, 4), "iTXt");
  const std::string header("Comment\0\0\0\0\0", 12);
  const std::size_t comment = bytes.find(header);
  ASSERT_NE(comment, std::string::npos);
  const std::size_t start = comment + header.size();
  EXPECT_EQ(nlohmann::json::parse(bytes.substr(start, bytes.find('}', start) + 1 - start)).at("seed"), "42");
  EXPECT_NE(bytes.find("Zoetrope test"), std::string::npos);
}

TEST_F(MediaTest, PngSheetHoldsEveryFrameExactlyWithItsNumber) {
  const VideoSettings settings = settings_of(64, 64, 21);
  const auto frames = write_video(folder_ / "a.png", settings);
  const ReadVideo sheet = read_video(folder_ / "a.png");
  // 64 pixels: digits of 1-pixel dots, gap 2, bar 7; 21 frames: 6 columns, 4 rows.
  ASSERT_EQ(sheet.width, 2 + 6 * 66);
  ASSERT_EQ(sheet.height, 2 + 4 * 73);
  std::set<std::string> bars;
  for (int i = 0; i < 21; ++i) {
    const int left = 2 + i % 6 * 66, top = 2 + i / 6 * 73;
    EXPECT_EQ(cut(sheet, left, top + 7, 64, 64), frames[static_cast<std::size_t>(i)]) << i;
    const Frame bar = cut(sheet, left, top, 64, 7);
    bars.insert({bar.begin(), bar.end()});
  }
  EXPECT_EQ(bars.size(), 21u);
}

TEST_F(MediaTest, FolderOfNumberedPngs) {
  for (const fs::path& path : {folder_ / "frames", folder_ / "other.d/"}) {
    const VideoSettings settings = settings_of(48, 32, 11);
    const auto frames = write_video(path, settings);
    for (int i = 0; i < 11; ++i) {
      const fs::path file = path / fmt::format("{:04}.png", i + 1);
      EXPECT_EQ(read_video(file).frames, std::vector<Frame>{frames[static_cast<std::size_t>(i)]});
      EXPECT_NE(bytes_of(file).find("\"seed\":\"42\""), std::string::npos);
    }
    EXPECT_EQ(std::distance(fs::directory_iterator(path), {}), 11);
  }
  EXPECT_EQ(content().size(), 2u);
}

TEST_F(MediaTest, ReplacesAnOlderFile) {
  write_video(folder_ / "a.gif", settings_of(16, 16, 2));
  const std::string before = bytes_of(folder_ / "a.gif");
  const VideoSettings settings = settings_of(32, 32, 3);
  const auto writer = VideoWriter::open(folder_ / "a.gif", settings);
  for (int t = 0; t < 3; ++t) writer->write(picture(settings, t));
  EXPECT_TRUE(bytes_of(folder_ / "a.gif") == before);
  writer->finish();
  EXPECT_EQ(read_video(folder_ / "a.gif").width, 32);
  EXPECT_EQ(content(), std::vector<std::string>{"a.gif"});
}

TEST_F(MediaTest, ColonsAndPercentsInNamesAreOrdinary) {
  for (const char* name : {"http:a%03d.mp4", "pipe:1.webm", "50%d.gif", "%d.png"}) {
    write_video(folder_ / name, settings_of(32, 32, 2));
    EXPECT_TRUE(fs::is_regular_file(folder_ / name)) << name;
  }
  EXPECT_EQ(content().size(), 4u);
}

TEST_F(MediaTest, DroppedWriterLeavesNothing) {
  for (const char* name : {"a.mp4", "a.mov", "a.mkv", "a.webm", "a.gif", "a.png", "frames"}) {
    const VideoSettings settings = settings_of(32, 32, 5);
    for (int written = 0; written <= 5; ++written) {
      const auto writer = VideoWriter::open(folder_ / name, settings);
      for (int t = 0; t < written; ++t) writer->write(picture(settings, t));
    }
    EXPECT_TRUE(content().empty()) << name;
  }
}

TEST_F(MediaTest, NothingReachesTheTerminal) {
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  for (const char* name : {"a.mp4", "a.mov", "a.mkv", "a.webm", "a.gif", "a.png", "frames"})
    write_video(folder_ / name, settings_of(32, 32, 9));
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST_F(MediaTest, MetadataOfAnyBytes) {
  VideoSettings settings = settings_of(32, 32, 2);
  settings.metadata = {{"prompt", "bad \xff utf-8, \x01 and " + std::string(2000, 'x')}, {"empty", ""}};
  for (const char* name : {"a.mp4", "a.webm", "a.gif", "a.png"}) write_video(folder_ / name, settings);
  const auto parsed = nlohmann::json::parse(read_video(folder_ / "a.mp4").tags.at("comment"));
  EXPECT_EQ(parsed.at("prompt"), "bad \xef\xbf\xbd utf-8, \x01 and " + std::string(2000, 'x'));
  EXPECT_EQ(read_video(folder_ / "a.gif").frames.size(), 2u);  // a comment of several blocks
}

TEST_F(MediaTest, MetadataMayBeEmpty) {
  VideoSettings settings = settings_of(32, 32, 2);
  settings.metadata.clear();
  settings.software.clear();
  for (const char* name : {"a.mp4", "a.webm", "a.gif", "a.png"}) {
    write_video(folder_ / name, settings);
    EXPECT_GE(read_video(folder_ / name).frames.size(), 1u);
  }
}

TEST_F(MediaTest, WritersWorkSideBySide) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([this, i] { write_video(folder_ / fmt::format("{}.mp4", i), settings_of(64, 64, 9)); });
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(read_video(folder_ / fmt::format("{}.mp4", i)).frames.size(), 9u);
}

TEST(EncoderBytes, AreAsMeasured) {
  const auto mib = [](VideoFormat format, int width, int height, int frames, int threads = 2) {
    VideoSettings settings = settings_of(width, height, frames);
    settings.threads = threads;
    return static_cast<double>(encoder_bytes(format, settings)) / (1 << 20);
  };
  // RssAnon growth (build/bench_encode), g++ 12, FFmpeg 5.1, x264 164, libvpx 1.12.
  EXPECT_NEAR(mib(VideoFormat::mp4, 128, 128, 33), 6.5, 0.6);
  EXPECT_NEAR(mib(VideoFormat::mp4, 256, 256, 33), 13.8, 1.3);
  EXPECT_NEAR(mib(VideoFormat::mp4, 256, 256, 33, 8), 18.6, 1.8);
  EXPECT_NEAR(mib(VideoFormat::mp4, 832, 480, 5), 23.3, 2.3);
  EXPECT_NEAR(mib(VideoFormat::mp4, 832, 480, 17), 43.8, 4.4);
  EXPECT_NEAR(mib(VideoFormat::mp4, 832, 480, 81), 55.2, 5.5);
  EXPECT_NEAR(mib(VideoFormat::mp4, 832, 480, 17, 16), 75.0, 7.5);
  EXPECT_NEAR(mib(VideoFormat::mp4, 832, 480, 81, 16), 117.8, 11.8);
  EXPECT_NEAR(mib(VideoFormat::mp4, 1280, 720, 41, 16), 246.4, 24.6);
  EXPECT_NEAR(mib(VideoFormat::webm, 128, 128, 33), 14.6, 1.4);  // narrow ones are encoded by one thread, whatever is allowed
  EXPECT_NEAR(mib(VideoFormat::webm, 256, 256, 33), 21.1, 2.1);
  EXPECT_NEAR(mib(VideoFormat::webm, 832, 480, 81), 61.8, 6.2);
  EXPECT_NEAR(mib(VideoFormat::gif, 832, 480, 81), 101.0, 10);
  EXPECT_NEAR(mib(VideoFormat::png, 832, 480, 9), 11.8, 0.6);
  EXPECT_NEAR(mib(VideoFormat::png, 832, 480, 1), 1.5, 0.1);
  EXPECT_NEAR(mib(VideoFormat::folder, 832, 480, 81), 1.5, 0.1);
}

}  // namespace
}  // namespace zoe
