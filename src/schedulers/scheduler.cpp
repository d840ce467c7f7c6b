#include "schedulers/scheduler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "schedulers/euler.h"
#include "schedulers/unipc.h"

namespace zoe {
namespace {

using nlohmann::json;

// A value as it may stand in a message.
std::string shown(const json& value) {
  if (value.is_structured()) return value.is_array() ? "a list" : "an object";
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

class Reader {
 public:
  Reader(const json& object, std::string_view where) : object_(object), where_(where) {}

  const json* find(const char* key) const {
    const auto it = object_.find(key);
    return it == object_.end() ? nullptr : &*it;
  }

  [[noreturn]] void wrong(const char* key, const json& value, std::string_view expected) const {
    fail(ErrorKind::invalid_argument, where_, "bad value for \"{}\": got {}, expected {}. Correct the file.", key, shown(value),
         expected);
  }

  bool boolean(const char* key, bool otherwise) const {
    const json* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) wrong(key, *value, "true or false");
    return value->get<bool>();
  }

  std::int64_t integer(const char* key, std::int64_t otherwise, std::int64_t low, std::int64_t high) const {
    const json* value = find(key);
    if (value == nullptr) return otherwise;
    return integer(key, *value, low, high);
  }

  std::int64_t integer(const char* key, const json& value, std::int64_t low, std::int64_t high) const {
    const bool too_big = value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(high);
    if (!value.is_number_integer() || too_big || value.get<std::int64_t>() < low || value.get<std::int64_t>() > high)
      wrong(key, value, fmt::format("a whole number from {} to {}", low, high));
    return value.get<std::int64_t>();
  }

  double number(const char* key, double otherwise) const {
    const json* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_number()) wrong(key, *value, "a number");
    return value->get<double>();
  }

  std::string text(const char* key, std::string_view otherwise) const {
    const json* value = find(key);
    if (value == nullptr) return std::string(otherwise);
    if (!value->is_string()) wrong(key, *value, "a string");
    return value->get<std::string>();
  }

  // For settings of which this engine does one thing only; `otherwise` is what Diffusers takes when the key is missing.
  void only(const char* key, const json& supported, const json& otherwise) const {
    const json* found = find(key);
    const json& value = found != nullptr ? *found : otherwise;
    if (value == supported || (value.is_null() && supported == json(false))) return;
    if (!supported.is_null() && value.type() != supported.type()) wrong(key, value, shown(supported));
    fail(ErrorKind::unsupported, where_,
         "setting \"{}\" is not supported: got {}{}, expected {}. Use a model made for flow matching.", key, shown(value),
         found == nullptr ? " (the default of a missing key)" : "", shown(supported));
  }

 private:
  const json& object_;
  std::string_view where_;
};

// The settings of the two classes; a file may hold those of both, as Diffusers keeps them when one is made from the other.
constexpr std::string_view kKnownKeys[] = {"num_train_timesteps",
                                           "beta_start",
                                           "beta_end",
                                           "beta_schedule",
                                           "trained_betas",
                                           "solver_order",
                                           "prediction_type",
                                           "thresholding",
                                           "dynamic_thresholding_ratio",
                                           "sample_max_value",
                                           "predict_x0",
                                           "solver_type",
                                           "lower_order_final",
                                           "disable_corrector",
                                           "solver_p",
                                           "use_karras_sigmas",
                                           "use_exponential_sigmas",
                                           "use_beta_sigmas",
                                           "use_flow_sigmas",
                                           "flow_shift",
                                           "timestep_spacing",
                                           "steps_offset",
                                           "final_sigmas_type",
                                           "rescale_betas_zero_snr",
                                           "use_dynamic_shifting",
                                           "time_shift_type",
                                           "sigma_min",
                                           "sigma_max",
                                           "shift_terminal",
                                           "shift",
                                           "base_shift",
                                           "max_shift",
                                           "base_image_seq_len",
                                           "max_image_seq_len",
                                           "invert_sigmas",
                                           "stochastic_sampling"};

void note_unknown_keys(const json& object, std::string_view where) {
  std::string first;
  std::size_t count = 0;
  for (const auto& [key, value] : object.items()) {
    if (key.starts_with('_') || std::find(std::begin(kKnownKeys), std::end(kKnownKeys), key) != std::end(kKnownKeys)) continue;
    if (count++ == 0) first = shown(json(key));
  }
  if (count == 1) log(LogLevel::notice, fmt::format("[{}] setting {} is unknown and has no effect", where, first));
  if (count > 1)
    log(LogLevel::notice, fmt::format("[{}] {} settings are unknown and have no effect, {} first", where, count, first));
}

void read_unipc(const Reader& read, SchedulerConfig* config) {
  read.only("use_flow_sigmas", true, false);
  read.only("prediction_type", "flow_prediction", "epsilon");
  read.only("predict_x0", true, true);
  read.only("thresholding", false, false);
  read.only("solver_p", nullptr, nullptr);
  config->flow_shift = read.number("flow_shift", 1.0);
  config->solver_order = static_cast<int>(read.integer("solver_order", 2, 1, 3));
  config->lower_order_final = read.boolean("lower_order_final", true);
  // Diffusers reads the names of DPM-Solver's types as bh2.
  const std::string solver = read.text("solver_type", "bh2");
  const bool dpm = solver == "midpoint" || solver == "heun" || solver == "logrho";
  if (solver == "bh1") config->solver_type = SolverType::bh1;
  else if (solver != "bh2" && !dpm) read.wrong("solver_type", solver, "\"bh1\" or \"bh2\"");
  const std::string last = read.text("final_sigmas_type", "zero");
  if (last == "sigma_min") config->final_sigma = FinalSigma::sigma_min;
  else if (last != "zero") read.wrong("final_sigmas_type", last, "\"zero\" or \"sigma_min\"");
  if (const json* list = read.find("disable_corrector"); list != nullptr) {
    if (!list->is_array() || list->size() > 1000) read.wrong("disable_corrector", *list, "a list of at most 1000 step numbers");
    for (const json& item : *list) config->disable_corrector.push_back(read.integer("disable_corrector", item, 0, 1000000));
  }
}

void read_euler(const Reader& read, SchedulerConfig* config) {
  read.only("invert_sigmas", false, false);
  read.only("stochastic_sampling", false, false);
  config->flow_shift = read.number("shift", 1.0);
}

void check_ranges(const SchedulerConfig& config, std::string_view where) {
  check(config.num_train_timesteps >= 1 && config.num_train_timesteps <= 1000000, ErrorKind::invalid_argument, where,
        "bad num_train_timesteps: got {}, expected 1 to 1000000. Correct scheduler_config.json.", config.num_train_timesteps);
  check(config.flow_shift > 0 && config.flow_shift <= 1000, ErrorKind::invalid_argument, where,
        "bad flow shift: got {}, expected a number above 0 and up to 1000. Wan models use 1 to 12.", config.flow_shift);
  check(config.solver_order >= 1 && config.solver_order <= 3, ErrorKind::invalid_argument, where,
        "bad solver_order: got {}, expected 1 to 3. Use 2.", config.solver_order);
}

}  // namespace

