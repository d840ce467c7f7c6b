#include "pipeline/session.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>

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
#include "text/tokenizer.h"

namespace zoe {

namespace {

// What a process holds beside weights, tensors, workspaces and what its kernels keep: thread stacks, library state. Measured.
constexpr std::size_t kOverheadBytes = 4 << 20;

double gib(std::size_t bytes) { return static_cast<double>(bytes) / (1u << 30); }

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
using Changes = std::map<std::string, WeightChanges>;
const WeightChanges& changes_of(const Changes& changes, const std::string& component) {
  static const WeightChanges none;
  const auto found = changes.find(component);
  return found == changes.end() ? none : found->second;
}

struct Job::State {
  std::unique_ptr<Work> work;
  std::vector<std::shared_ptr<const NamedPlan>> plans;  // held, though the session may have let them go
  std::unique_ptr<BoundProgram> program;
  Placement placement;
  MemoryStatement memory;
  Changes changes;
};

Job::Job(std::unique_ptr<State> state) : state_(std::move(state)) {}
Job::Job(Job&&) noexcept = default;
Job& Job::operator=(Job&&) noexcept = default;
Job::~Job() = default;
const Settled& Job::settled() const { return state_->work->settled(); }
const MemoryStatement& Job::memory() const { return state_->memory; }

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
    for (const std::string& name : recipe->components())
      resources.components.emplace(name, std::make_unique<Component>(*platform, model, name));
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
        [&](const Encoding& encoding) { return platform->keeps_stored(encoding); });
    return named;
  }

  // The plans of a program, compiled in one go where they are new, with `others` that later requests will want.
  std::vector<std::shared_ptr<const NamedPlan>> get_plans(const std::vector<ProgramPlan>& wanted, std::vector<ProgramPlan> others,
                                                          const Changes& changes) {
    std::vector<NamedGraph> traced;
    std::vector<std::string> keys;
    others.insert(others.begin(), wanted.begin(), wanted.end());
    for (const ProgramPlan& plan : others) {
      if (plans.count(plan.key) || std::count(keys.begin(), keys.end(), plan.key)) continue;
      traced.push_back(trace(plan, changes));
      keys.push_back(plan.key);
    }
    std::vector<Graph> graphs;
    for (const NamedGraph& named : traced) graphs.push_back(named.graph);
    std::vector<Plan> made = graphs.empty() ? std::vector<Plan>() : compile(graphs, *platform, options.compile);
    for (std::size_t i = 0; i < made.size(); ++i) {
      log(LogLevel::detail, summarize(made[i]));
      plans[keys[i]] = {
          std::make_shared<NamedPlan>(NamedPlan{std::move(made[i]), std::move(traced[i].outputs), std::move(traced[i].tensors)}),
          0};
    }
    compiled += made.size();
    std::vector<std::shared_ptr<const NamedPlan>> result;
    for (const ProgramPlan& plan : wanted) {
      Kept& kept = plans.at(plan.key);
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

  // How long things stay, and what streams: the first of the ways, best first, that fits; the last one if none does.
  Placement place(const BoundProgram& program, std::size_t free_bytes, MemoryStatement* memory) const {
    Placement placement;
    const std::vector<Stage>& stages = program.program().stages;
    for (std::size_t i = 0; i < stages.size(); ++i) {
      std::size_t weights = 0;
      for (const BoundProgram::Use& use : program.uses(i))
        if (!use.use->component.empty()) weights += use.plan->plan.weight_bytes();
      // Memory of this process also holds what is read from the disk.
      const std::size_t most = platform->info().unified_memory ? free_bytes / 2 : free_bytes / 8 * 7;
      placement.streamed.push_back(stages[i].may_stream && weights > most);
    }
    std::vector<Residency> ways{Residency::repeats, Residency::last_use};
    if (!options.single_request) ways.insert(ways.begin(), Residency::always);
    for (const Residency way : ways) {
      placement.residency = way;
      *memory = program.memory(way, placement.streamed, kOverheadBytes + platform->kernel_memory_bytes());
      if (memory->peak() <= free_bytes) break;
    }
    return placement;
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
  const Turns::Turn turn(state_->turns);
  State& state = *state_;
  // What the session holds it can let go.
  const std::size_t free_bytes = state.platform->free_bytes() + state.resources.held_bytes();
  auto job = std::make_unique<Job::State>();
  job->work = state.recipe->plan(
      request, {state.model, *state.tokenizer, state.dtype, *state.platform, free_bytes, caller_bytes, state.options.spelling});
  job->changes = state.loras.changes(request, state.model, state.recipe->components(), state.options.spelling);
  for (;;) {
    Program program = job->work->program();
    std::vector<ProgramPlan> others;
    if (!state.options.single_request) others = job->work->companions();
    state.say_components(program, others, job->changes);
    job->plans = state.get_plans(program.plans, std::move(others), job->changes);
    std::vector<const NamedPlan*> plans;
    for (const auto& plan : job->plans) plans.push_back(plan.get());
    job->program = std::make_unique<BoundProgram>(std::move(program), std::move(plans));
    job->placement = state.place(*job->program, free_bytes, &job->memory);
    const std::size_t peak = job->memory.peak();
    if (peak <= free_bytes) break;
    const std::string advice = job->work->advice(), less = job->work->need_less();
    const Settled& settled = job->work->settled();
    const auto [needed, free] = bytes_apart(peak, free_bytes);
    check(!less.empty(), ErrorKind::out_of_memory, "memory",
          "{}x{}x{} in {} does not fit: needs {} ({:.1f} GiB to encode, {:.1f} to denoise, {:.1f} to decode), {} are free. {}.",
          settled.made_width, settled.made_height, settled.num_frames, name(state.dtype), needed,
          gib(job->memory.of(Phase::encode)), gib(job->memory.of(Phase::denoise)), gib(job->memory.of(Phase::decode)), free,
          advice);
    log(LogLevel::notice, fmt::format("{}: otherwise {} are needed, {} are free", less, needed, free));
  }
  return Job(std::move(job));
}

PlanRunner& SessionAccess::runner(Session& session) { return session.state_->runner; }
const BoundProgram& SessionAccess::program(const Job& job) { return *job.state_->program; }

Timings Session::run(Job& job, const Callbacks& callbacks) {
  const Turns::Turn turn(state_->turns);
  Job::State& of = *job.state_;
  for (const auto& [name, component] : state_->resources.components) component->change(of.changes[name]);
  return Execution(state_->resources, *of.program, of.placement, callbacks, state_->runner).go(*of.work);
}

}  // namespace zoe
