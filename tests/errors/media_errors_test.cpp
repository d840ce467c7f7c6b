// Mistakes and failures while writing videos: their kind, their text, and that nothing is left behind.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>

#include "base/error.h"
#include "media/video_writer.h"
#include "testing/temporary_folder.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;

class MediaErrors : public ::testing::Test {
 protected:
  bool empty() const { return fs::is_empty(folder_); }

  const zoe::testing::TemporaryFolder temporary_;
  const fs::path folder_ = temporary_.path();
  VideoSettings settings_{.width = 64, .height = 64, .frames = 4, .software = "test", .metadata = {{"prompt", "a ball"}}};
  // Noise, so that files have some size.
  std::vector<std::uint8_t> frame_ = [] {
    std::vector<std::uint8_t> noise(3 * 64 * 64);
    std::uint32_t state = 1;
    for (auto& value : noise) value = static_cast<std::uint8_t>((state = state * 1664525u + 1013904223u) >> 24);
    return noise;
  }();
};

void expect_error(ErrorKind kind, const std::vector<std::string>& texts, const std::function<void()>& run) {
  try {
    run();
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    const std::string what = error.what();
    EXPECT_EQ(error.kind(), kind) << what;
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
    for (const std::string& text : texts) EXPECT_NE(what.find(text), std::string::npos) << what << "\nlacks: " << text;
  }
}

TEST_F(MediaErrors, UnknownSuffixNamesTheKnownOnes) {
  for (const char* name : {"a.avi", "a.mp5", "a.mp4x", "a.", "a.jpg"})
    expect_error(ErrorKind::invalid_argument, {"[output]", "unknown suffix", ".mp4, .mov, .mkv, .webm, .gif, .png"},
                 [&] { check_output(folder_ / name, settings_); });
  expect_error(ErrorKind::invalid_argument, {"path is empty"}, [&] { check_output("", settings_); });
  expect_error(ErrorKind::invalid_argument, {"not written to the standard output", "./-"}, [&] { check_output("-", settings_); });
  for (const char* name : {".mp4", ".MOV", ".png"})
    expect_error(ErrorKind::invalid_argument, {"no name before the suffix", name},
                 [&] { check_output(folder_ / name, settings_); });
  expect_error(ErrorKind::invalid_argument, {"unknown suffix", "..."},
               [&] { check_output("a." + std::string(100000, 'x'), settings_); });
  EXPECT_TRUE(empty());
}

TEST_F(MediaErrors, BadSettingsAreRefusedByCheckAndOpen) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInf = std::numeric_limits<double>::infinity();
  struct Case {
    const char* name;
    VideoSettings settings;
    const char* text;
  };
  const Case cases[] = {
      {"a.mp4", {.width = 0, .height = 64, .frames = 1}, "got 0x64, expected 1 to 16384"},
      {"a.mp4", {.width = 64, .height = -1, .frames = 1}, "got 64x-1"},
      {"a.png", {.width = 1 << 30, .height = 1 << 30, .frames = 1}, "got 1073741824x1073741824"},
      {"a.mp4", {.width = 64, .height = 64, .frames = 0}, "bad frame count: got 0"},
      {"a.mp4", {.width = 64, .height = 64, .frames = -4}, "bad frame count: got -4"},
      {"a.mp4", {.width = 64, .height = 64, .frames = std::numeric_limits<int>::max()}, "bad frame count: got 2147483647"},
      {"a.mp4", {.width = 64, .height = 64, .frames = 1, .fps = 0}, "bad frame rate: got 0"},
      {"a.mp4", {.width = 64, .height = 64, .frames = 1, .fps = -16}, "bad frame rate: got -16"},
      {"a.mp4", {.width = 64, .height = 64, .frames = 1, .fps = kNan}, "bad frame rate: got nan"},
      {"a.webm", {.width = 64, .height = 64, .frames = 1, .fps = kInf}, "bad frame rate: got inf"},
      {"a.gif", {.width = 64, .height = 64, .frames = 1, .fps = 60}, "bad frame rate for .gif: got 60, expected at most 50"},
      {"a.mp4", {.width = 64, .height = 64, .frames = 1, .threads = 0}, "thread count: got 0"},
      {"a.mp4", {.width = 63, .height = 64, .frames = 1}, "bad size for H.264: got 63x64, expected even numbers. Choose a .webm"},
      {"a.mp4", {.width = 64, .height = 33, .frames = 1}, "bad size for H.264: got 64x33"},
      {"a.mkv", {.width = 64, .height = 33, .frames = 1}, "bad size for H.264: got 64x33"},
      {"a.mp4", {.width = 64, .height = 64, .frames = 1, .crf = 52}, "bad crf: got 52, expected 0 (best) to 51"},
      {"a.mov", {.width = 64, .height = 64, .frames = 1, .crf = -1}, "bad crf: got -1"},
      {"a.webm", {.width = 64, .height = 64, .frames = 1, .crf = 64}, "bad crf: got 64, expected 0 (best) to 63"},
      {"a.gif", {.width = 64, .height = 64, .frames = 1, .crf = 20}, "a crf is for .mp4, .mov, .mkv and .webm only: got 20"},
      {"a.png", {.width = 64, .height = 64, .frames = 1, .crf = 20}, "a crf is for"},
      {"a", {.width = 64, .height = 64, .frames = 1, .crf = 20}, "a crf is for"},
      {"a.png", {.width = 4096, .height = 4096, .frames = 100}, "too many for one .png"},
      {"a.png", {.width = 16384, .height = 16384, .frames = 100000}, "too many for one .png"},
  };
  for (const Case& c : cases) {
    expect_error(ErrorKind::invalid_argument, {"[output]", c.text}, [&] { check_output(folder_ / c.name, c.settings); });
    expect_error(ErrorKind::invalid_argument, {"[output]", c.text}, [&] { VideoWriter::open(folder_ / c.name, c.settings); });
    EXPECT_TRUE(empty());
  }
}

