// What a video takes of memory: every way to have less on the device gives the same bits, what does not fit is refused with what
// would, and what is planned is what `zoe plan` says.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "base/error.h"
#include "compiler/compile.h"
#include "pipeline/model.h"
#include "pipeline/parts.h"
#include "pipeline/session.h"
#include "platform/platform.h"
#include "testing/image_to_video_folder.h"
#include "testing/run_command.h"
#include "testing/temporary_folder.h"

namespace zoe {
namespace {

using Json = nlohmann::json;
using testing::CommandResult;
using testing::run_command;
using testing::TemporaryFolder;

Request small_request() {
  Request request;
  request.prompts = {"a red circle moving right"};
  request.height = 64, request.width = 64, request.num_frames = 9, request.num_inference_steps = 3;
  return request;
}

struct Made {
  MemoryStatement memory;
  std::vector<std::uint8_t> frames;
};

Made make(std::uint64_t limit, Offload offload, bool single, DType dtype, GuidanceBatch batch = GuidanceBatch::automatic,
          int times = 1) {
  Session session(read_model_config(ZOE_MODELS "/toy-wan"), open_platform("cpu", {.threads = 2, .memory_limit_bytes = limit}),
                  {.dtype = dtype, .single_request = single, .offload = offload});
  Request request = small_request();
  request.guidance_batch = batch;
  request.token_pieces = 1, request.vae_tiles = 1;
  Made made;
  for (int time = 0; time < times; ++time) {
    Job job = session.prepare(request);
    made.memory = job.memory();
    made.frames.clear();
    Callbacks callbacks;
    callbacks.frame = [&](std::size_t, std::int64_t, std::span<const std::uint8_t> rgb) {
      made.frames.insert(made.frames.end(), rgb.begin(), rgb.end());
    };
    session.run(job, callbacks);
  }
  return made;
}

// What kernels keep is measured, and not to the byte the same every time.
constexpr std::size_t kMeasured = 64 << 10;

TEST(Memory, TheToysVideoIsTheSameHoweverItsWeightsLie) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Made all = make(0, Offload::none, true, dtype);
    ASSERT_FALSE(all.frames.empty());
    EXPECT_EQ(all.memory.offload, Offload::none);
    std::size_t before = all.memory.peak();
    for (const Offload offload : {Offload::encoder, Offload::experts, Offload::blocks}) {
      const Made made = make(0, offload, true, dtype);
      EXPECT_EQ(made.frames, all.frames) << name(offload);
      EXPECT_LE(made.memory.peak(), before + kMeasured) << name(offload);
      before = made.memory.peak();
      if (offload != Offload::blocks) continue;
      for (const StageMemory& stage : made.memory.stages)
        if (!stage.component.empty() && stage.component != "vae") {
          EXPECT_TRUE(stage.streamed) << stage.stage;
          EXPECT_GT(stage.coming_blocks, 1u) << stage.stage;
          EXPECT_LT(stage.weights, stage.all_weights) << stage.stage;
        }
    }
  }
}

TEST(Memory, ASessionGoesOnWithBlocksThatComeAndGo) {
  const Made once = make(0, Offload::none, true, DType::f32);
  EXPECT_EQ(make(0, Offload::blocks, false, DType::f32, GuidanceBatch::automatic, 3).frames, once.frames);
  EXPECT_EQ(make(0, Offload::encoder, false, DType::f32, GuidanceBatch::automatic, 2).frames, once.frames);
}

// From what all of it needs down to what nothing fits in.
TEST(Memory, AutoTakesTheLeastThatFitsAndTheVideoStaysTheSame) {
  const Made all = make(0, Offload::none, true, DType::f32, GuidanceBatch::on),
             least = make(0, Offload::blocks, true, DType::f32, GuidanceBatch::on);
  ASSERT_LT(least.memory.peak(), all.memory.peak());
  Offload before = Offload::none;
  int runs = 0;
  for (std::size_t i = 0; i <= 8; ++i) {
    const std::size_t limit = kMeasured + all.memory.peak() - (all.memory.peak() - least.memory.peak()) * i / 8;
    const Made made = make(limit, Offload::automatic, true, DType::f32, GuidanceBatch::on);
    EXPECT_LE(made.memory.peak(), limit);
    EXPECT_GE(made.memory.offload, before);
    EXPECT_EQ(made.frames, all.frames) << limit << " " << name(made.memory.offload);
    before = made.memory.offload;
    ++runs;
  }
  EXPECT_EQ(runs, 9);
  try {
    make(least.memory.peak() - 4 * kMeasured, Offload::automatic, true, DType::f32, GuidanceBatch::on);
    FAIL() << "ran in less than it needs";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::out_of_memory);
    EXPECT_NE(std::string(error.what()).find("does not fit: needs "), std::string::npos) << error.what();
  }
}

