#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/cli/commands.h"
#include "base/error.h"

namespace zoe::cli {

namespace {

void print(const std::vector<PlatformReport>& reports) {
  for (const PlatformReport& report : reports) {
    fmt::print("{:<8} {:<4} {}\n", report.name, report.opens ? "yes" : "no", report.detail);
    for (const LibraryInfo& library : report.libraries)
      fmt::print("{:13} {:<10} {:<9} {}\n", "", library.name, library.version.empty() ? "no" : library.version, library.detail);
    for (const std::string& link : report.links) fmt::print("{:13} {}\n", "", link);
  }
}

void print_json(const std::vector<PlatformReport>& reports) {
  using Json = nlohmann::ordered_json;
  Json json{{"platforms", Json::array()}};
  for (const PlatformReport& report : reports) {
    Json platform{{"platform", report.name}, {"opens", report.opens}, {"detail", report.detail}, {"libraries", Json::array()}};
    for (const LibraryInfo& library : report.libraries)
      platform["libraries"].push_back({{"library", library.name}, {"version", library.version}, {"detail", library.detail}});
    platform["links"] = report.links;
    json["platforms"].push_back(std::move(platform));
  }
  fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

}  // namespace

Command add_platforms(CLI::App& app) {
  auto options = std::make_shared<DeviceOptions>();
  auto as_json = std::make_shared<bool>(false);
  add_cuda_path(app, *options);
  add_json(app, *as_json);
  return [options, as_json] {
    const std::vector<PlatformReport> reports = list_platforms(platform_options(*options));
    *as_json ? print_json(reports) : print(reports);
    return 0;
  };
}

}  // namespace zoe::cli
