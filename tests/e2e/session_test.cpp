// One session, several requests: what stays, what a cancelled or failed one leaves behind, and a recipe of somebody else's.
#include "pipeline/session.h"

#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "compiler_fuzz/wrapped_platform.h"
#include "pipeline/model.h"
#include "pipeline/recipe.h"
#include "pipeline/resident_memory.h"
#include "pipeline/settle.h"
#include "pipeline/stage_run.h"
#include "pipeline/video_decode.h"
#include "schedulers/noise.h"
#include "testing/temporary_folder.h"
#include "testing/two_experts_folder.h"

namespace zoe {
namespace {

using Frames = std::vector<std::uint8_t>;

Request small(std::string prompt = "a red circle", std::int64_t size = 32) {
  Request request;
  request.prompts = {std::move(prompt)};
  request.height = size, request.width = size, request.num_frames = 5, request.num_inference_steps = 2;
  return request;
}

Frames run(Session& session, const Request& request, Callbacks callbacks = {}) {
  Frames frames;
  callbacks.frame = [&](std::size_t, std::int64_t, std::span<const std::uint8_t> rgb) {
    frames.insert(frames.end(), rgb.begin(), rgb.end());
  };
  Job job = session.prepare(request);
  session.run(job, callbacks);
  return frames;
}

class SessionTest : public ::testing::Test {
 protected:
  std::shared_ptr<Platform> cpu() { return open_platform("cpu", {.threads = 1}); }
  Session open(SessionOptions options = {.dtype = DType::f32}) {
    return {read_model_config(ZOE_MODELS "/toy-wan"), cpu(), std::move(options)};
  }
};

TEST_F(SessionTest, SecondRequestReadsNoWeightAndCompilesNothing) {
  Session session = open();
  const Frames first = run(session, small());
  const Session::Counts before = session.counts();
  EXPECT_GT(before.weight_bytes_loaded, 0U);
  EXPECT_EQ(run(session, small()), first);
  // Other prompts, of any length.
  std::string longer = "a red circle";
  for (int i = 0; i < 40; ++i) {
    longer += " and a blue square moving left";
    if (i % 8 == 0) {
      EXPECT_NE(run(session, small(longer)), first);
    }
  }
  const Session::Counts after = session.counts();
  EXPECT_EQ(after.plans_compiled, before.plans_compiled);
  EXPECT_EQ(after.weight_bytes_loaded, before.weight_bytes_loaded);
  EXPECT_EQ(run(session, small()), first);
}

TEST_F(SessionTest, AnotherSizeIsCompiledOnce) {
  Session session = open();
  run(session, small("a red circle", 32));
  const std::size_t one = session.counts().plans_compiled;
  const Frames frames = run(session, small("a red circle", 48));
  const std::size_t two = session.counts().plans_compiled;
  EXPECT_GT(two, one);
  run(session, small("a red circle", 32));
  EXPECT_EQ(run(session, small("a red circle", 48)), frames);
  EXPECT_EQ(session.counts().plans_compiled, two);
}

TEST_F(SessionTest, KeepsABoundedNumberOfPlans) {
  Session session = open({.dtype = DType::f32, .most_plans = 40});
  for (std::int64_t size = 16; size <= 112; size += 16) run(session, small("a red circle", size));
  EXPECT_LE(session.counts().plans_kept, 40U);
  EXPECT_FALSE(run(session, small("a red circle", 16)).empty());
}

TEST_F(SessionTest, HasTheBitsOfASingleRequest) {
  Session kept = open(), single = open({.dtype = DType::f32, .single_request = true});
  run(kept, small("a blue square", 48));
  EXPECT_EQ(run(kept, small()), run(single, small()));
  Request several = small();
  several.prompts = {"a red circle", "a green ring moving left"};
  several.seeds = {1, 2};
  EXPECT_EQ(run(kept, several), run(single, several));
}

TEST_F(SessionTest, IsUsableAfterCancelling) {
  Session session = open();
  const Frames expected = run(session, small());
  for (const std::size_t at : {0U, 1U, 2U, 3U, 5U}) {
    std::atomic<bool> cancel{false};
    std::size_t seen = 0;
    Callbacks callbacks;
    callbacks.cancel = &cancel;
    callbacks.progress = [&](const Progress&) { cancel = seen++ >= at; };
    try {
      run(session, small(), callbacks);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::cancelled) << error.what();
    }
    EXPECT_EQ(run(session, small()), expected);
  }
}

TEST_F(SessionTest, TakesRequestsOfSeveralThreadsInTurn) {
  Session session = open();
  const std::vector<std::string> prompts{"a red circle", "a blue square", "a green ring", "a white cross"};
  std::map<std::string, Frames> expected;
  for (const std::string& prompt : prompts) expected[prompt] = run(session, small(prompt));
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (const std::string& prompt : prompts)
    threads.emplace_back([&, prompt] {
      for (int i = 0; i < 2; ++i)
        if (run(session, small(prompt)) != expected.at(prompt)) ++wrong;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(SessionTest, GoesOnFromASavedState) {
  for (const char* scheduler : {"unipc", "euler"}) {
    Session session = open();
    Request request = small();
    request.num_inference_steps = 5;
    request.scheduler = parse_scheduler_kind(scheduler, "test");
    std::vector<DenoiseState> states;
    Callbacks save;
    save.step = [&](const StepDone& done) {
      states.push_back(done.state());
      EXPECT_EQ(done.step, static_cast<int>(states.size()) - 1);
      EXPECT_EQ(done.latents(), states.back().latents);
    };
    const Frames expected = run(session, request, save);
    ASSERT_EQ(states.size(), 5U);
    for (const DenoiseState& state : states) {
      Callbacks resume;
      resume.resume = state;
      int steps = 0;
      resume.step = [&](const StepDone&) { ++steps; };
      EXPECT_EQ(run(session, request, resume), expected) << scheduler << " from step " << state.next_step;
      EXPECT_EQ(steps, 5 - state.next_step);
    }
  }
}

TEST_F(SessionTest, MayTakeTheLastPredictionAgain) {
  Session session = open();
  Request request = small();
  request.num_inference_steps = 4;
  const Frames all = run(session, request);
  Callbacks callbacks;
  callbacks.choose = [](std::size_t, int) { return StepChoice::compute; };
  EXPECT_EQ(run(session, request, callbacks), all);
  callbacks.choose = [](std::size_t, int step) { return step == 2 ? StepChoice::reuse : StepChoice::compute; };
  EXPECT_NE(run(session, request, callbacks), all);
}

// What a platform refuses at moments of a test's choice.
class FailingPlatform : public fuzz::WrappedPlatform {
 public:
  FailingPlatform() : WrappedPlatform(open_platform("cpu", {.threads = 1})) {}
  std::shared_ptr<Buffer> allocate(std::size_t size_bytes, std::string_view what) override {
    if (countdown > 0 && --countdown == 0) fail(ErrorKind::out_of_memory, "test", "no room for {}.", what);
    return WrappedPlatform::allocate(size_bytes, what);
  }
  void upload(Stream& stream, const void* host, Slot device, std::size_t size_bytes) override {
    if (countdown > 0 && --countdown == 0) fail(ErrorKind::device, "test", "an upload failed.");
    WrappedPlatform::upload(stream, host, device, size_bytes);
  }
  int countdown = 0;
};

// Counts what goes to the device.
class CountingPlatform : public fuzz::WrappedPlatform {
 public:
  CountingPlatform() : WrappedPlatform(open_platform("cpu", {.threads = 1})) {}
  void upload(Stream& stream, const void* host, Slot device, std::size_t size_bytes) override {
    uploaded += size_bytes;
    WrappedPlatform::upload(stream, host, device, size_bytes);
  }
  void zero(Stream& stream, Slot slot, std::size_t size_bytes) override {  // on this platform an upload, on others none
    const std::size_t before = uploaded;
    WrappedPlatform::zero(stream, slot, size_bytes);
    uploaded = before;
  }
  std::size_t uploaded = 0;
};

// Two tables f32 [tokens,head_dim], the same for all requests of a size; other sizes of as many tokens have others.
TEST_F(SessionTest, MakesTablesOfPositionsOnceForASize) {
  const auto platform = std::make_shared<CountingPlatform>();
  const ModelConfig model = read_model_config(ZOE_MODELS "/toy-wan");
  Session session(model, platform, {.dtype = DType::f32});
  const auto uploaded = [&](std::int64_t height, std::int64_t width) {
    Request request = small("a red circle", height);
    request.width = width;
    const std::size_t before = platform->uploaded;
    const Frames frames = run(session, request);
    const std::size_t bytes = platform->uploaded - before;  // of this session, not of the next one
    Session alone = open();
    EXPECT_EQ(run(alone, request), frames) << width << "x" << height;
    return bytes;
  };
  const std::int64_t tokens = std::int64_t{2} * (32 / 16) * (48 / 16);
  const auto tables = static_cast<std::size_t>(tokens * model.transformer.head_dim) * 2 * sizeof(float);
  uploaded(32, 48);
  uploaded(48, 32);  // from here on nothing is compiled, and no plan's constants are uploaded
  const std::size_t same = uploaded(48, 32);
  EXPECT_EQ(uploaded(32, 48), same + tables);
  EXPECT_EQ(uploaded(32, 48), same);
  EXPECT_EQ(uploaded(48, 32), same + tables);
}

// The cpu as a device with memory of its own: weights are packed in this process's and copied. It counts what is held there for
// later stages.
class ApartPlatform : public fuzz::WrappedPlatform {
 public:
  ApartPlatform() : WrappedPlatform(open_platform("cpu", {.threads = 1})) {
    device_info.unified_memory = false;
    device_info.host_addressable = false;
    device_info.copies_beside = true;
  }
  std::shared_ptr<HostBuffer> allocate_host(std::size_t size_bytes, std::string_view what, HostPages pages) override {
    if (what != "weights of later steps") return WrappedPlatform::allocate_host(size_bytes, what, pages);
    ++allocations;
    before_allocation();
    return std::make_shared<Held>(WrappedPlatform::allocate_host(size_bytes, what, pages), held);
  }
  const std::shared_ptr<std::atomic<std::size_t>> held = std::make_shared<std::atomic<std::size_t>>(0);
  std::atomic<int> allocations{0};
  std::function<void()> before_allocation = [] {};

 private:
  struct Held : HostBuffer {
    Held(std::shared_ptr<HostBuffer> of, std::shared_ptr<std::atomic<std::size_t>> all)
        : buffer(std::move(of)), total(std::move(all)) {
      data = buffer->data, size_bytes = buffer->size_bytes;
      *total += size_bytes;
    }
    ~Held() override { *total -= size_bytes; }
    const std::shared_ptr<HostBuffer> buffer;
    const std::shared_ptr<std::atomic<std::size_t>> total;
  };
};

// Where both experts fit the second is loaded while the first is at work, where all stays everything is; the statement says so.
TEST(LoadedAhead, TheVideoIsTheSameAndACancelledLoadBeginsAnew) {
  const testing::TemporaryFolder temporary;
  const ModelConfig model = read_model_config(testing::make_two_experts(temporary.path() / "model"));
  Session plain(model, open_platform("cpu", {.threads = 1}), {.dtype = DType::f32});
  Request request = small();
  request.num_inference_steps = 4;
  const Frames frames = run(plain, request);
  for (const bool single : {true, false}) {
    Session session(model, std::make_shared<ApartPlatform>(), {.dtype = DType::f32, .single_request = single});
    const Job job = session.plan(request);
    for (const StageMemory& stage : job.memory().stages) {
      EXPECT_EQ(stage.host, 0U);
      if (stage.component == "transformer") {
        EXPECT_EQ(std::count(stage.stay.begin(), stage.stay.end(), "transformer_2"), 1) << stage.stage;
      }
    }
    std::set<std::string> loaded;
    const LogScope log_scope([&](LogLevel, std::string_view text) {
      if (text.find("ahead of its first stage") != std::string_view::npos) loaded.emplace(text.substr(0, text.find(' ')));
    });
    std::atomic<bool> cancel{false};
    Callbacks callbacks;
    callbacks.cancel = &cancel;
    callbacks.progress = [&](const Progress& progress) { cancel = progress.phase == Phase::denoise; };
    try {
      run(session, request, callbacks);
      ADD_FAILURE() << "was not cancelled";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::cancelled) << error.what();
    }
    EXPECT_EQ(run(session, request), frames);
    EXPECT_TRUE(loaded.contains("transformer_2")) << fmt::format("{}", fmt::join(loaded, ", "));
    if (single) continue;
    EXPECT_TRUE(loaded.contains("vae")) << fmt::format("{}", fmt::join(loaded, ", "));
    loaded.clear();
    EXPECT_EQ(run(session, request), frames);
    EXPECT_TRUE(loaded.empty()) << "what is there is loaded again";
  }
}

class PreparedExperts : public ::testing::Test {
 protected:
  void cancelled(const Callbacks& callbacks) {
    try {
      run(session, request, callbacks);
      FAIL() << "was not cancelled";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::cancelled) << error.what();
    }
  }
  const testing::TemporaryFolder temporary;
  const ModelConfig model = read_model_config(testing::make_two_experts(temporary.path() / "model"));
  const std::shared_ptr<ApartPlatform> platform = std::make_shared<ApartPlatform>();
  Session session{
      model, platform, {.dtype = DType::f32, .offload = Offload::experts, .host_memory_limit_bytes = std::uint64_t{1} << 30}};
  const Request request = [] {
    Request four = small();
    four.num_inference_steps = 4;
    return four;
  }();
  std::atomic<bool> cancel{false};
};

TEST_F(PreparedExperts, StayPackedWhenARequestIsCancelled) {
  const Frames frames = run(session, request);
  Session plain(model, open_platform("cpu", {.threads = 1}), {.dtype = DType::f32});
  EXPECT_EQ(frames, run(plain, request));
  const std::size_t held = *platform->held;
  ASSERT_GT(held, 0U);
  Callbacks callbacks;
  callbacks.cancel = &cancel;
  callbacks.progress = [&](const Progress& progress) { cancel = progress.phase == Phase::denoise; };
  cancelled(callbacks);
  EXPECT_EQ(*platform->held, held);
  const int allocations = platform->allocations;
  EXPECT_EQ(run(session, request), frames);
  EXPECT_EQ(platform->allocations, allocations) << "nothing is packed again";
}

// The first expert has done its steps and waits for the second one's weights, which take their time.
TEST_F(PreparedExperts, AreGivenUpWhenARequestIsCancelledMeanwhile) {
  std::atomic<int> steps{0};
  Callbacks callbacks;
  callbacks.cancel = &cancel;
  callbacks.progress = [&](const Progress& progress) { steps += progress.phase == Phase::denoise; };
  platform->before_allocation = [&] {
    const auto wait = [](int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); };
    for (int seen = -1; seen < 1 || seen != steps;) {
      seen = steps;
      wait(200);
    }
    cancel = true;
    wait(200);
  };
  cancelled(callbacks);
  EXPECT_LT(steps, 4);
  EXPECT_EQ(platform->allocations, 1) << "no other part of it is packed";
  EXPECT_EQ(*platform->held, 0U);
  platform->before_allocation = [] {};
  cancel = false;
  EXPECT_FALSE(run(session, request).empty());
  EXPECT_GT(platform->allocations, 2) << "there are other parts";
}

// ZOE_SESSION_REQUESTS=1000 for the long run.
TEST_F(SessionTest, StandsRandomRequests) {
  const char* const asked = std::getenv("ZOE_SESSION_REQUESTS");
  const int count = asked ? std::atoi(asked) : 60;
  const testing::TemporaryFolder temporary;
  const auto platform = std::make_shared<FailingPlatform>();
  Session session(read_model_config(testing::make_two_experts(temporary.path() / "model")), platform,
                  {.dtype = DType::f32, .most_plans = 60});
  std::mt19937 random(7);
  const auto pick = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  std::map<std::string, Frames> seen;
  [[maybe_unused]] std::size_t resident = 0;  // sanitizers have memory of their own
  int finished = 0, stopped = 0;
  for (int number = 0; number < count; ++number) {
    Request request = small(pick(2) ? "a red circle" : "a blue square moving left on a white background", 16 * (1 + pick(3)));
    request.width = 16 * (1 + pick(3));
    request.num_frames = 1 + 4 * pick(3);
    request.num_inference_steps = 1 + pick(3);
    request.guidance_scale = pick(2) ? 4.0 : 1.0;
    request.seeds = {static_cast<std::uint64_t>(pick(2))};
    std::atomic<bool> cancel{false};
    Callbacks callbacks;
    callbacks.cancel = &cancel;
    int until = pick(3) == 0 ? pick(8) : -1;
    callbacks.progress = [&](const Progress&) {
      if (until >= 0 && until-- == 0) cancel = true;
    };
    platform->countdown = pick(3) == 0 ? 1 + pick(60) : 0;
    try {
      const Frames frames = run(session, request, callbacks);
      const std::string key =
          fmt::format("{} {}x{}x{} {} {} {}", request.prompts[0], *request.width, *request.height, *request.num_frames,
                      *request.num_inference_steps, *request.guidance_scale, request.seeds[0]);
      const auto [known, is_new] = seen.try_emplace(key, frames);
      EXPECT_TRUE(is_new || known->second == frames) << key;
      ++finished;
    } catch (const Error& error) {
      EXPECT_TRUE(error.kind() == ErrorKind::cancelled || error.kind() == ErrorKind::out_of_memory ||
                  error.kind() == ErrorKind::device)
          << error.what();
      ++stopped;
    }
    if (number == count / 2) resident = anonymous_memory_bytes();
  }
  EXPECT_GT(finished, count / 4);
  EXPECT_GT(stopped, count / 8);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_LT(anonymous_memory_bytes(), resident + (48U << 20));
#endif
}

// A member of no family: shows the noise itself, through the VAE. Nothing in pipeline/ knows it.
class ShowNoise : public Recipe {
 public:
  Members member() const override { return members::t2v; }
  std::string_view name() const override { return "noise to video"; }
  std::vector<std::string> components() const override { return {"vae"}; }
  std::unique_ptr<Work> plan(const Request& request, const RecipeContext& context) const override {
    return std::make_unique<NoiseWork>(request, context);
  }

