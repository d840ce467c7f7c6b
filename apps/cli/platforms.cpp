#include <CLI/CLI.hpp>

#include "apps/cli/commands.h"
#include "base/error.h"

namespace zoe::cli {

Command add_platforms(CLI::App&) {
  return [] {
    for (const PlatformReport& report : list_platforms())
      fmt::print("{:<8} {:<4} {}\n", report.name, report.opens ? "yes" : "no", report.detail);
    return 0;
  };
}

}  // namespace zoe::cli
