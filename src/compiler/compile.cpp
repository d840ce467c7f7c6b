#include "compiler/compile.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <future>
#include <map>
#include <set>
#include <system_error>
#include <thread>
#include <unordered_map>

#include "base/error.h"
#include "base/log.h"
#include "compiler/passes/common_subexpressions.h"
#include "compiler/passes/fold_epilogues.h"
#include "compiler/passes/fuse.h"
#include "compiler/passes/inline_calls.h"
#include "compiler/passes/merge_products.h"
#include "compiler/passes/read_history.h"
#include "compiler/passes/simplify.h"
#include "compiler/policy.h"
#include "platform/implementation.h"

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

using ImplementedPtr = std::shared_ptr<const Implemented>;

// By signature: nodes of equal signature share their kernel. All that the plans need are asked for in one go.
std::unordered_map<std::string, ImplementedPtr> implement(const std::vector<Plan>& plans, Platform& platform,
                                                          const OverrideRules& rules) {
  std::unordered_map<std::string, ImplementedPtr> made;
  std::vector<const Node*> asked;
  std::vector<std::string> signatures;
  for (const Plan& plan : plans)
    for (const Step& step : plan.steps) {
      std::string key = signature(*step.node);
      if (!made.try_emplace(key).second) continue;
      asked.push_back(step.node.get());
      signatures.push_back(std::move(key));
    }
  std::vector<Implemented> implemented = platform.implement(asked, rules);
  for (std::size_t i = 0; i < asked.size(); ++i) made[signatures[i]] = std::make_shared<Implemented>(std::move(implemented[i]));
  return made;
}

StepNeeds needs_of(const Node& node, const Kernel& kernel) {
  StepNeeds needs{.scratch_bytes = kernel.scratch_bytes(), .works_beside = kernel.works_beside()};
  for (int input = 0; input < static_cast<int>(node.inputs.size()); ++input)
    for (int output = 0; output < static_cast<int>(node.types.size()); ++output)
      if (kernel.can_overwrite(input, output)) needs.may_overwrite.emplace_back(input, output);
  return needs;
}

// The passes, and a step without a kernel for each node that remains.
Plan run_passes(const Graph& traced, Platform& platform, const CompileOptions& options) {
  Plan plan;
  const Selection selection(platform.info().platform, platform.implementations(), options.overrides);
  const auto pass = [&](std::string_view name, Graph graph) {
    verify(graph);
    if (options.keep_passes) plan.passes.emplace_back(name, print(graph));
    plan.graph = std::move(graph);
  };
  pass("trace", traced);
  pass("inline_calls", inline_calls(plan.graph));
  pass("simplify", simplify(plan.graph));
  pass("common_subexpressions", common_subexpressions(plan.graph));
  pass("fold_epilogues", fold_epilogues(plan.graph, [&](const Node& product) { return selection.takes_epilogue(product); }));
  pass("read_history", read_history(plan.graph, [&](const Node& conv) { return selection.takes_history(conv); }));
  pass("merge_products",
       merge_products(
           plan.graph, [&](const Node& merged) { return selection.merges_products(merged); }, plan.product_notes));
  std::map<std::pair<const Node*, int>, std::pair<int, int>> origins;  // of the final graph's values
  const auto number_origins = [&](const Graph& before, const auto& now) {
    for (std::size_t i = 0; i < before.nodes.size(); ++i)
      for (int o = 0; o < static_cast<int>(before.nodes[i]->types.size()); ++o)
        if (const Value value = now(Value(before.nodes[i], o))) origins[{&value.node(), value.output()}] = {static_cast<int>(i), o};
  };
  number_origins(plan.graph, [](const Value& value) { return value; });
  if (const DeviceInfo& device = platform.info(); options.compile && device.generates_kernels) {
    const auto may_fuse = [&](const Node& node) { return static_cast<bool>(compile_policy(options, device, node.name)); };
    Fused fused = fuse(plan.graph, device, may_fuse);
    plan.fusion_notes = std::move(fused.notes);
    number_origins(plan.graph, [&](const Value& value) {
      const auto found = fused.moved.find({&value.node(), value.output()});
      return found == fused.moved.end() ? Value{} : found->second;
    });
    pass("fuse", std::move(fused.graph));
  }
  for (const NodePtr& node : plan_steps(plan.graph)) {
    const int block = plan.steps.empty() ? node->block : std::max(node->block, plan.steps.back().block);
    plan.steps.push_back({node, block, {}, {}, {}, {}, {}, {}, {}});
    for (int o = 0; o < static_cast<int>(node->types.size()); ++o) {
      const auto origin = origins.find({node.get(), o});
      plan.steps.back().origins.push_back(origin == origins.end() ? std::pair(-1, 0) : origin->second);
    }
    plan.block_count = std::max(plan.block_count, node->block + 1);
  }
  return plan;
}

