#include "pipeline/program.h"

#include <algorithm>
#include <tuple>

#include "base/error.h"

namespace zoe {

namespace {

// The tensor that argument `name` is: what the use says of it, or of all arguments that begin alike, or the name itself.
std::string tensor_name(const PlanUse& use, const std::string& name) {
  if (const auto found = use.tensors.find(name); found != use.tensors.end()) return found->second;
  for (const auto& [pattern, tensor] : use.tensors)
    if (pattern.ends_with('*') && name.starts_with(pattern.substr(0, pattern.size() - 1)))
      return tensor.substr(0, tensor.size() - 1) + name.substr(pattern.size() - 1);
  return name;
}

// Packed bytes by component; equal layouts of one component are held once.
class WeightBytes {
 public:
  void add(const std::string& component, const Plan& plan, bool streamed) {
    if (component.empty()) return;
    if (streamed) {  // never beside another plan of the component: see Stage::may_stream
      streamed_[component] = std::max(streamed_[component], plan.streamed_weight_bytes());
      return;
    }
    for (const PlanWeight& weight : plan.weights) sizes_[{component, weight.name, weight.layout}] = weight.size_bytes;
  }
  std::size_t total() const {
    std::size_t total = 0;
    for (const auto& [weight, bytes] : sizes_) total += bytes;
    for (const auto& [component, bytes] : streamed_) total += bytes;
    return total;
  }

 private:
  std::map<std::tuple<std::string, std::string_view, std::string_view>, std::size_t> sizes_;
  std::map<std::string, std::size_t> streamed_;
};

}  // namespace

BoundProgram::BoundProgram(Program program, std::vector<const NamedPlan*> plans)
    : program_(std::move(program)), plans_(std::move(plans)) {
  ZOE_INTERNAL_CHECK(plans_.size() == program_.plans.size());
  for (std::size_t stage = 0; stage < program_.stages.size(); ++stage) bind(stage);
}

const NamedPlan& BoundProgram::plan(std::string_view name) const {
  for (std::size_t i = 0; i < program_.plans.size(); ++i)
    if (program_.plans[i].name == name) return *plans_[i];
  fail(ErrorKind::internal, "program", "no plan {}.", name);
}

void BoundProgram::add_tensor(std::size_t stage, const std::string& name, const Type& type, bool zeroed) {
  const auto [found, is_new] = tensors_.try_emplace(name, Lifetime{type, zeroed, stage, stage});
  Lifetime& tensor = found->second;
  check(tensor.type == type, ErrorKind::internal, "program", "tensor {} of stage {} has two types: {} and {}.", name,
        program_.stages[stage].name, tensor.type.str(), type.str());
  tensor.last = stage;
  tensor.zeroed |= zeroed;
}

void BoundProgram::bind(std::size_t number) {
  const Stage& stage = program_.stages[number];
  std::vector<Use>& uses = uses_.emplace_back();
  for (const PlanUse& use : stage.uses) {
    Use bound{&use, &plan(use.plan), {}, {}};
    const Graph& graph = bound.plan->plan.graph;
    ZOE_INTERNAL_CHECK(bound.plan->outputs.size() == graph.outputs.size());
    for (const Value& value : graph.inputs)
      bound.inputs.push_back({value.node().name, tensor_name(use, value.node().name), value.type()});
    for (std::size_t i = 0; i < graph.outputs.size(); ++i)
      bound.outputs.push_back({bound.plan->outputs[i], tensor_name(use, bound.plan->outputs[i]), graph.outputs[i].type()});
    for (const auto* arguments : {&bound.inputs, &bound.outputs})
      for (const Argument& argument : *arguments) add_tensor(number, argument.tensor, argument.type, false);
    for (const auto& [tensor, type] : bound.plan->tensors) add_tensor(number, tensor_name(use, tensor), type, true);
    // What is read and written in one place must have been read when it is written.
    for (std::size_t out = 0; out < bound.outputs.size(); ++out)
      for (std::size_t in = 0; in < bound.inputs.size(); ++in)
        if (bound.inputs[in].tensor == bound.outputs[out].tensor) ZOE_INTERNAL_CHECK(bound.plan->plan.can_update_in_place(in, out));
    uses.push_back(std::move(bound));
  }
  for (const ProgramTensor& tensor : stage.tensors) add_tensor(number, tensor.name, tensor.type, tensor.zeroed);
}

bool BoundProgram::uses_component(std::size_t stage, std::string_view component) const {
  const std::vector<PlanUse>& uses = program_.stages[stage].uses;
  return std::any_of(uses.begin(), uses.end(), [&](const PlanUse& use) { return use.component == component; });
}

bool BoundProgram::needs_component_after(std::size_t stage, std::string_view component, bool more_videos) const {
  for (std::size_t later = stage + 1; later < program_.stages.size(); ++later)
    if (uses_component(later, component)) return true;
  for (std::size_t again = program_.repeated_from; more_videos && again <= stage; ++again)
    if (uses_component(again, component)) return true;
  return false;
}

MemoryStatement BoundProgram::memory(Residency residency, const std::vector<bool>& streamed, std::size_t always) const {
  MemoryStatement statement{.always = always, .stages = {}};
  const bool repeats = program_.repeats > 1, all_stay = residency == Residency::always;
  for (std::size_t number = 0; number < program_.stages.size(); ++number) {
    const Stage& stage = program_.stages[number];
    StageMemory memory{.stage = stage.name, .phase = stage.phase, .caller = stage.caller_bytes, .streamed = streamed[number]};
    WeightBytes own, all;
    for (const Use& use : uses_[number]) {
      own.add(use.use->component, use.plan->plan, streamed[number]);
      all.add(use.use->component, use.plan->plan, streamed[number]);
    }
    for (std::size_t other = 0; other < program_.stages.size(); ++other) {
      for (const Use& use : uses_[other]) {
        const std::string& component = use.use->component;
        if (all_stay || other == number) memory.workspace = std::max(memory.workspace, use.plan->plan.workspace_bytes);
        const bool to_the_last_video = residency == Residency::repeats && repeats && other >= program_.repeated_from &&
                                       number >= program_.repeated_from;
        const bool not_done = other < number && (uses_component(number, component) || needs_component_after(number, component, false));
        if (!streamed[other] && (all_stay || to_the_last_video || not_done)) all.add(component, use.plan->plan, false);
      }
    }
    memory.weights = own.total();
    memory.resident = all.total() - memory.weights;
    for (const auto& [tensor, life] : tensors_) {
      const bool of_every_video = life.first < program_.repeated_from && life.last >= program_.repeated_from && repeats;
      const std::size_t last = of_every_video ? program_.stages.size() - 1 : life.last;
      if (all_stay || (life.first <= number && number <= last)) memory.tensors += life.type.size_bytes();
    }
    statement.stages.push_back(std::move(memory));
  }
  return statement;
}

}  // namespace zoe
