// Image to video gives the frames that Diffusers' WanImageToVideoPipeline gives: recorded cases with guidance and without, both
// schedulers, a first and a last image, one transformer (models/toy-wan-i2v) and two experts, and the LoRAs of
// the embedded models, in f32.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "pipeline/model.h"
#include "pipeline/session.h"
#include "platform/platform.h"
#include "testing/image_to_video_folder.h"
#include "testing/read_video.h"
#include "testing/recorded_videos.h"
#include "testing/run_command.h"
#include "testing/temporary_folder.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::frames_of;

const fs::path kModels = ZOE_MODELS, kPictures = fs::path(ZOE_FIXTURES) / "models/image_to_video";

std::vector<json> cases() {
  return testing::recorded_cases({"image_to_video", "image_to_video_loras", "image_to_video_experts", "image_to_video_clip",
                                  "image_to_video_flf2v", "text_image_to_video"});
}

Request request_of(const json& c) {
  Request request;
  request.prompts = {c.at("prompt")};
  request.negative_prompt = c.at("negative_prompt");
  if (c.contains("image")) request.image = kPictures / c.at("image").get<std::string>();
  if (c.contains("last_image")) request.last_image = kPictures / c.at("last_image").get<std::string>();
  if (c.contains("image")) request.fit = Fit::stretch;
  request.height = c.at("height"), request.width = c.at("width"), request.num_frames = c.at("num_frames");
  request.num_inference_steps = c.at("num_inference_steps");
  request.guidance_scale = c.at("guidance_scale");
  if (c.contains("guidance_scale_2")) request.guidance_scale_2 = c.at("guidance_scale_2");
  if (c.contains("boundary_ratio")) request.boundary_ratio = c.at("boundary_ratio");
  request.flow_shift = c.at("flow_shift");
  request.scheduler = parse_scheduler_kind(c.at("scheduler").get<std::string>(), "scheduler");
  if (c.contains("sigmas")) request.sigmas = c.at("sigmas").get<std::vector<double>>();
  request.seeds = {c.at("seed").get<std::uint64_t>()};
  if (c.contains("lora")) request.loras = {{.path = kModels / c.at("lora").get<std::string>()}};
  return request;
}

class ImageToVideo : public ::testing::TestWithParam<json> {};

