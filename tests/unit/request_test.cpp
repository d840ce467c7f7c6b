// The table of request fields and what every front end does with it.
#include "pipeline/request.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/log.h"
#include "pipeline/presets.h"

namespace zoe {
namespace {

std::string error_of(const auto& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid_argument);
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

TEST(RequestFields, NamesAreUsedOnce) {
  std::set<std::string_view> names, letters;
  for (const RequestField& field : request_fields()) {
    EXPECT_TRUE(names.insert(field.name).second) << field.name;
    for (const std::string_view alias : field.aliases) EXPECT_TRUE(names.insert(alias).second) << alias;
    for (const std::string_view hint : field.hints) EXPECT_TRUE(names.insert(hint).second) << hint;
    if (!field.letter.empty()) {
      EXPECT_TRUE(letters.insert(field.letter).second) << field.letter;
    }
    EXPECT_FALSE(field.help.empty()) << field.name;
    EXPECT_NE(field.taken_by, 0u) << field.name;
  }
}

TEST(RequestFields, SetFromTextAndReadBack) {
  Request request;
  const std::vector<std::string> prompts{"a cat, sitting", ""}, seeds{"1,2", "18446744073709551615"};
  set_field(request, "prompt", prompts);
  set_field(request, "negative_prompt", "blurry");
  set_field(request, "size", "832x480");
  set_field(request, "frames", "33");
  set_field(request, "--fps", "23.976");
  set_field(request, "sigmas", "1,.75,0.5");
  set_field(request, "sampling_method", "FlowMatchEulerDiscreteScheduler");
  set_field(request, "shift", "5");
  set_field(request, "cfg-scale", "1e0");
  set_field(request, "guidance_scale_2", "3.5");
  set_field(request, "boundary_ratio", "0.875");
  set_field(request, "guidance_batch", "off");
  set_field(request, "seed", seeds);
  set_field(request, "exact_size", "true");
  set_field(request, "crf", "30");
  const std::vector<std::string> loras{"a,b.safetensors", "style=1.pt=-0.5"};
  set_field(request, "lora", loras);
  set_field(request, "lora_high", "high.safetensors=2");
  set_field(request, "lora_allow_unused", "true");
  set_field(request, "first_frame", "a picture.png");
  set_field(request, "last_image", "b.png");
  set_field(request, "fit", "pad");
  set_field(request, "src_video", "a folder");
  set_field(request, "mask", "m.mp4");
  const std::vector<std::string> references{"a,b.png", "c.jpg"};
  set_field(request, "ref_images", references);
  set_field(request, "strength", "0.25");
  set_field(request, "conditioning_scale", "0.5");
  set_field(request, "preset", "lightning-4step");
  EXPECT_EQ(request.prompts, prompts);
  EXPECT_EQ(request.width, 832);
  EXPECT_EQ(request.height, 480);
  EXPECT_EQ(request.num_frames, 33);
  EXPECT_EQ(request.image, "a picture.png");
  EXPECT_EQ(request.fit, Fit::pad);
  EXPECT_EQ(request.preset, Preset::lightx2v_4step);
  EXPECT_EQ(request.scheduler, SchedulerKind::euler);
  EXPECT_EQ(request.sigmas, (std::vector<double>{1, 0.75, 0.5}));
  EXPECT_EQ(request.seeds, (std::vector<std::uint64_t>{1, 2, 18446744073709551615u}));
  EXPECT_FALSE(request.num_inference_steps);
  EXPECT_EQ(request.loras, (std::vector<LoraChoice>{{"a,b.safetensors", 1}, {"style=1.pt", -0.5}}));
  EXPECT_EQ(request.loras_high, (std::vector<LoraChoice>{{"high.safetensors", 2}}));

  EXPECT_EQ(request.video, "a folder");
  EXPECT_EQ(request.mask, "m.mp4");
  EXPECT_EQ(request.reference_images, (std::vector<std::filesystem::path>{"a,b.png", "c.jpg"}));
  EXPECT_EQ(request.strength, 0.25);
  EXPECT_EQ(request.conditioning_scale, 0.5);
  // As files' metadata has them: texts, several paths a list in one.
  const Request listed =
      request_from_json(R"({"reference_image": "[\"a,b.png\",\"c.jpg\"]", "lora": "a,b.safetensors=0.5,c=1"})", "test");
  EXPECT_EQ(listed.reference_images, request.reference_images);
  EXPECT_EQ(listed.loras, (std::vector<LoraChoice>{{"a,b.safetensors", 0.5}, {"c", 1}}));
  for (const char* path : {"a.png,b.png", "1,2", "[a.png", "a,b.JPG,c"}) {
    Request one;
    set_field(one, "reference_image", path);
    EXPECT_EQ(one.reference_images, std::vector<std::filesystem::path>{path});
    EXPECT_EQ(request_from_json(nlohmann::json{{"reference_image", path}}.dump(), "test").reference_images, one.reference_images);
  }

  EXPECT_EQ(request_from_json(to_json(request), "test"), request);
  Request by_fields;  // as a file's metadata does
  for (const RequestField& field : request_fields())
    if (const auto texts = get_field(request, field); !texts.empty()) set_field(by_fields, field.name, texts);
  EXPECT_EQ(by_fields, request);
  EXPECT_EQ(to_json(Request{}), R"({"seed":0})");
  EXPECT_EQ(request_from_json("{}", "test"), Request{});
}

TEST(RequestFields, ErrorsSpellTheFieldAsTheFrontEndDoes) {
  Request request;
  EXPECT_EQ(error_of([&] { set_field(request, "steps", "x", Spelling::option); }),
            "[--num-inference-steps] got \"x\", expected a whole number from 1 to 1000.");
  EXPECT_EQ(error_of([&] { set_field(request, "num_inference_steps", "0"); }),
            "[num_inference_steps] got \"0\", expected a whole number from 1 to 1000.");
  EXPECT_EQ(error_of([&] { set_field(request, "size", "832"); }),
            "[size] got \"832\", expected width and height from 1 to 65536, as 832x480.");
  EXPECT_EQ(error_of([&] { set_field(request, "size", "0x480"); }),
            "[size] got \"0x480\", expected width and height from 1 to 65536, as 832x480.");
  EXPECT_EQ(error_of([&] { set_field(request, "sigmas", "1,0.5,0.5"); }),
            "[sigmas] got \"0.5\", expected a level below the one before, 0.5.");
  EXPECT_EQ(error_of([&] { set_field(request, "sigmas", "1,,0.5"); }), "[sigmas] got \"\", expected a number from 1e-06 to 1.");
  EXPECT_EQ(error_of([&] { set_field(request, "lora", "a.safetensors=1001"); }),
            "[lora] got \"1001\", expected a number from -1000 to 1000.");
  EXPECT_EQ(error_of([&] { set_field(request, "lora", "a.safetensors=x"); }),
            "[lora] got \"x\", expected a number from -1000 to 1000 behind the file's name.");
  EXPECT_EQ(error_of([&] { set_field(request, "lora", "=1"); }), "[lora] got \"=1\", expected a file, or FILE=STRENGTH.");
  EXPECT_EQ(error_of([&] { set_field(request, "scheduler", "ddim"); }),
            "[scheduler] got \"ddim\", expected unipc, euler, lcm, dpm++ or rcm.");
  EXPECT_EQ(error_of([&] { set_field(request, "preset", "turbo"); }),
            "[preset] got \"turbo\", expected none, lightx2v-4step, dmd-3step, rcm-4step or rcm-4step-i2v.");
  EXPECT_EQ(error_of([&] { set_field(request, "image", ""); }),
            "[image] got \"\", expected the path of a file, of at most 4095 bytes.");
  EXPECT_EQ(error_of([&] { set_field(request, "exact_size", "1"); }), "[exact_size] got \"1\", expected true or false.");
  EXPECT_EQ(error_of([&] { set_field(request, "seed", "-2"); }),
            "[seed] got \"-2\", expected a whole number from 0 to 18446744073709551615, or -1 for a random one.");
  EXPECT_EQ(error_of([&] { set_field(request, "fps", std::vector<std::string>{"1", "2"}); }), "[fps] got 2 values, expected one.");
  EXPECT_EQ(request, Request{});
}

TEST(RequestFields, UnknownNamesLeadToWhatIsMeant) {
  Request request;
  EXPECT_EQ(error_of([&] { set_field(request, "widht", "1"); }),
            "[request] unknown field: got \"widht\", expected one of a request. Did you mean width?");
  EXPECT_EQ(error_of([&] { set_field(request, "--cfg-scal", "1", Spelling::option); }),
            "[request] unknown field: got \"--cfg-scal\", expected one of a request. Did you mean --guidance-scale?");
  EXPECT_NE(error_of([&] { set_field(request, "num_videos_per_prompt", "2"); }).find("See seed."), std::string::npos);
  EXPECT_NE(error_of([&] { set_field(request, "nope", "2"); }).find("docs/requests.md"), std::string::npos);
}

TEST(RequestFields, RandomSeedsDiffer) {
  Request request;
  set_field(request, "seed", "-1,-1,-1");
  ASSERT_EQ(request.seeds.size(), 3u);
  EXPECT_GT(std::set(request.seeds.begin(), request.seeds.end()).size(), 1u);
  for (const std::uint64_t seed : request.seeds) EXPECT_LE(seed, 4294967295u);
}

TEST(RequestFields, FromJsonOfOtherPrograms) {
  const Request request = request_from_json(
      R"({"prompt": ["a", "b"], "cfg": 4, "width": "64", "seed": [1, "2"], "scheduler": "uni_pc", "exact_size": true, "height": null})",
      "body");
  EXPECT_EQ(request.prompts, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(request.guidance_scale, 4);
  EXPECT_EQ(request.width, 64);
  EXPECT_EQ(request.seeds, (std::vector<std::uint64_t>{1, 2}));
  EXPECT_EQ(request.scheduler, SchedulerKind::unipc);
  EXPECT_TRUE(request.exact_size);
  EXPECT_FALSE(request.height);
  EXPECT_NE(error_of([] { request_from_json(R"({"prompt": {"a": 1}})", "body"); }).find("[prompt] got an object"),
            std::string::npos);
  EXPECT_NE(error_of([] { request_from_json(R"({"width": 64.5})", "body"); }).find("[width] got \"64.5\""), std::string::npos);
  EXPECT_NE(error_of([] { request_from_json(R"({"platform": "cpu"})", "body"); }).find("[body] unknown field: got \"platform\""),
            std::string::npos);
  EXPECT_NE(error_of([] { request_from_json("[1]", "body"); }).find("[body]"), std::string::npos);
  std::map<std::string, std::string> others;
  request_from_json(R"({"seed": "7", "model": "toy-wan", "version": 2})", "body", &others);
  EXPECT_EQ(others, (std::map<std::string, std::string>{{"model", "toy-wan"}, {"version", "2"}}));
}

// What is said stays, what is left open is the preset's.
TEST(Presets, FillWhatIsLeftOpen) {
  Request request;
  EXPECT_EQ(with_preset(request, Spelling::key), request);
  request.preset = Preset::lightx2v_4step;
  Request filled = with_preset(request, Spelling::key);
  EXPECT_EQ(filled.scheduler, SchedulerKind::euler);
  EXPECT_EQ(filled.flow_shift, 5);
  EXPECT_EQ(filled.guidance_scale, 1);
  EXPECT_EQ(filled.sigmas, (std::vector<double>{1, 0.75, 0.5, 0.25}));
  EXPECT_EQ(with_preset(filled, Spelling::key), filled);
  request.num_inference_steps = 2;
  request.flow_shift = 7;
  filled = with_preset(request, Spelling::key);
  EXPECT_EQ(filled.flow_shift, 7);
  EXPECT_EQ(filled.sigmas, (std::vector<double>{1, 0.5}));
  request.preset = Preset::dmd_3step;
  filled = with_preset(request, Spelling::key);
  EXPECT_EQ(filled.scheduler, SchedulerKind::lcm);
  filled.prompts = {"a"};
  EXPECT_NE(error_of([&] { check_request(filled, members::t2v); }).find("[sigmas] got 3 levels and 2 steps"), std::string::npos);
}

// Angles of TrigFlow: atan(80) or atan(200), 1.5, 1.4, 1.
TEST(Presets, LevelsOfRcm) {
  const auto levels = [](Preset preset, std::optional<int> steps) {
    Request request;
    request.preset = preset;
    request.num_inference_steps = steps;
    const Request filled = with_preset(request, Spelling::key);
    EXPECT_EQ(filled.scheduler, SchedulerKind::rcm);
    EXPECT_EQ(filled.flow_shift, 1);
    EXPECT_EQ(filled.guidance_scale, 1);
    return filled.sigmas;
  };
  const std::vector<double> expected{0.98765, 0.93378, 0.85290, 0.60898};
  const std::vector<double> got = levels(Preset::rcm_4step, {});
  ASSERT_EQ(got.size(), 4U);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(got[i], expected[i], 1e-5);
  EXPECT_EQ(levels(Preset::rcm_4step, 2), std::vector<double>(got.begin(), got.begin() + 2));
  EXPECT_NEAR(levels(Preset::rcm_4step_i2v, {})[0], 0.99502, 1e-5);
}

TEST(Presets, SayWhatTheySet) {
  std::vector<std::string> notices;
  const LogScope scope([&](LogLevel, std::string_view text) { notices.emplace_back(text); });
  Request request;
  request.preset = Preset::lightx2v_4step;
  request.guidance_scale = 2;
  with_preset(request, Spelling::option);
  ASSERT_EQ(notices.size(), 1u);
  EXPECT_EQ(notices[0], "preset lightx2v-4step: --scheduler euler, --flow-shift 5, --sigmas 1,0.75,0.5,0.25");
}

TEST(RequestFields, TogetherTheyAreChecked) {
  Request request;
  EXPECT_NE(error_of([&] { check_request(request, members::t2v); }).find("[prompt] no prompt given"), std::string::npos);
  request.prompts = {"a"};
  request.sigmas = {1, 0.5};
  request.num_inference_steps = 4;
  EXPECT_NE(error_of([&] { check_request(request, members::t2v, Spelling::option); }).find("[--sigmas] got 2 levels and 4 steps"),
            std::string::npos);
  request.num_inference_steps = 2;
  check_request(request, members::t2v);
  request.guidance_scale_2 = 3;
  check_request(request, members::t2v_a14b);
  EXPECT_EQ(error_of([&] { check_request(request, members::t2v); }),
            "[guidance_scale_2] is not taken by this model: got 3, expected nothing. It is of t2v_a14b, i2v_a14b, vace_a14b.");
}

}  // namespace
}  // namespace zoe
