// Schedulers: from model outputs to the next latents.
//
// A scheduler is built for one number of steps; all that depends on the noise levels is tabled then, so that a step is one
// linear combination of the latents, the model output and what the scheduler keeps of earlier steps.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "ir/value.h"
#include "schedulers/scheduler_kind.h"

namespace zoe {

enum class SolverType : std::uint8_t { bh1, bh2 };         // B(h) of UniPC: h or e^h - 1
enum class FinalSigma : std::uint8_t { zero, sigma_min };  // where the last step goes: to 0, or nowhere

// The defaults are Wan's own, so `SchedulerConfig{.kind = ...}` is a complete configuration. Euler, LCM and rCM use the first three
// and the last two fields, DPM-Solver++ these and the order.
struct SchedulerConfig {
  SchedulerKind kind = SchedulerKind::unipc;
  std::int64_t num_train_timesteps = 1000;  // 1 to 1000000
  double flow_shift = 3.0;                  // 0.001 to 1000; `shift` in an Euler configuration
  int solver_order = 2;                     // 1 to 3
  SolverType solver_type = SolverType::bh2;
  bool lower_order_final = true;
  FinalSigma final_sigma = FinalSigma::zero;
  std::vector<std::int64_t> disable_corrector{};  // steps after which the corrector is left out
  double shift_terminal = 0;                      // where set, the levels are stretched so that the last before 0 is this; below 1
  // Noise levels before the shift, one a step, instead of evenly spaced ones: Diffusers' `sigmas=`. Falling, above 0, at most 1.
  std::vector<double> sigmas{};
  // Steps at the beginning that are not taken, fewer than there are: what is begun with is less than pure noise (video to video).
  int skipped = 0;
};

// Levels as a user writes them, "1,.75,.5,.25", checked as make_scheduler checks them; `where` names the option in errors.
std::vector<double> parse_sigmas(std::string_view text, std::string_view where);

// Reads the text of a Diffusers `scheduler_config.json`; `where` names the file in errors. What this engine does not do and
// would change the result is an unsupported error; a wrong type or range is an invalid_argument error. Settings that no
// Diffusers scheduler of these classes knows have no effect there either: they are named in a notice.
SchedulerConfig parse_scheduler_config(std::string_view json_text, std::string_view where);

class Scheduler {
 public:
  virtual ~Scheduler() = default;
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  int steps() const { return static_cast<int>(timesteps_.size()); }
  // What the model is given at each step: whole numbers for UniPC and DPM-Solver++, fractions for Euler and LCM.
  const std::vector<float>& timesteps() const { return timesteps_; }
  // Noise levels, steps() + 1 of them, falling; the last is where the last step ends.
  const std::vector<float>& sigmas() const { return sigmas_; }

  // Turns the latents of step i into those of step i + 1, as a graph. One graph serves all steps: what differs is
  // in `coefficients` f32[coefficient_count()], the row coefficients(i), and in which of the kept_count() tensors of the sample's
  // type a step reads and writes. They are zeros before step 0. Results: the next sample, then what is written to writes(i).
  // Steps are taken in order. Sample, kept tensors and the number of the next step are all that goes from one step to the next: a
  // run that stored them can be gone on with by a scheduler made alike.
  virtual std::vector<Value> trace_step(const Value& sample, const Value& model_output, const Value& coefficients,
                                        std::span<const Value> kept) const = 0;
  virtual std::vector<float> coefficients(int i) const = 0;
  std::size_t coefficient_count() const { return coefficients(0).size(); }
  virtual int kept_count() const { return 0; }
  virtual std::vector<int> reads(int /*i*/) const { return {}; }   // operands `kept` of step i
  virtual std::vector<int> writes(int /*i*/) const { return {}; }  // none of those that are read
  // The kept tensor that must hold fresh standard normal values before each step, if there is one: draws that follow the initial
  // noise of the same generator.
  virtual std::optional<int> noise() const { return {}; }
  // What standard normal noise is multiplied by to be the first sample.
  virtual float initial_scale() const { return 1; }

 protected:
  Scheduler() = default;
  std::vector<float> timesteps_;  // [steps]
  std::vector<float> sigmas_;     // [steps + 1]
};

// A scheduler for `steps`, less config.skipped, (1 to 1000, and no more than num_train_timesteps; as many as config.sigmas where
// these are given) steps; checks the whole configuration first. sigmas() of the result are the shifted levels. Where a model is
// configured for UniPC and `kind` is changed to Euler, this is FlowMatchEulerDiscreteScheduler(shift=flow_shift) of Diffusers; its
// from_config() would drop the shift, as the two classes name it differently. So with LCM.
std::unique_ptr<Scheduler> make_scheduler(const SchedulerConfig& config, int steps);

}  // namespace zoe
