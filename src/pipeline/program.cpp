#include "pipeline/program.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "ir/cost.h"

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
  void add(const std::string& component, const Plan& plan) {
    if (component.empty()) return;
    for (const PlanWeight& weight : plan.weights) {
      if (!sizes_.try_emplace({component, weight.name, weight.layout}, weight.size_bytes).second) continue;
      std::size_t all = 0;
      for (const PlanWeight::Part& part : weight.parts) all += part.type.size_bytes();
      for (const PlanWeight::Part& part : weight.parts) {
        const double share = static_cast<double>(part.type.size_bytes()) / static_cast<double>(all);
        const auto bytes = static_cast<std::size_t>(static_cast<double>(weight.size_bytes) * share);
        Tensors& of = tensors_[{component, part.name}];
        of.all += bytes, of.largest = std::max(of.largest, bytes);
      }
    }
  }
  std::size_t total() const {
    std::size_t total = 0;
    for (const auto& [weight, bytes] : sizes_) total += bytes;
    return total;
  }
  // Of the same tensors in a second layout.
  std::size_t repeated() const {
    std::size_t total = 0;
    for (const auto& [tensor, of] : tensors_) total += of.all - of.largest;
    return total;
  }

 private:
  struct Tensors {
    std::size_t all = 0, largest = 0;
  };
  std::map<std::pair<std::string, std::string_view>, Tensors> tensors_;  // of the checkpoint, by component
  std::map<std::tuple<std::string, std::string_view, std::string_view>, std::size_t> sizes_;
};

}  // namespace

std::string device_prefix(int device) { return device == 0 ? std::string() : fmt::format("@{}.", device); }

BoundProgram::BoundProgram(Program program, std::vector<const NamedPlan*> plans)
    : program_(std::move(program)), plans_(std::move(plans)) {
  ZOE_INTERNAL_CHECK(plans_.size() == program_.plans.size());
  for (std::size_t stage = 0; stage < program_.stages.size(); ++stage) bind(stage);
}

std::size_t BoundProgram::number(std::string_view name) const {
  for (std::size_t i = 0; i < program_.plans.size(); ++i)
    if (program_.plans[i].name == name) return i;
  fail(ErrorKind::internal, "program", "no plan {}.", name);
}

void BoundProgram::add_tensor(std::size_t stage, const std::string& name, const Type& type, bool zeroed, int device) {
  const auto [found, is_new] = tensors_.try_emplace(name, Lifetime{type, zeroed, stage, stage, device});
  Lifetime& tensor = found->second;
  ZOE_INTERNAL_CHECK(tensor.device == device);
  check(tensor.type == type, ErrorKind::internal, "program", "tensor {} of stage {} has two types: {} and {}.", name,
        program_.stages[stage].name, tensor.type.str(), type.str());
  tensor.last = stage;
  tensor.zeroed |= zeroed;
}

