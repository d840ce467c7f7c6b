#include "schedulers/scheduler.h"

#include <algorithm>
#include <charconv>
#include <string>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/nearest.h"
#include "schedulers/dpmpp.h"
#include "schedulers/euler.h"
#include "schedulers/lcm.h"
#include "schedulers/unipc.h"

namespace zoe {
namespace {

constexpr std::int64_t kMaxTimesteps = 1000000;  // exact in a float
constexpr double kMinShift = 1e-3, kMaxShift = 1000, kMaxShiftTerminal = 0.999;
constexpr std::size_t kMaxSteps = 1000;

// For settings of which this engine does one thing only; `otherwise` is what Diffusers takes when the key is missing.
template <class T>
void only(const JsonObject& file, std::string_view key, const T& value, const T& supported) {
  check(value == supported, ErrorKind::unsupported, file.where(),
        "setting {} is not supported: got {}{}, expected {}. Use a model made for flow matching.", key, value,
        file.has(key) ? "" : " (the default of a missing key)", supported);
}

void only(const JsonObject& file, std::string_view key, bool supported, bool otherwise) {
  only<bool>(file, key, file.boolean(key, otherwise), supported);
}

// The schedulers: their names, and the classes of Diffusers that they are, if there is one.
struct Kind {
  SchedulerKind kind;
  std::string_view name, class_name;
};
constexpr Kind kKinds[] = {{SchedulerKind::unipc, "unipc", "UniPCMultistepScheduler"},
                           {SchedulerKind::euler, "euler", "FlowMatchEulerDiscreteScheduler"},
                           {SchedulerKind::lcm, "lcm", "FlowMatchLCMScheduler"},
                           {SchedulerKind::dpmpp, "dpm++", "DPMSolverMultistepScheduler"},
                           {SchedulerKind::rcm, "rcm", ""}};

std::string or_list(std::string_view Kind::*text) {
  std::vector<std::string_view> names;
  for (const Kind& kind : kKinds)
    if (!(kind.*text).empty()) names.push_back(kind.*text);
  return fmt::format("{} or {}", fmt::join(names.begin(), names.end() - 1, ", "), names.back());
}

// The settings of these classes; a file may hold those of both, as Diffusers keeps them when one is made from the other.
constexpr std::string_view kKnownKeys =
    " num_train_timesteps beta_start beta_end beta_schedule trained_betas solver_order prediction_type thresholding"
    " dynamic_thresholding_ratio sample_max_value predict_x0 solver_type lower_order_final disable_corrector solver_p"
    " use_karras_sigmas use_exponential_sigmas use_beta_sigmas use_flow_sigmas flow_shift timestep_spacing steps_offset"
    " final_sigmas_type rescale_betas_zero_snr use_dynamic_shifting time_shift_type sigma_min sigma_max shift_terminal shift"
    " base_shift max_shift base_image_seq_len max_image_seq_len invert_sigmas stochastic_sampling algorithm_type"
    " euler_at_final use_lu_lambdas lambda_min_clipped variance_type scale_factors upscale_mode ";

void note_unknown_keys(const JsonObject& file) {
  std::vector<std::string> unknown;
  for (std::string& key : file.keys()) {
    if (!key.starts_with('_') && kKnownKeys.find(" " + key + " ") == std::string_view::npos) unknown.push_back(std::move(key));
  }
  if (unknown.empty()) return;
  log(LogLevel::notice,
      fmt::format("[{}] ignored settings that Diffusers does not know either: {}{}", file.where(), in_quotes(unknown[0]),
                  unknown.size() > 1 ? fmt::format(" and {} more", unknown.size() - 1) : ""));
}

void read_unipc(const JsonObject& file, SchedulerConfig* config) {
  only(file, "use_flow_sigmas", true, false);
  only<std::string>(file, "prediction_type", in_quotes(file.string("prediction_type", "epsilon")), in_quotes("flow_prediction"));
  only(file, "predict_x0", true, true);
  only(file, "thresholding", false, false);
  only<std::string>(file, "solver_p", file.has("solver_p") ? "another scheduler" : "null", "null");
  config->flow_shift = file.number("flow_shift", kMinShift, kMaxShift, 1.0);
  config->solver_order = static_cast<int>(file.integer("solver_order", 1, 3, 2));
  config->lower_order_final = file.boolean("lower_order_final", true);
  // Diffusers reads the names of DPM-Solver's types as bh2.
  const std::string solver = file.choice("solver_type", {"bh1", "bh2", "midpoint", "heun", "logrho"}, "bh2");
  config->solver_type = solver == "bh1" ? SolverType::bh1 : SolverType::bh2;
  const std::string last = file.choice("final_sigmas_type", {"zero", "sigma_min"}, "zero");
  config->final_sigma = last == "zero" ? FinalSigma::zero : FinalSigma::sigma_min;
  if (file.has("disable_corrector")) config->disable_corrector = file.integers("disable_corrector", 0, kMaxTimesteps, 0, 1000);
}

void read_dpmpp(const JsonObject& file, SchedulerConfig* config) {
  only(file, "use_flow_sigmas", true, false);
  only(file, "use_lu_lambdas", false, false);
  only<std::string>(file, "prediction_type", in_quotes(file.string("prediction_type", "epsilon")), in_quotes("flow_prediction"));
  only<std::string>(file, "algorithm_type", in_quotes(file.string("algorithm_type", "dpmsolver++")), in_quotes("dpmsolver++"));
  only(file, "thresholding", false, false);
  config->flow_shift = file.number("flow_shift", kMinShift, kMaxShift, 1.0);
  config->solver_order = static_cast<int>(file.integer("solver_order", 1, 3, 2));
  only<std::int64_t>(file, "solver_order", config->solver_order, std::min(config->solver_order, 2));
  // Diffusers reads UniPC's names as midpoint.
  const std::string solver = file.choice("solver_type", {"midpoint", "heun", "logrho", "bh1", "bh2"}, "midpoint");
  only<std::string>(file, "solver_type", in_quotes(solver == "heun" ? "heun" : "midpoint"), in_quotes("midpoint"));
  const std::string last = file.choice("final_sigmas_type", {"zero", "sigma_min"}, "zero");
  only<std::string>(file, "final_sigmas_type", in_quotes(last), in_quotes("zero"));
}

void read_euler(const JsonObject& file, SchedulerConfig* config) {
  only(file, "invert_sigmas", false, false);
  only(file, "stochastic_sampling", false, false);
  config->flow_shift = file.number("shift", kMinShift, kMaxShift, 1.0);
}

void check_sigmas(const std::vector<double>& sigmas, std::string_view where) {
  double above = 1;
  for (std::size_t i = 0; i < sigmas.size(); ++i) {
    const bool falls = i == 0 ? sigmas[i] <= above : sigmas[i] < above;
    check(
        falls && sigmas[i] > 0, ErrorKind::invalid_argument, where,
        "bad noise levels: got {} as number {}, expected falling numbers above 0 and at most 1. Leave out the last 0, and give the "
        "levels before the shift, as 1,.75,.5,.25.",
        sigmas[i], i + 1);
    above = sigmas[i];
  }
}

}  // namespace

std::string_view name(SchedulerKind kind) {
  return std::find_if(std::begin(kKinds), std::end(kKinds), [&](const Kind& each) { return each.kind == kind; })->name;
}

SchedulerKind parse_scheduler_kind(std::string_view text, std::string_view where) {
  for (const Kind& kind : kKinds)
    if (text == kind.name) return kind.kind;
  fail(ErrorKind::invalid_argument, where, "unknown scheduler: got {}, expected {}. Choose one of these.", text.substr(0, 60),
       or_list(&Kind::name));
}

std::vector<double> parse_sigmas(std::string_view text, std::string_view where) {
  std::vector<double> sigmas;
  for (std::string_view rest = text;;) {
    const std::size_t comma = rest.find(',');
    std::string_view word = rest.substr(0, comma);
    while (word.starts_with(' ')) word.remove_prefix(1);
    while (word.ends_with(' ')) word.remove_suffix(1);
    double sigma = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), sigma);
    check(error == std::errc{} && end == word.data() + word.size() && sigmas.size() < kMaxSteps, ErrorKind::invalid_argument, where,
          "bad noise levels: got {} as number {}, expected at most {} numbers with commas between. Write them as 1,.75,.5,.25.",
          in_quotes(std::string(word.substr(0, 40))), sigmas.size() + 1, kMaxSteps);
    sigmas.push_back(sigma);
    if (comma == std::string_view::npos) break;
    rest.remove_prefix(comma + 1);
  }
  check_sigmas(sigmas, where);
  return sigmas;
}

