#include "pipeline/stage_run.h"

#include <algorithm>

#include "base/error.h"
#include "compiler/profile.h"
#include "pipeline/execution.h"

namespace zoe {

namespace {

void set(const std::vector<BoundProgram::Argument>& arguments, std::vector<Tensor>& tensors, std::string_view name, Tensor tensor) {
  const auto found = std::find_if(arguments.begin(), arguments.end(), [&](const auto& argument) { return argument.name == name; });
  ZOE_INTERNAL_CHECK(found != arguments.end() && found->type == tensor.type);
  tensors[static_cast<std::size_t>(found - arguments.begin())] = std::move(tensor);
}

}  // namespace

void BoundPlan::set_input(std::string_view argument, Tensor tensor) { set(use->inputs, inputs, argument, std::move(tensor)); }
void BoundPlan::set_output(std::string_view argument, Tensor tensor) { set(use->outputs, outputs, argument, std::move(tensor)); }

namespace {

Resources::Device& device_of(Resources& resources, int device) { return resources.devices[static_cast<std::size_t>(device)]; }

}  // namespace

Platform& StageRun::platform() const { return *device_of(resources_, device_).platform; }
Stream& StageRun::stream() const { return *device_of(resources_, device_).stream; }
Stream& StageRun::downloads() const { return *device_of(resources_, device_).downloads; }

StageRun StageRun::on(int device) const {
  StageRun other = *this;
  other.device_ = device;
  if (device != 0) other.timer_ = nullptr;  // profiles show the first device
  return other;
}

void StageRun::at_once(int count, const std::function<void(int device, const StageRun& run)>& work) const {
  resources_.threads.all(static_cast<std::size_t>(count), [&](std::size_t rank) {
    const int device = static_cast<int>(rank);
    work(device, on(device));
  });
}

const Tensor& StageRun::tensor(std::string_view name) const {
  const auto found = resources_.tensors.find(device_prefix(device_) + std::string(name));
  check(found != resources_.tensors.end(), ErrorKind::internal, program_->program().stages[stage_].name, "no tensor {}.", name);
  return found->second;
}

BoundPlan StageRun::bind(std::string_view use) const {
  const std::vector<BoundProgram::Use>& uses = program_->uses(stage_);
  const auto found = std::find_if(uses.begin(), uses.end(), [&](const BoundProgram::Use& each) {
    return each.device == device_ && each.use->name == device_prefix(device_) + std::string(use);
  });
  check(found != uses.end(), ErrorKind::internal, program_->program().stages[stage_].name, "no use of a plan {}.", use);
  BoundPlan plan{&*found, no_weights_, {}, {}};
  if (const auto component = resources_.components.find(found->use->component); component != resources_.components.end())
    plan.weights = &component->second->weights();
  for (const auto& argument : found->inputs) plan.inputs.push_back(resources_.tensors.at(argument.tensor));
  for (const auto& argument : found->outputs) plan.outputs.push_back(resources_.tensors.at(argument.tensor));
  return plan;
}

void StageRun::read_stored(std::string_view component, std::string_view tensor, std::int64_t begin, std::int64_t count,
                           float* out) const {
  (*stored_)(component, tensor, begin, count, out);
}

void StageRun::run(const BoundPlan& plan, bool capture) const {
  Resources::Device& device = device_of(resources_, plan.use->device);
  const RunOptions options{.cancel = plan.use->exchanges ? nullptr : callbacks_.cancel,  // not one device of several
                           .time = timer_,
                           .captured_graphs = capture ? &device.captured_graphs : nullptr,
                           .wait = false};
  (*runner_)(*plan.use->plan, *device.stream, *plan.weights, plan.inputs, plan.outputs, device.workspace, options);
}

void StageRun::upload(const Tensor& tensor, std::span<const float> values) const {
  zoe::upload(platform(), stream(), values, tensor);
}
void StageRun::upload(const Tensor& tensor, std::span<const std::int32_t> values) const {
  zoe::upload(platform(), stream(), values, tensor);
}

void StageRun::fill_once(std::string_view name, std::string contents, const std::function<std::vector<float>()>& make) const {
  const Tensor& of = tensor(name);
  Filled& filled = resources_.filled[device_prefix(device_) + std::string(name)];
  if (filled.buffer.lock() == of.buffer && filled.contents == contents) return;
  filled = {};  // if this fails, it holds who knows what
  upload(of, make());
  filled = {of.buffer, std::move(contents)};
}

void StageRun::copy(const Tensor& from, const Tensor& to) const {
  ZOE_INTERNAL_CHECK(from.size_bytes() == to.size_bytes());
  platform().copy(stream(), from.slot(), to.slot(), from.size_bytes());
}

void StageRun::pull(const StageRun& other, const Tensor& from, const Tensor& to) const {
  ZOE_INTERNAL_CHECK(from.size_bytes() == to.size_bytes());
  platform().pull(stream(), to.slot(), other.platform(), from.slot(), from.size_bytes());
}

std::vector<float> StageRun::download(const Tensor& tensor) const {
  std::vector<float> values(static_cast<std::size_t>(tensor.type.shape.count()));
  zoe::download(platform(), stream(), tensor, values);
  return values;
}

void StageRun::progress(std::size_t done, std::size_t total) const {
  on_progress_(done);
  if (callbacks_.progress) callbacks_.progress({program_->program().stages[stage_].phase, video_, done, total});
}

void StageRun::phase(std::string name, StepClock::time_point start) const {
  if (callbacks_.profile) callbacks_.profile->phase(std::move(name), start, StepClock::now());
}

Tensor row_of(const Tensor& table, std::int64_t row, const Type& type) {
  const std::size_t width = table.size_bytes() / static_cast<std::size_t>(table.type.shape.dim(0));
  ZOE_INTERNAL_CHECK(row < table.type.shape.dim(0) && type.size_bytes() <= width);
  return {type, table.buffer, table.offset + static_cast<std::size_t>(row) * width};
}

}  // namespace zoe
