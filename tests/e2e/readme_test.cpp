// Every command that the README prints runs as printed, but for those that need a download.
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "testing/run_command.h"
#include "testing/temporary_folder.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> commands_in(const fs::path& page) {
  std::vector<std::string> commands;
  std::ifstream file(page);
  const std::string begin = "    build/zoe ";
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(begin)) commands.push_back(line.substr(4));
  return commands;
}

TEST(Readme, ItsCommandsRunAsPrinted) {
  const testing::TemporaryFolder temporary;
  fs::create_directory(temporary.path() / "build");
  fs::create_symlink(ZOE_COMMAND, temporary.path() / "build/zoe");
  fs::create_directory_symlink(fs::absolute(ZOE_MODELS), temporary.path() / "models");
  const std::vector<std::string> commands = commands_in(ZOE_FIXTURES "/../../README.md");
  EXPECT_GE(commands.size(), 5u);
  int ran = 0;
  for (const std::string& command : commands) {
    if (command.find("an2.") != std::string::npos) continue;  // the folder or file of a published model
    const testing::CommandResult result =
        testing::run_command({"/bin/sh", "-c", command}, {.folder = temporary.path(), .timeout_s = 280});
    EXPECT_EQ(result.code, 0) << command << "\n" << result.out << result.err;
    EXPECT_EQ(result.err, "") << command;
    ++ran;
  }
  EXPECT_GE(ran, 4);
}

// A newcomer waits for the command, not for the tests and benches.
TEST(Readme, TheDemoBuildsTheCommandAlone) {
  std::ifstream file(ZOE_FIXTURES "/../../dev");
  const std::string script(std::istreambuf_iterator<char>(file), {});
  const std::size_t begin = script.find("\n  demo)"), end = script.find(";;", begin);
  ASSERT_NE(begin, script.npos);
  EXPECT_NE(script.substr(begin, end - begin).find("--target zoe"), script.npos);
  const testing::CommandResult commands = testing::run_command({"ninja", "-C", ZOE_BUILD, "-t", "commands", "zoe"});
  ASSERT_EQ(commands.code, 0) << commands.err;
  EXPECT_NE(commands.out.find("src/base"), std::string::npos);
  for (const char* const folder : {"/bench/", "/tests/", "/examples/"})
    EXPECT_EQ(commands.out.find(folder), std::string::npos) << commands.out.substr(commands.out.find(folder), 200);
}

}  // namespace
}  // namespace zoe
