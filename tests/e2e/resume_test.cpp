// Runs that do not end, and what goes on from the file they left: the same bits, whatever the scheduler, member and moment.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoint/safetensors.h"
#include "pipeline/model.h"
#include "pipeline/saved_state.h"
#include "pipeline/session.h"
#include "platform/platform.h"
#include "testing/run_command.h"
#include "testing/temporary_folder.h"
#include "testing/two_experts_folder.h"
#include "testing/write_safetensors.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using testing::CommandOptions;
using testing::CommandResult;

const fs::path kModels = ZOE_MODELS, kPicture = fs::path(ZOE_FIXTURES) / "models/image_to_video/circle.png";

using Videos = std::map<std::size_t, std::vector<std::uint8_t>>;

Videos run(Session& session, Job& job, Callbacks callbacks = {}) {
  Videos videos;
  callbacks.frame = [&](std::size_t video, std::int64_t, std::span<const std::uint8_t> rgb) {
    videos[video].insert(videos[video].end(), rgb.begin(), rgb.end());
  };
  session.run(job, callbacks);
  return videos;
}

Request small(int steps) {
  Request request;
  request.prompts = {"a red circle"};
  request.height = 32, request.width = 32, request.num_frames = 5, request.num_inference_steps = steps;
  return request;
}

std::string bytes_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// After every step of a run the file it left is gone on from, in a session of its own; each makes the videos that the whole run
// makes from that step's on.
void goes_on_from_every_step(const fs::path& model, const Request& request) {
  const testing::TemporaryFolder temporary;
  const fs::path file = temporary.path() / "run.state";
  const auto open = [&] { return Session(read_model_config(model), open_platform("cpu", {.threads = 1}), {.dtype = DType::f32}); };
  Session session = open();
  Job job = session.prepare(request);
  SavedRun run_to_save;
  run_to_save.request = request;
  run_to_save.inputs = digests_of(session.model(), request);
  StateSaver saver(file, 1, run_to_save);
  std::vector<fs::path> states;
  Callbacks saving;
  saving.step = [&](const StepDone& done) {
    saver.step(done);
    states.push_back(temporary.path() / std::to_string(states.size()));
    fs::copy_file(file, states.back());
  };
  const Videos whole = run(session, job, saving);
  EXPECT_EQ(run(session, job), whole);  // saving changes nothing
  ASSERT_EQ(states.size(), whole.size() * static_cast<std::size_t>(*request.num_inference_steps));
  saver.done();
  EXPECT_FALSE(fs::exists(file));

  Session other = open();
  for (const fs::path& state : states) {
    const SavedRun saved = read_saved_run(state, "resume");
    check_same_inputs(saved, other.model(), "resume");
    Job again = other.prepare(saved.request);
    Callbacks resuming;
    resuming.resume = saved.state;
    int steps = 0;
    resuming.step = [&](const StepDone&) { ++steps; };
    Videos expected = whole;
    expected.erase(expected.begin(), expected.find(saved.state.video));
    EXPECT_EQ(run(other, again, resuming), expected) << "video " << saved.state.video << " from step " << saved.state.next_step;
    EXPECT_EQ(steps, static_cast<int>(expected.size()) * *request.num_inference_steps - saved.state.next_step);
  }
}

TEST(Resume, EverySchedulerGoesOnWithTheSameBits) {
  for (const SchedulerKind scheduler :
       {SchedulerKind::unipc, SchedulerKind::euler, SchedulerKind::lcm, SchedulerKind::dpmpp, SchedulerKind::rcm}) {
    SCOPED_TRACE(name(scheduler));
    Request request = small(5);
    request.scheduler = scheduler;
    if (scheduler == SchedulerKind::rcm) request.sigmas = {0.9, 0.8, 0.7, 0.5, 0.2};
    goes_on_from_every_step(kModels / "toy-wan", request);
  }
}

TEST(Resume, TwoExpertsAndSeveralVideos) {
  const testing::TemporaryFolder temporary;
  const fs::path model = testing::make_two_experts(temporary.path() / "model");
  for (const SchedulerKind scheduler : {SchedulerKind::unipc, SchedulerKind::lcm}) {
    SCOPED_TRACE(name(scheduler));
    Request request = small(4);
    request.prompts = {"a red circle", "a blue square"};
    request.seeds = {3, 4};
    request.scheduler = scheduler;
    request.flow_shift = 5;  // two steps of each expert
    goes_on_from_every_step(model, request);
  }
}

TEST(Resume, ImageToVideo) {
  Request request = small(3);
  request.image = kPicture;
  goes_on_from_every_step(kModels / "toy-wan-i2v", request);
}