std::string_view name(SchedulerKind kind) { return kind == SchedulerKind::unipc ? "unipc" : "euler"; }

SchedulerKind parse_scheduler_kind(std::string_view text, std::string_view where) {
  if (text == "unipc") return SchedulerKind::unipc;
  if (text == "euler") return SchedulerKind::euler;
  fail(ErrorKind::invalid_argument, where, "unknown scheduler: got \"{}\", expected unipc or euler. Choose one of these.",
       text.substr(0, 60));
}

SchedulerConfig parse_scheduler_config(std::string_view json_text, std::string_view where) {
  json object;
  try {
    object = json::parse(json_text);
  } catch (const json::exception& e) {
    fail(ErrorKind::invalid_argument, where,
         "cannot read the scheduler's configuration: got {}, expected a JSON object. Fetch the file again.",
         std::string_view(e.what()).substr(0, 200));
  }
  if (!object.is_object())
    fail(ErrorKind::invalid_argument, where,
         "cannot read the scheduler's configuration: got {}, expected a JSON object. Fetch the file again.", shown(object));
  const Reader read(object, where);
  SchedulerConfig config;
  const std::string class_name = read.text("_class_name", "");
  const bool euler = class_name == "FlowMatchEulerDiscreteScheduler";
  check(euler || class_name == "UniPCMultistepScheduler", ErrorKind::unsupported, where,
        "scheduler class is not supported: got {}, expected UniPCMultistepScheduler or FlowMatchEulerDiscreteScheduler. Set "
        "\"_class_name\" to one of these.",
        class_name.empty() ? "none" : shown(class_name));
  config.kind = euler ? SchedulerKind::euler : SchedulerKind::unipc;
  config.num_train_timesteps = read.integer("num_train_timesteps", 1000, 1, 1000000);
  for (const char* key : {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_dynamic_shifting"})
    read.only(key, false, false);
  read.only("shift_terminal", nullptr, nullptr);
  euler ? read_euler(read, &config) : read_unipc(read, &config);
  check_ranges(config, where);
  note_unknown_keys(object, where);
  return config;
}

std::unique_ptr<Scheduler> make_scheduler(const SchedulerConfig& config, int steps) {
  check_ranges(config, "scheduler");
  const auto most = static_cast<int>(std::min<std::int64_t>(1000, config.num_train_timesteps));
  check(steps >= 1 && steps <= most, ErrorKind::invalid_argument, "scheduler",
        "bad number of inference steps: got {}, expected 1 to {}{}. Choose a number of that range.", steps, most,
        most < 1000 ? " (num_train_timesteps of the model)" : "");
  if (config.kind == SchedulerKind::euler) return std::make_unique<EulerScheduler>(config, steps);
  return std::make_unique<UniPCScheduler>(config, steps);
}

}  // namespace zoe