TEST_P(ImageToVideo, GivesTheFramesOfDiffusers) {
  const json& c = GetParam();
  const testing::TemporaryFolder temporary;
  const std::string folder = c.at("folder");
  const fs::path model = folder == "image_to_video" || c.contains("model")
                             ? kModels / c.value("model", "toy-wan-i2v")
                             : testing::make_image_to_video(temporary.path() / "model", folder);
  Session session(read_model_config(model), open_platform("cpu", {.threads = 1}), {.dtype = DType::f32});
  const testing::ReadVideo expected =
      testing::read_video(fs::path(ZOE_FIXTURES) / "models" / folder / c.at("file").get<std::string>());
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

INSTANTIATE_TEST_SUITE_P(Diffusers, ImageToVideo, ::testing::ValuesIn(cases()), [](const auto& test) {
  const json& c = test.param;
  return c.at("folder").template get<std::string>() + "_" + c.at("name").template get<std::string>();
});

TEST(ImageToVideoModel, HasAStageForTheImage) {
  const testing::TemporaryFolder temporary;
  Session session(read_model_config(testing::make_image_to_video(temporary.path() / "model", "image_to_video_experts")),
                  open_platform("null"));
  EXPECT_EQ(session.recipe(), "image to video");
  const auto stages = [](Session& of, const std::string& folder) {
    const std::vector<json> all = cases();
    const json& c = *std::find_if(all.begin(), all.end(), [&](const json& each) { return each.at("folder") == folder; });
    const Job job = of.prepare(request_of(c));
    std::vector<std::string> names;
    for (const StageMemory& stage : job.memory().stages) names.push_back(stage.stage);
    return names;
  };
  EXPECT_EQ(stages(session, "image_to_video_experts"),
            (std::vector<std::string>{"encode", "encode the image", "denoise, high noise", "denoise, low noise", "decode"}));
  Session clip(read_model_config(testing::make_image_to_video(temporary.path() / "clip", "image_to_video_clip")),
               open_platform("null"));
  EXPECT_EQ(stages(clip, "image_to_video_clip"),
            (std::vector<std::string>{"encode", "look at the image", "encode the image", "denoise", "decode"}));
}

// Its frames begin with the picture as the VAE gives it back, whatever the steps do.
TEST(ImageToVideoModel, OfTi2vTakesAPictureOrNone) {
  const testing::TemporaryFolder temporary;
  Session session(read_model_config(testing::make_image_to_video(temporary.path() / "model", "text_image_to_video")),
                  open_platform("cpu", {.threads = 1}), {.dtype = DType::f32});
  EXPECT_EQ(session.recipe(), "text or image to video");
  Request request;
  request.prompts = {"a red circle"};
  request.height = 32, request.width = 64, request.num_frames = 5, request.num_inference_steps = 1, request.guidance_scale = 1;
  const std::vector<std::uint8_t> of_text = frames_of(session, request);
  request.image = kPictures / "circle.png";
  const std::vector<std::uint8_t> first = frames_of(session, request);
  request.seeds = {9}, request.num_inference_steps = 3;
  const std::vector<std::uint8_t> second = frames_of(session, request);
  const auto begin = [](const std::vector<std::uint8_t>& frames) {
    return std::vector(frames.begin(), frames.begin() + 32 * 64 * 3);
  };
  EXPECT_EQ(begin(first), begin(second));
  EXPECT_NE(first, second);
  EXPECT_NE(begin(first), begin(of_text));
  request.last_image = kPictures / "square.png";
  EXPECT_THROW(session.prepare(request), Error);
}

// What each member refuses of the other's.
TEST(ImageToVideoModel, TakesAsManyPicturesAsItSees) {
  const testing::TemporaryFolder temporary;
  const auto error = [&](const std::string& folder, bool with_last) {
    Session session(read_model_config(testing::make_image_to_video(temporary.path() / folder, folder)), open_platform("null"));
    Request request;
    request.prompts = {"a red circle"};
    request.image = kPictures / "circle.png";
    if (with_last) request.last_image = kPictures / "square.png";
    request.height = 64, request.width = 64, request.num_frames = 9;
    try {
      session.prepare(request);
    } catch (const Error& refused) {
      return std::string(refused.what());
    }
    return std::string();
  };
  EXPECT_EQ(error("image_to_video_clip", false), "");
  EXPECT_EQ(error("image_to_video_clip", true), "");  // its image encoder sees the first
  EXPECT_EQ(error("image_to_video_flf2v", true), "");
  EXPECT_NE(error("image_to_video_flf2v", false).find("[last_image] no last image given"), std::string::npos);
}

// Of 96x80 at the model's area of 256x256.
TEST(ImageToVideoModel, TakesTheShapeOfItsImage) {
  Session session(read_model_config(kModels / "toy-wan-i2v"), open_platform("null"));
  Request request;
  request.prompts = {"a red circle"};
  request.image = kPictures / "circle.png";
  request.num_frames = 5;
  const auto size = [&] {
    const Job job = session.prepare(request);
    return std::pair(job.settled().width, job.settled().height);
  };
  EXPECT_EQ(size(), std::pair(INT64_C(272), INT64_C(224)));  // round(280.43) and round(233.69), rounded down to multiples of 16
  request.width = 96;
  EXPECT_EQ(size(), std::pair(INT64_C(96), INT64_C(80)));
  request.width = {}, request.height = 80;
  EXPECT_EQ(size(), std::pair(INT64_C(96), INT64_C(80)));
  request.width = 64;
  EXPECT_EQ(size(), std::pair(INT64_C(64), INT64_C(80)));
}

// A preset is what it stands for, and a run that goes on draws the noise that the whole one draws.
TEST(ImageToVideoModel, PresetsAndFreshNoise) {
  Session session(read_model_config(kModels / "toy-wan-i2v"), open_platform("cpu", {.threads = 1}), {.dtype = DType::f32});
  for (const json& c : cases()) {
    if (c.at("name") != "four_steps" && c.at("name") != "fresh_noise") continue;
    const Request said = request_of(c);
    Request preset = said;
    preset.preset = c.at("name") == "four_steps" ? Preset::lightx2v_4step : Preset::dmd_3step;
    preset.scheduler = {}, preset.flow_shift = {}, preset.guidance_scale = {}, preset.num_inference_steps = {}, preset.sigmas = {};
    const std::vector<std::uint8_t> frames = frames_of(session, said);
    EXPECT_EQ(frames_of(session, preset), frames);

    Job job = session.prepare(said);
    DenoiseState state;
    Callbacks keeping;
    keeping.step = [&](const StepDone& done) {
      if (done.step == 0) state = done.state();
    };
    session.run(job, keeping);
    std::vector<std::uint8_t> again;
    Callbacks resuming;
    resuming.resume = state;
    resuming.frame = [&](std::size_t, std::int64_t, std::span<const std::uint8_t> rgb) {
      again.insert(again.end(), rgb.begin(), rgb.end());
    };
    session.run(job, resuming);
    EXPECT_EQ(again, frames);
  }
}

// A picture of the video's shape is the same in all three ways; of another shape they differ.
TEST(ImageToVideoModel, FitsThePictureAsAsked) {
  Session session(read_model_config(kModels / "toy-wan-i2v"), open_platform("cpu", {.threads = 1}), {.dtype = DType::f32});
  Request request = request_of(cases()[0]);
  request.num_inference_steps = 1, request.num_frames = 1, request.guidance_scale = 1;
  const auto frames = [&](std::int64_t width, std::int64_t height, Fit fit) {
    request.width = width, request.height = height, request.fit = fit;
    return frames_of(session, request);
  };
  const auto same = frames(96, 80, Fit::crop);
  EXPECT_EQ(frames(96, 80, Fit::stretch), same);
  EXPECT_EQ(frames(96, 80, Fit::pad), same);
  const auto cropped = frames(64, 64, Fit::crop), stretched = frames(64, 64, Fit::stretch), padded = frames(64, 64, Fit::pad);
  EXPECT_NE(cropped, stretched);
  EXPECT_NE(cropped, padded);
  EXPECT_NE(stretched, padded);
}

// A LoRA that the model's folder names is a part of the model: the bits of a request that asks for it.
TEST(ImageToVideoModel, TakesTheLorasOfItsFolder) {
  const testing::TemporaryFolder temporary;
  const std::filesystem::path plain = kModels / "toy-wan-i2v";
  std::filesystem::copy_file(plain / "model_index.json", temporary.path() / "model_index.json");
  json said = {{"loras", {{"transformer", {plain / "loras/four_steps.safetensors"}}}},
               {"parts", {{"transformer", plain / "transformer"}}}};
  for (const char* part : {"scheduler", "text_encoder", "tokenizer", "vae"}) said["parts"][part] = kModels / "toy-wan" / part;
  std::ofstream(temporary.path() / "zoetrope.json") << said.dump();
  const auto frames = [](const std::filesystem::path& folder, std::vector<LoraChoice> loras) {
    Session session(read_model_config(folder), open_platform("cpu", {.threads = 1}), {.dtype = DType::f32});
    Request request = request_of(cases()[0]);
    request.width = request.height = 64, request.num_inference_steps = 1, request.num_frames = 1, request.guidance_scale = 1;
    request.loras = std::move(loras);
    return frames_of(session, request);
  };
  const auto asked = frames(plain, {{(plain / "loras/four_steps.safetensors").string()}});
  EXPECT_EQ(frames(temporary.path(), {}), asked);
  EXPECT_NE(frames(plain, {}), asked);
}

// The command, the metadata of its file, and the same again from it; several prompts share the picture.
TEST(ImageToVideoCommand, MakesItAndMakesItAgain) {
  const testing::TemporaryFolder temporary;
  const std::string picture = kPictures / "circle.png", out = temporary.path() / "a.png", again = temporary.path() / "b.png";
  const std::vector<std::string> model{"--model-path", kModels / "toy-wan-i2v", "--threads", "1", "--dtype", "f32", "-q"};
  std::vector<std::string> command{
      ZOE_COMMAND, "generate", "--image",      picture, "--fit",   "pad", "-p", "a red circle moving right",
      "--size",    "64x64",    "--num-frames", "5",     "--steps", "2",   "-o", out};
  command.insert(command.end(), model.begin(), model.end());
  const testing::CommandResult made = testing::run_command(command);
  ASSERT_EQ(made.code, 0) << made.err << made.line;
  const testing::ReadVideo video = testing::read_video(out);
  std::ifstream file(out, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  EXPECT_NE(bytes.find("\"image\":\"" + picture + "\""), std::string::npos);
  EXPECT_NE(bytes.find("\"fit\":\"pad\""), std::string::npos);
  std::vector<std::string> from{ZOE_COMMAND, "generate", "--from", out, "-o", again};
  from.insert(from.end(), model.begin(), model.end());
  const testing::CommandResult repeated = testing::run_command(from);
  ASSERT_EQ(repeated.code, 0) << repeated.err << repeated.line;
  EXPECT_EQ(testing::read_video(again).frames, video.frames);

  command.insert(command.end(), {"-p", "a red circle moving up"});
  ASSERT_EQ(testing::run_command(command).code, 0);
  const auto first = testing::read_video(temporary.path() / "a-0001.png"),
             second = testing::read_video(temporary.path() / "a-0002.png");
  EXPECT_EQ(first.frames, video.frames);
  EXPECT_NE(second.frames, video.frames);
}

// Without --model-path the inputs choose the embedded model, and so does a file that one of them made.
TEST(ImageToVideoCommand, AnImageChoosesTheEmbeddedModelThatTakesOne) {
  const testing::TemporaryFolder temporary;
  const std::string out = temporary.path() / "a.png", again = temporary.path() / "b.png";
  const auto run = [](std::vector<std::string> more) {
    std::vector<std::string> command{ZOE_COMMAND, "generate", "--threads", "1", "--dtype", "f32", "--json"};
    command.insert(command.end(), more.begin(), more.end());
    const testing::CommandResult result = testing::run_command(command);
    EXPECT_EQ(result.code, 0) << result.err << result.line;
    return json::parse(result.out).at("model").get<std::string>();
  };
  const std::vector<std::string> small{"--size", "64x64", "--num-frames", "5", "--steps", "1", "-p", "a red circle moving right"};
  std::vector<std::string> with_image{"--image", kPictures / "circle.png", "-o", out}, without{"-o", again};
  with_image.insert(with_image.end(), small.begin(), small.end());
  without.insert(without.end(), small.begin(), small.end());
  EXPECT_EQ(run(with_image), "toy-wan-i2v");
  EXPECT_EQ(run({"--from", out, "-o", temporary.path() / "c.png"}), "toy-wan-i2v");
  EXPECT_EQ(run(without), "toy-wan");
}

}  // namespace
}  // namespace zoe
