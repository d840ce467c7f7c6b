// What `cmake --install` puts somewhere works there: the command with its model, and the library in another project.
#include <gtest/gtest.h>

#include "testing/read_video.h"
#include "testing/run_command.h"
#include "testing/temporary_folder.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using testing::CommandResult;
using testing::run_command;

TEST(Install, TheCommandFindsItsModelAndAProjectItsLibrary) {
  const testing::TemporaryFolder temporary;
  const fs::path prefix = temporary.path() / "prefix", build = temporary.path() / "build";
  const auto run = [&](const std::vector<std::string>& arguments) {
    const CommandResult result = run_command(arguments, {.folder = temporary.path()});
    ASSERT_EQ(result.code, 0) << result.line << "\n" << result.out << result.err;
  };
  ASSERT_NO_FATAL_FAILURE(run({"cmake", "--install", ZOE_BUILD, "--prefix", prefix.string()}));
  // The copy knows no other place: that of the build would be one more folder up.
  const CommandResult info = run_command({(prefix / "bin/zoe").string(), "info"});
  EXPECT_NE(info.out.find((prefix / "share/zoetrope/models/toy-wan").string()), std::string::npos) << info.out << info.err;
  for (const char* const page : {"share/man/man1/zoe.1", "share/bash-completion/completions/zoe", "share/zsh/site-functions/_zoe",
                                 "share/fish/vendor_completions.d/zoe.fish"})
    EXPECT_GT(fs::file_size(prefix / page), 1000u) << page;
  ASSERT_NO_FATAL_FAILURE(run({(prefix / "bin/zoe").string(), "generate", "-p", "a red circle", "--width", "64", "--height", "64",
                               "--num-frames", "5", "--num-inference-steps", "1", "--threads", "1", "-o", "a.mp4"}));
  EXPECT_EQ(testing::read_video(temporary.path() / "a.mp4").frames.size(), 5u);

  ASSERT_NO_FATAL_FAILURE(run({"cmake", "-G", "Ninja", "-S", ZOE_EXAMPLE, "-B", build.string(),
                               "-DCMAKE_PREFIX_PATH=" + prefix.string(), "-DCMAKE_CXX_FLAGS=" ZOE_SANITIZE_FLAGS}));
  ASSERT_NO_FATAL_FAILURE(run({"cmake", "--build", build.string()}));
  ASSERT_NO_FATAL_FAILURE(
      run({(build / "example").string(), (prefix / "share/zoetrope/models/toy-wan").string(), "b.mp4", "a blue square"}));
  EXPECT_EQ(testing::read_video(temporary.path() / "b.mp4").frames.size(), 9u);
}

}  // namespace
}  // namespace zoe
