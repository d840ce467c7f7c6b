// The command `zoe`.
//
// An error is exactly one line on stderr; all else goes to stdout. kExitCodes lists the exit codes.

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <map>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "apps/cli/commands.h"
#include "apps/cli/serve.h"
#include "apps/cli/signals.h"
#include "base/error.h"
#include "base/nearest.h"
#include "pipeline/request.h"

namespace {

int exit_code(zoe::ErrorKind kind) {
  switch (kind) {
    case zoe::ErrorKind::invalid_argument: return 2;
    case zoe::ErrorKind::io: return 4;
    case zoe::ErrorKind::unsupported:
    case zoe::ErrorKind::out_of_memory: return 3;
    case zoe::ErrorKind::cancelled: return 128 + (zoe::cli::stopping_signal() ? zoe::cli::stopping_signal() : SIGINT);
    default: return 1;
  }
}

constexpr const char* kExitCodes =
    "Exit codes: 0 done; 1 a failure of the program or the device, or of a verification; 2 a bad request or file; 3 cannot run or\n"
    "does not fit here; 4 reading or writing failed; 129, 130, 141, 143 stopped by the signal HUP, INT, PIPE, TERM";

int report(std::string_view line, int code) {
  std::fputs(fmt::format("zoe: {}\n", line).c_str(), stderr);  // where that cannot be written the code still tells
  return code;
}

// The arguments, last first, as CLI11 takes them. "--prompt=" has an empty value, which CLI11 would take from the next argument.
std::vector<std::string> reversed_arguments(int argc, char** argv) {
  std::vector<std::string> arguments;
  for (int i = 1; i < argc; ++i) {
    std::string argument = argv[i];
    // CLI11 would take "=x.mp4" for the value of "-o=x.mp4".
    zoe::check(!(argument.size() > 2 && argument[0] == '-' && argument[1] != '-' && argument[2] == '='),
               zoe::ErrorKind::invalid_argument, "arguments", "bad argument: got {}, expected \"{} {}\". Write it so.",
               zoe::in_quotes(argument), argument.substr(0, 2), argument.size() > 3 ? argument.substr(3, 80) : "VALUE");
    const bool is_empty_value = argument.size() > 3 && argument.rfind("--", 0) == 0 && argument.find('=') == argument.size() - 1;
    if (is_empty_value) argument.pop_back();
    arguments.push_back(std::move(argument));
    if (is_empty_value) arguments.emplace_back();
  }
  std::reverse(arguments.begin(), arguments.end());
  return arguments;
}

// What an unknown option may have been meant to be: the field that its name in other programs leads to, or a name that is nearly
// the same (and then the one that help shows, whichever of an option's names that was).
std::string hint(const CLI::App& command, const std::string& word) {
  using zoe::Spelling;
  if (const zoe::RequestField* field = zoe::find_hint(word);
      field && (command.get_name() == "generate" || command.get_name() == "plan"))
    return fmt::format(" See {}.", zoe::spelled(field->name, Spelling::option));
  std::vector<std::string> known;
  std::map<std::string, std::string> shown;
  for (const CLI::Option* option : command.get_options())
    for (const std::string& name : option->get_lnames()) {
      known.push_back("--" + name);
      shown["--" + name] = "--" + option->get_lnames().front();
    }
  constexpr std::size_t kPart = 3;  // of the longer name may differ
  const std::string near = zoe::nearest(word, known, kPart);
  return near.empty() ? near : fmt::format(" Did you mean {}?", shown[near]);
}

// What is wrong with the arguments: CLI11's text, or for an unknown word the known ones.
std::string explain(const CLI::App& app, const CLI::ParseError& error, int argc, char** argv) {
  const auto chosen = app.get_subcommands();
  std::vector<std::string> known;
  const auto did_you_mean = [&](std::string_view word) {
    const std::string near = zoe::nearest(word, known);
    return near.empty() ? near : fmt::format(" Did you mean {}?", near);
  };
  if (chosen.empty()) {
    if (argc < 2 || argv[1][0] == '-') return fmt::format("{}. See `zoe --help`.", error.what());
    for (const CLI::App* command : app.get_subcommands({}))
      if (!command->get_group().empty()) known.push_back(command->get_name());
    return fmt::format("unknown command: got {}, expected {}.{} See `zoe --help`.", zoe::in_quotes(argv[1]), fmt::join(known, ", "),
                       did_you_mean(argv[1]));
  }
  const CLI::App& command = *chosen.front();
  if (!dynamic_cast<const CLI::ExtrasError*>(&error))
    return fmt::format("{}. See `zoe {} --help`.", error.what(), command.get_name());
  // One before the command is left to the program itself, one behind it to the command.
  std::vector<std::string> words = command.remaining();
  if (words.empty()) words = app.remaining();
  if (words.empty()) return fmt::format("{}. See `zoe {} --help`.", error.what(), command.get_name());
  const auto first = std::find_if(words.begin(), words.end(), [](const std::string& word) { return word.starts_with('-'); });
  const std::string& word = first == words.end() ? words.front() : *first;
  return fmt::format("unexpected {}.{} See `zoe {} --help`.", zoe::in_quotes(word), hint(command, word.substr(0, word.find('='))),
                     command.get_name());
}

int run(int argc, char** argv) {
  using namespace zoe::cli;
  CLI::App app{"Zoetrope: text to video with the Wan models", "zoe"};
  app.set_version_flag("--version", fmt::format("zoe {}", kVersion));
  app.footer(kExitCodes);
  app.require_subcommand(1);
  app.formatter(help_formatter());
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  const std::pair<CLI::App*, Command> commands[] = {
      [&] {
        auto* c = app.add_subcommand("generate", "Make a video from a prompt");
        return std::pair(c, add_generate(*c));
      }(),
      [&] {
        auto* c = app.add_subcommand("plan", "What a request takes of memory, when, and whether it fits; nothing is loaded");
        return std::pair(c, add_plan(*c));
      }(),
      [&] {
        auto* c = app.add_subcommand("resume", "Go on with a run that did not end, from what --save-state kept");
        return std::pair(c, add_resume(*c));
      }(),
      [&] {
        auto* c = app.add_subcommand("serve", "Make videos for others: an HTTP server with a queue, and a page");
        return std::pair(c, add_serve(*c));
      }(),
      [&] {
        auto* c = app.add_subcommand("convert", "Write a model as another kind of file, in another encoding, with LoRAs merged");
        return std::pair(c, add_convert(*c));
      }(),
      [&] {
        auto* c = app.add_subcommand("info", "What a model folder holds, and whether it runs");
        return std::pair(c, add_info(*c));
      }(),
      [&] {
        auto* c = app.add_subcommand("platforms", "Devices this machine can run on");
        return std::pair(c, add_platforms(*c));
      }(),
      [&] {
        auto* c = app.add_subcommand("bench", "Time parts of the engine, with random weights where no model is needed");
        return std::pair(c, add_bench(*c));
      }(),
      [&] {
        auto* c = app.add_subcommand("explain", "What a model's plan runs, why, and what it moves; needs no weights");
        return std::pair(c, add_explain(*c));
      }(),
      [&] {
        auto* c = app.add_subcommand("verify", "Run a model compiled and uncompiled side by side and compare every chain");
        return std::pair(c, add_verify(*c));
      }(),
      [&] {
        auto* c = app.add_subcommand("completion", "Completion for a shell: zoe completion bash > FILE its shell reads");
        return std::pair(c, add_completion(*c));
      }(),
      [&] {
        auto* c = app.add_subcommand("man", "The manual page: zoe man > zoe.1");
        return std::pair(c, add_man(*c));
      }(),
      [&] {
        auto* c = app.add_subcommand("request-fields", "The fields of a request as docs/requests.md")->group("");
        return std::pair(c, add_request_fields(*c));
      }(),
  };
  try {
    app.parse(reversed_arguments(argc, argv));
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::CallForAllHelp& help) {
    return app.exit(help);
  } catch (const CLI::CallForVersion& version) {
    return app.exit(version);
  } catch (const CLI::ParseError& error) {
    throw zoe::Error(zoe::ErrorKind::invalid_argument, "arguments", explain(app, error, argc, argv));
  }
  for (const auto& [command, action] : commands)
    if (command->parsed()) return action();
  return 0;
}

// Between two steps of a plan the threads of the OpenMP pool wait for the next. libgomp spins for milliseconds, or, as the platform
// has it, for a microsecond and sleeps (platform/cpu/spins.h); where waking is slow, as in virtual machines, about 0.1 ms is worth
// up to a tenth of a small video (docs/performance.md). libgomp reads that once, as it is loaded: so what computes starts again.
void start_again_with_longer_spins(int argc, char** argv) {
  constexpr std::string_view kComputes[] = {"generate", "resume", "serve", "bench", "verify"};
  if (std::getenv("OMP_WAIT_POLICY") || std::getenv("GOMP_SPINCOUNT")) return;
  if (argc < 2 || std::find(std::begin(kComputes), std::end(kComputes), argv[1]) == std::end(kComputes)) return;
  ::setenv("GOMP_SPINCOUNT", "10000", 1);
  ::execv("/proc/self/exe", argv);
  ::unsetenv("GOMP_SPINCOUNT");  // it could not: the run goes on, with the platform's short ones
}

}  // namespace

int main(int argc, char** argv) {
  start_again_with_longer_spins(argc, argv);
  zoe::cli::open_standard_descriptors();
  std::signal(SIGXFSZ, SIG_IGN);  // a file beyond the size limit is an error of the write, not the end of the process
  zoe::cli::handle_signals();
  const auto code = [&] {
    try {
      return run(argc, argv);
    } catch (const zoe::Error& error) {
      return report(error.what(), exit_code(error.kind()));
    } catch (const std::bad_alloc&) {
      return report("[memory] out of memory. Lower --width, --height or --num-frames.", 3);
    } catch (const std::exception& error) {
      if (std::ferror(stdout)) return 0;  // a line that could not be printed: flush_output says so
      return report(error.what(), 1);
    }
  }();
  return zoe::cli::flush_output(code);
}
