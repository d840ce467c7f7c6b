// What the command says and takes beside the video: JSON, help, completion, man page, progress, notices, runs again from a file.
#include <gtest/gtest.h>
#include <pty.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>

#include "testing/read_video.h"
#include "testing/run_command.h"
#include "testing/temporary_folder.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::CommandOptions;
using testing::CommandResult;

std::string read_bytes(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class FrontEnd : public ::testing::Test {
 protected:
  CommandResult zoe(std::vector<std::string> arguments, CommandOptions options = {}) const {
    arguments.insert(arguments.begin(), ZOE_COMMAND);
    if (options.folder.empty()) options.folder = folder_;
    return testing::run_command(arguments, options);
  }

  // A run that must work, of one frame in one step unless more arguments say otherwise.
  CommandResult generate(const std::vector<std::string>& more, bool sized = true) const {
    std::vector<std::string> arguments{"generate", "--threads", "1"};
    if (sized) arguments.insert(arguments.end(), {"--size", "64x64", "--num-frames", "1", "--num-inference-steps", "1"});
    arguments.insert(arguments.end(), more.begin(), more.end());
    const CommandResult result = zoe(arguments);
    EXPECT_EQ(result.code, 0) << result.err << result.line;
    EXPECT_EQ(result.err, "") << result.line;
    return result;
  }

  json json_of(const std::vector<std::string>& arguments, int code = 0) const {
    const CommandResult result = zoe(arguments);
    EXPECT_EQ(result.code, code) << result.err << result.line;
    EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '\n'), 1) << result.out;
    return json::parse(result.out);
  }

  // As in a shell: stdin from a file.
  CommandResult shell(const std::string& line) const {
    return testing::run_command({"/bin/sh", "-c", line}, {.folder = folder_, .environment = {{"ZOE", ZOE_COMMAND}}});
  }

  void copy_toy(const fs::path& to) const {
    for (const auto& entry : fs::recursive_directory_iterator(ZOE_MODELS "/toy-wan")) {
      const fs::path place = to / fs::relative(entry.path(), ZOE_MODELS "/toy-wan");
      if (entry.is_directory() || place.string().find("/training/") != std::string::npos) continue;
      fs::create_directories(place.parent_path());
      fs::create_symlink(fs::absolute(entry.path()), place);
    }
  }

  const testing::TemporaryFolder temporary_;
  const fs::path folder_ = temporary_.path();
};

bool has(const std::string& text, std::string_view piece) { return text.find(piece) != std::string::npos; }

// --- JSON ------------------------------------------------------------------------------------------------------------------------

void keys_in(const json& value, std::set<std::string>& keys) {
  for (const auto& [key, element] : value.items()) {
    if (value.is_object()) keys.insert(key);
    if (element.is_structured()) keys_in(element, keys);
  }
}