// An expert whose steps all lie before the state is not loaded.
TEST(Resume, LoadsNoExpertThatIsDone) {
  const testing::TemporaryFolder temporary;
  Session session(read_model_config(testing::make_two_experts(temporary.path() / "model")), open_platform("cpu", {.threads = 1}),
                  {.dtype = DType::f32, .single_request = true});
  Request request = small(4);
  request.flow_shift = 5;
  Job job = session.prepare(request);
  std::vector<DenoiseState> states;
  Callbacks saving;
  saving.step = [&](const StepDone& done) { states.push_back(done.state()); };
  const auto loaded_by = [&](Callbacks callbacks) {
    const std::uint64_t before = session.counts().weight_bytes_loaded;
    run(session, job, std::move(callbacks));
    return session.counts().weight_bytes_loaded - before;
  };
  const std::uint64_t all = loaded_by(saving);
  const auto from = [&](std::size_t step) {
    Callbacks resuming;
    resuming.resume = states.at(step);
    return loaded_by(resuming);
  };
  const std::uint64_t second_alone = from(2), none = from(3);
  EXPECT_LT(second_alone, all);
  EXPECT_LT(none, second_alone);
  EXPECT_EQ(all - second_alone, second_alone - none);  // two experts of one size
}

// What the step took the video for: after the last step, which ends without noise, that is the video.
TEST(Resume, TellsTheCleanLatents) {
  for (const SchedulerKind scheduler : {SchedulerKind::unipc, SchedulerKind::euler, SchedulerKind::lcm, SchedulerKind::dpmpp})
    for (const double guidance : {1.0, 4.0}) {
      Session session(read_model_config(kModels / "toy-wan"), open_platform("cpu", {.threads = 1}), {.dtype = DType::f32});
      Request request = small(4);
      request.scheduler = scheduler;
      request.guidance_scale = guidance;
      Job job = session.prepare(request);
      std::vector<std::vector<float>> clean, latents;
      Callbacks looking;
      looking.step = [&](const StepDone& done) {
        clean.push_back(done.clean());
        latents.push_back(done.latents());
      };
      run(session, job, looking);
      ASSERT_EQ(clean.size(), 4U);
      double most = 0;
      for (std::size_t i = 0; i < clean[3].size(); ++i)
        most = std::max(most, std::abs(static_cast<double>(clean[3][i] - latents[3][i])));
      EXPECT_LT(most, 1e-5) << name(scheduler) << " " << guidance;
      // An Euler step ends on the line from the noise to them.
      if (scheduler == SchedulerKind::euler) {
        const double to = job.settled().noise_levels[2], from = job.settled().noise_levels[1];
        double off = 0;
        for (std::size_t i = 0; i < clean[1].size(); ++i) {
          const double x = latents[0][i], expected = clean[1][i] + to / from * (x - clean[1][i]);
          off = std::max(off, std::abs(expected - latents[1][i]));
        }
        EXPECT_LT(off, 1e-5);
      }
    }
}

