#include "pipeline/presets.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/log.h"

namespace zoe {

namespace {

// What the levels of another number of steps are: unknown, n / n to 1 / n, or the first n.
enum class Others : std::uint8_t { none, even, first };

struct Settings {
  Preset preset;
  SchedulerKind scheduler;
  double flow_shift, guidance_scale;
  std::vector<double> sigmas;  // before the shift
  Others others;
};

// The levels of rCM: angles of TrigFlow, the first that of the most noise of its training.
std::vector<double> trig_flow_levels(double most_noise) {
  std::vector<double> levels{most_noise / (1 + most_noise)};
  for (const double angle : {1.5, 1.4, 1.0}) levels.push_back(std::sin(angle) / (std::cos(angle) + std::sin(angle)));
  return levels;
}

const std::vector<Settings>& table() {
  // lightx2v: levels 1000, 750, 500, 250 of 1000, shifted by 5, straight steps (LightX2V's StepDistill and Distill models and
  // LoRAs, Wan2.2-Lightning). dmd: timesteps 1000, 757, 522 are 1000, 280, 120 of 1000 shifted by 8, each step to the clean sample
  // and back with fresh noise (CausVid's bidirectional models, FastWan's without sparse attention). rcm: no shift (NVIDIA's rCM and
  // TurboDiffusion's models without sparse attention).
  static const std::vector<Settings> rows{{Preset::lightx2v_4step, SchedulerKind::euler, 5, 1, {1, 0.75, 0.5, 0.25}, Others::even},
                                          {Preset::dmd_3step, SchedulerKind::lcm, 8, 1, {1, 0.28, 0.12}, Others::none},
                                          {Preset::rcm_4step, SchedulerKind::rcm, 1, 1, trig_flow_levels(80), Others::first},
                                          {Preset::rcm_4step_i2v, SchedulerKind::rcm, 1, 1, trig_flow_levels(200), Others::first}};
  return rows;
}

}  // namespace

Request with_preset(const Request& request, Spelling spelling) {
  Request result = request;
  const auto found =
      std::find_if(table().begin(), table().end(), [&](const Settings& each) { return each.preset == request.preset; });
  if (found == table().end()) return result;
  if (!result.scheduler) result.scheduler = found->scheduler;
  if (!result.flow_shift) result.flow_shift = found->flow_shift;
  if (!result.guidance_scale) result.guidance_scale = found->guidance_scale;
  if (const int steps = result.num_inference_steps.value_or(0); result.sigmas.empty()) {
    result.sigmas = found->sigmas;
    if (steps > 0 && found->others == Others::even) {
      result.sigmas.clear();
      for (int i = steps; i > 0; --i) result.sigmas.push_back(static_cast<double>(i) / steps);
    }
    if (steps > 0 && found->others == Others::first)
      result.sigmas.resize(std::min(result.sigmas.size(), static_cast<std::size_t>(steps)));
  }
  std::string set;
  for (const RequestField& field : request_fields())
    if (const auto texts = get_field(result, field); texts != get_field(request, field))
      set += fmt::format("{}{} {}", set.empty() ? "" : ", ", spelled(field.name, spelling), fmt::join(texts, ","));
  if (!set.empty()) log(LogLevel::notice, fmt::format("preset {}: {}", get_field(request, *find_field("preset")).front(), set));
  return result;
}

}  // namespace zoe
