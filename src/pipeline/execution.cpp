#include "pipeline/execution.h"

#include <algorithm>
#include <chrono>
#include <system_error>

#include "base/error.h"
#include "base/log.h"
#include "compiler/profile.h"
#include "platform/group.h"

namespace zoe {

namespace {

double seconds_since(StepClock::time_point start) { return std::chrono::duration<double>(StepClock::now() - start).count(); }

std::vector<Platform*> devices_of(Platform& platform) {
  if (!platform.group()) return {&platform};
  return {platform.group()->devices().begin(), platform.group()->devices().end()};
}

bool is_of(const std::string& name, std::size_t device) {
  return device == 0 ? !name.starts_with('@') : name.starts_with(device_prefix(static_cast<int>(device)));
}

}  // namespace

Resources::Resources(Platform& on) : platform(on), threads(devices_of(on)) {
  for (Platform* const device : devices_of(on)) devices.push_back({device, device->make_stream(), device->make_stream()});
}

std::size_t Resources::held_bytes(std::size_t device) const {
  const Tensor& workspace = devices[device].workspace;
  std::size_t bytes = workspace.buffer ? workspace.size_bytes() : 0;
  for (const auto& [name, component] : components)
    if (is_of(name, device)) bytes += component->weights().size_bytes();
  for (const auto& [name, tensor] : tensors)
    if (is_of(name, device)) bytes += tensor.size_bytes();
  return bytes;
}

std::size_t Resources::held_host_bytes() const {
  std::size_t bytes = 0;
  for (const auto& [name, component] : components) bytes += component->weights().host_bytes();
  return bytes;
}

std::uint64_t Resources::weight_bytes_loaded() const {
  std::uint64_t bytes = 0;
  for (const auto& [name, component] : components) bytes += component->bytes_loaded();
  return bytes;
}

void Resources::forget_graphs() {
  for (Device& device : devices) device.captured_graphs = {};
}

void Resources::forget(const Plan& plan) {
  forget_graphs();
  for (const auto& [name, component] : components) component->weights().forget(plan);
}

void Resources::clear(bool host) {
  forget_graphs();
  tensors.clear();
  for (Device& device : devices) device.workspace = {};
  for (const auto& [name, component] : components) {
    if (host) component->weights().clear();
    else component->weights().clear_device();
  }
}

Execution::Execution(Resources& resources, const BoundProgram& program, const Placement& placement, const Callbacks& callbacks,
                     const PlanRunner& runner)
    : resources_(resources), program_(program), placement_(placement), callbacks_(callbacks), runner_(runner) {
  if (callbacks.profile) timer_ = callbacks.profile->timer();
  no_weights_ = std::make_unique<WeightStore>(resources.platform, WeightSource());
  stored_ = [&](std::string_view component, std::string_view tensor, std::int64_t begin, std::int64_t count, float* out) {
    resources_.components.at(std::string(component))->read(std::string(tensor), begin, count, out);
  };
}

Execution::~Execution() {
  end_preparing(true);
  end_loading();
}

Timings Execution::go(Work& work) {
  try {
    begin();
    const Program& program = program_.program();
    for (std::size_t stage = 0; stage < program.repeated_from; ++stage) run_stage(work, stage, 0);
    const std::size_t first = callbacks_.resume ? callbacks_.resume->video : 0;
    check(first < program.repeats, ErrorKind::invalid_argument, "resume",
          "the saved state is not of this request: got video {}, expected one of {}.", first + 1, program.repeats);
    for (std::size_t video = first; video < program.repeats; ++video) {
      for (std::size_t stage = program.repeated_from; stage < program.stages.size(); ++stage) run_stage(work, stage, video);
      if (callbacks_.finished) callbacks_.finished(video);
    }
    // Not earlier: to give back page-locked memory takes time, and the next transformer has its own share of the limit.
    if (!placement_.keeps_host)
      for (const auto& [name, component] : resources_.components) component->weights().clear_host();
  } catch (const Error& error) {
    stop(error.kind() == ErrorKind::cancelled);
    throw;
  } catch (...) {
    stop(false);
    throw;
  }
  return timings_;
}

// Nothing stays in flight. What is on the device is good after a request that was cancelled; after another failure who knows.
void Execution::stop(bool cancelled) {
  end_preparing(true);
  end_loading();
  std::vector<Stream*> streams;
  for (const Resources::Device& device : resources_.devices)
    streams.insert(streams.end(), {device.stream.get(), device.downloads.get()});
  for (Stream* const stream : streams) {
    try {
      stream->synchronize();
    } catch (const Error&) {
      cancelled = false;  // the failure at hand is the one to tell of
    }
  }
  if (!cancelled) resources_.clear();
  else if (placement_.residency != Residency::always) resources_.clear(!placement_.keeps_host);
}

// What stayed from earlier requests and is of no use to this one, or in its way.
void Execution::begin() {
  Resources& r = resources_;
  const auto& wanted = program_.tensors();
  const bool stays = placement_.residency == Residency::always;
  const bool all_fit = std::all_of(r.tensors.begin(), r.tensors.end(), [&](const auto& entry) {
    const auto found = wanted.find(entry.first);
    return found != wanted.end() && found->second.type == entry.second.type;
  });
  if (stays && all_fit) return;
  r.forget_graphs();
  if (!stays) return r.clear(!placement_.keeps_host);
  std::erase_if(r.tensors, [&](const auto& entry) {
    const auto found = wanted.find(entry.first);
    return found == wanted.end() || found->second.type != entry.second.type;
  });
}

void Execution::run_stage(Work& work, std::size_t number, std::size_t video) {
  const Stage& stage = program_.program().stages[number];
  auto start = StepClock::now();
  end_preparing(false);
  if (work.takes_weights(number, video, callbacks_)) load_weights(number, video);
  load_ahead(work, number, video);
  start_preparing(number);
  const double load = seconds_since(start);
  timings_.load += load;
  if (callbacks_.profile) callbacks_.profile->phase("load for " + stage.name, start, StepClock::now());

  start = StepClock::now();
  make_tensors(number);
  StageRun run(resources_, callbacks_);
  run.program_ = &program_;
  run.stage_ = number;
  run.video_ = video;
  run.no_weights_ = no_weights_.get();
  run.timer_ = timer_ ? &timer_ : nullptr;
  run.runner_ = &runner_;
  run.stored_ = &stored_;
  run.on_progress_ = [&](std::size_t done) {
    if (stage.phase == Phase::denoise && done == 1 && timings_.first_step == 0) timings_.first_step = seconds_since(start_);
  };
  work.run(number, video, run);
  for (const Resources::Device& device : resources_.devices) device.stream->synchronize();
  const double seconds = seconds_since(start);
  if (timings_.stages.size() <= number) timings_.stages.resize(program_.program().stages.size());
  StageTime& time = timings_.stages[number];
  time.stage = stage.name, time.load += load, time.run += seconds;
  switch (stage.phase) {
    case Phase::load: timings_.load += seconds; break;
    case Phase::encode: timings_.encode += seconds; break;
    case Phase::denoise: timings_.denoise += seconds; break;
    case Phase::decode: timings_.decode += seconds; break;
  }
  if (callbacks_.profile) callbacks_.profile->phase(stage.name, start, StepClock::now());
  free_tensors(number, video);
  release_weights(number, video);
}

void Execution::load_weights(std::size_t stage, std::size_t video) {
  std::vector<std::map<std::string, std::vector<const Plan*>>> plans(resources_.devices.size());  // of each device
  for (const BoundProgram::Use& use : program_.uses(stage))
    if (!use.use->component.empty()) plans[static_cast<std::size_t>(use.device)][use.use->component].push_back(&use.plan->plan);
  for (const auto& [name, of] : plans[0]) wait_for(name);
  resources_.threads.all(program_.devices(stage), [&](std::size_t device) {
    for (const auto& [name, of] : plans[device]) {
      const auto progress = [&](std::size_t done, std::size_t total) {
        if (callbacks_.progress && device == 0) callbacks_.progress({Phase::load, video, done, total});
      };
      Component& component = *resources_.components.at(name);
      if (StageStreaming streaming = placement_.streaming[stage]) {
        if (streaming->member.count > 1) streaming->member.number = device;
        component.stream(program_.plans_of(stage, name), *streaming);
      } else component.load(of, callbacks_.cancel, progress);
    }
  });
}

// Components whose first stage comes later are loaded while this one runs, one behind the other, each with the plans of all its
// stages: no stage that runs meanwhile has weights of a component that is being loaded.
void Execution::load_ahead(const Work& work, std::size_t stage, std::size_t video) {
  if (resources_.platform.info().host_addressable) return;
  std::vector<std::packaged_task<void()>> tasks;
  std::vector<std::string> names;
  for (std::size_t later = stage + 1; later < program_.program().stages.size(); ++later)
    for (const BoundProgram::Use& use : program_.uses(later)) {
      const std::string& name = use.use->component;
      const auto found = placement_.ahead.find(name);
      // Those of other devices are loaded by their devices' threads, all at once.
      if (use.device != 0 || found == placement_.ahead.end() || found->second > stage || loaded_.contains(name)) continue;
      Component* const component = resources_.components.at(name).get();
      if (!program_.plans_of(stage, name).empty() || !work.takes_weights(later, video, callbacks_)) continue;
      std::vector<const Plan*> plans;
      for (std::size_t each = later; each < program_.program().stages.size(); ++each)
        for (const Plan* plan : program_.plans_of(each, name))
          if (std::find(plans.begin(), plans.end(), plan) == plans.end()) plans.push_back(plan);
      // Not "anything": a load that was given up leaves the weights of the plans before it.
      const auto is_there = [&](const Plan* plan) { return component->weights().has(*plan); };
      if (std::all_of(plans.begin(), plans.end(), is_there)) continue;
      tasks.emplace_back([this, component, name, plans = std::move(plans)] {
        const auto start = StepClock::now();
        component->load(plans, &give_up_, [&](std::size_t done, std::size_t total) {
          if (callbacks_.progress && waited_for_ == component) callbacks_.progress({Phase::load, 0, done, total});
        });
        log(LogLevel::detail, fmt::format("{} loaded in {:.2f} s, ahead of its first stage", name, seconds_since(start)));
      });
      loaded_[name] = tasks.back().get_future();
      names.push_back(name);
    }
  if (tasks.empty()) return;
  if (!loading_.valid()) give_up_ = false;
  try {
    loading_ =
        std::async(std::launch::async, [before = std::move(loading_), tasks = std::move(tasks), target = log_target()]() mutable {
          const LogScope log_scope(target);
          if (before.valid()) before.get();
          for (std::packaged_task<void()>& task : tasks) task();
        });
  } catch (const std::system_error&) {  // no more threads for this process: each is loaded before its stage
    for (const std::string& name : names) loaded_.erase(name);
  }
}

// Until it is loaded; what went wrong there is told here. A request that is cancelled gives up what is being loaded.
void Execution::wait_for(const std::string& component) {
  const auto found = loaded_.find(component);
  if (found == loaded_.end()) return;
  constexpr std::chrono::milliseconds kBetweenLooks{10};
  waited_for_ = resources_.components.at(component).get();
  while (found->second.wait_for(kBetweenLooks) != std::future_status::ready)
    if (callbacks_.cancel && callbacks_.cancel->load(std::memory_order_relaxed)) give_up_ = true;
  waited_for_ = nullptr;
  std::future<void> loaded = std::move(found->second);
  loaded_.erase(found);
  loaded.get();
}

void Execution::end_loading() {
  if (!loading_.valid()) return;
  give_up_ = true;
  loading_.get();
  loaded_.clear();
}

// While a transformer is at work, the next one's weights are read and packed: then they only have to be copied.
// What comes block by block is packed where copies run by themselves; of what is loaded as a whole only what has to be made.
void Execution::start_preparing(std::size_t stage) {
  const std::string next = program_.prepares(stage);
  if (next.empty() || resources_.platform.info().host_addressable) return;
  WeightStore& store = resources_.components.at(next)->weights();
  if (store.size_bytes() > 0) return;  // it stayed
  give_up_ = false;
  const auto prepare = [this, &store, plans = program_.plans_of(stage + 1, next),
                        streams = placement_.streaming[stage + 1].has_value(), target = log_target()] {
    const LogScope log_scope(target);
    try {
      if (streams) store.prepare_stream(plans, placement_.host_bytes, {.cancel = &give_up_});
      else store.prepare_load(plans, placement_.host_bytes, {.cancel = &give_up_});
    } catch (const std::exception& error) {  // what is not ready is loaded as ever, and fails there if it must
      if (!give_up_) log(LogLevel::detail, fmt::format("weights of the next stage are not prepared: {}", error.what()));
    }
  };
  try {
    preparing_ = std::async(std::launch::async, prepare);
  } catch (const std::system_error&) {  // no more threads for this process: nothing is prepared
  }
}

// Waits for it. A request that is cancelled meanwhile does not: what is not ready is given up.
void Execution::end_preparing(bool give_up) {
  if (!preparing_.valid()) return;
  constexpr std::chrono::milliseconds kBetweenLooks{10};
  const auto is_cancelled = [&] { return callbacks_.cancel && callbacks_.cancel->load(std::memory_order_relaxed); };
  while (!give_up && preparing_.wait_for(kBetweenLooks) != std::future_status::ready) give_up = is_cancelled();
  if (give_up) give_up_ = true;
  preparing_.get();
}

void Execution::release_weights(std::size_t stage, std::size_t video) {
  const bool again = placement_.residency == Residency::repeats && !is_last(video);
  for (const auto& [name, component] : resources_.components) {
    if (!program_.uses_component(stage, name)) continue;
    WeightStore& weights = component->weights();
    if (!weights.is_streaming() &&
        (placement_.residency == Residency::always || program_.needs_component_after(stage, name, again)))
      continue;
    weights.clear_device();
  }
}

void Execution::make_tensors(std::size_t stage) {
  Resources& r = resources_;
  std::vector<std::size_t> workspaces(r.devices.size());
  workspaces[0] = 64;
  const bool stays = placement_.residency == Residency::always;
  for (std::size_t other = 0; other < program_.program().stages.size(); ++other)
    if (stays || other == stage)
      for (const BoundProgram::Use& use : program_.uses(other)) {
        std::size_t& workspace = workspaces[static_cast<std::size_t>(use.device)];
        workspace = std::max({workspace, std::size_t{64}, use.plan->plan.workspace_bytes});
      }
  for (std::size_t d = 0; d < r.devices.size(); ++d) {
    Resources::Device& device = r.devices[d];
    if (workspaces[d] <= (device.workspace.buffer ? device.workspace.size_bytes() : 0)) continue;
    device.captured_graphs = {};
    device.workspace = {};
    device.workspace =
        make_tensor(*device.platform, {DType::f32, {static_cast<std::int64_t>((workspaces[d] + 3) / 4)}}, "workspace");
  }
  for (const auto& [name, tensor] : program_.tensors()) {
    if (tensor.first != stage) continue;
    Tensor& made = r.tensors[name];
    const Resources::Device& device = r.devices[static_cast<std::size_t>(tensor.device)];
    if (made.buffer && tensor.zeroed) device.platform->zero(*device.stream, made.slot(), made.size_bytes());
    if (made.buffer) continue;
    made = make_tensor(*device.platform, tensor.type, name);
    ++r.tensors_made;
  }
}

void Execution::free_tensors(std::size_t stage, std::size_t video) {
  if (placement_.residency == Residency::always) return;
  const std::size_t repeated = program_.program().repeated_from;
  for (const auto& [name, tensor] : program_.tensors()) {
    const bool of_every_video = tensor.first < repeated && tensor.last >= repeated;
    if (tensor.last == stage && (!of_every_video || is_last(video))) resources_.tensors.erase(name);
  }
  resources_.forget_graphs();
  for (Resources::Device& device : resources_.devices) device.workspace = {};
}

}  // namespace zoe