TEST_F(MediaErrors, CheckLeavesNothingAndAcceptsWhatOpenAccepts) {
  for (const char* name : {"a.mp4", "a.mov", "a.mkv", "a.webm", "a.gif", "a.png", "frames", "frames/"}) {
    EXPECT_NO_THROW(check_output(folder_ / name, settings_)) << name;
    EXPECT_TRUE(empty()) << name;
  }
}

TEST_F(MediaErrors, PlacesThatCannotBeWritten) {
  std::ofstream(folder_ / "file") << "x";
  fs::create_directory(folder_ / "full.mp4");
  fs::create_directory(folder_ / "frames");
  std::ofstream(folder_ / "frames" / "0001.png") << "x";
  ASSERT_EQ(::mkfifo((folder_ / "pipe.mp4").c_str(), 0600), 0);
  const auto refused = [&](const fs::path& path, const char* text) {
    expect_error(ErrorKind::invalid_argument, {"[output]", text}, [&] { check_output(path, settings_); });
    expect_error(ErrorKind::invalid_argument, {"[output]", text}, [&] { VideoWriter::open(path, settings_); });
  };
  refused(folder_ / "missing" / "a.mp4", "is not a folder");
  refused(folder_ / "file" / "a.mp4", "is not a folder");
  refused(folder_ / "full.mp4", "is a folder, expected a file");
  refused(folder_ / "pipe.mp4", "not a regular file");
  refused(folder_ / "file", "is not a folder");
  refused(folder_ / "frames", "is not empty");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 4);
  EXPECT_NO_THROW(check_output(folder_ / (std::string(251, 'a') + ".mp4"), settings_));
  refused(folder_ / (std::string(252, 'a') + ".mp4"), "is too long: got 256 bytes");
  // A folder in which even root makes no files.
  for (const char* name : {"/proc/a.mp4", "/proc/a.png", "/proc/frames"})
    expect_error(ErrorKind::io, {"[output]", "cannot"}, [&] { check_output(name, settings_); });
}

TEST_F(MediaErrors, UnwritableFolder) {
  if (::geteuid() == 0) GTEST_SKIP() << "[SKIP] root may write everywhere";
  fs::permissions(folder_, fs::perms::owner_read | fs::perms::owner_exec);
  expect_error(ErrorKind::io, {"[output]", "cannot write into"}, [&] { check_output(folder_ / "a.mp4", settings_); });
  fs::permissions(folder_, fs::perms::owner_all);
}

TEST_F(MediaErrors, WrongFramesAndCounts) {
  for (const char* name : {"a.mp4", "a.mov", "a.mkv", "a.webm", "a.gif", "a.png", "frames"}) {
    {
      const auto writer = VideoWriter::open(folder_ / name, settings_);
      expect_error(ErrorKind::invalid_argument, {"not complete: got 0 frames, expected 4"}, [&] { writer->finish(); });
      expect_error(ErrorKind::invalid_argument, {"bad frame: got 12287 bytes, expected 12288"}, [&] {
        writer->write({frame_.data(), frame_.size() - 1});
      });
      expect_error(ErrorKind::invalid_argument, {"bad frame: got 0 bytes"}, [&] { writer->write({}); });
      for (int i = 0; i < 3; ++i) writer->write(frame_);
      expect_error(ErrorKind::invalid_argument, {"got 3 frames, expected 4"}, [&] { writer->finish(); });
      writer->write(frame_);
      expect_error(ErrorKind::invalid_argument, {"one frame too many"}, [&] { writer->write(frame_); });
    }
    EXPECT_TRUE(empty()) << name;
  }
  const auto writer = VideoWriter::open(folder_ / "a.gif", settings_);
  for (int i = 0; i < 4; ++i) writer->write(frame_);
  writer->finish();
  expect_error(ErrorKind::invalid_argument, {"finished already"}, [&] { writer->finish(); });
  expect_error(ErrorKind::invalid_argument, {"one frame too many"}, [&] { writer->write(frame_); });
}