// Graph by graph, by as many threads as there are: the passes of one know nothing of another, and a request has up to twenty.
std::vector<Plan> run_passes(const std::vector<Graph>& graphs, Platform& platform, const CompileOptions& options) {
  std::vector<Plan> plans(graphs.size());
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i; (i = next++) < graphs.size();) plans[i] = run_passes(graphs[i], platform, options);
  };
  std::vector<std::future<void>> others;  // whose errors come here
  try {
    while (others.size() + 1 < std::min<std::size_t>(graphs.size(), std::max(1u, std::thread::hardware_concurrency())))
      others.push_back(std::async(std::launch::async, work));
  } catch (const std::system_error&) {  // no more threads for this process: those that run do it
  }
  work();
  for (std::future<void>& other : others) other.get();
  return plans;
}

// Where all lies that the steps read and write; their kernels are known.
void place(Plan& plan, Platform& platform) {
  std::vector<StepNeeds> needs;
  for (const Step& step : plan.steps) needs.push_back(needs_of(*step.node, *step.kernel));
  MemoryPlan memory = plan_memory(plan.graph, needs);
  plan.workspace_bytes = memory.workspace_bytes;
  plan.alive_bytes = memory.alive_bytes;
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
        std::optional<KeptLayout> kept;
        if (!kept_parts(source).empty()) kept.emplace(source);
        ZOE_INTERNAL_CHECK(!kept || (step.node->opcode == Opcode::linear && input == 1));
        const std::string layout = kept ? kept->name : step.kernel->weight_layout(input);
        const auto [found, is_new] = weights.try_emplace({source.name, layout}, static_cast<int>(plan.weights.size()));
        if (is_new) {
          std::vector<PlanWeight::Part> parts;
          for (const Value& part : parts_of(step.node->inputs[operand].node_ptr()))
            parts.push_back({part.node().name, part.type()});
          const std::size_t bytes = kept ? kept->size_bytes : step.kernel->packed_bytes(input, source.types[0]);
          plan.weights.push_back(
              {source.name, std::move(parts), layout, source.types[0], bytes, step.kernel, input, step.block, std::move(kept)});
        }
        // Block 0 stays while the others come and go: it has the weights that several of them read.
        int& block = plan.weights[static_cast<std::size_t>(found->second)].block;
        if (block != step.block) block = 0;
        step.inputs.push_back({Place::Kind::weight, found->second, 0});
      } else {
        step.inputs.push_back(memory.place(step.node->inputs[operand]));
      }
    }
    for (int o = 0; o < static_cast<int>(step.node->types.size()); ++o) step.outputs.push_back(memory.place(Value(step.node, o)));
    step.scratch = memory.scratch[i];
    step.waits_for = std::move(memory.waits_for[i]);
  }
  plan.constants = upload_constants(constants, platform);
}

}  // namespace

std::vector<Plan> compile(const std::vector<Graph>& graphs, Platform& platform, const CompileOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  std::vector<Plan> plans = run_passes(graphs, platform, options);
  const double passed = seconds();
  const auto implemented = implement(plans, platform, options.overrides);
  const double made = seconds();
  for (Plan& plan : plans) {
    std::set<const Kernel*> distinct;
    for (Step& step : plan.steps) {
      step.implemented = implemented.at(signature(*step.node));
      step.kernel = std::shared_ptr<const Kernel>(step.implemented, step.implemented->kernel.get());
      distinct.insert(step.kernel.get());
    }
    plan.kernel_count = distinct.size();
    place(plan, platform);
  }
  log(LogLevel::detail, fmt::format("{} plans: passes {:.2f} s, kernels {:.2f} s, memory {:.2f} s", plans.size(), passed,
                                    made - passed, seconds() - made));
  return plans;
}

Plan compile(const Graph& graph, Platform& platform, const CompileOptions& options) {
  return std::move(compile(std::vector<Graph>{graph}, platform, options).front());
}

std::size_t Plan::weight_bytes() const {
  std::size_t total = 0;
  for (const PlanWeight& weight : weights) total += weight.size_bytes;
  return total;
}

bool Plan::can_update_in_place(std::size_t input, std::size_t output) const {
  return input_last_read[input] < output_written[output];
}

std::string summarize(const Plan& plan) {
  return fmt::format(
      "plan {}: {} steps, {} kernels, {} weights in {} blocks, workspace {:.1f} MiB ({:.1f} alive at once), weights {:.1f} MiB",
      plan.graph.name, plan.steps.size(), plan.kernel_count, plan.weights.size(), plan.block_count,
      static_cast<double>(plan.workspace_bytes) / 1048576.0, static_cast<double>(plan.alive_bytes) / 1048576.0,
      static_cast<double>(plan.weight_bytes()) / 1048576.0);
}

std::string describe(const Plan& plan) {
  std::string text = summarize(plan) + "\n";
  std::vector<std::string> beside(plan.steps.size());
  for (std::size_t i = 0; i < plan.steps.size(); ++i)
    for (const int other : plan.steps[i].waits_for)
      beside[static_cast<std::size_t>(other)] = fmt::format(", done before step {}", i);
  for (std::size_t i = 0; i < plan.steps.size(); ++i) {
    const Step& step = plan.steps[i];
    text += fmt::format("{:4} {:<28} {:<28} {}{}\n", step.node->block, step.node->name.empty() ? "-" : step.node->name,
                        step.kernel->implementation(), headline(*step.node), beside[i]);
  }
  return text;
}

}  // namespace zoe
