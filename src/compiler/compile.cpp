#include "compiler/compile.h"

#include <algorithm>
#include <map>
#include <unordered_map>

#include "base/error.h"
#include "compiler/passes/common_subexpressions.h"
#include "compiler/passes/fold_epilogues.h"
#include "compiler/passes/fuse.h"
#include "compiler/passes/inline_calls.h"
#include "compiler/passes/simplify.h"

namespace zoe {

namespace {

// The plan's numbers side by side, each in its dtype, 8 bytes apart.
constexpr std::size_t kConstantStride = 8;

Tensor upload_constants(const std::vector<const Node*>& constants, Platform& platform) {
  std::vector<std::byte> bytes(std::max<std::size_t>(constants.size(), 1) * kConstantStride);
  for (std::size_t i = 0; i < constants.size(); ++i) {
    const auto value = static_cast<float>(constants[i]->as<ConstantAttributes>().value);
    convert(&value, DType::f32, bytes.data() + i * kConstantStride, constants[i]->types[0].dtype, 1);
  }
  Tensor tensor = make_tensor(platform, {DType::f32, {static_cast<std::int64_t>(bytes.size() / 4)}}, "constants");
  const auto stream = platform.make_stream();
  platform.upload(*stream, bytes.data(), tensor.slot(), bytes.size());
  stream->synchronize();
  return tensor;
}

// A kernel for each node; nodes of equal signature share theirs. `distinct` gets the number of different ones.
std::vector<std::shared_ptr<const Kernel>> make_kernels(const std::vector<NodePtr>& nodes, Platform& platform,
                                                        std::size_t* distinct) {
  std::unordered_map<std::string, std::size_t> numbers;
  std::vector<const Node*> different;
  std::vector<std::size_t> number_of;
  for (const NodePtr& node : nodes) {
    const auto [found, is_new] = numbers.try_emplace(signature(*node), different.size());
    if (is_new) different.push_back(node.get());
    number_of.push_back(found->second);
  }
  std::vector<std::shared_ptr<const Kernel>> made;
  for (auto& kernel : platform.make_kernels(different)) made.push_back(std::move(kernel));
  *distinct = made.size();
  std::vector<std::shared_ptr<const Kernel>> kernels;
  for (const std::size_t number : number_of) kernels.push_back(made[number]);
  return kernels;
}

StepNeeds needs_of(const Node& node, const Kernel& kernel) {
  StepNeeds needs{.scratch_bytes = kernel.scratch_bytes()};
  for (int input = 0; input < static_cast<int>(node.inputs.size()); ++input)
    for (int output = 0; output < static_cast<int>(node.types.size()); ++output)
      if (kernel.can_overwrite(input, output)) needs.may_overwrite.emplace_back(input, output);
  return needs;
}

}  // namespace

Plan compile(const Graph& traced, Platform& platform) {
  Plan plan;
  const auto pass = [&](Graph graph) {
    verify(graph);
    plan.graph = std::move(graph);
  };
  pass(traced);
  pass(inline_calls(plan.graph));
  pass(simplify(plan.graph));
  pass(common_subexpressions(plan.graph));
  pass(fold_epilogues(plan.graph, [&](const Node& product) { return platform.takes_epilogue(product); }));
  if (platform.info().generates_kernels) pass(fuse(plan.graph, platform.info(), [](const Node&) { return true; }).graph);

  const std::vector<NodePtr> nodes = plan_steps(plan.graph);
  const std::vector<std::shared_ptr<const Kernel>> kernels = make_kernels(nodes, platform, &plan.kernel_count);
  std::vector<StepNeeds> needs;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    plan.steps.push_back({nodes[i], kernels[i], {}, {}, {}});
    needs.push_back(needs_of(*nodes[i], *kernels[i]));
    plan.segment_count = std::max(plan.segment_count, nodes[i]->segment + 1);
  }
  MemoryPlan memory = plan_memory(plan.graph, needs);
  plan.workspace_bytes = memory.workspace_bytes;
  plan.input_last_read = std::move(memory.input_last_read);
  plan.output_written = std::move(memory.output_written);

  std::map<std::pair<std::string, std::string>, int> weights;
  std::unordered_map<const Node*, int> constant_numbers;
  std::vector<const Node*> constants;
  for (std::size_t i = 0; i < plan.steps.size(); ++i) {
    Step& step = plan.steps[i];
    for (std::size_t operand = 0; operand < step.node->inputs.size(); ++operand) {
      const Node& source = step.node->inputs[operand].node();
      if (source.opcode == Opcode::constant) {
        const auto [found, is_new] = constant_numbers.try_emplace(&source, static_cast<int>(constants.size()));
        if (is_new) constants.push_back(&source);
        step.inputs.push_back({Place::Kind::constant, 0, static_cast<std::size_t>(found->second) * kConstantStride});
      } else if (source.opcode == Opcode::parameter) {
        const int input = static_cast<int>(operand);
        const std::string layout = step.kernel->weight_layout(input);
        const auto [found, is_new] = weights.try_emplace({source.name, layout}, static_cast<int>(plan.weights.size()));
        if (is_new)
          plan.weights.push_back({source.name, layout, source.types[0], step.kernel->packed_bytes(input, source.types[0]),
                                  step.kernel, input, step.node->segment});
        // A weight that two segments read stays with the first and is not released before the last.
        ZOE_INTERNAL_CHECK(plan.weights[static_cast<std::size_t>(found->second)].segment == step.node->segment ||
                           source.segment == 0);
        step.inputs.push_back({Place::Kind::weight, found->second, 0});
      } else {
        step.inputs.push_back(memory.place(step.node->inputs[operand]));
      }
    }
    for (int o = 0; o < static_cast<int>(step.node->types.size()); ++o) step.outputs.push_back(memory.place(Value(step.node, o)));
    step.scratch = memory.scratch[i];
  }
  plan.constants = upload_constants(constants, platform);
  return plan;
}

std::size_t Plan::weight_bytes() const {
  std::size_t total = 0;
  for (const PlanWeight& weight : weights) total += weight.size_bytes;
  return total;
}

std::size_t Plan::streamed_weight_bytes() const {
  std::vector<std::size_t> totals(static_cast<std::size_t>(segment_count));
  for (const PlanWeight& weight : weights) totals[static_cast<std::size_t>(weight.segment)] += weight.size_bytes;
  if (totals.size() < 2) return weight_bytes();
  return totals[0] + *std::max_element(totals.begin() + 1, totals.end());
}

bool Plan::can_update_in_place(std::size_t input, std::size_t output) const {
  return input_last_read[input] < output_written[output];
}

std::string summarize(const Plan& plan) {
  return fmt::format("plan {}: {} steps, {} kernels, {} weights in {} segments, workspace {:.1f} MiB, weights {:.1f} MiB",
                     plan.graph.name, plan.steps.size(), plan.kernel_count, plan.weights.size(), plan.segment_count,
                     static_cast<double>(plan.workspace_bytes) / 1048576.0, static_cast<double>(plan.weight_bytes()) / 1048576.0);
}

std::string describe(const Plan& plan) {
  std::string text = summarize(plan) + "\n";
  for (const Step& step : plan.steps)
    text += fmt::format("{:4} {:<28} {:<28} {}\n", step.node->segment, step.node->name.empty() ? "-" : step.node->name,
                        step.kernel->implementation(), signature(*step.node));
  return text;
}

}  // namespace zoe
