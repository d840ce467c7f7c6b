#include "pipeline/step_times.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "pipeline/model.h"
#include "platform/kernel_cache.h"
#include "platform/platform.h"

namespace zoe {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMostKept = 500;
constexpr double kBusBytes = 25e9;  // of PCIe 4.0 with 16 lanes, where nobody says another

Json read(const std::filesystem::path& file) {
  std::ifstream in(file);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  Json steps = Json::parse(text, nullptr, false);
  return steps.is_object() ? steps : Json::object();
}

std::string device_key(const Session& session) {
  const DeviceInfo& device = session.platform().info();
  return fmt::format("{} | {} | {} | {}", device.platform, device.name, session.model().name, name(session.dtype()));
}

std::optional<double> number(const Json& entry, const char* key) {
  if (!entry.is_object() || !entry.contains(key) || !entry[key].is_number()) return {};
  const auto value = entry[key].get<double>();
  return value > 0 ? std::optional(value) : std::nullopt;
}

}  // namespace

StepWork step_work(const MemoryStatement& memory) {
  StepWork most;
  for (const StageMemory& stage : memory.stages)
    if (stage.phase == Phase::denoise && stage.operations >= most.operations)
      most = {stage.operations, static_cast<double>(stage.coming_bytes - stage.peer_bytes)};
  return most;
}

std::string step_key(const Session& session, const Settled& settled, const MemoryStatement& memory) {
  std::size_t blocks = 0;
  for (const StageMemory& stage : memory.stages)
    if (stage.phase == Phase::denoise) blocks = std::max(blocks, stage.coming_blocks);
  return fmt::format("{} | {}x{}x{} | {} texts in batches of {}, {} pieces, {} blocks come{}{}{}", device_key(session),
                     settled.made_width, settled.made_height, settled.num_frames, settled.guidance_scale > 1 ? 2 : 1, settled.batch,
                     settled.token_pieces, blocks, arithmetic_text(settled).empty() ? "" : ", ", arithmetic_text(settled),
                     settled.guidance_devices * settled.sequence_devices == 1
                         ? ""
                         : fmt::format(" | {}x{} devices", settled.guidance_devices, settled.sequence_devices));
}

StepSeconds modelled_step(const StepWork& work, double operations_per_second, double bus_bytes_per_second) {
  return {std::max(work.operations / operations_per_second, work.copied_bytes / bus_bytes_per_second), StepSeconds::From::model};
}

StepTimes::StepTimes(std::filesystem::path folder) {
  if (folder.empty()) folder = KernelCache::default_folder();
  if (!folder.empty()) file_ = folder / "steps.json";
}

std::optional<double> StepTimes::find(const std::string& key) const {
  const Json steps = read(file_);
  return steps.contains(key) ? number(steps[key], "seconds") : std::nullopt;
}

std::optional<double> StepTimes::rate(const Session& session) const {
  const Json steps = read(file_);
  std::optional<double> found;
  for (const auto& [key, entry] : steps.items()) {
    const auto seconds = number(entry, "seconds"), operations = number(entry, "operations");
    // What waits for blocks says nothing of the device's arithmetic.
    if (key.starts_with(device_key(session) + " | ") && seconds && operations && !number(entry, "copied_bytes"))
      found = *operations / *seconds;
  }
  return found;
}

void StepTimes::keep(const std::string& key, double seconds, const StepWork& work) {
  std::error_code status;
  if (file_.empty() || !std::filesystem::is_directory(file_.parent_path(), status)) return;
  Json steps = read(file_);
  steps.erase(key);  // to the end: the last ones measured stay
  steps[key] = {{"seconds", seconds}, {"operations", work.operations}, {"copied_bytes", work.copied_bytes}};
  while (steps.size() > kMostKept) steps.erase(steps.begin());
  const std::filesystem::path beside = fmt::format("{}.{}", file_.string(), getpid());
  if (std::ofstream out(beside); !(out << steps.dump(1, ' ', false, Json::error_handler_t::replace) << "\n" << std::flush)) {
    std::filesystem::remove(beside, status);
    return;
  }
  std::filesystem::rename(beside, file_, status);
  if (status) std::filesystem::remove(beside, status);
}

std::optional<StepSeconds> step_seconds(const StepTimes& times, const Session& session, const Settled& settled,
                                        const MemoryStatement& memory, const DeviceRates& said) {
  if (const auto seconds = times.find(step_key(session, settled, memory))) return StepSeconds{*seconds};
  const std::optional<double> operations = said.operations ? said.operations : times.rate(session);
  if (!operations) return {};
  return modelled_step(step_work(memory), *operations, said.bus_bytes.value_or(kBusBytes));
}

}  // namespace zoe
