// The instruction sets that the CPU's loops are compiled for.
#pragma once

#include <hwy/highway.h>

#include <cctype>
#include <cstdint>
#include <functional>
#include <string>

namespace zoe::testing {

// Runs `body` once for each that this machine has: kernels made meanwhile are for it. `body` gets its name, as kernels say it.
inline void for_each_instruction_set(const std::function<void(const std::string& name)>& body) {
  const std::int64_t supported = hwy::SupportedTargets();
  for (const std::int64_t target :
       {std::int64_t{HWY_AVX3}, std::int64_t{HWY_AVX2}, std::int64_t{HWY_SSE4}, std::int64_t{HWY_STATIC_TARGET}}) {
    if (target != HWY_STATIC_TARGET && (supported & target) == 0) continue;
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    std::string name;
    for (const char* c = hwy::TargetName(target); *c; ++c) name += static_cast<char>(std::tolower(*c));
    body(name);
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace zoe::testing
