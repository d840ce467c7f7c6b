// Two experts (Wan2.2 A14B) give the video that Diffusers' WanPipeline gives: recorded cases with the boundary inside and outside
// the steps, with and without guidance, in f32.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "pipeline/model.h"
#include "pipeline/session.h"
#include "platform/platform.h"
#include "testing/read_video.h"
#include "testing/recorded_videos.h"
#include "testing/temporary_folder.h"
#include "testing/two_experts_folder.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path kFolder = fs::path(ZOE_FIXTURES) / "models/two_experts";

std::vector<json> cases() {
  std::ifstream file(kFolder / "cases.json");
  return json::parse(file).at("cases").get<std::vector<json>>();
}

Request request_of(const json& c) {
  Request request;
  request.prompts = {c.at("prompt")};
  request.negative_prompt = c.at("negative_prompt");
  request.height = c.at("height"), request.width = c.at("width"), request.num_frames = c.at("num_frames");
  request.num_inference_steps = c.at("num_inference_steps");
  request.guidance_scale = c.at("guidance_scale");
  if (c.contains("guidance_scale_2")) request.guidance_scale_2 = c.at("guidance_scale_2");
  request.boundary_ratio = c.at("boundary_ratio");
  request.flow_shift = c.at("flow_shift");
  request.scheduler = parse_scheduler_kind(c.at("scheduler").get<std::string>(), "scheduler");
  request.seeds = {c.at("seed").get<std::uint64_t>()};
  return request;
}

class TwoExperts : public ::testing::TestWithParam<json> {};

TEST_P(TwoExperts, GiveTheFramesOfDiffusers) {
  const json& c = GetParam();
  const testing::TemporaryFolder temporary;
  for (const GuidanceBatch batch : {GuidanceBatch::on, GuidanceBatch::off}) {
    const fs::path folder = temporary.path() / std::to_string(static_cast<int>(batch));
    Session session(read_model_config(testing::make_two_experts(folder)), open_platform("cpu", {.threads = 1}),
                    {.dtype = DType::f32, .single_request = true});
    Request request = request_of(c);
    request.guidance_batch = batch;
    const std::vector<std::uint8_t> stacked = testing::frames_of(session, request);
    const testing::ReadVideo expected = testing::read_video(kFolder / c.at("file").get<std::string>());
    ASSERT_EQ(stacked.size(), expected.frames.at(0).size());
    const double psnr = testing::psnr({stacked}, expected.frames);
    std::printf("case %s: %.2f dB\n", c.at("name").get<std::string>().c_str(), psnr);
    EXPECT_GE(psnr, 80);
  }
}

INSTANTIATE_TEST_SUITE_P(Diffusers, TwoExperts, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.at("name").template get<std::string>(); });

TEST(TwoExpertsModel, HasAStageForEachThatHasSteps) {
  const testing::TemporaryFolder temporary;
  Session session(read_model_config(testing::make_two_experts(temporary.path() / "model")), open_platform("cpu", {.threads = 1}));
  const auto stages = [&](double boundary) {
    Request request;
    request.prompts = {"a red circle"};
    request.height = 32, request.width = 32, request.num_frames = 1, request.num_inference_steps = 4;
    request.boundary_ratio = boundary;
    const Job job = session.prepare(request);
    std::vector<std::string> names;
    for (const StageMemory& stage : job.memory().stages) names.push_back(stage.stage);
    return names;
  };
  EXPECT_EQ(stages(0.875), (std::vector<std::string>{"encode", "denoise, high noise", "denoise, low noise", "decode"}));
  EXPECT_EQ(stages(0), (std::vector<std::string>{"encode", "denoise, high noise", "decode"}));
  EXPECT_EQ(stages(1), (std::vector<std::string>{"encode", "denoise, low noise", "decode"}));
}

TEST(TwoExpertsModel, OfOneTransformerTakesNoSecondScale) {
  Session session(read_model_config(ZOE_MODELS "/toy-wan"), open_platform("null"));
  Request request;
  request.prompts = {"a red circle"};
  request.guidance_scale_2 = 3;
  EXPECT_THROW(session.prepare(request), Error);
  request.guidance_scale_2 = {};
  request.boundary_ratio = 0.5;
  EXPECT_THROW(session.prepare(request), Error);
}

}  // namespace
}  // namespace zoe
