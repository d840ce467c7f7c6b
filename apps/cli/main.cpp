// The command `zoe`.
//
// Exit codes: 0 done, 2 bad arguments or input, 3 cannot run here (memory, missing platform or feature), 130 stopped by
// Ctrl-C, 1 anything else. An error is exactly one line on stderr; all else goes to stdout.

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <new>

#include "apps/cli/commands.h"
#include "base/error.h"

namespace {

int exit_code(zoe::ErrorKind kind) {
  switch (kind) {
    case zoe::ErrorKind::invalid_argument:
    case zoe::ErrorKind::io: return 2;
    case zoe::ErrorKind::unsupported:
    case zoe::ErrorKind::out_of_memory: return 3;
    case zoe::ErrorKind::cancelled: return 130;
    default: return 1;
  }
}

int report(std::string_view line, int code) {
  fmt::print(stderr, "zoe: {}\n", line);
  return code;
}

int run(int argc, char** argv) {
  using namespace zoe::cli;
  CLI::App app{"Zoetrope: text to video with the Wan models", "zoe"};
  app.set_version_flag("--version", fmt::format("zoe {}", kVersion));
  app.require_subcommand(1);
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  const std::pair<CLI::App*, Command> commands[] = {
      [&] { auto* c = app.add_subcommand("generate", "Make a video from a prompt"); return std::pair(c, add_generate(*c)); }(),
      [&] { auto* c = app.add_subcommand("info", "What a model folder holds, and whether it runs"); return std::pair(c, add_info(*c)); }(),
      [&] { auto* c = app.add_subcommand("platforms", "Devices this machine can run on"); return std::pair(c, add_platforms(*c)); }(),
      [&] { auto* c = app.add_subcommand("bench", "Time parts of the engine, with random weights where no model is needed"); return std::pair(c, add_bench(*c)); }(),
  };
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::CallForAllHelp& help) {
    return app.exit(help);
  } catch (const CLI::CallForVersion& version) {
    return app.exit(version);
  } catch (const CLI::ParseError& error) {
    const auto chosen = app.get_subcommands();
    throw zoe::Error(zoe::ErrorKind::invalid_argument, "arguments",
                     fmt::format("{}. See `zoe {}--help`.", error.what(), chosen.empty() ? "" : chosen.front()->get_name() + " "));
  }
  for (const auto& [command, action] : commands)
    if (command->parsed()) return action();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file beyond the size limit is an error of the write, not the end of the process
  try {
    return run(argc, argv);
  } catch (const zoe::Error& error) {
    return report(error.what(), exit_code(error.kind()));
  } catch (const std::bad_alloc&) {
    return report("[memory] out of memory. Lower --width, --height or --num-frames.", 3);
  } catch (const std::exception& error) {
    return report(error.what(), 1);
  }
}
