// Videos, masks and reference images give the frames that Diffusers' WanVACEPipeline gives, and a video to start from those of
// WanVideoToVideoPipeline: recorded cases with guidance and without, both schedulers, one transformer and two experts, in f32.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "models/wan_dit/names.h"
#include "pipeline/model.h"
#include "pipeline/model_files.h"
#include "pipeline/recipe.h"
#include "pipeline/session.h"
#include "platform/platform.h"
#include "testing/image_to_video_folder.h"
#include "testing/read_video.h"
#include "testing/recorded_videos.h"
#include "testing/run_command.h"
#include "testing/stored_tensors.h"
#include "testing/temporary_folder.h"
#include "testing/vace_folder.h"
#include "testing/write_gguf.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::frames_of;
using testing::TemporaryFolder;

const fs::path kModels = ZOE_MODELS, kRecorded = fs::path(ZOE_FIXTURES) / "models", kInputs = kRecorded / "vace",
               kPictures = kRecorded / "image_to_video";

std::vector<json> cases() { return testing::recorded_cases({"vace", "video_to_video", "image_to_video_fun"}); }

Request request_of(const json& c) {
  Request request;
  request.prompts = {c.at("prompt")};
  request.negative_prompt = c.at("negative_prompt");
  if (c.contains("video")) request.video = kInputs / c.at("video").get<std::string>();
  if (c.contains("mask")) request.mask = kInputs / c.at("mask").get<std::string>();
  if (c.contains("image")) request.image = kPictures / c.at("image").get<std::string>();
  if (c.contains("last_image")) request.last_image = kPictures / c.at("last_image").get<std::string>();
  if (c.contains("references"))
    for (const std::string name : c.at("references")) request.reference_images.push_back(kPictures / name);
  if (c.contains("strength")) request.strength = c.at("strength");
  if (c.contains("conditioning_scale")) request.conditioning_scale = c.at("conditioning_scale");
  if (c.contains("guidance_scale_2")) request.guidance_scale_2 = c.at("guidance_scale_2");
  if (c.contains("boundary_ratio")) request.boundary_ratio = c.at("boundary_ratio");
  if (!request.video.empty() || !request.image.empty()) request.fit = Fit::stretch;
  request.height = c.at("height"), request.width = c.at("width"), request.num_frames = c.at("num_frames");
  request.num_inference_steps = c.at("num_inference_steps");
  request.guidance_scale = c.at("guidance_scale");
  request.flow_shift = c.at("flow_shift");
  request.scheduler = parse_scheduler_kind(c.at("scheduler").get<std::string>(), "scheduler");
  request.seeds = {c.at("seed").get<std::uint64_t>()};
  return request;
}

fs::path model_of(const json& c, const fs::path& folder) {
  if (c.at("folder") == "video_to_video") return kModels / "toy-wan";
  if (c.at("folder") == "image_to_video_fun") return testing::make_image_to_video(folder, "image_to_video_clip");
  return testing::make_vace(folder, c.contains("boundary_ratio"));
}

class ControlToVideo : public ::testing::TestWithParam<json> {};

TEST_P(ControlToVideo, GivesTheFramesOfDiffusers) {
  const json& c = GetParam();
  const TemporaryFolder temporary;
  Session session(read_model_config(model_of(c, temporary.path() / "model")), open_platform("cpu", {.threads = 1}),
                  {.dtype = DType::f32});
  const testing::ReadVideo expected =
      testing::read_video(kRecorded / c.at("folder").get<std::string>() / c.at("file").get<std::string>());
  for (const GuidanceBatch batch : {GuidanceBatch::on, GuidanceBatch::off}) {
    Request request = request_of(c);
    request.guidance_batch = batch;
    const std::vector<std::uint8_t> frames = frames_of(session, request);
    ASSERT_EQ(frames.size(), expected.frames.at(0).size());
    const double psnr = testing::psnr({frames}, expected.frames);
    std::printf("case %s: %.2f dB\n", c.at("name").get<std::string>().c_str(), psnr);
    EXPECT_GE(psnr, 80);
  }
}

INSTANTIATE_TEST_SUITE_P(Diffusers, ControlToVideo, ::testing::ValuesIn(cases()), [](const auto& test) {
  const json& c = test.param;
  return c.at("folder").template get<std::string>() + "_" + c.at("name").template get<std::string>();
});

// A session with a small VACE model, of which nothing runs.
struct OnNull {
  TemporaryFolder temporary;
  Session session;
  explicit OnNull(bool two_experts = false)
      : session(read_model_config(testing::make_vace(temporary.path() / "model", two_experts)), open_platform("null")) {}
};

