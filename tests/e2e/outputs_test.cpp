// What a run writes is whole or absent, whatever happens to it: signals at any moment, closed descriptors, full disks, places that
// may not be written. And nothing else is lost.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <random>
#include <stdexcept>
#include <thread>

#include "testing/read_video.h"
#include "testing/run_command.h"
#include "testing/temporary_folder.h"
#include "testing/write_safetensors.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using testing::CommandOptions;
using testing::CommandResult;

const std::string kToy = std::string(ZOE_MODELS) + "/toy-wan";
const std::vector<std::string> kOutputs{"a.mp4", "a.mov", "a.mkv", "a.webm", "a.gif", "a.png", "a"};

std::string read_bytes(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Every file below a folder, with what it holds.
std::map<std::string, std::string> content(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const bool is_file = entry.is_regular_file() && !entry.is_symlink();
    files[fs::relative(entry.path(), folder).string()] = is_file ? read_bytes(entry.path()) : "-";
  }
  return files;
}

// The smallest run that writes several frames.
std::vector<std::string> small(const std::vector<std::string>& more = {}) {
  std::vector<std::string> arguments{
      ZOE_COMMAND, "generate",         "--height", "32",        "--width", "32", "--num-frames", "5", "--num-inference-steps",
      "1",         "--guidance-scale", "1",        "--threads", "1"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}
std::vector<std::string> with_prompt(const std::vector<std::string>& more) {
  std::vector<std::string> arguments = small({"-p", "a red circle"});
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

// "" if `path` holds all that a run of with_prompt() writes.
std::string what_is_wrong_with(const fs::path& path) {
  try {
    if (fs::is_directory(path)) {
      const std::size_t frames = testing::read_frames(path).size();
      return frames == 5 && std::distance(fs::directory_iterator(path), {}) == 5 ? "" : std::to_string(frames) + " frames";
    }
    const testing::ReadVideo video = testing::read_video(path);
    const std::size_t expected = path.extension() == ".png" ? 1 : 5;
    return video.frames.size() == expected ? "" : std::to_string(video.frames.size()) + " frames";
  } catch (const std::exception& error) {
    return error.what();
  }
}

std::size_t partial_files(const fs::path& folder) {
  return static_cast<std::size_t>(std::count_if(fs::directory_iterator(folder), {}, [](const fs::directory_entry& entry) {
    return entry.path().filename().string().starts_with(".zoe-");
  }));
}

class Outputs : public ::testing::Test {
 protected:
  const testing::TemporaryFolder temporary_;
  const fs::path folder_ = temporary_.path();
};

// --- Signals --------------------------------------------------------------------------------------------------------------------

// Starts the program, sends `signal` after `delay`, and again after `second` if that is not negative; the exit code.
int run_and_kill(const std::vector<std::string>& arguments, const fs::path& folder, int signal, std::chrono::microseconds delay,
                 std::chrono::microseconds second) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    const int null = ::open("/dev/null", O_RDWR);
    for (int fd = 0; fd <= 2; ++fd) ::dup2(null, fd);
    for (const int each : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) std::signal(each, SIG_DFL);  // also where the test runs with nohup
    if (::chdir(folder.c_str()) != 0) ::_exit(127);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  std::this_thread::sleep_for(delay);
  ::kill(child, signal);
  if (second.count() >= 0) {
    std::this_thread::sleep_for(second);
    ::kill(child, signal);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// ZOE_KILL_MOMENTS=200 build/test_e2e --gtest_filter='Outputs.KilledAtAnyMoment' for a long run.
TEST_F(Outputs, KilledAtAnyMoment) {
  const char* const wanted = std::getenv("ZOE_KILL_MOMENTS");
  const int moments = wanted ? std::atoi(wanted) : 3;
  std::mt19937 random(static_cast<unsigned>(moments));
  for (const std::string& output : kOutputs) {
    const fs::path path = folder_ / output;
    double seconds = 0;  // of a run that is left alone
    const auto run_whole = [&] {
      const CommandResult result = testing::run_command(with_prompt({"-o", output}), {.folder = folder_});
      EXPECT_EQ(result.code, 0) << result.err;
      EXPECT_EQ(what_is_wrong_with(path), "") << output;
      seconds = result.seconds;
      fs::remove_all(path);
    };
    run_whole();
    run_whole();
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGKILL}) {
      int whole = 0, stopped = 0, partial = 0;
      for (int i = 0; i < moments; ++i) {
        // Two of three in the second half of the run, where files are written.
        const double part = i % 3 == 0 ? 0.6 * std::generate_canonical<double, 32>(random)
                                       : 0.5 + 0.55 * std::generate_canonical<double, 32>(random);
        const auto delay = std::chrono::microseconds(static_cast<long>(1e6 * part * seconds));
        const auto second = std::chrono::microseconds(i % 2 ? static_cast<long>(random() % 20'000) : -1);
        const int code = run_and_kill(with_prompt({"-o", output}), folder_, signal, delay, second);
        EXPECT_TRUE(code == 0 || code == 128 + signal) << output << ", signal " << signal << ": " << code;
        if (fs::exists(path)) {
          EXPECT_EQ(what_is_wrong_with(path), "") << output << ", signal " << signal << " after " << delay.count() << " us";
          ++whole;
        } else {
          EXPECT_NE(code, 0) << output;
        }
        stopped += code != 0;
        if (signal != SIGKILL) {
          EXPECT_EQ(partial_files(folder_), 0u) << output << ", signal " << signal << " after " << delay.count() << " us";
        }
        partial = std::max(partial, static_cast<int>(partial_files(folder_)));
        fs::remove_all(path);
      }
      if (signal == SIGKILL) run_whole();
      EXPECT_TRUE(fs::is_empty(folder_)) << output << ", signal " << signal;
      if (wanted)
        std::printf("%-7s signal %2d: %d runs, %d stopped, %d whole, up to %d left by KILL\n", output.c_str(), signal, moments,
                    stopped, whole, partial);
    }
  }
}

// nohup, and shells for jobs in the background.
TEST_F(Outputs, SignalsThatAreIgnoredStaySo) {
  for (const int signal : {SIGHUP, SIGINT}) {
    const CommandResult result =
        testing::run_command(with_prompt({"--num-inference-steps", "10", "-o", "a.png"}),
                             {.folder = folder_, .signal_after = "denoise 1/10", .signal = signal, .in_child = [signal] {
                                std::signal(signal, SIG_IGN);
                              }});
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(what_is_wrong_with(folder_ / "a.png"), "");
  }
}

// `zoe ... | head`: whoever reads has gone.
TEST_F(Outputs, AReaderThatGoesEndsTheRun) {
  const auto closed_pipe = [] {
    int ends[2];
    if (::pipe(ends) != 0) ::_exit(126);
    ::dup2(ends[1], STDOUT_FILENO);
    ::close(ends[0]);
    ::close(ends[1]);
  };
  for (const std::vector<std::string>& arguments : {with_prompt({"--num-inference-steps", "30", "-o", "a.mp4"}),
                                                    {ZOE_COMMAND, "info"},
                                                    {ZOE_COMMAND, "--help"},
                                                    {ZOE_COMMAND, "generate", "--help"},
                                                    {ZOE_COMMAND, "--version"},
                                                    {ZOE_COMMAND, "platforms"}}) {
    const CommandResult result = testing::run_command(arguments, {.folder = folder_, .in_child = closed_pipe});
    EXPECT_EQ(result.code, 141) << result.line << result.err;
    EXPECT_LE(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_TRUE(fs::is_empty(folder_)) << result.line;
  }
}

// --- Descriptors that are closed ------------------------------------------------------------------------------------------------

TEST_F(Outputs, ClosedDescriptorsGetNothingIntoTheFile) {
  for (const std::string& output : kOutputs) {
    const CommandResult usual = testing::run_command(with_prompt({"-o", output}), {.folder = folder_});
    ASSERT_EQ(usual.code, 0) << usual.err;
    fs::rename(folder_ / output, folder_ / ("usual-" + output));
    for (int closed = 1; closed < 8; ++closed) {
      const CommandResult result = testing::run_command(with_prompt({"-o", output}), {.folder = folder_, .in_child = [closed] {
                                                                                        for (int fd = 0; fd <= 2; ++fd)
                                                                                          if (closed >> fd & 1) ::close(fd);
                                                                                      }});
      EXPECT_EQ(result.code, 0) << output << ", closed " << closed << ": " << result.err;
      EXPECT_EQ(result.err, "");
      EXPECT_EQ(what_is_wrong_with(folder_ / output), "") << output << ", closed " << closed;
      // Matroska files have a random identity.
      if (output != "a.webm" && output != "a.mkv" && output != "a") {
        EXPECT_TRUE(read_bytes(folder_ / output) == read_bytes(folder_ / ("usual-" + output))) << output << ", closed " << closed;
      }
      if (output == "a") {
        EXPECT_TRUE(content(folder_ / output) == content(folder_ / ("usual-" + output))) << "closed " << closed;
      }
      fs::remove_all(folder_ / output);
      // An error has the same code where nobody hears of it.
      if (output == "a.png") {
        const CommandResult refused = testing::run_command(small({"-o", output}), {.folder = folder_, .in_child = [closed] {
                                                                                     for (int fd = 0; fd <= 2; ++fd)
                                                                                       if (closed >> fd & 1) ::close(fd);
                                                                                   }});
        EXPECT_EQ(refused.code, 2);
        EXPECT_EQ(refused.err.empty(), (closed & 4) != 0) << refused.err;
      }
    }
    fs::remove_all(folder_ / ("usual-" + output));
  }
  EXPECT_TRUE(fs::is_empty(folder_));
}

// --- Everything else that can go wrong with a place ------------------------------------------------------------------------------

struct Case {
  std::string name;
  std::vector<std::string> arguments;
  int code;
  std::vector<std::string> pieces = {};  // of the one line on stderr, in this order
  std::function<void(const fs::path& folder)> prepare = {};
  std::function<void()> in_child = {};
  rlim_t max_file_bytes = RLIM_INFINITY;
  bool finishes = false;  // the video is there, although the code is not 0
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

void write(const fs::path& path, const std::string& text) { testing::write_bytes(path, text); }

void stdout_is_full() { ::dup2(::open("/dev/full", O_WRONLY), STDOUT_FILENO); }

// Root, as tests often run, may write everywhere: without these rights it may no more than a file's owner. (Another user might not
// reach the program: it may lie in root's home.)
void as_an_owner() {
  if (::geteuid() != 0) return;
  for (const int right : {CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER})
    if (::prctl(PR_CAPBSET_DROP, right, 0, 0, 0) != 0) ::_exit(126);
}

std::function<void(const fs::path&)> all_of(std::vector<std::function<void(const fs::path&)>> steps) {
  return [steps](const fs::path& folder) {
    for (const auto& step : steps) step(folder);
  };
}

void copy_model(const fs::path& folder) {
  fs::create_directory(folder / "model");
  fs::copy(kToy, folder / "model", fs::copy_options::recursive);
}

std::vector<Case> cases() {
  std::vector<Case> all;
  const auto add = [&](Case c) { all.push_back(std::move(c)); };
  const std::string long_name(255, 'n');

  // Full: where text goes.
  const std::vector<std::pair<std::string, std::vector<std::string>>> talkers{
      {"Version", {ZOE_COMMAND, "--version"}},
      {"Help", {ZOE_COMMAND, "--help"}},
      {"HelpOfGenerate", {ZOE_COMMAND, "generate", "--help"}},
      {"Info", {ZOE_COMMAND, "info"}},
      {"Platforms", {ZOE_COMMAND, "platforms"}},
      {"Explain", {ZOE_COMMAND, "explain", "--height", "32", "--width", "32", "--num-frames", "1", "--platform", "null"}},
      {"Verify", {ZOE_COMMAND, "verify", "--height", "32", "--width", "32", "--num-frames", "1", "--num-inference-steps", "1"}},
      {"Bench",
       {ZOE_COMMAND, "bench", "transformer", "--size", "toy", "--height", "32", "--width", "32", "--num-frames", "1", "--repeat",
        "1"}}};
  for (const auto& [name, arguments] : talkers)
    add({"FullStdout" + name, arguments, 4, {"[output] cannot write to the standard output"}, {}, stdout_is_full});
  add({"FullStdoutGenerate",
       with_prompt({"-o", "a.mp4"}),
       4,
       {"[output] cannot write to the standard output"},
       {},
       stdout_is_full,
       RLIM_INFINITY,
       true});
  add({"FullStdoutOfAnError", small(), 2, {"no prompt given"}, {}, stdout_is_full});
  add({"FullStderr", small(), 2, {}, {}, [] { ::dup2(::open("/dev/full", O_WRONLY), STDERR_FILENO); }});

  // Full: where files go. The limit is per file.
  for (const std::string& output : kOutputs)
    for (const rlim_t limit : {0, 900})
      add({"FullDisk" + std::to_string(limit) + output,
           with_prompt({"-o", output}),
           4,
           {"[output] cannot write", "File too large", "Free some space"},
           {},
           {},
           limit});
  add({"FullDiskWithAnOlderFile",
       with_prompt({"-o", "a.mp4"}),
       4,
       {"File too large"},
       [](const fs::path& folder) { write(folder / "a.mp4", "older"); },
       {},
       900});
  add({"FullDiskForTheProfile",
       with_prompt({"-o", "a.mp4", "--profile", "trace.json"}),
       4,
       {"trace", "File too large"},
       {},
       {},
       6000,
       true});

  // Permission.
  const auto closed = [](const std::string& name, int mode) {
    return [=](const fs::path& folder) {
      fs::create_directory(folder / name);
      fs::permissions(folder / name, static_cast<fs::perms>(mode));
    };
  };
  for (const std::string& output : kOutputs)
    add({"ReadOnlyFolder" + output,
         with_prompt({"-o", "closed/" + output}),
         4,
         {"[output] cannot write into closed: Permission denied. Choose another folder."},
         closed("closed", 0555),
         as_an_owner});
  add({"FolderThatMayNotBeEntered",
       with_prompt({"-o", "closed/a.mp4"}),
       4,
       {"Permission denied"},
       closed("closed", 0444),
       as_an_owner});
  add({"FolderBelowOneThatMayNotBeEntered",
       with_prompt({"-o", "closed/x/a.mp4"}),
       4,
       {"Permission denied"},
       closed("closed", 0),
       as_an_owner});
  add({"ReadOnlyFolderForTheProfile",
       with_prompt({"-o", "a.png", "--profile", "closed/trace.json"}),
       4,
       {"[--profile] cannot write into closed: Permission denied"},
       closed("closed", 0555),
       as_an_owner});
  add({"PromptFileThatMayNotBeRead",
       small({"--prompt-file", "prompts.txt"}),
       4,
       {"[--prompt-file]", "Permission denied"},
       [](const fs::path& folder) {
         write(folder / "prompts.txt", "a red circle\n");
         fs::permissions(folder / "prompts.txt", fs::perms::none);
       },
       as_an_owner});
  if (::geteuid() == 0) {
    const auto shared = [](const fs::path& folder) {
      fs::create_directory(folder / "shared");
      write(folder / "shared/a.mp4", "another's");
      fs::permissions(folder / "shared", static_cast<fs::perms>(01777));
      for (const char* const name : {"shared", "shared/a.mp4"})
        if (::chown((folder / name).c_str(), 65534, 65534) != 0) throw std::runtime_error("chown");
    };
    add({"AnothersFileInASharedFolder",
         with_prompt({"-o", "shared/a.mp4"}),
         4,
         {"cannot replace", "another user"},
         shared,
         as_an_owner});
  }
  for (const char* const output : {"/proc/a.mp4", "/proc/a", "/sys/a.png"})
    add({"SystemsFolder" + fs::path(output).filename().string() + std::to_string(all.size()),
         with_prompt({"-o", output}),
         4,
         {"[output] cannot write into"}});

  // Names.
  for (const std::string& output : {std::string("n.mp4"), std::string("n.gif"), std::string("n.png")}) {
    const std::string suffix = fs::path(output).extension().string();
    add({"NameOf256Bytes" + suffix,
         with_prompt({"-o", std::string(256 - suffix.size(), 'n') + suffix}),
         2,
         {"the name of", "is too long: got 256 bytes"}});
  }
  add({"FolderNameOf256Bytes", with_prompt({"-o", long_name + "n"}), 2, {"is too long: got 256 bytes"}});
  add({"ProfileNameOf256Bytes", with_prompt({"-o", "a.png", "--profile", long_name + "n"}), 2, {"[--profile]", "is too long"}});
  add({"PathOf5000Bytes",
       with_prompt({"-o",
                    [] {
                      std::string path;
                      while (path.size() < 5000) path += "folder/";
                      return path + "a.mp4";
                    }()}),
       4,
       {"[output] cannot write into", "File name too long"}});
  add({"NumberedNameOf256Bytes",
       small({"--prompt-file", "prompts.txt", "-o", std::string(247, 'n') + ".mp4"}),
       2,
       {"is too long"},
       [](const fs::path& folder) { write(folder / "prompts.txt", "a red circle\na blue square\n"); }});
  add({"PromptFileNameOf300Bytes", small({"--prompt-file", std::string(300, 'p'), "-o", "a.mp4"}), 2, {"File name too long"}});
  add({"ShortOptionWithAnEqualSign",
       {ZOE_COMMAND, "generate", "-p", "x", "-o=x.mp4"},
       2,
       {"got \"-o=x.mp4\", expected \"-o x.mp4\""}});
  add({"StandardOutput", with_prompt({"-o", "-"}), 2, {"a video is not written to the standard output: got \"-\""}});
  for (const char* const suffix : {".mp4", ".mov", ".PNG"})
    add({std::string("SuffixWithoutAName") + suffix, with_prompt({"-o", suffix}), 2, {"no name before the suffix"}});
  add({"CurrentFolder", with_prompt({"-o", "."}), 2, {"no file name in \".\""}});
  add({"FolderAbove", with_prompt({"-o", "below/.."}), 2, {"no file name in"}, [](const fs::path& folder) {
         fs::create_directory(folder / "below");
       }});

  // One file for two things.
  const auto twice = [&](const std::string& name, const std::string& output, const std::string& profile,
                         std::function<void(const fs::path&)> prepare = {}) {
    add({"ProfileIsTheVideo" + name,
         with_prompt({"-o", output, "--profile", profile}),
         2,
         {"is being written already, for [--profile]"},
         std::move(prepare)});
  };
  twice("", "a.mp4", "a.mp4");
  twice("WithADot", "a.mp4", "./a.mp4");
  twice("OfFolders", "a", "a");
  twice("ThroughALink", "real/a.mp4", "link/a.mp4", [](const fs::path& folder) {
    fs::create_directory(folder / "real");
    fs::create_directory_symlink("real", folder / "link");
  });
  twice("ThroughTheFolderAbove", "a.gif", "below/../a.gif", [](const fs::path& folder) { fs::create_directory(folder / "below"); });
  twice("ThatIsThereAlready", "a.mp4", "a.mp4", [](const fs::path& folder) { write(folder / "a.mp4", "older"); });
  const auto prompts = [](const fs::path& folder) { write(folder / "prompts.txt", "a red circle\na blue square\n"); };
  add({"ProfileIsANumberedVideo",
       small({"--prompt-file", "prompts.txt", "-o", "a.mp4", "--profile", "a-0002.mp4"}),
       2,
       {"is being written already"},
       prompts});
  add({"ProfileIsThePromptFile",
       small({"--prompt-file", "prompts.txt", "-o", "a.mp4", "--profile", "prompts.txt"}),
       2,
       {"[--profile] prompts.txt is the file of the prompts"},
       prompts});
  add({"ProfileIsALinkToThePromptFile",
       small({"--prompt-file", "prompts.txt", "-o", "a.mp4", "--profile", "hard.txt"}),
       2,
       {"[--profile] hard.txt is the file of the prompts"},
       all_of({prompts, [](const fs::path& folder) { fs::create_hard_link(folder / "prompts.txt", folder / "hard.txt"); }})});
  add({"VideoIsThePromptFile",
       small({"--prompt-file", "prompts.mp4", "-o", "prompts.mp4"}),
       2,
       {"[output] prompts.mp4 is the file of"},
       [](const fs::path& folder) { write(folder / "prompts.mp4", "a red circle\n"); }});

  // The model.
  const auto in_model = [&](const std::string& name, const std::string& model, const std::string& output,
                            std::function<void(const fs::path&)> more = {}) {
    Case c{"VideoInTheModel" + name,
           with_prompt({"--model-path", model, "-o", output}),
           2,
           {"[output]", "lies in the model folder"},
           copy_model};
    if (more) c.prepare = all_of({copy_model, more});
    add(std::move(c));
  };
  in_model("", "model", "model/a.mp4");
  in_model("sPart", "model", "model/vae/a.gif");
  in_model("AsAFolder", "model/", "model/frames");
  in_model("ThroughALink", "model", "link/a.png",
           [](const fs::path& folder) { fs::create_directory_symlink("model", folder / "link"); });
  in_model("ThatIsALink", "link", "model/a.webm",
           [](const fs::path& folder) { fs::create_directory_symlink("model", folder / "link"); });
  in_model("InPlaceOfAFile", "model", "model/vae/config.json/a.png");
  add({"ProfileOverAFileOfTheModel",
       with_prompt({"--model-path", "model", "-o", "a.png", "--profile", "model/vae/config.json"}),
       2,
       {"[--profile] model/vae/config.json lies in the model folder model"},
       copy_model});
  add({"VideoInTheEmbeddedModel", with_prompt({"-o", kToy + "/a.mp4"}), 2, {"lies in the model folder"}});
  return all;
}

class Place : public Outputs, public ::testing::WithParamInterface<Case> {};

TEST_P(Place, IsOneLineAndNothingIsLost) {
  const Case& c = GetParam();
  fs::permissions(folder_, static_cast<fs::perms>(0755));
  if (c.prepare) c.prepare(folder_);
  const auto before = content(folder_);
  const CommandResult result = testing::run_command(
      c.arguments, {.folder = folder_, .max_file_bytes = c.max_file_bytes, .timeout_s = 60, .in_child = c.in_child});
  EXPECT_EQ(result.code, c.code) << result.err << result.out << result.line;
  if (!c.pieces.empty()) {
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_TRUE(result.err.starts_with("zoe: [")) << result.err;
  }
  std::size_t at = 0;
  for (const std::string& piece : c.pieces) {
    const std::size_t found = result.err.find(piece, at);
    EXPECT_NE(found, std::string::npos) << "lacks: " << piece << "\n" << result.err;
    if (found != std::string::npos) at = found + piece.size();
  }
  auto after = content(folder_);
  if (c.finishes)
    for (const char* name : {"a.mp4", "a.png"})
      if (after.erase(name)) {
        EXPECT_EQ(what_is_wrong_with(folder_ / name), "");
      }
  EXPECT_TRUE(before == after) << result.line;
  for (const auto& entry : fs::directory_iterator(folder_))
    if (entry.is_directory() && !entry.is_symlink()) fs::permissions(entry.path(), fs::perms::owner_all);
}

INSTANTIATE_TEST_SUITE_P(Outputs, Place, ::testing::ValuesIn(cases()), [](const auto& test) {
  std::string name = test.param.name;
  std::erase_if(name, [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); });
  return name;
});

// The longest names there are.
TEST_F(Outputs, NamesOf244To255BytesAreWritten) {
  for (const std::string suffix : {".mp4", ".webm", ".gif", ".png", ""})
    for (const std::size_t length : {std::size_t{244}, std::size_t{255}}) {
      const std::string name = std::string(length - suffix.size(), 'n') + suffix;
      const CommandResult result = testing::run_command(with_prompt({"-o", name}), {.folder = folder_});
      EXPECT_EQ(result.code, 0) << result.err;
      EXPECT_EQ(what_is_wrong_with(folder_ / name), "") << name;
      fs::remove_all(folder_ / name);
      EXPECT_TRUE(fs::is_empty(folder_));
    }
}

}  // namespace
}  // namespace zoe
