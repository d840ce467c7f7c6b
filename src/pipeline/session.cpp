#include "pipeline/session.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <set>

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "compiler/passes/keep_stored.h"
#include "compiler/profile.h"
#include "compiler/run.h"
#include "pipeline/component.h"
#include "pipeline/execution.h"
#include "pipeline/lora_shelf.h"
#include "pipeline/model.h"
#include "pipeline/recipe.h"
#include "pipeline/session_access.h"
#include "pipeline/settle.h"
#include "platform/cpu/host.h"
#include "platform/group.h"
#include "text/tokenizer.h"

namespace zoe {

namespace {

// What a process holds beside weights, tensors, workspaces and what its kernels keep: thread stacks, library state. Measured.
constexpr std::size_t kOverheadBytes = 4 << 20;

DType default_dtype(const Platform& platform) { return platform.info().bf16_products ? DType::bf16 : DType::f32; }

// One at a time, in the order they came.
class Turns {
 public:
  class Turn {
   public:
    explicit Turn(Turns& turns) : turns_(turns) {
      std::unique_lock lock(turns_.mutex_);
      const std::uint64_t mine = turns_.next_++;
      turns_.changed_.wait(lock, [&] { return turns_.served_ == mine; });
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    ~Turn() {
      const std::lock_guard lock(turns_.mutex_);
      ++turns_.served_;
      turns_.changed_.notify_all();
    }

   private:
    Turns& turns_;
  };

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t next_ = 0, served_ = 0;
};

}  // namespace

// What LoRAs change, by component.
using Changes = std::map<std::string, ComponentChanges>;
const ComponentChanges& changes_of(const Changes& changes, const std::string& component) {
  static const ComponentChanges none;
  const auto found = changes.find(component);
  return found == changes.end() ? none : found->second;
}

// What is beside a weight is added by all plans that read it.
void check_changes(const BoundProgram& program, const Changes& changes) {
  for (std::size_t stage = 0; stage < program.program().stages.size(); ++stage)
    for (const BoundProgram::Use& use : program.uses(stage))
      for (const PlanWeight& weight : use.plan->plan.weights)
        for (const PlanWeight::Part& part : weight.parts)
          ZOE_INTERNAL_CHECK(weight.kept || !changes_of(changes, use.use->component).beside.contains(part.name));
}

struct Job::State {
  std::unique_ptr<Work> work;
  std::vector<std::shared_ptr<const NamedPlan>> plans;  // held, though the session may have let them go
  std::unique_ptr<BoundProgram> program;
  Placement placement;
  MemoryStatement memory;
  Changes changes;
  std::string refusal;
};

Job::Job(std::unique_ptr<State> state) : state_(std::move(state)) {}
Job::Job(Job&&) noexcept = default;
Job& Job::operator=(Job&&) noexcept = default;
Job::~Job() = default;
const Settled& Job::settled() const { return state_->work->settled(); }
const MemoryStatement& Job::memory() const { return state_->memory; }
const std::string& Job::refusal() const { return state_->refusal; }

struct Session::State {
  ModelConfig model;
  std::shared_ptr<Platform> platform;
  SessionOptions options;
  DType dtype;
  std::unique_ptr<Recipe> recipe;
  std::unique_ptr<Tokenizer> tokenizer;
  Resources resources;
  PlanRunner runner;

  struct Kept {
    std::shared_ptr<const NamedPlan> plan;
    std::uint64_t last_use;
  };
  std::map<std::string, Kept> plans;  // by key
  std::uint64_t uses = 0;
  std::size_t compiled = 0;
  LoraShelf loras;
  Turns turns;

