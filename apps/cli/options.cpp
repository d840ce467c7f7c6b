#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>

#include "apps/cli/commands.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "base/nearest.h"
#include "base/split.h"
#include "compiler/policy.h"
#include "ops/register.h"
#include "platform/override_rules.h"

namespace zoe::cli {

const char* const kVersion = ZOE_VERSION;

namespace {

constexpr std::uint64_t kLeastLimit = std::uint64_t{1} << 20;

}  // namespace

void add_cuda_path(CLI::App& app, DeviceOptions& options) {
  app.add_option("--cuda-path", options.cuda_path, "Where the libraries of cuda, musa or rocm are, before the usual places")
      ->type_name("FOLDER");
}

PlatformOptions platform_options(const DeviceOptions& options) {
  return {.threads = options.threads,
          .cache_dir = options.cache_dir,
          .memory_limit_bytes = options.memory_limit_bytes,
          .cuda_path = options.cuda_path};
}

void add_device_options(CLI::App& app, DeviceOptions& options) {
  app.add_option("--platform", options.platform, "Where to run: auto, cpu, ... (see `zoe platforms`)")->capture_default_str();
  app.add_option("--dtype", options.dtype, "auto is bf16 where the device has bf16 products, else f32")
      ->type_name("auto|f32|bf16")
      ->capture_default_str();
  app.add_option_function<std::string>(
         "--threads",
         [&options](const std::string& text) { options.threads = static_cast<int>(parse_integer("--threads", text, 1, 1024)); },
         "CPU threads (default: as many as the process may use)")
      ->type_name("N");
  app.add_option("--cache-dir", options.cache_dir, "Where compiled kernels are kept (default: ~/.cache/zoetrope)")
      ->type_name("FOLDER");
  add_cuda_path(app, options);
  app.add_option_function<std::string>(
         "--memory-limit",
         [&options](const std::string& text) { options.memory_limit_bytes = parse_bytes("--memory-limit", text, kLeastLimit); },
         "The most memory to take of the device, 8GiB or 512MiB (default: all that is free)")
      ->type_name("SIZE");
}

namespace {

// How help calls a value.
std::string type_name(const RequestField& field) {
  if (const auto choices = field.choices(); !choices.empty()) return fmt::format("{}", fmt::join(choices, "|"));
  const std::string_view type = field.type();
  if (type == "whole number") return "N";
  if (type == "number") return "X";
  if (type == "WIDTHxHEIGHT") return "WxH";
  if (type == "file") return "FILE";
  if (type == "whole numbers") return "N,...";
  if (type == "files") return "FILE";
  return type == "numbers" ? "X,..." : "TEXT";
}

}  // namespace

void add_request_field(CLI::App& app, Request& request, const RequestField& field, std::string_view fallback) {
  std::string names = field.letter.empty() ? "" : fmt::format("-{},", field.letter);
  names += spelled(field.name, Spelling::option);
  if (field.name.find('_') != std::string_view::npos) names += fmt::format(",--{}", field.name);
  for (const std::string_view alias : field.aliases) {
    names += "," + spelled(alias, Spelling::option);
    if (alias.find('_') != std::string_view::npos) names += fmt::format(",--{}", alias);
  }
  std::string help(field.help);
  if (fallback.empty()) fallback = field.fallback;
  if (!fallback.empty() && !field.is_flag()) help += fmt::format(" (default: {})", fallback);
  const auto set = [&request, &field](const std::vector<std::string>& texts) {
    set_field(request, field.name, texts, Spelling::option);
  };
  CLI::Option* option = nullptr;
  if (field.is_flag()) {
    option = app.add_flag_function(
        names, [set](std::int64_t count) { set({count > 0 ? "true" : "false"}); }, help);
  } else {
    option = app.add_option_function<std::vector<std::string>>(names, set, help);
    option->expected(1)->type_name(type_name(field));
    option->multi_option_policy(field.is_list() ? CLI::MultiOptionPolicy::TakeAll : CLI::MultiOptionPolicy::TakeLast);
  }
}

void add_request_field(CLI::App& app, Request& request, std::string_view name, std::string_view fallback) {
  add_request_field(app, request, *find_field(name), fallback);
}

namespace {

// An option that sets `to` to the one of `all` whose name is given.
template <class T>
void add_choice(CLI::App& app, const char* option, T& to, std::vector<T> all, const char* help) {
  std::vector<std::string_view> names;
  for (const T each : all) names.push_back(name(each));
  const std::string type = fmt::format("{}", fmt::join(names, "|"));
  app.add_option_function<std::string>(
         option,
         [option, &to, all = std::move(all), names = std::move(names)](const std::string& text) {
           const auto chosen = std::find(names.begin(), names.end(), text);
           check(chosen != names.end(), ErrorKind::invalid_argument, option, "got {}, expected {} or {}.", in_quotes(text),
                 fmt::join(names.begin(), names.end() - 1, ", "), names.back());
           to = all[static_cast<std::size_t>(chosen - names.begin())];
         },
         help)
      ->type_name(type);
}

}  // namespace

void add_memory_options(CLI::App& app, SessionOptions& options) {
  using enum Offload;
  add_choice(app, "--offload", options.offload, {automatic, none, encoder, experts, blocks},
             "Weights that leave the device while others are at work: none, those of the text encoder's other layers, of the other "
             "experts, too, of the transformer's other blocks, too; auto is the least of these that fits (default auto)");
  add_choice(app, "--parallel", options.parallel,
             {Parallel::automatic, Parallel::none, Parallel::guidance, Parallel::sequence, Parallel::both},
             "How a step is shared among the devices of --platform cuda:0,1: by the two texts of guidance, by a video's tokens, by "
             "both, or none; auto takes what uses most devices, guidance first (default auto)");
  app.add_option_function<std::string>(
         "--host-memory-limit",
         [&options](const std::string& text) { options.host_memory_limit_bytes = parse_bytes("--host-memory-limit", text, 0); },
         "The most memory of this process for weights that wait there to be copied to the device (default: two thirds of what is "
         "free)")
      ->type_name("SIZE");
}

void add_json(CLI::App& app, bool& json) { app.add_flag("--json", json, "Print one line of JSON (docs/json.md) and nothing else"); }

void add_compile_options(CLI::App& app, CompileOptions& options) {
  app.add_option_function<std::string>(
         "--compile",
         [&options](const std::string& text) {
           check(text == "on" || text == "off", ErrorKind::invalid_argument, "--compile", "got {}, expected on or off.",
                 in_quotes(text));
           options.compile = text == "on";
         },
         "on: chains of small operations become generated kernels; off: one prebuilt kernel an operation (default on)")
      ->type_name("on|off");
  app.add_option_function<std::string>(
         "--override", [&options](const std::string& text) { options.overrides = parse_override_rules(text); },
         "Rows of the platform's table (zoe explain names them) to ask first, or with no- in front never; require: those asked "
         "first must say yes. Separated by commas")
      ->type_name("ROW,no-ROW,require");
  app.add_option_function<std::string>(
         "--compile-policy",
         [&options](const std::string& file) {
           options.policy = read_compile_policy(file);
           for (const PolicyRow& row : options.policy)
             if (row.op != "*") check_op_name("--compile-policy", row.op);
         },
         "What is not compiled where: a JSON file of rows (docs/fusion.md)")
      ->type_name("FILE");
  app.add_option_function<std::string>(
         "--weights",
         [&options](const std::string& text) {
           check(text == "keep" || text == "widen", ErrorKind::invalid_argument, "--weights", "got {}, expected keep or widen.",
                 in_quotes(text));
           options.keep_stored = text == "keep";
         },
         "Weights stored in 8 bits or blocks: keep them so in memory and widen them at every use, or widen them once (default "
         "keep)")
      ->type_name("keep|widen");
  app.add_option_function<std::string>(
         "--compile-exclude",
         [&options](const std::string& text) {
           options.excluded_ops.clear();
           for (const std::string_view op : split(text, ',')) {
             options.excluded_ops.emplace_back(op);
             check_op_name("--compile-exclude", options.excluded_ops.back());
           }
         },
         "Ops whose nodes stay out of generated kernels")
      ->type_name("OP,...");
}

std::unique_ptr<Platform> open(const DeviceOptions& options) { return open_platform(options.platform, platform_options(options)); }

DType chosen_dtype(const DeviceOptions& options, const Platform& platform) {
  const bool native = platform.info().bf16_products;
  if (options.dtype == "auto") return native ? DType::bf16 : DType::f32;
  if (options.dtype == "f32") return DType::f32;
  check(options.dtype == "bf16", ErrorKind::invalid_argument, "--dtype", "got {}, expected auto, f32 or bf16.",
        in_quotes(options.dtype));
  if (!native)
    log(LogLevel::notice,
        "these cores have no bf16 products: operands are rounded to bf16 and multiplied in f32, slower than --dtype f32");
  return DType::bf16;
}

std::int64_t parse_integer(std::string_view flag, const std::string& text, std::int64_t min, std::int64_t max) {
  std::int64_t value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  check(status == std::errc() && end == text.data() + text.size() && value >= min && value <= max, ErrorKind::invalid_argument,
        flag, "got {}, expected a whole number from {} to {}.", in_quotes(text), min, max);
  return value;
}

double parse_number(std::string_view flag, const std::string& text, double min, double max) {
  double value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  check(status == std::errc() && end == text.data() + text.size() && std::isfinite(value) && value >= min && value <= max,
        ErrorKind::invalid_argument, flag, "got {}, expected a number from {} to {}.", in_quotes(text), min, max);
  return value;
}

}  // namespace zoe::cli
