// The command as a user runs it, with the embedded model: what it writes, what it says, and that it does so again.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>

#include "testing/read_video.h"
#include "testing/run_command.h"
#include "testing/sparse_checkpoint.h"
#include "testing/temporary_folder.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::CommandOptions;
using testing::CommandResult;
using testing::read_frames;
using testing::read_video;
using testing::ReadVideo;

std::string read_bytes(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

// The settings of a run, which every format holds as JSON: FFmpeg shows them as a tag, but for pictures (it reads no iTXt chunks).
json settings_in(const fs::path& path) {
  if (path.extension() != ".png") return json::parse(read_video(path).tags.at("comment"));
  const std::string bytes = read_bytes(path), chunk = "iTXtComment";
  const std::size_t at = bytes.find(chunk);
  if (at == std::string::npos) throw std::runtime_error("no comment in " + path.string());
  std::size_t length = 0;
  for (std::size_t i = at - 4; i < at; ++i) length = length << 8 | static_cast<unsigned char>(bytes[i]);
  const std::size_t skipped = chunk.size() - 4 + 5;  // the keyword, then five zero bytes
  return json::parse(bytes.substr(at + 4 + skipped, length - skipped));
}

class Command : public ::testing::Test {
 protected:
  // `zoe` in the test's folder.
  CommandResult zoe(std::vector<std::string> arguments, CommandOptions options = {}) const {
    arguments.insert(arguments.begin(), ZOE_COMMAND);
    if (options.folder.empty()) options.folder = folder_;
    return testing::run_command(arguments, options);
  }

  // A run that must work: five frames of 64x64 in two steps, unless more arguments say otherwise. On one thread, as two that wait
  // for each other crawl where other tests run beside them.
  CommandResult generate(const std::vector<std::string>& more, const CommandOptions& options = {}) const {
    std::vector<std::string> arguments{"generate", "--height",  "64", "--width", "64", "--num-frames", "5", "--num-inference-steps",
                                       "2",        "--threads", "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const CommandResult result = zoe(arguments, options);
    EXPECT_EQ(result.code, 0) << result.err << result.line;
    EXPECT_EQ(result.err, "") << result.line;
    return result;
  }

  const testing::TemporaryFolder temporary_;
  const fs::path folder_ = temporary_.path();
};

TEST_F(Command, WritesEveryFormatWithTheSettingsInside) {
  for (const std::string name : {"a.mp4", "a.webm", "a.gif", "a.png", "frames"}) {
    const CommandResult result = generate({"-p", "a red circle", "--seed", "11", "--fps", "8", "-o", name});
    EXPECT_NE(result.out.find("wrote " + name), std::string::npos) << result.out;
    const bool is_folder = name == "frames";
    if (is_folder) {
      const std::vector<std::string> frames{"0001.png", "0002.png", "0003.png", "0004.png", "0005.png"};
      EXPECT_EQ(names_in(folder_ / name), frames);
    }
    const fs::path file = is_folder ? folder_ / name / "0005.png" : folder_ / name;
    const ReadVideo video = read_video(file);
    const bool is_movie = name == "a.mp4" || name == "a.webm" || name == "a.gif";
    EXPECT_EQ(video.frames.size(), is_movie ? 5u : 1u) << name;
    if (is_movie) {
      EXPECT_NEAR(video.fps, 8, 0.6) << name;  // a .gif's delays are whole centiseconds
    }
    if (name != "a.png") {
      EXPECT_EQ(video.width, 64) << name;
      EXPECT_EQ(video.height, 64) << name;
    }
    const json settings = settings_in(file);
    EXPECT_EQ(settings.at("prompt"), "a red circle") << name;
    EXPECT_EQ(settings.at("seed"), "11") << name;
    EXPECT_EQ(settings.at("num_inference_steps"), "2") << name;
    EXPECT_EQ(settings.at("scheduler"), "unipc") << name;
    EXPECT_EQ(settings.at("model"), "toy-wan") << name;
  }
  EXPECT_EQ(names_in(folder_), (std::vector<std::string>{"a.gif", "a.mp4", "a.png", "a.webm", "frames"}));
}

TEST_F(Command, PromptFileGivesWhatSingleRunsGive) {
  testing::write_bytes(folder_ / "prompts.txt", "a red circle\r\n\na blue square moving left, white background\n");
  generate({"--prompt-file", "prompts.txt", "--seed", "5", "-o", "both"});
  generate({"-p", "a red circle", "--seed", "5", "-o", "first"});
  generate({"-p", "a blue square moving left, white background", "--seed", "5", "-o", "second"});
  EXPECT_EQ(names_in(folder_), (std::vector<std::string>{"both-0001", "both-0002", "first", "prompts.txt", "second"}));
  // Not bit for bit: the shorter prompt is encoded with more padding.
  EXPECT_GE(testing::psnr(read_frames(folder_ / "both-0001"), read_frames(folder_ / "first")), 80);
  EXPECT_GE(testing::psnr(read_frames(folder_ / "both-0002"), read_frames(folder_ / "second")), 80);
  EXPECT_LT(testing::psnr(read_frames(folder_ / "first"), read_frames(folder_ / "second")), 40);
}

TEST_F(Command, SameSeedSameBytes) {
  const std::vector<std::string> names{"one", "again", "other"};
  for (const std::string& name : names) generate({"-p", "a red circle", "--seed", name == "other" ? "2" : "1", "-o", name});
  for (const std::string& frame : names_in(folder_ / "one")) {
    EXPECT_EQ(read_bytes(folder_ / "one" / frame), read_bytes(folder_ / "again" / frame)) << frame;
    EXPECT_NE(read_bytes(folder_ / "one" / frame), read_bytes(folder_ / "other" / frame)) << frame;
  }
}

// Videos of two prompts and two seeds, each as if it were alone.
TEST_F(Command, SeveralPromptsAndSeeds) {
  generate({"-p", "a red circle", "--prompt=a blue square", "--seed", "3,4", "--dtype", "f32", "-o", "all"});
  EXPECT_EQ(names_in(folder_), (std::vector<std::string>{"all-0001", "all-0002", "all-0003", "all-0004"}));
  generate({"-p", "a red circle", "-p", "a blue square", "--seed", "4", "--dtype", "f32", "-o", "fours"});
  EXPECT_EQ(read_frames(folder_ / "all-0002"), read_frames(folder_ / "fours-0001"));
  EXPECT_EQ(read_frames(folder_ / "all-0004"), read_frames(folder_ / "fours-0002"));
  EXPECT_NE(read_frames(folder_ / "all-0001"), read_frames(folder_ / "all-0002"));
  EXPECT_EQ(settings_in(folder_ / "all-0003/0001.png").at("seed"), "3");
  EXPECT_EQ(settings_in(folder_ / "all-0003/0001.png").at("prompt"), "a blue square");
}

TEST_F(Command, ARandomSeedIsSaidAndKept) {
  const CommandResult result = generate({"-p", "a red circle", "--seed", "-1", "-o", "a.png"});
  std::smatch match;
  ASSERT_TRUE(std::regex_search(result.out, match, std::regex("seed (\\d+),"))) << result.out;
  EXPECT_EQ(settings_in(folder_ / "a.png").at("seed"), match[1]);
}

// Names of other programs, and values with commas.
TEST_F(Command, TakesAliases) {
  const CommandResult result = zoe({"generate", "--threads", "1", "-p", "a red circle", "--size", "64x80", "--frames", "1",
                                    "--steps", "3", "--cfg-scale", "2", "--shift", "2", "--sampler", "euler", "-o", "a.png"});
  ASSERT_EQ(result.code, 0) << result.err;
  const json settings = settings_in(folder_ / "a.png");
  EXPECT_EQ(settings.at("height"), "80");
  EXPECT_EQ(settings.at("num_frames"), "1");
  EXPECT_EQ(settings.at("num_inference_steps"), "3");
  EXPECT_EQ(settings.at("guidance_scale"), "2");
  EXPECT_EQ(settings.at("flow_shift"), "2");
  EXPECT_EQ(settings.at("scheduler"), "euler");
}

TEST_F(Command, LevelsOfTheStepsAreTaken) {
  const CommandResult result = zoe({"generate", "-p", "a red circle", "-W", "64", "-H", "64", "--num-frames", "1", "--sigmas",
                                    "1,.75,.5,.25", "--scheduler", "euler", "--flow-shift", "5", "-o", "a.png"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.out.find("4 steps of euler"), std::string::npos) << result.out;
  EXPECT_NE(result.out.find("noise levels: 1, 0.9375, 0.8333, 0.625, 0"), std::string::npos) << result.out;
  EXPECT_EQ(settings_in(folder_ / "a.png").at("sigmas"), "1,0.75,0.5,0.25");
}

// The middle of the next larger size.
TEST_F(Command, ExactSizeCrops) {
  generate({"-p", "a red circle", "--dtype", "f32", "--width", "80", "--height", "80", "-o", "whole"});
  generate({"-p", "a red circle", "--dtype", "f32", "--width", "70", "--height", "74", "--exact-size", "-o", "cropped"});
  const ReadVideo whole = read_video(folder_ / "whole/0005.png"), cropped = read_video(folder_ / "cropped/0005.png");
  ASSERT_EQ(cropped.width, 70);
  ASSERT_EQ(cropped.height, 74);
  for (int y = 0; y < 74; ++y)
    for (int i = 0; i < 70 * 3; ++i)
      ASSERT_EQ(cropped.frames[0][static_cast<std::size_t>(y * 70 * 3 + i)],
                whole.frames[0][static_cast<std::size_t>((y + 3) * 80 * 3 + 5 * 3 + i)])
          << y << ", " << i;
}

TEST_F(Command, ThreadsDoNotChangeTheVideo) {
  for (const std::string threads : {"1", "2", "5"})
    generate({"-p", "a red circle", "--dtype", "f32", "--threads", threads, "-o", "t" + threads});
  EXPECT_GT(testing::psnr(read_frames(folder_ / "t1"), read_frames(folder_ / "t2")), 80);
  EXPECT_GT(testing::psnr(read_frames(folder_ / "t1"), read_frames(folder_ / "t5")), 80);
  // What OpenMP's environment takes away of a team.
  for (const auto& [name, value] : {std::pair{"OMP_THREAD_LIMIT", "1"}, {"OMP_DYNAMIC", "true"}, {"OMP_MAX_ACTIVE_LEVELS", "0"}}) {
    generate({"-p", "a red circle", "--dtype", "f32", "--threads", "2", "-o", name}, {.environment = {{name, value}}});
    EXPECT_GT(testing::psnr(read_frames(folder_ / "t1"), read_frames(folder_ / name)), 80) << name;
  }
}

TEST_F(Command, Bf16GivesNearlyTheSameVideo) {
  for (const std::string dtype : {"f32", "bf16"}) generate({"-p", "a red circle", "--dtype", dtype, "-o", dtype});
  const double psnr = testing::psnr(read_frames(folder_ / "f32"), read_frames(folder_ / "bf16"));
  std::printf("bf16 beside f32: %.2f dB\n", psnr);
  EXPECT_GT(psnr, 25);
}

TEST_F(Command, RoundsSizesAndSaysSo) {
  const CommandResult result =
      generate({"-p", "a red circle", "--width", "75", "--height", "95", "--num-frames", "7", "-o", "a.mp4"});
  EXPECT_NE(result.out.find("note: size 75x95 becomes 64x80"), std::string::npos) << result.out;
  EXPECT_NE(result.out.find("note: 7 frames become 5"), std::string::npos) << result.out;
  const ReadVideo video = read_video(folder_ / "a.mp4");
  EXPECT_EQ(video.width, 64);
  EXPECT_EQ(video.height, 80);
  EXPECT_EQ(video.frames.size(), 5u);
}

TEST_F(Command, CutsLongPromptsAndSaysSo) {
  std::string prompt;
  for (int i = 0; i < 600; ++i) prompt += i % 2 ? "red " : "circle ";
  const CommandResult result = generate({"-p", prompt, "-n", prompt, "-o", "a.mp4"});
  EXPECT_TRUE(std::regex_search(result.out, std::regex("note: the prompt has \\d+ tokens: the last \\d+ are cut off")))
      << result.out;
  EXPECT_TRUE(std::regex_search(result.out, std::regex("note: the negative prompt has \\d+ tokens"))) << result.out;
}

TEST_F(Command, TakesPromptsOfNoWordsAndOfAnyScript) {
  for (const std::string prompt :
       {"", "   ", "a na\xc3\xafve \xe7\x90\x83 \xf0\x9f\x94\xb4", "&lt;b&gt; &amp;amp; </s> <pad>", "--prompt"}) {
    generate({"--prompt=" + prompt, "--num-frames", "1", "--num-inference-steps", "1", "-o", "a.png"});
    EXPECT_EQ(settings_in(folder_ / "a.png").at("prompt"), prompt);
  }
}

TEST_F(Command, QuietPrintsNothing) {
  EXPECT_EQ(generate({"-p", "a red circle", "--width", "75", "-q", "-o", "a.mp4"}).out, "");
  EXPECT_TRUE(fs::exists(folder_ / "a.mp4"));
}

TEST_F(Command, OverwritesAVideoAndFillsAnEmptyFolder) {
  testing::write_bytes(folder_ / "a.mp4", "something else");
  fs::create_directory(folder_ / "frames");
  generate({"-p", "a red circle", "-o", "a.mp4"});
  generate({"-p", "a red circle", "-o", "frames/"});
  EXPECT_EQ(read_video(folder_ / "a.mp4").frames.size(), 5u);
  EXPECT_EQ(names_in(folder_ / "frames").size(), 5u);
}

TEST_F(Command, ControlCStopsSoonAndLeavesNothing) {
  for (const int signal : {SIGINT, SIGTERM}) {
    const CommandResult result = zoe({"generate", "-p", "a red circle", "--threads", "1", "-o", "a.mp4"},
                                     {.signal_after = "denoise 1/30", .signal = signal});
    EXPECT_EQ(result.code, 128 + signal) << result.out << result.err;
    EXPECT_LT(result.seconds_after_signal, 3);
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_TRUE(fs::is_empty(folder_));
  }
}

// While frames are written there is a file to remove.
TEST_F(Command, ControlCWhileDecodingLeavesNothing) {
  const CommandResult result =
      zoe({"generate", "-p", "a red circle", "--num-inference-steps", "1", "--num-frames", "257", "--threads", "1", "-o", "a.mp4"},
          {.signal_after = "decode 1/65"});
  EXPECT_EQ(result.code, 130) << result.out << result.err;
  EXPECT_LT(result.seconds_after_signal, 3);
  EXPECT_TRUE(fs::is_empty(folder_));
}

// What is said before a run and what the system counted: within 5 %, or 2 MiB where a whole run takes little. On cores with AMX
// oneDNN's convolutions in bf16 keep megabytes of tables each, on others (which its limit stands for) next to nothing.
TEST_F(Command, TakesTheMemoryItSaid) {
  const std::regex pattern(R"(peak memory: (\d+) MiB \((\d+) MiB planned\))");
  struct Run {
    std::string dtype, width, height, frames, batch, isa = "ALL";
  };
  // The decoder takes most of 128x128, the transformer most of a long 64x64, the convolutions' tables a fifth of 512x512.
  for (const Run& run : {Run{"f32", "64", "64", "5", "off"},
                         {"f32", "128", "128", "33", "on"},
                         {"f32", "64", "64", "257", "off"},
                         {"f32", "64", "64", "257", "on"},
                         {"bf16", "64", "64", "5", "off"},
                         {"bf16", "128", "128", "33", "on"},
                         {"bf16", "64", "64", "257", "off"},
                         {"bf16", "64", "64", "257", "on"},
                         {"bf16", "512", "512", "5", "on"},
                         {"bf16", "64", "64", "5", "off", "AVX512_CORE_BF16"},
                         {"bf16", "128", "128", "33", "on", "AVX512_CORE_BF16"}}) {
    const std::vector<std::string> arguments{
        "-p",
        "a red circle",
        "--dtype",
        run.dtype,
        "--width",
        run.width,
        "--height",
        run.height,
        "--num-frames",
        run.frames,
        "--guidance-batch",
        run.batch,
        "-o",
        run.width == "512" ? "frames" : "a.mp4"};  // few large frames do not fill x264's lookahead, which is counted full
    // One arena of malloc's: where threads meet on a busy machine each gets its own, and up to 3 MiB lie in them unused.
    const CommandOptions options{.environment = {{"ONEDNN_MAX_CPU_ISA", run.isa}, {"MALLOC_ARENA_MAX", "1"}}};
    // Its kernels are compiled by a run before: on a busy machine that has left 5 MiB behind, which the next run does not have.
    generate(arguments, options);
    fs::remove_all(folder_ / "frames");
    const CommandResult result = generate(arguments, options);
    fs::remove_all(folder_ / "frames");
    std::smatch match;
    ASSERT_TRUE(std::regex_search(result.out, match, pattern)) << result.out;
    const double peak = std::stod(match[1]), planned = std::stod(match[2]);
    std::printf("%s, %s, %sx%sx%s, batch %s: %.0f MiB, %.0f planned (%+.1f %%)\n", run.isa.c_str(), run.dtype.c_str(),
                run.width.c_str(), run.height.c_str(), run.frames.c_str(), run.batch.c_str(), peak, planned,
                100 * (peak / planned - 1));
    // Where there is no AVX-512, oneDNN's f32 products of many rows, which are those of bf16 there, too, keep blocks of their
    // operands that it says nothing of.
    const double untold = __builtin_cpu_supports("avx512f") ? 2.0 : 8.0;
    EXPECT_NEAR(peak, planned, std::max(0.05 * planned, untold)) << result.out;
  }
}

TEST_F(Command, FindsTheEmbeddedModelFromAnywhere) {
  generate({"-p", "a red circle", "-o", (folder_ / "a.mp4").string()}, {.folder = "/", .environment = {{"HOME", "/proc/none"}}});
  EXPECT_EQ(names_in(folder_), (std::vector<std::string>{"a.mp4"}));
  fs::create_symlink(ZOE_COMMAND, folder_ / "linked");
  EXPECT_EQ(testing::run_command({(folder_ / "linked").string(), "info"}).code, 0);
}

TEST_F(Command, SaysItsVersionAndItsOptions) {
  const CommandResult version = zoe({"--version"});
  EXPECT_EQ(version.code, 0);
  EXPECT_TRUE(std::regex_match(version.out, std::regex("zoe \\d+\\.\\d+\\.\\d+\n"))) << version.out;
  const CommandResult help = zoe({"--help"});
  EXPECT_EQ(help.code, 0);
  for (const char* command : {"generate", "info", "platforms", "bench", "explain", "verify"}) {
    EXPECT_NE(help.out.find(command), std::string::npos) << help.out;
    const CommandResult more = zoe({command, "--help"});
    EXPECT_EQ(more.code, 0);
    EXPECT_EQ(more.err, "");
    EXPECT_NE(more.out.find(command), std::string::npos) << more.out;
  }
  const std::string options = zoe({"generate", "--help"}).out;
  for (const char* option : {"--model-path",     "--prompt",     "--prompt-file", "--negative-prompt",
                             "--height",         "--width",      "--num-frames",  "--num-inference-steps",
                             "--guidance-scale", "--flow-shift", "--fps",         "--scheduler",
                             "--seed",           "--output",     "--platform",    "--dtype",
                             "--threads",        "--compile",    "--override",    "--compile-exclude",
                             "--profile",        "--quiet",      "--verbose",     "--guidance-batch"})
    EXPECT_NE(options.find(option), std::string::npos) << option;
}

TEST_F(Command, NamesThePlatforms) {
  const CommandResult result = zoe({"platforms"});
  EXPECT_EQ(result.code, 0);
  EXPECT_TRUE(std::regex_search(result.out, std::regex("cpu +yes +.+"))) << result.out;
}

TEST_F(Command, ProfilesARun) {
  generate({"-p", "a red circle", "--guidance-batch", "off", "--profile", "trace.json", "-o", "a.mp4"});
  EXPECT_EQ(names_in(folder_), (std::vector<std::string>{"a.mp4", "trace.json"}));
  const json trace = json::parse(read_bytes(folder_ / "trace.json"));
  std::map<std::string, int> phases, plans;
  for (const json& event : trace.at("traceEvents")) {
    if (event.at("ph") != "X") continue;
    if (event.at("tid") == 1) ++phases[event.at("name")];
    else ++plans[event.at("args").at("plan")];
  }
  for (const char* phase :
       {"prepare", "load for denoise", "encode", "text keys and values", "step 1", "step 2", "decode 1", "decode 2"})
    EXPECT_EQ(phases[phase], 1) << phase;
  EXPECT_EQ(phases["write"], 6);       // five frames, and the end of the file
  EXPECT_EQ(plans.size(), 7u);         // encoder, text keys, step, update, finite, first frame, later frames
  EXPECT_EQ(plans["wan_dit"] % 4, 0);  // two steps, two forwards of each

  const CommandResult bench = zoe({"bench", "transformer", "--size", "toy", "--height", "64", "--width", "64", "--num-frames", "5",
                                   "--repeat", "1", "--threads", "1", "--profile", "bench.json"});
  ASSERT_EQ(bench.code, 0) << bench.err;
  EXPECT_GT(json::parse(read_bytes(folder_ / "bench.json")).at("traceEvents").size(), 100u);
}

// The name of a step's chain, then its figures, then why.
TEST_F(Command, ExplainsAPlan) {
  const std::vector<std::string> small{"explain", "--height", "64", "--width", "64", "--num-frames", "5", "--dtype", "f32"};
  const auto explain = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = small;
    arguments.insert(arguments.end(), more.begin(), more.end());
    const CommandResult result = zoe(arguments);
    EXPECT_EQ(result.code, 0) << result.err << result.line;
    return result.out;
  };
  for (const std::string platform : {"cpu", "null"}) {
    const std::string text = explain({"--platform", platform});
    for (const std::string& piece : {std::string("toy-wan: transformer at 64x64, 5 frames, 512 text tokens, f32 on ") + platform,
                                     std::string("plan wan_dit: "), std::string("norm_scale_shift | "),
                                     std::string("attention scale=0.125"), std::string("times the traffic")})
      EXPECT_NE(text.find(piece), std::string::npos) << "lacks " << piece << "\n" << text;
    EXPECT_TRUE(std::regex_search(text, std::regex("blocks \\d to \\d are as block \\d"))) << text;
    std::smatch compiled, uncompiled;
    ASSERT_TRUE(std::regex_search(text, compiled, std::regex("compiled +(\\d+) steps +(\\d+) kernels +([\\d.]+) MiB"))) << text;
    ASSERT_TRUE(std::regex_search(text, uncompiled, std::regex("uncompiled +(\\d+) steps +(\\d+) kernels +([\\d.]+) MiB"))) << text;
    EXPECT_LT(std::stoi(compiled[1]), std::stoi(uncompiled[1]));
    EXPECT_LT(std::stod(compiled[3]), std::stod(uncompiled[3]));
  }
  EXPECT_NE(explain({"--compile", "off"}).find("not compiled: the engine's switch is off (--compile off)"), std::string::npos);
  // Which row runs, why none before it, and that --override has its way.
  const std::string rows = explain({"--platform", "cpu", "--block", "1"});
  EXPECT_NE(rows.find(": onednn_matmul, onednn"), std::string::npos) << rows;
  EXPECT_NE(rows.find("not amx_linear: "), std::string::npos) << rows;
  EXPECT_NE(rows.find(": vector_attention, "), std::string::npos) << rows;
  EXPECT_NE(explain({"--platform", "cpu", "--block", "1", "--override", "no-generated"}).find("not generated: forbidden"),
            std::string::npos);
  const std::string passes = explain({"--platform", "null", "--passes"});
  for (const char* pass : {"// after trace\n", "// after inline_calls\n", "// after fuse\n"})
    EXPECT_NE(passes.find(pass), std::string::npos) << pass;
  std::ofstream(folder_ / "policy.json") << R"({"rows": [{"platform": "null", "op": "rms_norm", "reason": "slow here"}]})";
  EXPECT_NE(explain({"--platform", "null", "--compile-policy", (folder_ / "policy.json").string()}).find("not compiled: slow here"),
            std::string::npos);
  EXPECT_NE(explain({"--compile-exclude", "rms_norm"}).find("not compiled: rms_norm is excluded"), std::string::npos);
  const std::string block = explain({"--block", "1", "--source", "--platform", "null"});
  EXPECT_NE(block.find("// norm_scale_shift ("), std::string::npos) << block;
  EXPECT_EQ(block.find("   0     0 "), std::string::npos) << block;
  for (const std::string part : {"text-keys", "text-encoder", "vae-decode"}) explain({"--part", part, "--platform", "null"});
  EXPECT_NE(explain({"--batch", "2", "--platform", "null"}).find("attention scale=0.125 f32[2,32,"), std::string::npos);
  EXPECT_NE(explain({"wan2.1-t2v-1.3b", "--platform", "null", "--block", "30"}).find("f32[1,32,1536]"), std::string::npos);
}

TEST_F(Command, VerifiesTheEmbeddedModel) {
  const CommandResult result = zoe({"verify", "--threads", "1", "--dtype", "f32", "--num-inference-steps", "1"});
  EXPECT_EQ(result.code, 0) << result.err << result.out;
  EXPECT_NE(result.out.find("promised: the same bits"), std::string::npos) << result.out;
  EXPECT_NE(result.out.find("wan_dit: norm_scale_shift"), std::string::npos) << result.out;
  EXPECT_TRUE(std::regex_search(result.out, std::regex("ok +1 +2048 +0 +0 +final latents"))) << result.out;
  EXPECT_TRUE(std::regex_search(result.out, std::regex("\\d\\d chains hold\n"))) << result.out;
}

// Nothing of it changes a bit.
TEST_F(Command, CompileSwitchesKeepTheVideo) {
  generate({"-p", "a red circle", "-o", "on"});
  for (const std::vector<std::string>& more :
       {std::vector<std::string>{"--compile", "off"}, {"--override=no-generated"}, {"--compile-exclude", "rms_norm,mul_add"}}) {
    std::vector<std::string> arguments{"-p", "a red circle", "-o", more[0]};
    arguments.insert(arguments.end(), more.begin(), more.end());
    generate(arguments);
    EXPECT_EQ(read_frames(folder_ / "on"), read_frames(folder_ / more[0])) << more[0];
  }
}

TEST_F(Command, DescribesTheEmbeddedModel) {
  const CommandResult result = zoe({"info"});
  EXPECT_EQ(result.code, 0) << result.err;
  for (const char* text : {"toy-wan", "text_encoder", "umT5: 3 layers, 128 wide", "Wan: 8 layers, 256 wide, 4 heads of 64",
                           "patch 1x2x2", "vae", "scheduler     unipc, flow shift 3", "text to video: yes"})
    EXPECT_NE(result.out.find(text), std::string::npos) << "lacks " << text << ": " << result.out;
}

// The published sizes, as files without content.
TEST_F(Command, DescribesPublishedModels) {
  const fs::path recorded = fs::path(ZOE_FIXTURES) / "checkpoints";
  for (const auto& [name, parameters, shards] :
       {std::tuple<std::string, std::string, std::size_t>{"wan2.1-t2v-1.3b", "1.42 B", 2}, {"wan2.1-t2v-14b", "14.29 B", 12}}) {
    const fs::path model = folder_ / name;
    const auto part = [&](const std::string& folder, const std::string& stem, const fs::path& from, std::size_t count) {
      testing::write_sparse_checkpoint(model / folder, stem, testing::read_checkpoint_list(from / "keys.txt"), count);
      fs::copy_file(from / "config.json", model / folder / "config.json");
    };
    part("transformer", "diffusion_pytorch_model", recorded / name / "transformer", shards);
    part("vae", "diffusion_pytorch_model", recorded / "wan2.1-vae", 1);
    part("text_encoder", "model", recorded / "umt5-xxl", 5);
    fs::copy_file(recorded / "wan2.1-t2v-1.3b/model_index.json", model / "model_index.json");
    fs::copy(recorded / "wan2.1-t2v-1.3b/scheduler", model / "scheduler");
    fs::create_directory_symlink(fs::path(ZOE_MODELS) / "toy-wan/tokenizer", model / "tokenizer");
    const CommandResult result = zoe({"info", name});
    EXPECT_EQ(result.code, 0) << result.err;
    for (const std::string& text :
         {name, parameters + " parameters", std::to_string(shards) + " files",
          std::string("umT5: 24 layers, 4096 wide, 64 heads of 64, vocabulary 256384"),
          std::string("defaults      832x480, 81 frames at 16 fps, 50 steps, guidance 5"), std::string("text to video: yes")})
      EXPECT_NE(result.out.find(text), std::string::npos) << "lacks " << text << ": " << result.out;
    fs::remove_all(model);
  }
}

TEST_F(Command, TimesTheToyModel) {
  for (const std::string part : {"transformer", "vae-decode", "text-encoder"}) {
    const CommandResult result = zoe({"bench", part, "--size", "toy", "--height", "64", "--width", "64", "--num-frames", "5",
                                      "--repeat", "2", "--threads", "1"});
    ASSERT_EQ(result.code, 0) << result.err;
    const json line = json::parse(result.out);
    EXPECT_EQ(line.at("what"), part);
    EXPECT_GT(line.at("median_s").get<double>(), 0);
    EXPECT_GT(line.at("gflop").get<double>(), 0);
  }
  const CommandResult result = zoe({"bench", "transformer", "--size", "toy", "--height", "64", "--width", "64", "--num-frames", "5",
                                    "--repeat", "2", "--threads", "1", "--guidance"});
  ASSERT_EQ(result.code, 0) << result.err;
  const json line = json::parse(result.out.substr(result.out.find('\n')));
  EXPECT_EQ(line.at("what"), "guidance");
  for (const char* seconds : {"two_forwards_s", "batch_of_two_s"}) EXPECT_GT(line.at(seconds).get<double>(), 0);
  EXPECT_GT(line.at("batch_workspace_mib").get<double>(), line.at("one_workspace_mib").get<double>());
}

}  // namespace
}  // namespace zoe