  State(ModelConfig m, std::shared_ptr<Platform> p, SessionOptions o, std::unique_ptr<Recipe> r)
      : model(std::move(m)),
        platform(std::move(p)),
        options(std::move(o)),
        dtype(options.dtype.value_or(default_dtype(*platform))),
        recipe(r ? std::move(r) : make_recipe(model)),
        tokenizer(std::make_unique<Tokenizer>(open_tokenizer(model))),
        resources(*platform) {
    const std::size_t devices = options.parallel == Parallel::none ? 1 : resources.devices.size();
    for (const std::string& name : recipe->components()) {
      const auto shared = devices > 1 ? std::make_shared<SharedBlocks>() : nullptr;
      for (std::size_t device = 0; device < devices; ++device) {
        auto component = std::make_unique<Component>(*resources.devices[device].platform, model, name);
        component->weights().share(shared);
        resources.components.emplace(device_prefix(static_cast<int>(device)) + name, std::move(component));
      }
    }
    runner = [](const NamedPlan& plan, auto&&... rest) { zoe::run(plan.plan, rest...); };
  }

  // Plans follow from how their weights are stored, too, where these stay so: a plan that runs with weights of components that
  // store them in different ways becomes several. `others`: more plans, by the names of the program's.
  void say_components(Program& program, std::vector<ProgramPlan>& others, const Changes& changes) const {
    if (!options.compile.keep_stored) return;
    std::map<std::string, std::string> keys;
    for (const auto& [name, component] : resources.components) keys[name] = component->storage_key(changes_of(changes, name));
    const auto stored = [&](const std::string& component) { return keys.at(component); };
    std::map<std::string, std::string> component_of;  // by plan
    const auto find = [&](const std::string& name) {
      return std::find_if(program.plans.begin(), program.plans.end(), [&](const ProgramPlan& plan) { return plan.name == name; });
    };
    for (Stage& stage : program.stages)
      for (PlanUse& use : stage.uses) {
        if (use.component.empty() ||
            stored(component_of.try_emplace(use.plan, use.component).first->second) == stored(use.component))
          continue;
        ProgramPlan own = *find(use.plan);
        own.name = fmt::format("{} of {}", use.plan, use.component);
        if (component_of.try_emplace(own.name, use.component).second) program.plans.push_back(own);
        use.plan = own.name;
      }
    for (std::vector<ProgramPlan>* const plans_of : {&program.plans, &others})
      for (ProgramPlan& plan : *plans_of) {
        const auto found = component_of.find(plan.name);
        if (found == component_of.end() || stored(found->second).empty()) continue;
        plan.component = found->second;
        plan.key += stored(found->second);
      }
  }

  NamedGraph trace(const ProgramPlan& plan, const Changes& changes) const {
    NamedGraph named = plan.trace();
    if (plan.component.empty()) return named;
    const Component& component = *resources.components.at(plan.component);
    named.graph = keep_stored(
        named.graph, [&](const std::string& name) { return component.storage(name, changes_of(changes, plan.component)); },
        [&](const Encoding& encoding) { return platform->keeps_stored(encoding); },
        [&](const std::string& name) { return component.rank(name, changes_of(changes, plan.component)); });
    return named;
  }

  // What the request's LoRAs do to each component. `precision`: of its products, as it was settled on this device.
  Changes changes_by(const Request& request, Arithmetic precision) {
    check(
        options.compile.keep_stored || request.lora_mode != LoraMode::beside, ErrorKind::invalid_argument,
        spelled("lora_mode", options.spelling),
        "got beside and weights that are widened as they are loaded, expected weights that stay as they are. Keep them (--weights "
        "keep), or merge.");
    const bool exact = precision == Arithmetic::exact;
    check(exact || request.lora_mode != LoraMode::beside, ErrorKind::invalid_argument, spelled("lora_mode", options.spelling),
          "got beside and products of 8 bits, whose weights a LoRA is a part of: expected auto or merge, or {} exact.",
          spelled("precision", options.spelling));
    const LoraMode mode = options.compile.keep_stored && exact ? request.lora_mode : LoraMode::merge;
    Changes changes;
    for (const auto& [name, of] : loras.changes(request, model, recipe->components(), options.spelling)) {
      const ComponentChanges made = changes[name] = resources.components.at(name)->split(of, mode);
      if (!made.beside.empty())
        log(LogLevel::notice,
            fmt::format("{}: LoRAs stay beside {} matrices and are added where these are used; {} tensors are changed "
                        "as they are read",
                        name, made.beside.size(), made.merged.size()));
      for (std::size_t device = 1; device < resources.devices.size(); ++device)
        changes[device_prefix(static_cast<int>(device)) + name] = made;
    }
    return changes;
  }