Request small_request() {
  Request request;
  request.prompts = {"a red circle"};
  return request;
}

TEST(ControlToVideoModel, HasAStageForTheControl) {
  for (const bool two_experts : {false, true}) {
    OnNull model(two_experts);
    EXPECT_EQ(model.session.recipe(), "text, video or reference images to video");
    Request request = small_request();
    request.video = kInputs / "video", request.reference_images = {kPictures / "circle.png", kPictures / "square.png"};
    const Job job = model.session.prepare(request);
    std::vector<std::string> names;
    for (const StageMemory& stage : job.memory().stages) names.push_back(stage.stage);
    EXPECT_EQ(names, two_experts ? (std::vector<std::string>{"encode", "encode the control", "denoise, high noise",
                                                             "denoise, low noise", "decode"})
                                 : (std::vector<std::string>{"encode", "encode the control", "denoise", "decode"}));
  }
}

// The size is that of the video's shape, the frames as many as it has: 48x32 and 9 of them.
TEST(ControlToVideoModel, TakesShapeAndLengthOfItsVideo) {
  OnNull model;
  std::vector<std::string> notices;
  const LogScope scope([&](LogLevel level, std::string_view text) {
    if (level == LogLevel::notice) notices.emplace_back(text);
  });
  Request request = small_request();
  request.video = kInputs / "video";
  const auto settled = [&] { return model.session.prepare(request).settled(); };
  EXPECT_EQ(settled().num_frames, 9);
  EXPECT_EQ(std::count_if(notices.begin(), notices.end(),
                          [](const std::string& text) { return text.find("has 9 frames, so 9 are made") != text.npos; }),
            1);
  // round(sqrt(area 256x256 or 832x480 x shape)), rounded down to a multiple of 16
  const GenerationDefaults& defaults = model.session.model().defaults;
  const double area = static_cast<double>(defaults.width * defaults.height);
  EXPECT_EQ(settled().width, static_cast<std::int64_t>(std::nearbyint(std::sqrt(area * 1.5))) / 16 * 16);
  EXPECT_EQ(settled().height, static_cast<std::int64_t>(std::nearbyint(std::sqrt(area / 1.5))) / 16 * 16);
  request.width = 96;
  EXPECT_EQ(settled().height, 64);
  request.num_frames = 5;
  notices.clear();
  EXPECT_EQ(settled().num_frames, 5);
  EXPECT_NE(std::find_if(notices.begin(), notices.end(),
                         [](const std::string& text) { return text.find("the first 5 frames are taken") != text.npos; }),
            notices.end());
  request.video.clear(), request.num_frames = {}, request.width = {};
  EXPECT_EQ(settled().width, defaults.width);
}

// A picture is the mask of every frame; what it keeps and makes is more than a mask of all.
TEST(ControlToVideoModel, AStillMaskIsThatOfEveryFrame) {
  const TemporaryFolder temporary;
  Session session(read_model_config(testing::make_vace(temporary.path() / "model", false)), open_platform("cpu", {.threads = 1}),
                  {.dtype = DType::f32});
  fs::create_directory(temporary.path() / "same");
  for (int i = 1; i <= 5; ++i)
    fs::copy_file(kInputs / "mask/004.png", temporary.path() / "same" / fmt::format("frame_{}.png", 7 + i));
  Request request = small_request();
  request.video = kInputs / "video";
  request.height = 32, request.width = 48, request.num_frames = 5, request.num_inference_steps = 2, request.guidance_scale = 1;
  const auto all = frames_of(session, request);
  request.mask = temporary.path() / "same";
  const auto of_many = frames_of(session, request);
  request.mask = kInputs / "mask/004.png";
  EXPECT_EQ(frames_of(session, request), of_many);
  EXPECT_NE(of_many, all);
  // Leading by nothing is what text alone gives, whatever leads.
  request.conditioning_scale = 0;
  const auto unled = frames_of(session, request);
  request.mask.clear(), request.video.clear();
  EXPECT_EQ(frames_of(session, request), unled);
}