// Each key that is ever printed is in the docs.
TEST_F(FrontEnd, JsonIsAsTheDocsSay) {
  const std::string docs = read_bytes(ZOE_FIXTURES "/../../docs/json.md");
  const json info = json_of({"info", "--json"});
  EXPECT_EQ(info.at("model"), "toy-wan");
  EXPECT_EQ(info.at("runs"), true);
  EXPECT_GT(info.at("parts").at("transformer").at("parameters"), 1'000'000);
  const json platforms = json_of({"platforms", "--json"});
  EXPECT_TRUE(std::any_of(platforms.at("platforms").begin(), platforms.at("platforms").end(),
                          [](const json& platform) { return platform.at("platform") == "cpu" && platform.at("opens") == true; }));
  const json explained = json_of({"explain", "--part", "text-keys", "--platform", "null", "--json"});
  const json& plan = explained.at("plans").at(0);
  EXPECT_EQ(plan.at("steps").size(), plan.at("totals").at("steps"));
  const json verified = json_of({"verify", "--num-frames", "1", "--num-inference-steps", "1", "--threads", "1", "--json"});
  EXPECT_EQ(verified.at("passed"), true);
  EXPECT_GT(verified.at("chains").size(), 10u);
  EXPECT_EQ(verified.at("request").at("num_inference_steps"), 1);
  const json made = json_of({"generate", "-p", "a red circle", "--size", "75x64", "--frames", "1", "--steps", "1", "--seed", "7,8",
                             "--threads", "1", "-o", "a.png", "--json"});
  EXPECT_EQ(made.at("videos").size(), 2u);
  EXPECT_EQ(made.at("videos").at(1).at("path"), "a-0002.png");
  EXPECT_EQ(made.at("videos").at(1).at("request").at("seed"), 8);
  EXPECT_TRUE(has(made.at("notes").at(0), "size 75x64 becomes 64x64"));
  EXPECT_GT(made.at("seconds").at("total"), 0);
  std::set<std::string> keys;
  json requests = made;
  for (json& video : requests.at("videos")) video.erase("request");  // fields of a request have a page of their own
  json without = verified;
  without.erase("request");
  json parts = info;
  for (json& part : parts.at("parts")) {
    part.erase("dtypes");  // names of dtypes
    part.erase("dtype_bytes");
  }
  json kinds = explained;
  for (json& one : kinds.at("plans"))
    for (const char* which : {"totals", "uncompiled"})
      for (json& kind : one.at(which).at("kinds")) keys_in(kind, keys);
  for (json& one : kinds.at("plans"))
    for (const char* which : {"totals", "uncompiled"}) one.at(which).erase("kinds");
  for (const json& value : {parts, platforms, kinds, without, requests}) keys_in(value, keys);
  EXPECT_GT(keys.size(), 60u);
  for (const std::string& key : keys) EXPECT_TRUE(has(docs, "`" + key + "`")) << key << " is not in docs/json.md";
}

// --- info ------------------------------------------------------------------------------------------------------------------------

TEST_F(FrontEnd, InfoSaysWhatKeepsAModelFromRunning) {
  copy_toy(folder_ / "model");
  fs::remove(folder_ / "model/tokenizer/spiece.model");
  fs::remove(folder_ / "model/vae/diffusion_pytorch_model.safetensors");
  const CommandResult result = zoe({"info", "model"});
  EXPECT_EQ(result.code == 2 || result.code == 4, true) << result.code;
  EXPECT_TRUE(has(result.out, "transformer")) << result.out;
  EXPECT_TRUE(has(result.out, "does not run: [vae] no weights")) << result.out;
  EXPECT_TRUE(has(result.out, "does not run: [tokenizer] ")) << result.out;
  EXPECT_FALSE(has(result.out, ": yes")) << result.out;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  const json report = json_of({"info", "model", "--json"}, result.code);
  EXPECT_EQ(report.at("runs"), false);
  EXPECT_EQ(report.at("problems").size(), 2u);
  std::ofstream(folder_ / "model/vae/diffusion_pytorch_model.safetensors") << "garbage";
  std::ofstream(folder_ / "model/tokenizer/spiece.model") << "garbage";
  EXPECT_EQ(json_of({"info", "model", "--json"}, 2).at("problems").size(), 2u);
}

