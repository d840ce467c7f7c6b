#include "pipeline/presets.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/log.h"

namespace zoe {

namespace {

struct Settings {
  Preset preset;
  SchedulerKind scheduler;
  double flow_shift, guidance_scale;
  std::vector<double> sigmas;  // before the shift
  bool even;                   // the levels are n / n, ..., 1 / n, which holds for other numbers of steps, too
};

const std::vector<Settings>& table() {
  // lightx2v: levels 1000, 750, 500, 250 of 1000, shifted by 5, straight steps (LightX2V's StepDistill and Distill models and
  // LoRAs, Wan2.2-Lightning). dmd: timesteps 1000, 757, 522 are 1000, 280, 120 of 1000 shifted by 8, each step to the clean sample
  // and back with fresh noise (CausVid's bidirectional models, FastWan's without sparse attention).
  static const std::vector<Settings> rows{{Preset::lightx2v_4step, SchedulerKind::euler, 5, 1, {1, 0.75, 0.5, 0.25}, true},
                                          {Preset::dmd_3step, SchedulerKind::lcm, 8, 1, {1, 0.28, 0.12}, false}};
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
    if (found->even && steps > 0)
      for (int i = steps; i > 0; --i) result.sigmas.push_back(static_cast<double>(i) / steps);
    else result.sigmas = found->sigmas;
  }
  std::string set;
  for (const RequestField& field : request_fields())
    if (const auto texts = get_field(result, field); texts != get_field(request, field))
      set += fmt::format("{}{} {}", set.empty() ? "" : ", ", spelled(field.name, spelling), fmt::join(texts, ","));
  if (!set.empty()) log(LogLevel::notice, fmt::format("preset {}: {}", get_field(request, *find_field("preset")).front(), set));
  return result;
}

}  // namespace zoe