// Of several videos the transformer stays until the last one, or none of them is made.
TEST(Memory, NoneLetsNothingGo) {
  Request request = small_request();
  request.prompts = {"a red circle moving right", "a blue square"};
  const auto plan = [&](std::uint64_t limit, Offload offload) {
    Session session(read_model_config(ZOE_MODELS "/toy-wan"), open_platform("cpu", {.threads = 2, .memory_limit_bytes = limit}),
                    {.dtype = DType::f32, .single_request = true, .offload = offload});
    const Job job = session.plan(request);
    return std::pair(job.memory(), job.refusal());
  };
  const std::size_t none = plan(0, Offload::none).first.peak(), experts = plan(0, Offload::experts).first.peak();
  ASSERT_LT(experts + 4 * kMeasured, none);
  const std::size_t between = (none + experts) / 2;
  for (const Offload offload : {Offload::none, Offload::automatic, Offload::experts}) {
    const auto [memory, refusal] = plan(between, offload);
    EXPECT_EQ(refusal.find("It would with --offload auto") != std::string::npos, offload == Offload::none) << refusal;
    EXPECT_EQ(memory.offload == Offload::none, offload == Offload::none) << name(memory.offload);
  }
}

// In pieces and tiles no sum has other terms or another order where kernels are ours; oneDNN's f32 products on cores with AVX2
// alone may add in another order for other numbers of rows.
double psnr(const std::vector<std::uint8_t>& a, const std::vector<std::uint8_t>& b) {
  double error = 0;
  for (std::size_t i = 0; i < a.size(); ++i) error += (a[i] - b[i]) * (a[i] - b[i]);
  return error == 0 ? INFINITY : 10 * std::log10(255.0 * 255.0 * static_cast<double>(a.size()) / error);
}

std::vector<std::uint8_t> frames_of(const std::filesystem::path& model, const Request& request, DType dtype,
                                    Settled* settled = nullptr, std::size_t* peak = nullptr) {
  Session session(read_model_config(model), open_platform("cpu", {.threads = 2}), {.dtype = dtype, .single_request = true});
  Job job = session.prepare(request);
  if (settled) *settled = job.settled();
  if (peak) *peak = job.memory().of(Phase::decode);
  std::vector<std::uint8_t> frames;
  Callbacks callbacks;
  callbacks.frame = [&](std::size_t, std::int64_t, std::span<const std::uint8_t> rgb) {
    frames.insert(frames.end(), rgb.begin(), rgb.end());
  };
  session.run(job, callbacks);
  return frames;
}

TEST(Memory, TokensInPiecesGiveTheSameVideo) {
  Request request = small_request();
  request.guidance_batch = GuidanceBatch::off, request.token_pieces = 1;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const std::vector<std::uint8_t> whole = frames_of(ZOE_MODELS "/toy-wan", request, dtype);
    Request in_pieces = request;
    in_pieces.token_pieces = 3;
    const double db = psnr(frames_of(ZOE_MODELS "/toy-wan", in_pieces, dtype), whole);
    std::printf("%s: %.1f dB\n", std::string(name(dtype)).c_str(), db);
    EXPECT_GE(db, dtype == DType::f32 ? 80 : 60);
  }
}

// Wan 2.1's VAE and, of a model from text and image, that of 2.2; more than one group of frames.
TEST(Memory, TilesGiveTheSameVideoInLessMemory) {
  const TemporaryFolder temporary;
  const auto wan22 = testing::make_image_to_video(temporary.path() / "wan22", "text_image_to_video");
  for (const std::filesystem::path& model : {std::filesystem::path(ZOE_MODELS "/toy-wan"), wan22}) {
    Request request = small_request();
    request.num_inference_steps = 1, request.num_frames = 9, request.height = 64, request.width = model == wan22 ? 1280 : 640;
    request.vae_tiles = 1, request.token_pieces = 1;
    Request in_tiles = request;
    in_tiles.vae_tiles = 2;
    for (const DType dtype : {DType::f32, DType::bf16}) {
      std::size_t peak = 0, peak_in_tiles = 0;
      Settled settled;
      const std::vector<std::uint8_t> whole = frames_of(model, request, dtype, nullptr, &peak),
                                      tiles = frames_of(model, in_tiles, dtype, &settled, &peak_in_tiles);
      EXPECT_EQ(settled.vae_tiles, 2);
      EXPECT_LT(peak_in_tiles, peak);
      ASSERT_EQ(tiles.size(), whole.size());
      const double db = psnr(tiles, whole);
      std::printf("%s %s: %.1f dB, %.2f of the memory\n", model.filename().c_str(), std::string(name(dtype)).c_str(), db,
                  static_cast<double>(peak_in_tiles) / static_cast<double>(peak));
      EXPECT_GE(db, 80);
    }
  }
}