// The same model in the original names, as Comfy's single files and GGUF files have them, as one transformer and as two experts.
TEST(ControlToVideoModel, RunsFromFilesOfEveryLayout) {
  const TemporaryFolder temporary;
  const fs::path recorded = kInputs / "transformer", toy = kModels / "toy-wan", folder = temporary.path();
  const std::vector<testing::TensorToWrite> tensors = testing::renamed(testing::stored_tensors(recorded), wan_dit_original_names());
  const auto prefixed = testing::renamed(testing::stored_tensors(recorded), wan_dit_original_names(), "model.diffusion_model.");
  for (const char* part : {"single", "gguf"}) {
    fs::create_directory(folder / part);
    fs::copy_file(recorded / "config.json", folder / part / "config.json");
  }
  testing::write_safetensors(folder / "single/dit.safetensors", prefixed);
  testing::write_gguf(folder / "gguf/dit.gguf", tensors);
  Request request = small_request();
  request.reference_images = {kPictures / "circle.png"};
  request.height = request.width = 32, request.num_frames = 1, request.num_inference_steps = 2, request.guidance_scale = 1;
  const auto frames = [&](const ModelConfig& model) {
    Session session(model, open_platform("cpu", {.threads = 1}), {.dtype = DType::f32});
    return frames_of(session, request);
  };
  const auto expected = frames(read_model_config(testing::make_vace(folder / "diffusers", false)));
  for (const std::string file : {"single/dit.safetensors", "gguf/dit.gguf"})
    for (const bool two_experts : {false, true}) {
      ModelFiles files{
          .transformer = folder / file, .vae = toy / "vae", .text_encoder = toy / "text_encoder", .tokenizer = toy / "tokenizer"};
      if (two_experts) files.transformer_2 = files.transformer;
      const ModelConfig model = read_model(files);
      EXPECT_EQ(member_names(make_recipe(model)->member()), two_experts ? "vace_a14b" : "vace") << file;
      EXPECT_EQ(model.boundary_ratio, two_experts ? std::optional(0.875) : std::nullopt) << file;
      EXPECT_EQ(frames(model), expected) << file;
    }
}

// What stands in front for reference images is of the state alone, not of what steps show.
TEST(ControlToVideoModel, StepsShowTheVideoWithoutItsReferences) {
  const TemporaryFolder temporary;
  Session session(read_model_config(testing::make_vace(temporary.path() / "model", false)), open_platform("cpu", {.threads = 1}),
                  {.dtype = DType::f32});
  Request request = small_request();
  request.reference_images = {kPictures / "circle.png", kPictures / "square.png"};
  request.height = request.width = 32, request.num_frames = 5, request.num_inference_steps = 2, request.guidance_scale = 1;
  Job job = session.prepare(request);
  const Settled& settled = job.settled();
  EXPECT_EQ(settled.latent_frames, 2);
  const auto frame = static_cast<std::size_t>(session.model().vae.z_dim * settled.latent_height * settled.latent_width);
  std::vector<float> latents, clean, final_latents;
  Callbacks callbacks;
  callbacks.step = [&](const StepDone& done) {
    latents = done.latents(), clean = done.clean();
    EXPECT_EQ(latents.size(), 2 * frame);
    EXPECT_EQ(done.state().latents.size(), 4 * frame);
  };
  callbacks.latents = [&](std::size_t, std::span<const float> values) { final_latents.assign(values.begin(), values.end()); };
  session.run(job, callbacks);
  EXPECT_EQ(latents, final_latents);
  ASSERT_EQ(clean.size(), latents.size());  // the last step leaves no noise: what it took the video for is the video
  for (std::size_t i = 0; i < clean.size(); ++i) EXPECT_NEAR(clean[i], latents[i], 1e-4) << i;
}

// At strength 1 nearly all is noise; at a small one the frames are those of the video.
TEST(VideoToVideoModel, StrengthSaysHowMuchIsKept) {
  for (const std::string folder : {"", "text_image_to_video"}) {
    const TemporaryFolder temporary;
    Session session(
        read_model_config(folder.empty() ? kModels / "toy-wan" : testing::make_image_to_video(temporary.path() / "m", folder)),
        open_platform("cpu", {.threads = 1}), {.dtype = DType::f32});
    Request request = small_request();
    request.height = 32, request.width = 64, request.num_frames = 5, request.num_inference_steps = 40, request.guidance_scale = 1;
    const auto of_text = frames_of(session, request);
    request.video = kInputs / "video";
    const auto near = [&](double strength) {
      request.strength = strength;
      const auto frames = frames_of(session, request);
      return frames;
    };
    const auto least = near(0.03), some = near(0.5), most = near(1.0);
    const double few = testing::psnr({least}, {some}), many = testing::psnr({least}, {most});
    EXPECT_GT(few, many) << folder;
    // Of one step of 40 the rest is the video, as the VAE gives it back; a seed is hardly seen.
    request.seeds = {77};
    EXPECT_GT(testing::psnr({near(0.03)}, {least}), testing::psnr({near(1.0)}, {most}) + 6) << folder;
    EXPECT_NE(near(0.9), of_text);
  }
}