  static std::string key_of(const ProgramPlan& plan) { return device_prefix(plan.device) + plan.key; }

  // The plans of a program, compiled in one go where they are new, with `others` that later requests will want.
  std::vector<std::shared_ptr<const NamedPlan>> get_plans(const std::vector<ProgramPlan>& wanted, std::vector<ProgramPlan> others,
                                                          const Changes& changes) {
    others.insert(others.begin(), wanted.begin(), wanted.end());
    // One device behind the other: what the first one builds, and what its libraries choose, the next ones find.
    for (std::size_t device = 0; device < resources.devices.size(); ++device) {
      std::vector<NamedGraph> traced;
      std::vector<std::string> keys;
      for (const ProgramPlan& plan : others) {
        const std::string key = key_of(plan);
        if (static_cast<std::size_t>(plan.device) != device || plans.count(key) || std::count(keys.begin(), keys.end(), key))
          continue;
        traced.push_back(trace(plan, changes));
        keys.push_back(key);
      }
      std::vector<Graph> graphs;
      for (const NamedGraph& named : traced) graphs.push_back(named.graph);
      std::vector<Plan> made;
      if (!graphs.empty()) made = compile(graphs, *resources.devices[device].platform, options.compile);
      for (std::size_t i = 0; i < made.size(); ++i) {
        log(LogLevel::detail, summarize(made[i]));
        plans[keys[i]] = {
            std::make_shared<NamedPlan>(NamedPlan{std::move(made[i]), std::move(traced[i].outputs), std::move(traced[i].tensors)}),
            0};
      }
      compiled += made.size();
    }
    std::vector<std::shared_ptr<const NamedPlan>> result;
    for (const ProgramPlan& plan : wanted) {
      Kept& kept = plans.at(key_of(plan));
      kept.last_use = ++uses;
      result.push_back(kept.plan);
    }
    forget_old_plans();
    return result;
  }

  void forget_old_plans() {
    while (plans.size() > options.most_plans) {
      const auto oldest = std::min_element(plans.begin(), plans.end(),
                                           [](const auto& a, const auto& b) { return a.second.last_use < b.second.last_use; });
      if (oldest->second.last_use + plans.size() > uses && oldest->second.last_use > 0) break;  // of the program at hand
      resources.forget(oldest->second.plan->plan);
      plans.erase(oldest);
    }
  }

  // What is packed of a component while the one before it is at work.
  void say_made_bytes(BoundProgram& program, const Changes& changes) const {
    for (std::size_t stage = 0; stage < program.program().stages.size(); ++stage) {
      const std::string next = program.prepares(stage);
      if (next.empty()) continue;
      const std::vector<const Plan*> of_next = program.plans_of(stage + 1, next);
      const WeightChanges& merged = changes_of(changes, next).merged;
      program.say_made_bytes(next, resources.components.at(next)->weights().bytes_to_make(
                                       of_next, [&](const std::string& tensor) { return merged.contains(tensor); }));
    }
  }

  // Of the device that has least.
  std::size_t free_bytes() const {
    std::size_t least = platform->free_bytes() + resources.held_bytes();
    if (options.parallel == Parallel::none) return least;
    if (platform->info().host_addressable) return least / resources.devices.size();  // all of them live on it
    for (std::size_t device = 1; device < resources.devices.size(); ++device)
      least = std::min<std::size_t>(least, resources.devices[device].platform->free_bytes() + resources.held_bytes(device));
    return least;
  }

