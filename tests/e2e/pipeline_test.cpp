// The same prompt and seed give the video that Diffusers' WanPipeline gives: all recorded cases, in f32.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "testing/read_video.h"
#include "testing/recorded_case.h"
#include "testing/run_command.h"
#include "testing/temporary_folder.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path kFolder = fs::path(ZOE_FIXTURES) / "models/pipeline";

std::vector<json> cases() {
  std::ifstream file(kFolder / "cases.json");
  return json::parse(file).at("cases").get<std::vector<json>>();
}

class Pipeline : public ::testing::TestWithParam<json> {};

TEST_P(Pipeline, GivesTheFramesOfDiffusers) {
  const json& c = GetParam();
  const testing::TemporaryFolder temporary;
  const fs::path folder = temporary.path() / "frames";
  const testing::CommandResult result =
      testing::run_command(testing::generate_command(c, folder.string(), {"--dtype", "f32", "--threads", "1"}));
  ASSERT_EQ(result.code, 0) << result.err << result.line;
  const testing::ReadVideo expected = testing::read_video(kFolder / c.at("file").get<std::string>());
  // 60 dB: one value in fifteen off by one. Sums in another order change values that are near a half; measured: 80 to 90.
  const auto frames = testing::read_frames(folder);  // recorded one above the other
  ASSERT_EQ(frames.size(), c.at("num_frames").get<std::size_t>());
  std::vector<std::uint8_t> stacked;
  for (const auto& frame : frames) stacked.insert(stacked.end(), frame.begin(), frame.end());
  const double psnr = testing::psnr({stacked}, expected.frames);
  std::printf("case %s: %.2f dB, %.2f s\n", c.at("name").get<std::string>().c_str(), psnr, result.seconds);
  EXPECT_GE(psnr, 60) << result.line;
}

INSTANTIATE_TEST_SUITE_P(Diffusers, Pipeline, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.at("name").template get<std::string>(); });

// Prompt and negative prompt in one forward or in two. On AVX-512 the frames are equal; oneDNN's f32 products on cores with AVX2
// alone may add in another order for twice the rows.
TEST(GuidanceBatch, GivesTheFramesOfTwoForwards) {
  for (const json& c : cases()) {
    if (c.at("name") != "d" && c.at("name") != "f") continue;
    for (const std::string dtype : {"f32", "bf16"}) {
      const testing::TemporaryFolder temporary;
      std::vector<std::vector<std::vector<std::uint8_t>>> frames;
      for (const std::string batch : {"off", "on"}) {
        const fs::path folder = temporary.path() / batch;
        const testing::CommandResult result = testing::run_command(
            testing::generate_command(c, folder.string(), {"--dtype", dtype, "--threads", "1", "--guidance-batch", batch}));
        ASSERT_EQ(result.code, 0) << result.err << result.line;
        EXPECT_EQ(result.out.find("(a batch of two)") != std::string::npos, batch == "on") << result.out;
        frames.push_back(testing::read_frames(folder));
      }
      const double psnr = testing::psnr(frames[0], frames[1]);
      std::printf("case %s in %s: %.2f dB\n", c.at("name").get<std::string>().c_str(), dtype.c_str(), psnr);
      EXPECT_GE(psnr, dtype == "f32" ? 60 : 30);
    }
  }
}

}  // namespace
}  // namespace zoe
