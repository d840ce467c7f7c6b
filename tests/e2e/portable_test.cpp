// The portable program, where it is built (./dev portable): every format, with nothing but what lies beside it.
#include <gtest/gtest.h>

#include <filesystem>

#include "testing/read_video.h"
#include "testing/run_command.h"
#include "testing/temporary_folder.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;

TEST(Portable, WritesEveryFormatWithNothingButItsFolder) {
  const fs::path built = fs::path(ZOE_BUILD).parent_path() / "build-portable";
  if (!fs::exists(built / "zoe") || !fs::exists(built / "lib/licences/README")) GTEST_SKIP() << "[SKIP] ./dev portable has not run";
  const testing::TemporaryFolder temporary;
  const fs::path& folder = temporary.path();
  fs::copy_file(built / "zoe", folder / "zoe");
  fs::copy(built / "lib", folder / "lib", fs::copy_options::recursive);
  fs::create_directory_symlink(ZOE_MODELS, folder / "models");
  const std::string zoe = (folder / "zoe").string();
  const std::string loaded = testing::run_command({zoe}, {.environment = {{"LD_TRACE_LOADED_OBJECTS", "1"}}}).out;
  EXPECT_NE(loaded.find("libsentencepiece"), std::string::npos) << loaded;
  for (const char* library :
       {"libav", "libsw", "libx264", "libvpx", "libpng", "libz.", "/usr/lib/x86_64-linux-gnu/libsentencepiece"})
    EXPECT_EQ(loaded.find(library), std::string::npos) << loaded;
  for (const std::string name : {"a.mp4", "a.mov", "a.mkv", "a.webm", "a.gif", "a.png"}) {
    const auto result = testing::run_command({zoe, "generate", "-p", "a red circle", "--platform", "opencl", "--height", "64",
                                              "--width", "64", "--num-frames", "5", "--num-inference-steps", "1", "-o", name},
                                             {.folder = folder, .timeout_s = 250});
    if (result.code == 3) GTEST_SKIP() << "[SKIP] no OpenCL device: " << result.err;
    ASSERT_EQ(result.code, 0) << result.err;
    const testing::ReadVideo video = testing::read_video(folder / name);
    EXPECT_EQ(video.frames.size(), name == "a.png" ? 1u : 5u) << name;
    if (name != "a.png" && name != "a.gif") {
      EXPECT_TRUE(video.tags.at("encoder").starts_with("Zoetrope ")) << name << ": " << video.tags.at("encoder");
    }
  }
}

}  // namespace
}  // namespace zoe
