// The schedulers by name.
#pragma once

#include <cstdint>
#include <string_view>

namespace zoe {

enum class SchedulerKind : std::uint8_t { unipc, euler };

std::string_view name(SchedulerKind kind);
// "unipc" or "euler"; anything else is an invalid_argument error.
SchedulerKind parse_scheduler_kind(std::string_view text, std::string_view where);

}  // namespace zoe