TEST_F(FrontEnd, WhatIsNoModelFolderIsNamed) {
  const auto error = [&](const std::string& command, const std::string& name) {
    const CommandResult result = command == "info" ? zoe({"info", name}) : zoe({"generate", "-p", "x", "--model-path", name});
    EXPECT_EQ(result.code, 2) << result.line;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    return result.err;
  };
  for (const std::string command : {"info", "generate"}) {
    EXPECT_TRUE(has(error(command, "Wan-AI/Wan2.1-T2V-1.3B"),
                    "download it: hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers --local-dir Wan2.1-T2V-1.3B-Diffusers"));
    EXPECT_TRUE(has(error(command, "someone/their.model"), "hf download someone/their.model --local-dir their.model"));
    EXPECT_FALSE(has(error(command, "a/b/c"), "hf download"));
    EXPECT_FALSE(has(error(command, "./nothing"), "hf download"));
    const std::string where = command == "info" ? "zoe: [MODEL] " : "zoe: [--model-path] ";
    fs::create_directories(folder_ / "empty");
    std::ofstream(folder_ / "empty/config.json") << R"({"_class_name": "WanModel"})";
    EXPECT_TRUE(has(error(command, "empty"), where + "empty holds no model: got neither model_index.json nor weights"));
    EXPECT_TRUE(has(error(command, ZOE_MODELS "/toy-wan/vae"), "missing to run: a Wan transformer (--transformer FILE)"));
    EXPECT_TRUE(has(error(command, ZOE_MODELS "/toy-wan-i2v/loras/four_steps.safetensors"), "holds a LoRA"));
  }
}

// --- Prompts ---------------------------------------------------------------------------------------------------------------------

TEST_F(FrontEnd, PromptsComeFromStdin) {
  const std::string bom = "\xef\xbb\xbf";
  std::ofstream(folder_ / "prompts.txt", std::ios::binary) << bom << "a red circle\r\n\n  \na blue square";
  const CommandResult result =
      shell("\"$ZOE\" generate --prompt-file - --size 64x64 --frames 1 --steps 1 --threads 1 --json -o a.png < prompts.txt");
  ASSERT_EQ(result.code, 0) << result.err;
  const json made = json::parse(result.out);
  ASSERT_EQ(made.at("videos").size(), 2u);
  EXPECT_EQ(made.at("videos").at(0).at("request").at("prompt"), "a red circle");
  EXPECT_EQ(made.at("videos").at(1).at("request").at("prompt"), "a blue square");
  EXPECT_TRUE(fs::exists(folder_ / "a-0002.png"));
}

// --- Notices ---------------------------------------------------------------------------------------------------------------------

TEST_F(FrontEnd, NoticesWhereRunsGoWrong) {
  EXPECT_TRUE(has(generate({"-p", "x", "-n", "blurry", "--guidance-scale", "1", "-o", "a.png"}).out,
                  "note: the negative prompt has no effect: guidance 1 is off (above 1 it is on)"));
  EXPECT_FALSE(has(generate({"-p", "x", "-n", "blurry", "--guidance-scale", "1.1", "-o", "a.png"}).out, "negative prompt"));
  EXPECT_FALSE(has(generate({"-p", "x", "--guidance-scale", "1", "-o", "a.png"}).out, "negative prompt"));
  EXPECT_TRUE(
      has(generate({"-p", "x", "--num-frames", "37", "-o", "a.mp4"}).out, "note: 37 frames are more than the 33 of the model"));
  EXPECT_FALSE(has(generate({"-p", "x", "--num-frames", "33", "-o", "a.mp4"}).out, "frames are more"));
  const std::string few = generate({"-p", "x", "--scheduler", "euler", "--num-inference-steps", "4", "-o", "a.png"}).out;
  EXPECT_TRUE(has(few, "--sigmas 1,0.75,0.5,0.25")) << few;
  EXPECT_FALSE(has(generate({"-p", "x", "--scheduler", "euler", "--steps", "9", "-o", "a.png"}).out, "--sigmas"));
  EXPECT_FALSE(has(generate({"-p", "x", "--scheduler", "unipc", "--steps", "4", "-o", "a.png"}).out, "--sigmas"));
  EXPECT_FALSE(has(
      generate({"-p", "x", "--size", "64x64", "--frames", "1", "--scheduler", "euler", "--sigmas", "1,0.5", "-o", "a.png"}, false)
          .out,
      "--sigmas"));
}

// --- Hints -----------------------------------------------------------------------------------------------------------------------

