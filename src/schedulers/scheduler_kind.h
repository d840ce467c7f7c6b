// The schedulers by name.
#pragma once

#include <cstdint>
#include <string_view>

namespace zoe {

// unipc, euler: without chance. lcm and rcm draw fresh noise at every step, for models distilled so (LCM, DMD; rCM). dpmpp:
// DPM-Solver++, 2M.
enum class SchedulerKind : std::uint8_t { unipc, euler, lcm, dpmpp, rcm };

std::string_view name(SchedulerKind kind);
// "unipc", "euler", "lcm", "dpm++" or "rcm"; anything else is an invalid_argument error.
SchedulerKind parse_scheduler_kind(std::string_view text, std::string_view where);

}  // namespace zoe