// The limit on a file's size stands in for a full disk: every write beyond it fails (EFBIG, or SIGXFSZ if not ignored).
TEST_F(MediaErrors, DiskFullAtAnyPoint) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  for (const char* name : {"a.mp4", "a.mov", "a.mkv", "a.webm", "a.gif", "a.png", "frames"}) {
    const auto run = [&] {
      const auto writer = VideoWriter::open(folder_ / name, settings_);
      for (int i = 0; i < settings_.frames; ++i) writer->write(frame_);
      writer->finish();
    };
    run();
    fs::path made = folder_ / name;
    if (fs::is_directory(made)) made /= "0004.png";
    const auto size = static_cast<rlim_t>(fs::file_size(made));
    fs::remove_all(folder_ / name);
    for (const rlim_t limit : {rlim_t{0}, rlim_t{1}, rlim_t{40}, size / 4, size / 2, size * 3 / 4, size - 40, size - 1}) {
      const rlimit small{limit, before.rlim_max};
      ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
      ::testing::internal::CaptureStderr();
      std::string what;
      ErrorKind kind = ErrorKind::internal;
      try {
        run();
      } catch (const Error& error) {
        what = error.what();
        kind = error.kind();
      }
      const std::string printed = ::testing::internal::GetCapturedStderr();
      ::setrlimit(RLIMIT_FSIZE, &before);
      EXPECT_EQ(kind, ErrorKind::io) << name << " limit " << limit << ": " << what;
      EXPECT_NE(what.find("File too large"), std::string::npos) << what;
      EXPECT_NE(what.find("Free some space"), std::string::npos) << what;
      EXPECT_EQ(printed, "");
      EXPECT_TRUE(empty()) << name << " limit " << limit;
    }
  }
  std::signal(SIGXFSZ, old_handler);
}

// Libraries that convert and compress read in vectors; none of them may read beyond what the caller has.
TEST_F(MediaErrors, FramesThatEndAtThePagesEndAreNotReadBeyondIt) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  for (const auto& [width, height] : {std::pair{16, 16}, {2, 2}, {6, 4}, {64, 64}, {98, 34}, {30, 2}}) {
    const std::size_t size = 3 * static_cast<std::size_t>(width) * static_cast<std::size_t>(height);
    const std::size_t readable = (size + page - 1) / page * page;
    auto* const begin =
        static_cast<std::uint8_t*>(::mmap(nullptr, readable + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(begin, MAP_FAILED);
    ASSERT_EQ(::mprotect(begin + readable, page, PROT_NONE), 0);
    const std::span<std::uint8_t> frame(begin + readable - size, size);
    for (std::size_t i = 0; i < size; ++i) frame[i] = frame_[i % frame_.size()];
    VideoSettings settings = settings_;
    settings.width = width, settings.height = height, settings.frames = 2;
    for (const char* name : {"a.mp4", "a.mov", "a.mkv", "a.webm", "a.gif", "a.png", "frames"}) {
      const auto writer = VideoWriter::open(folder_ / name, settings);
      for (int i = 0; i < 2; ++i) writer->write(frame);
      writer->finish();
      EXPECT_TRUE(fs::exists(folder_ / name));
      fs::remove_all(folder_ / name);
    }
    ::munmap(begin, readable + page);
  }
}

TEST_F(MediaErrors, FolderRemovedWhileWriting) {
  for (const char* name : {"a.mp4", "a.gif", "a.png", "frames"}) {
    const fs::path inner = folder_ / "inner";
    fs::create_directory(inner);
    expect_error(ErrorKind::io, {"[output]"}, [&] {
      const auto writer = VideoWriter::open(inner / name, settings_);
      writer->write(frame_);
      fs::remove_all(inner);
      for (int i = 1; i < 4; ++i) writer->write(frame_);
      writer->finish();
    });
    EXPECT_TRUE(empty()) << name;
  }
}

}  // namespace
}  // namespace zoe
