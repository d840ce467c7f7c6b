#include "pipeline/statement.h"

#include <algorithm>

namespace zoe {

std::string_view name(Phase phase) {
  constexpr std::string_view kNames[] = {"load", "encode", "denoise", "decode"};
  return kNames[static_cast<std::size_t>(phase)];
}

bool Settled::is_exact(int step) const {
  return std::any_of(exact_steps.begin(), exact_steps.end(),
                     [step](const std::pair<int, int>& range) { return range.first <= step && step <= range.second; });
}

std::size_t MemoryStatement::peak() const {
  std::size_t most = 0;
  for (const StageMemory& stage : stages) most = std::max(most, stage.total());
  return always + most;
}

std::string_view name(Offload offload) {
  constexpr std::string_view kNames[] = {"auto", "none", "encoder", "experts", "blocks"};
  return kNames[static_cast<std::size_t>(offload)];
}

std::string_view name(Parallel parallel) {
  constexpr std::string_view kNames[] = {"auto", "none", "guidance", "sequence", "guidance+sequence"};
  return kNames[static_cast<std::size_t>(parallel)];
}

std::size_t MemoryStatement::host_peak() const {
  std::size_t most = 0;
  for (const StageMemory& stage : stages) most = std::max(most, stage.host);
  return most;
}

std::size_t MemoryStatement::of(Phase phase) const {
  std::size_t most = 0;
  for (const StageMemory& stage : stages)
    if (stage.phase == phase) most = std::max(most, stage.total());
  return most;
}

}  // namespace zoe
