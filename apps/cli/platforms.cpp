#include <CLI/CLI.hpp>

#include "apps/cli/commands.h"
#include "base/error.h"

namespace zoe::cli {

Command add_platforms(CLI::App& app) {
  auto options = std::make_shared<DeviceOptions>();
  add_cuda_path(app, *options);
  return [options] {
    for (const PlatformReport& report : list_platforms(platform_options(*options))) {
      fmt::print("{:<8} {:<4} {}\n", report.name, report.opens ? "yes" : "no", report.detail);
      for (const LibraryInfo& library : report.libraries)
        fmt::print("{:13} {:<10} {:<9} {}\n", "", library.name, library.version.empty() ? "no" : library.version, library.detail);
    }
    return 0;
  };
}

}  // namespace zoe::cli
