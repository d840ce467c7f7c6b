// What a recipe's stage is given to work with: the tensors and plans it named, a stream, and whom to tell.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/run.h"
#include "pipeline/callbacks.h"
#include "pipeline/program.h"

namespace zoe {

struct Resources;

// Runs a plan; zoe::run, unless somebody looks on (verify).
using PlanRunner = std::function<void(const NamedPlan&, Stream&, WeightStore&, std::span<const Tensor> inputs,
                                      std::span<const Tensor> outputs, const Tensor& workspace, const RunOptions&)>;

// A use of a plan, with the tensors that its arguments are.
struct BoundPlan {
  const BoundProgram::Use* use = nullptr;
  WeightStore* weights = nullptr;  // null: it has none
  std::vector<Tensor> inputs, outputs;

  // Another tensor of the argument's type, from now on: a row of a table, one of several that take turns.
  void set_input(std::string_view argument, Tensor tensor);
  void set_output(std::string_view argument, Tensor tensor);
};

// What a tensor was last filled with by StageRun::fill_once, and where it was then: a tensor made again is another buffer.
struct Filled {
  std::weak_ptr<Buffer> buffer;
  std::string contents;
};

class StageRun {
 public:
  // What a component's checkpoint holds besides weights of plans: `count` elements of a tensor from `begin` on, as f32.
  using StoredReader =
      std::function<void(std::string_view component, std::string_view tensor, std::int64_t begin, std::int64_t count, float* out)>;

  Platform& platform() const;
  Stream& stream() const;     // where plans run
  Stream& downloads() const;  // for results that are copied out while the next are made
  // The same on another device of the group: tensors and uses are those of its prefix (device_prefix), plans run there.
  StageRun on(int device) const;
  // work(run) on each of the first `count` devices at once, see DeviceThreads.
  void at_once(int count, const std::function<void(int device, const StageRun& run)>& work) const;
  const Callbacks& callbacks() const { return callbacks_; }

  // By the names that the stage gave.
  const Tensor& tensor(std::string_view name) const;
  BoundPlan bind(std::string_view use) const;
  void read_stored(std::string_view component, std::string_view tensor, std::int64_t begin, std::int64_t count, float* out) const;

  // Queues a plan and does not wait. With `capture`, its blocks become graphs of the device, launched as one from the third run
  // on the same arguments on.
  void run(const BoundPlan& plan, bool capture = true) const;
  void upload(const Tensor& tensor, std::span<const float> values) const;
  void upload(const Tensor& tensor, std::span<const std::int32_t> values) const;
  // For tables that follow from sizes and that no plan writes: uploads what `make` gives unless the tensor holds `contents`, their
  // name, already, from an earlier stage or request.
  void fill_once(std::string_view tensor, std::string contents, const std::function<std::vector<float>()>& make) const;
  void copy(const Tensor& from, const Tensor& to) const;  // of equal size
  // From another device, whose stream this one already waits for.
  void pull(const StageRun& other, const Tensor& from, const Tensor& to) const;
  std::vector<float> download(const Tensor& tensor) const;  // f32; waits for what is queued

  void progress(std::size_t done, std::size_t total) const;
  void phase(std::string name, StepClock::time_point start) const;  // a line of the profile, until now

 private:
  friend class Execution;
  StageRun(Resources& resources, const Callbacks& callbacks) : resources_(resources), callbacks_(callbacks) {}

  Resources& resources_;
  const Callbacks& callbacks_;
  int device_ = 0;
  const BoundProgram* program_ = nullptr;
  std::size_t stage_ = 0, video_ = 0;
  WeightStore* no_weights_ = nullptr;
  const StepTimer* timer_ = nullptr;
  const PlanRunner* runner_ = nullptr;
  const StoredReader* stored_ = nullptr;
  std::function<void(std::size_t done)> on_progress_;
};

// Row `row` of a table f32 [rows,width], as a tensor of `type`, which is no larger than a row.
Tensor row_of(const Tensor& table, std::int64_t row, const Type& type);

}  // namespace zoe