TEST_F(FrontEnd, HintsOnlyWhereNear) {
  const auto error = [&](const std::string& option) { return zoe({"generate", "-p", "x", option, "1"}).err; };
  EXPECT_TRUE(has(error("--stepz"), "Did you mean --num-inference-steps?")) << error("--stepz");
  EXPECT_TRUE(has(error("--cfg_scal"), "Did you mean --guidance-scale?")) << error("--cfg_scal");
  EXPECT_TRUE(has(error("--batch-count"), "See --seed")) << error("--batch-count");
  EXPECT_TRUE(has(error("--num_videos_per_prompt"), "See --seed")) << error("--num_videos_per_prompt");
  EXPECT_TRUE(has(error("--treads"), "Did you mean --threads?")) << error("--treads");
  for (const char* far : {"--nope", "--vae-tiling", "--lora"}) EXPECT_FALSE(has(error(far), "Did you mean")) << error(far);
}

// --- Run again -------------------------------------------------------------------------------------------------------------------

TEST_F(FrontEnd, RunsAgainFromAFile) {
  for (const std::string name : {"a.mp4", "a.webm", "a.gif", "a.png", "frames"}) {
    generate({"-p", "a red circle, \xe2\x80\x9cround\xe2\x80\x9d", "-n", "grey", "--seed", "11", "--dtype", "f32", "--fps", "8",
              "--shift", "2.5", "--guidance-batch", "off", "-o", name});
    const CommandResult again = zoe({"generate", "--from", name, "--threads", "1", "-o", "again"});
    ASSERT_EQ(again.code, 0) << again.err << again.line;
    EXPECT_TRUE(has(again.out, "seed 11, f32")) << again.out;
    if (name == "frames") {
      EXPECT_EQ(read_bytes(folder_ / "again/0001.png"), read_bytes(folder_ / "frames/0001.png"));
    }
    fs::remove_all(folder_ / "again");
  }
  const json other =
      json_of({"generate", "--from", "a.mp4", "--seed", "12", "-p", "a blue square", "--threads", "1", "-o", "b.mp4", "--json"});
  EXPECT_EQ(other.at("videos").at(0).at("request").at("seed"), 12);
  EXPECT_EQ(other.at("videos").at(0).at("request").at("prompt"), "a blue square");
  EXPECT_EQ(other.at("videos").at(0).at("request").at("negative_prompt"), "grey");
  EXPECT_EQ(other.at("videos").at(0).at("request").at("flow_shift"), 2.5);
}

TEST_F(FrontEnd, LevelsAndStepsOfAFileAreReplacedTogether) {
  generate({"-p", "x", "--size", "64x64", "--frames", "1", "--sigmas", "1,0.5", "-o", "a.png"}, false);
  const auto request = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"generate", "--from", "a.png", "--threads", "1", "-o", "b.png", "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return json_of(arguments).at("videos").at(0).at("request");
  };
  EXPECT_EQ(request({}).at("sigmas"), json({1, 0.5}));
  EXPECT_EQ(request({"--sigmas", "1,0.6,0.3"}).at("num_inference_steps"), 3);
  EXPECT_FALSE(request({"--steps", "1"}).contains("sigmas"));
}

TEST_F(FrontEnd, RunsAgainOnlyWhatItMade) {
  const auto error = [&](const std::string& file) {
    const CommandResult result = zoe({"generate", "--from", file});
    EXPECT_TRUE(result.code == 2 || result.code == 4) << result.code;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_TRUE(has(result.err, "[--from]")) << result.err;
    return result.err;
  };
  EXPECT_TRUE(has(error("none.mp4"), "cannot open none.mp4"));
  std::ofstream(folder_ / "text.mp4") << "no video";
  EXPECT_TRUE(has(error("text.mp4"), "is no video"));
  std::ofstream(folder_ / "cut.png") << "\x89PNG\r\n\x1a\n";
  EXPECT_TRUE(has(error("cut.png"), "holds no settings of a run"));
  fs::create_directory(folder_ / "empty");
  EXPECT_TRUE(has(error("empty"), "holds no .png"));
  copy_toy(folder_ / "other-model");
  generate({"-p", "x", "--model-path", "other-model", "-o", "a.png"});
  EXPECT_TRUE(has(error("a.png"), "was made with the model \"other-model\""));
  EXPECT_EQ(zoe({"generate", "--from", "a.png", "--model-path", "other-model", "-o", "b.png", "--threads", "1"}).code, 0);
}