void BoundProgram::bind(std::size_t number_of_stage) {
  const Stage& stage = program_.stages[number_of_stage];
  std::vector<Use>& uses = uses_.emplace_back();
  for (const PlanUse& use : stage.uses) {
    const std::size_t of = number(use.plan);
    const int device = program_.plans[of].device;
    Use bound{.use = &use, .plan = plans_[of], .inputs = {}, .outputs = {}, .device = device};
    const Graph& graph = bound.plan->plan.graph;
    bound.exchanges = std::ranges::any_of(graph.nodes, [](const NodePtr& node) { return is_exchange(node->opcode); });
    ZOE_INTERNAL_CHECK(bound.plan->outputs.size() == graph.outputs.size());
    for (const Value& value : graph.inputs)
      bound.inputs.push_back({value.node().name, tensor_name(use, value.node().name), value.type()});
    for (std::size_t i = 0; i < graph.outputs.size(); ++i)
      bound.outputs.push_back({bound.plan->outputs[i], tensor_name(use, bound.plan->outputs[i]), graph.outputs[i].type()});
    for (const auto* arguments : {&bound.inputs, &bound.outputs})
      for (const Argument& argument : *arguments) add_tensor(number_of_stage, argument.tensor, argument.type, false, device);
    for (const auto& [tensor, type] : bound.plan->tensors)
      add_tensor(number_of_stage, tensor_name(use, tensor), type, true, device);
    // What is read and written in one place must have been read when it is written.
    for (std::size_t out = 0; out < bound.outputs.size(); ++out)
      for (std::size_t in = 0; in < bound.inputs.size(); ++in)
        if (bound.inputs[in].tensor == bound.outputs[out].tensor) ZOE_INTERNAL_CHECK(bound.plan->plan.can_update_in_place(in, out));
    uses.push_back(std::move(bound));
  }
  for (const ProgramTensor& tensor : stage.tensors)
    add_tensor(number_of_stage, tensor.name, tensor.type, tensor.zeroed, tensor.device);
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

std::size_t BoundProgram::devices(std::size_t stage) const {
  std::size_t count = 1;
  for (const Use& use : uses_[stage])
    if (!use.use->component.empty()) count = std::max(count, static_cast<std::size_t>(use.device) + 1);
  return count;
}

std::vector<const Plan*> BoundProgram::plans_of(std::size_t stage, std::string_view component) const {
  std::vector<const Plan*> plans;
  for (const Use& use : uses_[stage])
    if (use.use->component == component && std::find(plans.begin(), plans.end(), &use.plan->plan) == plans.end())
      plans.push_back(&use.plan->plan);
  return plans;
}

std::string BoundProgram::prepares(std::size_t stage) const {
  const std::vector<Stage>& stages = program_.stages;
  if (stage + 1 >= stages.size() || stages[stage].phase != Phase::denoise || stages[stage + 1].phase != Phase::denoise) return {};
  for (const PlanUse& use : stages[stage + 1].uses)
    if (!use.component.empty()) return uses_component(stage, use.component) ? std::string() : use.component;
  return {};
}

MemoryStatement BoundProgram::memory(Residency residency, const std::vector<StageStreaming>& streaming, std::size_t slots,
                                     std::size_t host_bytes, std::size_t always, const Ahead& ahead) const {
  MemoryStatement statement{.always = always, .stages = {}};
  const bool repeats = program_.repeats > 1, all_stay = residency == Residency::always;
  for (std::size_t number = 0; number < program_.stages.size(); ++number) {
    const Stage& stage = program_.stages[number];
    StageMemory memory{.stage = stage.name, .phase = stage.phase, .caller = stage.caller_bytes};
    WeightBytes own, all;
    for (const Use& use : uses_[number]) {
      if (use.device != 0) continue;
      own.add(use.use->component, use.plan->plan);
      if (!use.use->component.empty()) memory.component = use.use->component;
      if (!streaming[number]) all.add(use.use->component, use.plan->plan);
      memory.alive = std::max(memory.alive, use.plan->plan.alive_bytes);
      memory.operations = std::max(memory.operations, product_operations(use.plan->plan.graph));
    }
    for (std::size_t other = 0; other < program_.stages.size(); ++other) {
      for (const Use& use : uses_[other]) {
        if (use.device != 0) continue;
        const std::string& component = use.use->component;
        if (all_stay || other == number) memory.workspace = std::max(memory.workspace, use.plan->plan.workspace_bytes);
        const bool to_the_last_video =
            residency == Residency::repeats && repeats && other >= program_.repeated_from && number >= program_.repeated_from;
        const bool not_done =
            other < number && (uses_component(number, component) || needs_component_after(number, component, false));
        const auto early = ahead.find(component);
        const bool is_early = other > number && early != ahead.end() && early->second <= number;
        if (streaming[other] || component.empty() || !(all_stay || to_the_last_video || not_done || is_early)) continue;
        all.add(component, use.plan->plan);
        if (component != memory.component && std::find(memory.stay.begin(), memory.stay.end(), component) == memory.stay.end())
          memory.stay.push_back(component);
      }
    }
    memory.all_weights = memory.weights = own.total();
    memory.layouts = own.repeated();
    memory.resident = all.total();
    if (streaming[number]) {
      const std::vector<const Plan*> plans = plans_of(number, memory.component);
      const auto arena_of = [&](std::size_t member) {
        return lay_out_arena(plans, slots, streaming[number]->device_bytes, {member, streaming[number]->member.count});
      };
      const ArenaLayout arena = arena_of(0);
      std::vector<ArenaLayout> others;
      for (std::size_t member = 1; member < streaming[number]->member.count; ++member) others.push_back(arena_of(member));
      const auto stays_on_another = [&](std::size_t p, std::size_t s) {
        return std::ranges::any_of(others, [&](const ArenaLayout& other) { return other.plans[p].slots[s] == PlanLayout::kStays; });
      };
      memory.streamed = true;
      memory.weights = arena.size_bytes;
      std::size_t coming_bytes = 0, most = 0;  // from this process
      for (std::size_t p = 0; p < plans.size(); ++p) {
        const PlanLayout& layout = arena.plans[p];
        std::size_t bytes = 0, peer_blocks = 0, peer_bytes = 0;
        for (const int block : layout.coming) {
          const auto s = static_cast<std::size_t>(block);
          bytes += layout.blocks[s].size_bytes;
          if (!stays_on_another(p, s)) continue;
          ++peer_blocks;
          peer_bytes += layout.blocks[s].size_bytes;
        }
        coming_bytes += bytes - peer_bytes;
        if (plans[p]->weight_bytes() <= std::exchange(most, std::max(most, plans[p]->weight_bytes()))) continue;
        memory.blocks = layout.blocks.size() - 1;
        memory.coming_blocks = layout.coming.size();
        memory.coming_bytes = bytes;
        memory.peer_blocks = peer_blocks, memory.peer_bytes = peer_bytes;
      }
      // Packed blocks are kept as far as the limit goes; of the rest some are on their way.
      if (slots > 1)
        memory.host =
            coming_bytes <= streaming[number]->host_bytes ? coming_bytes : streaming[number]->host_bytes + slots * arena.slot_bytes;
    } else {
      memory.resident -= memory.weights;
    }
    if (const std::string next = prepares(number); host_bytes > 0 && !next.empty() && std::ranges::count(memory.stay, next) == 0) {
      std::size_t packed = 0;
      for (const Plan* plan : plans_of(number + 1, next)) packed += plan->weight_bytes();
      const auto made = made_bytes_.find(next);
      if (!streaming[number + 1] && made != made_bytes_.end()) packed = made->second;
      if (packed > 0) memory.prepares = next;
      memory.host += std::min(packed, host_bytes);
    }
    for (const auto& [tensor, life] : tensors_) {
      const bool of_every_video = life.first < program_.repeated_from && life.last >= program_.repeated_from && repeats;
      const std::size_t last = of_every_video ? program_.stages.size() - 1 : life.last;
      if (life.device != 0) continue;
      if (all_stay || (life.first <= number && number <= last)) memory.tensors += life.type.size_bytes();
    }
    statement.stages.push_back(std::move(memory));
  }
  return statement;
}

}  // namespace zoe
