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

}  // namespace
}  // namespace zoe