// --- Quality ---------------------------------------------------------------------------------------------------------------------

TEST_F(FrontEnd, ACrfIsQualityForBytes) {
  for (const std::string suffix : {".mp4", ".webm"}) {
    for (const std::string crf : {"10", "45"})
      generate({"-p", "a red circle", "--num-frames", "5", "--steps", "3", "--crf", crf, "-o", crf + suffix});
    EXPECT_LT(fs::file_size(folder_ / ("45" + suffix)), fs::file_size(folder_ / ("10" + suffix))) << suffix;
  }
  EXPECT_TRUE(has(testing::read_video(folder_ / "45.mp4").tags.at("comment"), R"("crf":"45")"));
  EXPECT_TRUE(
      has(zoe({"generate", "-p", "x", "--size", "64x64", "--frames", "1", "--crf", "60", "-o", "a.mp4"}).err, "bad crf: got 60"));
  EXPECT_TRUE(
      has(zoe({"generate", "-p", "x", "--size", "64x64", "--frames", "1", "--crf", "20", "-o", "a.gif"}).err, "a crf is for"));
}

// --- Help, completion, man page --------------------------------------------------------------------------------------------------

TEST_F(FrontEnd, TheFieldsOfARequestAreAsTheDocsSay) {
  EXPECT_EQ(zoe({"request-fields"}).out, read_bytes(ZOE_FIXTURES "/../../docs/requests.md"))
      << "build/zoe request-fields > docs/requests.md";
}

TEST_F(FrontEnd, HelpShowsOneNameAnOption) {
  const std::string help = zoe({"generate", "--help"}).out;
  EXPECT_TRUE(has(help, "-s,--seed ")) << help;
  EXPECT_FALSE(has(help, "--cfg-scale")) << help;
  EXPECT_FALSE(has(zoe({"--help"}).out, "request-fields"));
}

TEST_F(FrontEnd, CompletesInBash) {
  std::ofstream(folder_ / "zoe.bash") << zoe({"completion", "bash"}).out;
  const auto complete = [&](const std::string& words) {
    const CommandResult result =
        testing::run_command({"/bin/bash", "-c",
                              "source zoe.bash; COMP_WORDS=(" + words +
                                  "); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _zoe; printf '%s\\n' \"${COMPREPLY[@]}\""},
                             {.folder = folder_});
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(result.err, "");
    return result.out;
  };
  EXPECT_EQ(complete("zoe gen"), "generate\n");
  EXPECT_EQ(complete("zoe generate --num-f"), "--num-frames\n");
  EXPECT_EQ(complete("zoe generate --scheduler ''"), "unipc\neuler\nlcm\ndpm++\nrcm\n");
  EXPECT_EQ(complete("zoe generate --dtype b"), "bf16\n");
  EXPECT_EQ(complete("zoe generate --from zoe.b"), "zoe.bash\n");
  EXPECT_EQ(complete("zoe completion f"), "fish\n");
  EXPECT_EQ(complete("zoe generate --seed ''"), "\n");
}

// The other shells' scripts name every option; whether the shell takes them is asked where it is installed.
TEST_F(FrontEnd, CompletesInOtherShells) {
  for (const std::string shell_name : {"zsh", "fish"}) {
    const std::string script = zoe({"completion", shell_name}).out;
    EXPECT_TRUE(has(script, "num-inference-steps") && has(script, "unipc euler") && has(script, "explain")) << script;
    std::ofstream(folder_ / shell_name) << script;
    if (testing::run_command({"/bin/sh", "-c", "command -v " + shell_name}).code != 0) continue;
    const CommandResult parsed = testing::run_command({"/usr/bin/env", shell_name, "-n", shell_name}, {.folder = folder_});
    EXPECT_EQ(parsed.code, 0) << parsed.err;
  }
  const CommandResult unknown = zoe({"completion", "tcsh"});
  EXPECT_EQ(unknown.code, 2);
  EXPECT_TRUE(has(unknown.err, "[SHELL] got \"tcsh\", expected bash, zsh or fish.")) << unknown.err;
}

