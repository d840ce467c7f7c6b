// How long a step of denoising takes: as it was measured on this device, else by a model of its arithmetic and its bus.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "pipeline/session.h"

namespace zoe {

// What a step does, of the stage that takes longest.
struct StepWork {
  double operations = 0;    // multiplications and additions of a forward's products
  double copied_bytes = 0;  // of blocks that come: from this process to the device
};
StepWork step_work(const MemoryStatement& memory);

// All that a measured step follows from: device, model, dtype, sizes, and how weights and tokens are taken.
std::string step_key(const Session& session, const Settled& settled, const MemoryStatement& memory);

struct StepSeconds {
  double seconds = 0;
  enum class From : std::uint8_t { measured, model } from = From::measured;
};

// Operations and bytes that a device does in a second.
struct DeviceRates {
  std::optional<double> operations, bus_bytes;
};

// Copies run beside kernels: the slower of both counts.
StepSeconds modelled_step(const StepWork& work, double operations_per_second, double bus_bytes_per_second);

// Measured steps by key, one small JSON file beside the compiled kernels: `steps.json`. A file that cannot be read is empty, one
// that cannot be written stays as it is: times are a help, no more.
class StepTimes {
 public:
  explicit StepTimes(std::filesystem::path folder);  // "": KernelCache::default_folder()

  std::optional<double> find(const std::string& key) const;
  // Of another key of the same device, model and dtype: the operations in a second of the step that was measured last.
  std::optional<double> rate(const Session& session) const;
  void keep(const std::string& key, double seconds, const StepWork& work);

 private:
  std::filesystem::path file_;
};

// By what was measured, else by `said`, else by the rate that other sizes ran at; nothing: not known.
std::optional<StepSeconds> step_seconds(const StepTimes& times, const Session& session, const Settled& settled,
                                        const MemoryStatement& memory, const DeviceRates& said);

}  // namespace zoe