class MemoryCommand : public ::testing::Test {
 protected:
  CommandResult zoe(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), ZOE_COMMAND);
    return run_command(arguments, {.folder = folder_.path()});
  }
  TemporaryFolder folder_;
};

TEST_F(MemoryCommand, PlanTellsWhatGenerateThenDoes) {
  const std::vector<std::string> size{"--height", "64",         "--width", "64", "--num-frames", "9", "--num-inference-steps",
                                      "2",        "--platform", "cpu"};
  const auto with = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), size.begin(), size.end());
    return arguments;
  };
  const CommandResult planned = zoe(with({"plan", "--offload", "blocks", "--json", "-o", "out.gif"}));
  ASSERT_EQ(planned.code, 0) << planned.err;
  const Json plan = Json::parse(planned.out);
  EXPECT_TRUE(plan.at("fits"));
  EXPECT_EQ(plan.at("offload"), "blocks");
  EXPECT_EQ(plan.at("stages").size(), 3u);
  EXPECT_TRUE(plan.at("stages")[1].at("streamed"));
  const CommandResult made = zoe(with({"generate", "-p", "a red circle", "--offload", "blocks", "--json", "-o", "out.gif"}));
  ASSERT_EQ(made.code, 0) << made.err;
  const Json done = Json::parse(made.out);
  EXPECT_EQ(done.at("offload"), "blocks");
  const double planned_bytes = plan.at("memory_bytes").at("planned"), done_bytes = done.at("memory_bytes").at("planned");
  EXPECT_NEAR(planned_bytes, done_bytes, 0.02 * done_bytes);  // the prompts differ

  const CommandResult text = zoe(with({"plan", "--offload", "blocks"}));
  EXPECT_EQ(text.code, 0);
  for (const char* part : {"blocks come and go", "text_encoder", "|====", "It fits with --offload blocks."})
    EXPECT_NE(text.out.find(part), std::string::npos) << part << "\n" << text.out;
}

TEST_F(MemoryCommand, WhatCannotFitIsRefusedAtOnceWithWhatWould) {
  for (const char* command : {"generate", "plan"}) {
    const CommandResult small =
        zoe({command, "-p", "a red circle", "--platform", "cpu", "--memory-limit", "8MiB", "-o", "out.gif"});
    EXPECT_EQ(small.code, 3) << small.err;
    EXPECT_NE(small.err.find("does not fit: needs "), std::string::npos) << small.err;
    EXPECT_NE(small.err.find(", with blocks that come and go. Lower --width"), std::string::npos) << small.err;
    EXPECT_EQ(std::count(small.err.begin(), small.err.end(), '\n'), 1);
    EXPECT_FALSE(std::filesystem::exists(folder_.path() / "out.gif"));
    // As much as blocks need, and they may not come and go: of a size whose peak is not the decoder's.
    const CommandResult plan = zoe({"plan", "--platform", "cpu", "--size", "64x64", "--num-frames", "9", "--offload", "blocks",
                                    "--guidance-batch", "on", "--json", "-o", "out.gif"});
    const auto least = Json::parse(plan.out).at("memory_bytes").at("planned").get<std::uint64_t>();
    const CommandResult none =
        zoe({command, "-p", "a red circle", "--platform", "cpu", "--size", "64x64", "--num-frames", "9", "--guidance-batch", "on",
             "--memory-limit", std::to_string(least + (1 << 20)), "--offload", "none", "-o", "out.gif"});
    EXPECT_EQ(none.code, 3) << none.err;
    EXPECT_NE(none.err.find("It would with --offload auto ("), std::string::npos) << none.err;
  }
}

TEST_F(MemoryCommand, LimitsAreSizesWithAUnit) {
  for (const char* option : {"--memory-limit", "--host-memory-limit"})
    for (const char* bad : {"", "lots", "8 giga", "-1GiB", "nan", "8GiBs"}) {
      const CommandResult result = zoe({"plan", option, bad});
      EXPECT_EQ(result.code, 2) << option << " " << bad;
      EXPECT_NE(result.err.find(option), std::string::npos) << result.err;
    }
  const CommandResult few = zoe({"plan", "--memory-limit", "8"});
  EXPECT_NE(few.err.find("[--memory-limit] got \"8\", expected a size of at least 1 MiB, such as 8GiB or 512MiB."),
            std::string::npos)
      << few.err;
  EXPECT_EQ(zoe({"plan", "--offload", "some"}).code, 2);
}