TEST_F(FrontEnd, TheManPageNamesEveryOption) {
  const std::string page = zoe({"man"}).out;
  EXPECT_TRUE(page.starts_with(".TH ZOE 1")) << page;
  for (const char* piece :
       {".SH ZOE GENERATE", "\\-\\-num\\-inference\\-steps", ".SH ZOE VERIFY", "\\-\\-compile\\-exclude", ".SH EXIT STATUS"})
    EXPECT_TRUE(has(page, piece)) << piece;
}

// --- Progress --------------------------------------------------------------------------------------------------------------------

// What a terminal of that many columns is sent.
std::string on_terminal(const std::vector<std::string>& arguments, unsigned short columns, const fs::path& folder) {
  const winsize size{.ws_row = 24, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
  int terminal = -1;
  const pid_t child = ::forkpty(&terminal, nullptr, nullptr, &size);
  if (child == 0) {
    std::vector<char*> argv;
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    if (::chdir(folder.c_str()) == 0) ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  std::string text;
  char bytes[4096];
  for (ssize_t got; (got = ::read(terminal, bytes, sizeof bytes)) > 0;) text.append(bytes, static_cast<std::size_t>(got));
  int status = 0;
  ::waitpid(child, &status, 0);
  ::close(terminal);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << text;
  return text;
}

TEST_F(FrontEnd, TheBarFitsTheTerminal) {
  for (const unsigned short columns : {20, 40, 80, 200}) {
    const std::string text = on_terminal(
        {ZOE_COMMAND, "generate", "-p", "x", "--size", "64x64", "--frames", "9", "--steps", "3", "--threads", "1", "-o", "a.mp4"},
        columns, folder_);
    std::size_t longest = 0, bars = 0;
    for (std::size_t at = text.find("\r\x1b[K"); at != std::string::npos; at = text.find("\r\x1b[K", at + 1)) {
      const std::size_t begin = at + 4, end = std::min(text.find_first_of("\r\n", begin), text.size());
      const std::string bar = text.substr(begin, end - begin);
      if (!bar.starts_with("denoise ") && !bar.starts_with("decode ")) continue;
      ++bars;
      longest = std::max(longest, bar.size());
      if (!bar.starts_with("denoise ")) continue;
      if (columns >= 40) {
        EXPECT_TRUE(std::regex_search(bar, std::regex("\\d:\\d\\d:\\d\\d left"))) << bar;
      }
      if (columns >= 80) {
        EXPECT_TRUE(has(bar, "s/step") && has(bar, "[")) << bar;
      }
    }
    EXPECT_GE(bars, 4u) << text;
    EXPECT_LT(longest, columns) << text;
    EXPECT_GT(longest, columns >= 80 ? 60u : 8u) << text;
  }
}

TEST_F(FrontEnd, LinesOfProgressWithoutATerminal) {
  const std::string out = generate({"-p", "x", "--num-frames", "9", "--steps", "3", "-o", "a.mp4"}).out;
  EXPECT_TRUE(std::regex_search(out, std::regex("\ndenoise 3/3  \\d+\\.\\d\\d s/step  0:00:\\d\\d  0:00:00 left\n"))) << out;
  EXPECT_FALSE(has(out, "\r"));
  EXPECT_TRUE(has(generate({"-p", "x", "-o", "a.png"}).out, ": 64x64, 1 frame, 1 step of")) << out;
}

}  // namespace
}  // namespace zoe