 private:
  class NoiseWork : public Work {
   public:
    NoiseWork(const Request& request, const RecipeContext& context) : decode_(context), channels_(context.model.vae.z_dim) {
      SchedulerConfig unused;
      settle_size(request, context.model, context.spelling, settled_);
      settle_sampling(request, context.model, context.spelling, settled_, unused);
      decode_.settle(settled_);
    }
    Program program() const override {
      Program program;
      program.repeats = settled_.prompts.size();
      decode_.add_to(program, 0);
      return program;
    }
    void run(std::size_t, std::size_t video, StageRun& run) override {
      std::vector<float> noise(
          static_cast<std::size_t>(channels_ * settled_.latent_frames * settled_.latent_height * settled_.latent_width));
      standard_normal(settled_.seeds[video], noise);
      decode_.run(noise, video, run);
    }

   private:
    VideoDecode decode_;
    std::int64_t channels_;
  };
};

TEST_F(SessionTest, RunsARecipeOfSomebodyElses) {
  Session session(read_model_config(ZOE_MODELS "/toy-wan"), cpu(), {.dtype = DType::f32}, std::make_unique<ShowNoise>());
  EXPECT_EQ(session.recipe(), "noise to video");
  Request request = small();
  request.seeds = {1, 2};
  const Frames frames = run(session, request);
  ASSERT_EQ(frames.size(), 2U * 5 * 32 * 32 * 3);
  EXPECT_NE(Frames(frames.begin(), frames.begin() + 1000),
            Frames(frames.begin() + 5 * 32 * 32 * 3, frames.begin() + 5 * 32 * 32 * 3 + 1000));
  Job job = session.prepare(request);
  ASSERT_EQ(job.memory().stages.size(), 1U);
  EXPECT_EQ(job.memory().stages[0].phase, Phase::decode);
}

}  // namespace
}  // namespace zoe