// The weights' file is cut under a run whose blocks are read again and again: one line, no half of a video; mended, the run goes
// on.
TEST_F(MemoryCommand, AFileThatIsCutWhileBlocksComeAndGoIsAnError) {
  namespace fs = std::filesystem;
  const fs::path model = folder_.path() / "model", state = folder_.path() / "run.state";
  fs::copy(ZOE_MODELS "/toy-wan", model, fs::copy_options::recursive);
  const fs::path weights = model / "transformer/diffusion_pytorch_model-00001-of-00003.safetensors", kept = folder_.path() / "kept";
  ASSERT_TRUE(fs::exists(weights));
  fs::copy(weights, kept);
  std::atomic<bool> ended{false};
  std::thread cutter([&] {
    while (!ended && !fs::exists(state)) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    if (!ended) fs::resize_file(weights, 8192);
  });
  const std::vector<std::string> size{"--size", "64x64", "--num-frames", "9", "--num-inference-steps", "60"};
  std::vector<std::string> arguments{"generate", "-m",        model.string(), "-p",           "a red circle", "--platform",
                                     "cpu",      "--offload", "blocks",       "--save-state", "run.state",    "--save-every",
                                     "1",        "-o",        "out.mp4"};
  arguments.insert(arguments.end(), size.begin(), size.end());
  const CommandResult cut = zoe(arguments);
  ended = true;
  cutter.join();
  EXPECT_EQ(cut.code, 4) << cut.out << cut.err;
  EXPECT_EQ(std::count(cut.err.begin(), cut.err.end(), '\n'), 1) << cut.err;
  EXPECT_NE(cut.err.find("diffusion_pytorch_model-00001-of-00003.safetensors"), std::string::npos) << cut.err;
  std::set<std::string> left;
  for (const auto& entry : fs::directory_iterator(folder_.path())) left.insert(entry.path().filename());
  EXPECT_EQ(left, (std::set<std::string>{"kept", "model", "run.state"}));
  fs::copy_file(kept, weights, fs::copy_options::overwrite_existing);
  const CommandResult resumed = zoe({"resume", "run.state"});
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_TRUE(fs::exists(folder_.path() / "out.mp4"));
}

// A published member on a card of each size: what no device is there for is planned on `null`.
TEST_F(MemoryCommand, LargeMembersArePlannedForSmallCards) {
  const auto plan = [&](const std::string& model, const char* limit) {
    const CommandResult result = zoe({"plan", model, "--platform", "null", "--dtype", "bf16", "--memory-limit", limit, "--height",
                                      "480", "--width", "832", "--json"});
    return std::pair(result.code, result.out.empty() ? Json() : Json::parse(result.out));
  };
  const auto [code, large] = plan("random:wan2.2-t2v-a14b", "80GiB");
  EXPECT_EQ(code, 0);
  const auto [small_code, small] = plan("random:wan2.2-t2v-a14b:0:Q4_K", "8GiB");
  EXPECT_EQ(small_code, 0) << small;
  EXPECT_EQ(small.at("offload"), "blocks");
  EXPECT_LE(small.at("memory_bytes").at("planned").get<std::uint64_t>(), std::uint64_t{8} << 30);
  EXPECT_EQ(plan("random:wan2.2-t2v-a14b", "1GiB").first, 3);
}

// Places that never move cost little over what is alive at a time.
TEST(Workspaces, AreWithinFivePerCentOfWhatIsAlive) {
  const auto null = open_platform("null");
  const ModelConfig toy = read_model_config(ZOE_MODELS "/toy-wan"), large = *published_model("wan2.1-t2v-14b");
  for (const ModelConfig* model : {&toy, &large})
    for (const char* part : {"transformer", "text-encoder", "vae-decode", "vae-encode"})
      for (const auto& [batch, pieces] : {std::pair{1, 1}, {2, 1}, {2, 2}, {2, 8}}) {
        if (pieces > 1 && std::string_view(part) != "transformer") continue;
        if (pieces > 2 && model == &large) continue;  // a plan of 14B in eight pieces takes 9 s to make
        const PartSize size{480, 832, 81, 512, batch, 1, pieces};
        for (const PartGraph& graph : trace_part(*model, part, DType::bf16, size)) {
          const Plan plan = compile(graph.graph, *null);
          const double ratio =
              static_cast<double>(plan.workspace_bytes) / static_cast<double>(std::max<std::size_t>(1, plan.alive_bytes));
          std::printf("%-18s %-13s batch %d, %d pieces: workspace %9.1f MiB, alive %9.1f MiB, %.3f\n", model->name.c_str(),
                      plan.graph.name.c_str(), batch, pieces, static_cast<double>(plan.workspace_bytes) / 1048576.0,
                      static_cast<double>(plan.alive_bytes) / 1048576.0, ratio);
          EXPECT_LE(ratio, 1.05) << model->name << " " << part;
        }
      }
}

}  // namespace
}  // namespace zoe
