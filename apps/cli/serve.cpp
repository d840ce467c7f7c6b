// `zoe serve`: videos over HTTP (docs/serve.md).
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "apps/cli/serve.h"
#include "apps/cli/signals.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "base/nearest.h"
#include "base/split.h"
#include "pipeline/model.h"
#include "server/api_keys.h"
#include "server/server.h"

namespace zoe::cli {

namespace {

namespace fs = std::filesystem;

struct ServeOptions {
  DeviceOptions device;
  server::ServerOptions server;
  std::vector<std::string> models;
  std::string data_folder, new_key, api_key_file, lora_folder;
  bool quiet = false;
};

fs::path default_data_folder() {
  if (const char* const data = std::getenv("XDG_DATA_HOME"); data && *data) return fs::path(data) / "zoetrope" / "serve";
  const char* const home = std::getenv("HOME");
  check(home && *home, ErrorKind::invalid_argument, "--data-dir", "there is no home folder. Say where jobs and videos are kept.");
  return fs::path(home) / ".local" / "share" / "zoetrope" / "serve";
}

// Devices with a job of their own each: "cuda:0,cuda:1" are two, "cuda:0,1" is a group that gives each job both.
std::vector<std::string> split_devices(const std::string& text) {
  std::vector<std::string> devices;
  for (const std::string_view part : split(text, ',')) {
    const bool is_number = !part.empty() && part.find_first_not_of("0123456789") == part.npos;
    if (is_number && !devices.empty() && devices.back().find(':') != part.npos) devices.back().append(",").append(part);
    else devices.emplace_back(part);
  }
  return devices;
}

// NAME=MODEL, or MODEL under its own name.
std::pair<std::string, ModelConfig> open_served(const std::string& text) {
  const std::size_t equals = text.find('=');
  std::error_code status;
  const bool is_named = equals != text.npos && equals > 0 && text.find('/') > equals && !fs::exists(text, status);
  ModelConfig config = open_model({.model_path = is_named ? text.substr(equals + 1) : text}, "serve");
  std::string name = is_named ? text.substr(0, equals) : config.name;
  return {std::move(name), std::move(config)};
}

void say(const ServeOptions& options, const std::string& line) {
  if (options.quiet) return;
  fmt::print("zoe serve: {}\n", line);
  std::fflush(stdout);
}

int serve(ServeOptions& options) {
  server::ServerOptions& to = options.server;
  to.api_key_file = options.api_key_file;
  to.lora_folder = options.lora_folder;
  if (!options.new_key.empty()) {
    check(!to.api_key_file.empty(), ErrorKind::invalid_argument, "--new-key", "got no --api-key-file FILE to add it to. Say one.");
    fmt::print("{}\n", server::add_api_key(to.api_key_file, options.new_key));
    return 0;
  }
  const LogScope log_scope([&](LogLevel level, std::string_view text) {
    if (level == LogLevel::notice) say(options, fmt::format("note: {}", text));
  });
  to.data_folder = options.data_folder.empty() ? default_data_folder() : fs::path(options.data_folder);
  std::error_code status;
  check(to.lora_folder.empty() || fs::is_directory(to.lora_folder, status), ErrorKind::invalid_argument, "--lora-dir",
        "{} is no folder.", to.lora_folder.string());
  if (options.models.empty())
    for (const EmbeddedModel which : {EmbeddedModel::text_to_video, EmbeddedModel::image_to_video})
      options.models.push_back(embedded_model_path(which).string());
  for (const std::string& text : options.models) to.models.push_back(open_served(text));
  for (const std::string& name : split_devices(options.device.platform)) {
    DeviceOptions one = options.device;
    one.platform = name;
    const std::shared_ptr<Platform> platform = open(one);
    const DType dtype = chosen_dtype(one, *platform);
    to.devices.push_back({name == "auto" ? platform->info().platform : name, platform, dtype});
    say(options, fmt::format("device {}: {}", to.devices.back().name, platform->info().name));
  }
  const std::atomic<bool>& stop = stop_at_next_step();
  const std::string host = to.host;
  server::Server server(std::move(to));
  if (server.resumed_jobs() > 0) say(options, fmt::format("goes on with {} jobs of before", server.resumed_jobs()));
  say(options, fmt::format("http://{}:{}", host.find(':') == host.npos ? host : "[" + host + "]", server.port()));
  constexpr auto kLook = std::chrono::milliseconds(50);
  while (!stop) std::this_thread::sleep_for(kLook);
  say(options, "stops: takes no job; what runs ends or is saved");
  server.stop();
  say(options, "stopped");
  return 0;  // to be stopped is how it ends
}

}  // namespace

Command add_serve(CLI::App& app) {
  auto options = std::make_shared<ServeOptions>();
  server::ServerOptions& to = options->server;
  const auto number = [&app](const std::string& name, auto& slot, std::int64_t min, std::int64_t max, const std::string& help) {
    app.add_option_function<std::string>(
           name,
           [name, &slot, min, max](const std::string& text) {
             slot = static_cast<std::decay_t<decltype(slot)>>(parse_integer(name, text, min, max));
           },
           fmt::format("{} (default {})", help, slot))
        ->type_name("N");
  };
  const auto size = [&app](const std::string& name, std::uint64_t& slot, const std::string& help) {
    app.add_option_function<std::string>(
           name, [name, &slot](const std::string& text) { slot = parse_bytes(name, text); }, help)
        ->type_name("SIZE");
  };
  constexpr std::int64_t kMany = 1'000'000'000;
  app.add_option("MODEL", options->models,
                 "What --model-path of generate takes, or NAME=MODEL; the first is the default (none: the two embedded models)")
      ->type_name("MODEL");
  app.add_option("--host", to.host, "The address to listen on")->type_name("ADDRESS")->capture_default_str();
  number("--port", to.port, 0, 65535, "The port, 0 for any that is free");
  app.add_option("--data-dir", options->data_folder, "Where jobs and videos are kept (default ~/.local/share/zoetrope/serve)")
      ->type_name("FOLDER");
  app.add_option("--api-key-file", options->api_key_file, "Keys that requests must carry, NAME sha256:HEX a line")
      ->type_name("FILE");
  app.add_option("--new-key", options->new_key, "Make a key, add its digest to --api-key-file, print it, and end")
      ->type_name("NAME");
  app.add_flag("--no-keys", to.needs_no_keys, "Let everybody in, though --host is not of this machine alone");
  app.add_option("--allow-host", to.allowed_hosts, "A name that requests may call this server by, beside localhost")
      ->type_name("NAME")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_option("--lora-dir", options->lora_folder, "LoRAs that requests may name")->type_name("FOLDER");
  number("--max-queue", to.max_queue, 1, kMany, "Jobs that wait or run");
  number("--max-queue-per-key", to.max_queue_per_key, 1, kMany, "The same of one key");
  size("--max-body", to.max_body_bytes, "Of a request (default 32MiB)");
  number("--max-pixels", to.max_pixels, 1, kMany, "Of a frame");
  number("--max-frames", to.max_frames, 1, 65536, "Of a video");
  number("--max-connections", to.max_connections, 16, 100'000, "At a time");
  number("--keep-hours", to.keep_hours, 1, 1'000'000, "How long finished videos are kept");
  size("--keep-size", to.keep_bytes, "The most that finished videos take; the oldest go (default 20GiB)");
  number("--save-seconds", to.save_seconds, 0, 86'400, "From one saved state of a running job to the next");
  number("--stop-seconds", to.stop_seconds, 0, 86'400, "That a running job has to end when the server is told to stop");
  add_device_options(app, options->device);
  app.get_option("--platform")
      ->description(
          "Where to run: one device, or several with commas between, cuda:0,cuda:1, each with jobs of its own; cuda:0,1 gives each "
          "job both");
  add_memory_options(app, to.session);
  add_compile_options(app, to.session.compile);
  app.add_flag("-q,--quiet", options->quiet, "Print nothing but errors");
  return [options] { return serve(*options); };
}

}  // namespace zoe::cli