// The command, the metadata of its file, and the same again from it.
TEST(ControlToVideoCommand, MakesItAndMakesItAgain) {
  const TemporaryFolder temporary;
  const std::string out = temporary.path() / "a.png", again = temporary.path() / "b.png";
  const std::string circle = kPictures / "circle.png", square = kPictures / "square.png";
  const std::vector<std::string> model{
      "--model-path", testing::make_vace(temporary.path() / "model", false), "--threads", "1", "--dtype", "f32", "-q"};
  std::vector<std::string> command{ZOE_COMMAND,
                                   "generate",
                                   "--video",
                                   kInputs / "video",
                                   "--mask",
                                   kInputs / "mask",
                                   "--reference-image",
                                   circle,
                                   "--reference-image",
                                   square,
                                   "--conditioning-scale",
                                   "0.5",
                                   "-p",
                                   "a red circle",
                                   "--width",
                                   "48",
                                   "--steps",
                                   "2",
                                   "-o",
                                   out};
  command.insert(command.end(), model.begin(), model.end());
  const testing::CommandResult made = testing::run_command(command);
  ASSERT_EQ(made.code, 0) << made.err << made.line;
  std::ifstream file(out, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  EXPECT_NE(bytes.find("\"conditioning_scale\":\"0.5\""), std::string::npos);
  std::vector<std::string> from{ZOE_COMMAND, "generate", "--from", out, "-o", again};
  from.insert(from.end(), model.begin(), model.end());
  const testing::CommandResult repeated = testing::run_command(from);
  ASSERT_EQ(repeated.code, 0) << repeated.err << repeated.line;
  EXPECT_EQ(testing::read_video(again).frames, testing::read_video(out).frames);

  const testing::CommandResult info = testing::run_command({ZOE_COMMAND, "info", temporary.path() / "model"});
  EXPECT_EQ(info.code, 0) << info.err;
  EXPECT_NE(info.out.find("takes         --prompt, --video, --mask, --reference-image"), std::string::npos) << info.out;
  EXPECT_NE(info.out.find("text, video or reference images to video: yes"), std::string::npos) << info.out;
  const testing::CommandResult verified =
      testing::run_command({ZOE_COMMAND, "verify", temporary.path() / "model", "--video", kInputs / "video", "--threads", "1",
                            "--dtype", "f32", "--num-inference-steps", "1"});
  EXPECT_EQ(verified.code, 0) << verified.err << verified.out;
}

// What the published members would run, at their full sizes.
TEST(ControlToVideoCommand, ExplainsPublishedMembers) {
  for (const std::string member : {"wan2.1-vace-1.3b", "wan2.1-vace-14b", "wan2.2-vace-fun-a14b"}) {
    const testing::CommandResult result = testing::run_command({ZOE_COMMAND, "explain", member, "--platform", "null"});
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_NE(result.out.find(member + ": transformer at 832x480, 81 frames"), std::string::npos) << result.out;
    EXPECT_NE(result.out.find("plan wan_dit: "), std::string::npos) << result.out;
    Session session(read_model("random:" + member), open_platform("null"));
    Request request = small_request();
    request.reference_images = {kPictures / "circle.png"};
    const Job job = session.prepare(request);
    EXPECT_EQ(job.settled().latent_frames, 21) << member;  // of the video: the reference image's is the step's alone
    EXPECT_EQ(job.settled().num_frames, 81) << member;
  }
}

TEST(VideoToVideoModel, TakesAsManyStepsAsStrengthLeaves) {
  Session session(read_model_config(kModels / "toy-wan"), open_platform("cpu", {.threads = 1}), {.dtype = DType::f32});
  Request request = small_request();
  request.height = request.width = 32, request.num_frames = 5, request.num_inference_steps = 10, request.guidance_scale = 1;
  request.video = kInputs / "video";
  for (const auto& [strength, expected] : {std::pair{0.8, 8}, {0.29, 2}, {1.0, 10}, {0.1, 1}}) {
    request.strength = strength;
    int steps = 0;
    Callbacks callbacks;
    callbacks.step = [&](const StepDone& done) {
      ++steps;
      EXPECT_EQ(done.total, expected);
    };
    Job job = session.prepare(request);
    session.run(job, callbacks);
    EXPECT_EQ(steps, expected);
  }
}

}  // namespace
}  // namespace zoe