  // How long things stay, and what streams: the first of the ways, best first, that fits; the last one if none does.
  Placement place(const BoundProgram& program, std::size_t free_bytes, Offload offload, MemoryStatement* memory) const {
    using enum Offload;
    struct Way {
      Residency residency;
      bool encoder, blocks, ahead;
    };
    std::vector<Way> ways;
    // Copies to another memory run beside kernels; packing into this one would take the kernels' cores.
    const bool may_load_ahead = !platform->info().host_addressable;
    if (may_load_ahead && options.single_request && (offload == automatic || offload == none))
      ways.push_back({Residency::repeats, false, false, true});
    for (const Residency residency : {Residency::always, Residency::repeats, Residency::last_use}) {
      if (residency == Residency::always && (options.single_request || offload == experts || offload == blocks)) continue;
      if (residency == Residency::repeats && (offload == experts || offload == blocks)) continue;
      if (residency == Residency::last_use && (offload == none || offload == encoder)) continue;
      if (offload == automatic || offload == none)
        ways.push_back({residency, false, false, may_load_ahead && residency == Residency::always});
      if (offload != none && offload != blocks) ways.push_back({residency, true, false, false});
    }
    if (offload == automatic || offload == blocks) ways.push_back({Residency::last_use, true, true, false});
    const std::size_t always = kOverheadBytes + platform->kernel_memory_bytes();
    Placement placement;
    for (const Way& way : ways) {
      placement = place(program, free_bytes, way.residency, way.encoder, way.blocks, offload != automatic, always);
      if (way.ahead) {
        placement.host_bytes = 0;
        placement.ahead = ahead(program, placement, always);
        if (placement.ahead.empty()) continue;
      }
      *memory =
          program.memory(way.residency, placement.streaming, block_slots(*platform), placement.host_bytes, always, placement.ahead);
      memory->wants_more = &way != &ways.front() || memory->peak() > free_bytes;
      if (memory->peak() <= free_bytes) break;
    }
    memory->free = free_bytes;
    memory->host_limit = host_limit();
    memory->offload = none;
    const auto streams = [&](Phase phase) {
      return std::any_of(memory->stages.begin(), memory->stages.end(),
                         [&](const StageMemory& stage) { return stage.phase == phase && stage.streamed; });
    };
    if (streams(Phase::denoise)) memory->offload = blocks;
    else if (placement.residency == Residency::last_use && ways.size() > 1) memory->offload = experts;
    else if (streams(Phase::encode)) memory->offload = encoder;
    return placement;
  }

  // What may be loaded before its stage. While an expert is at work the next one; all else only as far as that takes no more than
  // the request takes anyway. Nothing where no expert follows another, unless all weights stay.
  Ahead ahead(const BoundProgram& program, const Placement& placement, std::size_t always) const {
    const std::vector<Stage>& stages = program.program().stages;
    Ahead ahead;
    if (placement.residency == Residency::always) {
      for (const auto& [name, component] : resources.components) ahead[name] = 0;
      return ahead;
    }
    for (std::size_t stage = 0; stage < stages.size(); ++stage)
      if (const std::string next = program.prepares(stage); !next.empty()) ahead.try_emplace(next, stage);
    if (ahead.empty()) return ahead;
    const auto peak = [&](const Ahead& with) {
      return program.memory(placement.residency, placement.streaming, block_slots(*platform), 0, always, with).peak();
    };
    const std::size_t most = peak(ahead);
    std::set<std::string> seen;
    for (std::size_t first = 0; first < stages.size(); ++first)
      for (const PlanUse& use : stages[first].uses) {
        if (use.component.empty() || !seen.insert(use.component).second || ahead.contains(use.component)) continue;
        Ahead with = ahead;
        for (std::size_t from = first; from-- > 0; ahead = with) {
          with[use.component] = from;
          if (peak(with) > most) break;
        }
      }
    return ahead;
  }