SchedulerConfig parse_scheduler_config(std::string_view json_text, std::string_view where) {
  const JsonObject file = parse_json_object(json_text, where);
  SchedulerConfig config;
  const std::string class_name = file.string("_class_name");
  const auto* const known = std::find_if(std::begin(kKinds), std::end(kKinds),
                                         [&](const Kind& each) { return !class_name.empty() && each.class_name == class_name; });
  check(known != std::end(kKinds), ErrorKind::unsupported, where,
        "scheduler class is not supported: got {}, expected {}. Set _class_name to one of these.", in_quotes(class_name),
        or_list(&Kind::class_name));
  config.kind = known->kind;
  config.num_train_timesteps = file.integer("num_train_timesteps", 1, kMaxTimesteps, 1000);
  for (const auto key : {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_dynamic_shifting"})
    only(file, key, false, false);
  config.shift_terminal = file.number("shift_terminal", 0, kMaxShiftTerminal, 0.0);
  switch (config.kind) {
    case SchedulerKind::unipc: read_unipc(file, &config); break;
    case SchedulerKind::dpmpp: read_dpmpp(file, &config); break;
    case SchedulerKind::euler:
    case SchedulerKind::rcm:
    case SchedulerKind::lcm: read_euler(file, &config); break;
  }
  note_unknown_keys(file);
  return config;
}

std::unique_ptr<Scheduler> make_scheduler(const SchedulerConfig& config, int steps) {
  constexpr auto kind = ErrorKind::invalid_argument;
  check(config.num_train_timesteps >= 1 && config.num_train_timesteps <= kMaxTimesteps, kind, "scheduler",
        "bad num_train_timesteps: got {}, expected 1 to {}. Use 1000.", config.num_train_timesteps, kMaxTimesteps);
  check(config.flow_shift >= kMinShift && config.flow_shift <= kMaxShift, kind, "scheduler",
        "bad flow shift: got {}, expected {} to {}. Wan models use 1 to 12.", config.flow_shift, kMinShift, kMaxShift);
  check(config.solver_order >= 1 && config.solver_order <= 3, kind, "scheduler",
        "bad solver_order: got {}, expected 1 to 3. Use 2.", config.solver_order);
  check(config.shift_terminal >= 0 && config.shift_terminal <= kMaxShiftTerminal, kind, "scheduler",
        "bad shift_terminal: got {}, expected 0 to {}. Use 0, which is none.", config.shift_terminal, kMaxShiftTerminal);
  const auto most = static_cast<int>(std::min<std::int64_t>(kMaxSteps, config.num_train_timesteps));
  check(steps >= 1 && steps <= most, kind, "scheduler",
        "bad number of inference steps: got {}, expected 1 to {}{}. Choose a number of that range.", steps, most,
        most < static_cast<int>(kMaxSteps) ? " (num_train_timesteps of the model)" : "");
  check_sigmas(config.sigmas, "scheduler");
  check(config.sigmas.empty() || config.sigmas.size() == static_cast<std::size_t>(steps), kind, "scheduler",
        "the noise levels do not fit the number of inference steps: got {} levels, expected {}. Leave the number of steps out.",
        config.sigmas.size(), steps);
  ZOE_INTERNAL_CHECK(config.skipped >= 0 && config.skipped < steps);
  switch (config.kind) {
    case SchedulerKind::euler: return std::make_unique<EulerScheduler>(config, steps);
    case SchedulerKind::rcm:
    case SchedulerKind::lcm: return std::make_unique<LcmScheduler>(config, steps);
    case SchedulerKind::dpmpp: return std::make_unique<DpmppScheduler>(config, steps);
    case SchedulerKind::unipc: break;
  }
  return std::make_unique<UniPCScheduler>(config, steps);
}

}  // namespace zoe