class ResumeCommand : public ::testing::Test {
 protected:
  CommandResult zoe(std::vector<std::string> arguments, CommandOptions options = {}) const {
    arguments.insert(arguments.begin(), ZOE_COMMAND);
    if (options.folder.empty()) options.folder = folder_;
    return testing::run_command(arguments, options);
  }
  std::vector<std::string> generate(const std::string& output, std::vector<std::string> more = {}) const {
    std::vector<std::string> arguments{"generate", "-p", "a red circle", "--size", "64x64", "--frames", "5",
                                       "--steps",  "10", "--threads",    "1",      "-o",    output};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  // A run that is killed at some step, and its state.
  void killed(const std::string& output, std::vector<std::string> more, const std::string& after = "denoise 6/10") const {
    more.insert(more.end(), {"--save-state", "run.state", "--save-every", "2"});
    const CommandResult result = zoe(generate(output, more), {.signal_after = after, .signal = SIGKILL});
    ASSERT_EQ(result.code, 128 + SIGKILL) << result.out << result.err;
    ASSERT_TRUE(fs::exists(folder_ / "run.state"));
  }
  void fails(const std::vector<std::string>& arguments, int code, const std::string& with) const {
    const CommandResult result = zoe(arguments);
    EXPECT_EQ(result.code, code) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_NE(result.err.find(with), std::string::npos) << result.err;
  }

  const testing::TemporaryFolder temporary_;
  const fs::path folder_ = temporary_.path();
};

TEST_F(ResumeCommand, AKilledRunEndsWithTheFileOfAWholeOne) {
  ASSERT_EQ(zoe(generate("whole.mp4")).code, 0);
  killed("video.mp4", {});
  EXPECT_FALSE(fs::exists(folder_ / "video.mp4"));
  fs::create_directory(folder_ / "elsewhere");
  const CommandResult result = zoe({"resume", "../run.state"}, {.folder = folder_ / "elsewhere"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(result.out.find("goes on behind step 6 of 10") != std::string::npos ||
              result.out.find("goes on behind step 4 of 10") != std::string::npos)
      << result.out;
  EXPECT_TRUE(bytes_of(folder_ / "video.mp4") == bytes_of(folder_ / "whole.mp4"));
  EXPECT_FALSE(fs::exists(folder_ / "run.state"));
}

TEST_F(ResumeCommand, AKilledRunOfSeveralVideosGoesOnWithTheOneAtHand) {
  const std::vector<std::string> seeds{"--seed", "1,2,3"};
  ASSERT_EQ(zoe(generate("whole.png", seeds)).code, 0);
  // The state at hand is then of the second video, behind its last step, or of the third.
  killed("video.png", seeds, "wrote video-0002.png");
  const auto first = fs::last_write_time(folder_ / "video-0001.png");
  EXPECT_EQ(zoe({"resume", "run.state", "-o", "video.png"}).code, 0);
  EXPECT_EQ(fs::last_write_time(folder_ / "video-0001.png"), first);
  for (const char* number : {"-0001.png", "-0002.png", "-0003.png"})
    EXPECT_TRUE(bytes_of(folder_ / (std::string("video") + number)) == bytes_of(folder_ / (std::string("whole") + number)))
        << number;
}

// The last step's state is saved whatever --save-every says: what is lost is the decode.
TEST_F(ResumeCommand, AKillWhileDecodingCostsTheDecode) {
  ASSERT_EQ(zoe(generate("whole.png", {"--frames", "65"})).code, 0);
  const CommandResult result = zoe(generate("video.png", {"--frames", "65", "--save-state", "run.state", "--save-every", "1000"}),
                                   {.signal_after = "\ndecode ", .signal = SIGKILL});
  ASSERT_EQ(result.code, 128 + SIGKILL) << result.err;
  const CommandResult again = zoe({"resume", "run.state"});
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_NE(again.out.find("goes on behind step 10 of 10"), std::string::npos) << again.out;
  EXPECT_TRUE(bytes_of(folder_ / "video.png") == bytes_of(folder_ / "whole.png"));
}

TEST_F(ResumeCommand, RefusesWhatItCannotGoOnFrom) {
  killed("video.png", {});
  fails(generate("video.png", {"--save-state", "run.state"}), 2,
        "[--save-state] run.state exists: go on with `zoe resume run.state`");
  fails(generate("video.png", {"--save-state", "video.png"}), 2, "[--save-state] video.png is the output.");
  fails(generate("video.png", {"--save-state", "gone/run.state"}), 2, "gone");
  fails(generate("video.png", {"--save-every", "0"}), 2, "[--save-every] got \"0\", expected a whole number from 1 to 1000.");
  fails({"resume", "none.state"}, 2, "cannot open none.state");  // as any file that is to be read
  testing::write_bytes(folder_ / "text.state", "this is no state");
  fails({"resume", "text.state"}, 2, "[resume] ");
  fails({"resume", (kModels / "toy-wan/vae/diffusion_pytorch_model.safetensors").string()}, 2, "holds no saved run");

  const std::string state = bytes_of(folder_ / "run.state");
  const auto write = [&](std::string bytes, const std::string& from = {}, const std::string& to = {}) {
    if (!from.empty()) {
      const std::size_t at = bytes.find(from);
      ASSERT_NE(at, std::string::npos) << from;
      bytes.replace(at, from.size(), to);
    }
    testing::write_bytes(folder_ / "bad.state", bytes);
  };
  for (const std::size_t left : {std::size_t{100}, state.size() / 2, state.size() - 1}) {
    write(state.substr(0, left));
    fails({"resume", "bad.state"}, 2, "[resume] ");
  }
  std::string flipped = state;
  flipped[state.size() - 1000] = static_cast<char>(flipped[state.size() - 1000] ^ 1);
  write(flipped);
  fails({"resume", "bad.state"}, 2, "bad.state is damaged: its SHA-256 differs.");
  write(state, "red circle", "red square");
  fails({"resume", "bad.state"}, 2, "bad.state is damaged: its SHA-256 differs.");
  write(state, "\"version\":\"1\"", "\"version\":\"9\"");
  fails({"resume", "bad.state"}, 3, "is of another version: got \"9\"");

  // Of the same shapes and another training: one byte of one weight.
  fs::copy(kModels / "toy-wan", folder_ / "model", fs::copy_options::recursive);
  const fs::path weights = folder_ / "model/scheduler/scheduler_config.json";
  testing::write_bytes(weights, bytes_of(weights) + "\n");
  fails({"resume", "run.state", "--model-path", "model"}, 2, "[resume] scheduler of model is not what the run began with.");
  EXPECT_TRUE(fs::exists(folder_ / "run.state"));
}

}  // namespace
}  // namespace zoe