  // One way: which of the stages that may stream do so. `all`: not only those that do not fit.
  Placement place(const BoundProgram& program, std::size_t free_bytes, Residency residency, bool encoder, bool blocks, bool all,
                  std::size_t always) const {
    const std::vector<Stage>& stages = program.program().stages;
    const std::size_t slots = block_slots(*platform);
    Placement placement{.residency = residency, .streaming = std::vector<StageStreaming>(stages.size())};
    std::size_t denoisers = 0;
    for (const Stage& stage : stages) denoisers += stage.phase == Phase::denoise;
    placement.host_bytes = host_limit() / std::max<std::size_t>(1, denoisers) / resources.devices.size();
    placement.keeps_host = !options.single_request;
    const MemoryStatement whole = program.memory(residency, placement.streaming, slots, placement.host_bytes, always);
    for (std::size_t i = 0; i < stages.size(); ++i) {
      const StageMemory& stage = whole.stages[i];
      if (!stages[i].may_stream || !(stage.phase == Phase::denoise ? blocks : encoder)) continue;
      // Memory of this process also holds what is read from the disk.
      const bool crowds = stage.phase == Phase::encode && platform->info().unified_memory && stage.all_weights > free_bytes / 2;
      if (!all && !crowds && always + stage.total() <= free_bytes) continue;
      Streaming how{.goes_round = stage.phase == Phase::denoise};
      // A text is encoded once a request, a step's blocks come again and again.
      if (slots > 1 && stage.phase == Phase::denoise) how.host_bytes = placement.host_bytes;
      const auto stored = static_cast<std::size_t>(resources.components.at(stage.component)->stored_bytes());
      how.drop_pages =
          platform->info().unified_memory && stored > free_bytes - std::min(free_bytes, always + stage.total() - stage.weights);
      if (const std::size_t devices = program.devices(i); devices > 1 && reach_each_other(devices)) how.member.count = devices;
      placement.streaming[i] = how;
    }
    if (all) return placement;
    // Blocks that there is room for stay; a part is left to what libraries and programs take beside.
    const std::size_t spare = free_bytes / 16;
    const MemoryStatement least = program.memory(residency, placement.streaming, slots, placement.host_bytes, always);
    for (std::size_t i = 0; i < stages.size(); ++i) {
      const StageMemory& stage = least.stages[i];
      if (placement.streaming[i] && always + stage.total() + spare < free_bytes)
        placement.streaming[i]->device_bytes = stage.weights + (free_bytes - always - stage.total() - spare);
    }
    return placement;
  }

  // The first devices of a group, without a way through this process.
  bool reach_each_other(std::size_t devices) const {
    const auto all = platform->group()->devices().first(devices);
    return std::ranges::all_of(all, [&](const Platform* from) {
      return std::ranges::all_of(all, [&](const Platform* to) { return from == to || from->reaches(*to); });
    });
  }

  // A second copy in the memory that the device uses itself helps only who asks for it. What earlier requests left there is of it.
  std::size_t host_limit() const {
    const DeviceInfo& device = platform->info();
    const bool is_one_memory = device.unified_memory;
    if (is_one_memory && device.host_addressable) return 0;
    if (options.host_memory_limit_bytes) return *options.host_memory_limit_bytes;
    return is_one_memory ? 0 : (cpu::host_memory().free_bytes + resources.held_host_bytes()) / 3 * 2;
  }

  // Plans that the session let go of while their job waited go with the job: nothing may know them by their address then.
  void forget_lost(const Job::State& of) {
    for (const auto& plan : of.plans)
      if (std::none_of(plans.begin(), plans.end(), [&](const auto& entry) { return entry.second.plan == plan; }))
        resources.forget(plan->plan);
  }

  // Why a program does not fit, and what would.
  std::string refuse(const BoundProgram& program, const Work& work, const MemoryStatement& memory) const {
    const Settled& settled = work.settled();
    const auto [needed, free] = bytes_apart(memory.peak(), memory.free);
    std::string advice = work.advice();
    MemoryStatement other;
    place(program, memory.free, Offload::automatic, &other);
    if (options.offload != Offload::automatic && other.peak() <= memory.free)
      advice = fmt::format("It would with --offload auto ({}). {}", bytes_text(other.peak()), advice);
    return fmt::format("{}x{}x{} in {} does not fit: needs {} ({} to encode, {} to denoise, {} to decode), {} are free{}. {}.",
                       settled.made_width, settled.made_height, settled.num_frames, name(dtype), needed,
                       bytes_text(memory.of(Phase::encode)), bytes_text(memory.of(Phase::denoise)),
                       bytes_text(memory.of(Phase::decode)), free,
                       memory.offload == Offload::blocks ? ", with blocks that come and go" : "", advice);
  }
};

Session::Session(ModelConfig model, std::shared_ptr<Platform> platform, SessionOptions options, std::unique_ptr<Recipe> recipe)
    : state_(std::make_unique<State>(std::move(model), std::move(platform), std::move(options), std::move(recipe))) {}
Session::Session(ModelConfig model, std::shared_ptr<Platform> platform, SessionOptions options)
    : Session(std::move(model), std::move(platform), std::move(options), nullptr) {}
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;
Session::~Session() = default;

const ModelConfig& Session::model() const { return state_->model; }
Platform& Session::platform() const { return *state_->platform; }
DType Session::dtype() const { return state_->dtype; }
std::string_view Session::recipe() const { return state_->recipe->name(); }

Session::Counts Session::counts() const {
  const Turns::Turn turn(state_->turns);
  return {state_->compiled, state_->plans.size(), state_->resources.tensors_made, state_->resources.weight_bytes_loaded()};
}

Job Session::prepare(const Request& request, const std::function<std::size_t(const Settled&)>& caller_bytes) {
  Job job = plan(request, caller_bytes);
  check(job.refusal().empty(), ErrorKind::out_of_memory, "memory", "{}", job.refusal());
  return job;
}

Job Session::plan(const Request& request, const std::function<std::size_t(const Settled&)>& caller_bytes) {
  const Turns::Turn turn(state_->turns);
  State& state = *state_;
  // What the session holds it can let go.
  const std::size_t free_bytes = state.free_bytes();
  auto job = std::make_unique<Job::State>();
  job->work = state.recipe->plan(request, {state.model, *state.tokenizer, state.dtype, *state.platform, free_bytes, caller_bytes,
                                           state.options.spelling, state.options.parallel});
  job->changes = state.changes_by(request, job->work->settled().precision);
  bool does_with_less = false;
  for (;;) {
    Program program = job->work->program();
    std::vector<ProgramPlan> others;
    if (!state.options.single_request) others = job->work->companions();
    state.say_components(program, others, job->changes);
    job->plans = state.get_plans(program.plans, std::move(others), job->changes);
    std::vector<const NamedPlan*> plans;
    for (const auto& plan : job->plans) plans.push_back(plan.get());
    job->program = std::make_unique<BoundProgram>(std::move(program), std::move(plans));
    check_changes(*job->program, job->changes);
    state.say_made_bytes(*job->program, job->changes);
    job->placement = state.place(*job->program, free_bytes, state.options.offload, &job->memory);
    job->memory.wants_more |= does_with_less;
    if (job->memory.peak() <= free_bytes) break;
    job->refusal = state.refuse(*job->program, *job->work, job->memory);
    const std::string less = job->work->need_less(job->memory);
    if (less.empty()) break;
    const auto [needed, free] = bytes_apart(job->memory.peak(), free_bytes);
    log(LogLevel::notice, fmt::format("{}: otherwise {} are needed, {} are free", less, needed, free));
    job->refusal.clear();
    does_with_less = true;
  }
  return Job(std::move(job));
}

PlanRunner& SessionAccess::runner(Session& session) { return session.state_->runner; }
const Component& SessionAccess::component(const Session& session, const WeightStore& weights) {
  for (const auto& [name, component] : session.state_->resources.components)
    if (&component->weights() == &weights) return *component;
  fail(ErrorKind::internal, "session", "weights of no component.");
}
const BoundProgram& SessionAccess::program(const Job& job) { return *job.state_->program; }

Timings Session::run(Job& job, const Callbacks& callbacks) {
  const Turns::Turn turn(state_->turns);
  Job::State& of = *job.state_;
  check(of.refusal.empty(), ErrorKind::out_of_memory, "memory", "{}", of.refusal);
  for (const auto& [name, component] : state_->resources.components) component->change(of.changes[name]);
  const auto run = [&] { return Execution(state_->resources, *of.program, of.placement, callbacks, state_->runner).go(*of.work); };
  try {
    const Timings timings = run();
    state_->forget_lost(of);
    return timings;
  } catch (...) {
    state_->forget_lost(of);
    throw;
  }
}

}  // namespace zoe
