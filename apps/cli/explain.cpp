#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "apps/cli/commands.h"
#include "base/error.h"
#include "base/nearest.h"
#include "codegen/c_printer.h"
#include "compiler/compile.h"
#include "compiler/policy.h"
#include "ir/cost.h"
#include "pipeline/parts.h"
#include "pipeline/settle.h"

namespace zoe::cli {

namespace {

using Json = nlohmann::ordered_json;

struct ExplainOptions {
  DeviceOptions device;
  CompileOptions compile;
  std::string model, part = "transformer";
  std::optional<std::int64_t> height, width, num_frames, block;
  std::int64_t text_tokens = 512, batch = 1, token_pieces = 1;
  Request request = {};  // quality, precision, attention, exact_blocks and exact_steps of it
  bool source = false, passes = false, json = false;
};

ModelConfig model_of(const std::string& name) {
  if (name.empty()) return open_model({.model_path = name}, "MODEL");
  if (auto published = published_model(name)) return *published;
  std::error_code status;
  const std::vector<std::string> names = published_model_names();
  check(std::filesystem::exists(name, status) || name.find('/') != std::string::npos, ErrorKind::invalid_argument, "MODEL",
        "unknown model: got {}, expected a folder in the Diffusers layout or one of {}.{}", in_quotes(name), fmt::join(names, ", "),
        nearest(name, names).empty() ? "" : " Did you mean " + nearest(name, names) + "?");
  return open_model({.model_path = name}, "MODEL");
}

const Graph& inside(const Node& node) { return node.as<std::shared_ptr<const CallAttributes>>()->native; }

// What the nodes of a chain would move if each ran by itself.
double bytes_one_by_one(const Node& node) {
  if (node.opcode != Opcode::fused) return bytes_read(node) + bytes_written(node);
  double total = 0;
  for (const NodePtr& step : plan_steps(inside(node))) total += bytes_read(*step) + bytes_written(*step);
  return total;
}

// Sums over a plan, or one block of it.
struct Totals {
  int steps = 0;
  std::set<const Kernel*> kernels;
  double bytes = 0, operations = 0;
  std::map<std::string_view, std::pair<int, double>> kinds;  // steps and bytes
};

Totals totals_of(const Plan& plan, const std::optional<std::int64_t>& block) {
  Totals totals;
  for (const Step& step : plan.steps) {
    const Node& node = *step.node;
    if (block && *block != node.block) continue;
    const double bytes = bytes_read(node) + bytes_written(node);
    ++totals.steps;
    totals.kernels.insert(step.kernel.get());
    totals.bytes += bytes;
    totals.operations += operations(node);
    auto& [steps, kind_bytes] = totals.kinds[name(kind_of_work(node))];
    ++steps;
    kind_bytes += bytes;
  }
  return totals;
}

// What the step is: why its nodes are a kernel of their own. Which row of the platform's table it took is Step::implemented.
std::string reason_of(const Step& step, const CompileOptions& options, const DeviceInfo& device) {
  const Node& node = *step.node;
  switch (kind_of_work(node)) {
    case WorkKind::product:
      if (const NodePtr& weight = node.inputs[1].node_ptr(); parts_of(weight).size() > 1)
        return fmt::format("one product for {}", weight->name);
      return {};
    case WorkKind::attention: return {};
    case WorkKind::fused: return fmt::format("one kernel for {} nodes", plan_steps(inside(node)).size());
    case WorkKind::elementwise:
    case WorkKind::movement: {
      const Support policy = compile_policy(options, device, node.name);
      if (!policy) return "not compiled: " + policy.reason();
      if (!device.generates_kernels) return fmt::format("not compiled: {} generates no kernels", device.platform);
      return kind_of_work(node) == WorkKind::movement ? "a copy that no neighbour can make in passing"
                                                      : "no neighbour to share a kernel with";
    }
  }
  return {};
}

double mib(double bytes) { return bytes / 1048576.0; }

// A block's steps without its number, to see which blocks are the same.
std::string fingerprint(const Plan& plan, int block) {
  std::string text;
  for (const Step& step : plan.steps)
    if (step.node->block == block) text += fmt::format("{} {}\n", step.kernel->implementation(), signature(*step.node));
  return text;
}

void print_steps(const Plan& plan, const ExplainOptions& options, const DeviceInfo& device) {
  fmt::print("{:>4} {:>5} {:<11} {:>10} {:>9} {:>9} {:>9}  {}\n", "step", "block", "kind", "Mop", "MiB read", "written", "apart",
             "what: row, implementation if it says more; why");
  std::map<std::string, int> seen;
  int first_repeat = -1, last_repeat = -1, like = -1;
  const auto flush = [&] {
    if (first_repeat >= 0) fmt::print("     blocks {} to {} are as block {}\n", first_repeat, last_repeat, like);
    first_repeat = -1;
  };
  for (int block = 0; block < plan.block_count; ++block) {
    if (options.block && *options.block != block) continue;
    const auto [same, is_new] = seen.try_emplace(fingerprint(plan, block), block);
    if (!is_new && block > 0) {
      if (first_repeat < 0) first_repeat = block;
      last_repeat = block;
      like = same->second;
      continue;
    }
    flush();
    for (std::size_t i = 0; i < plan.steps.size(); ++i) {
      const Step& step = plan.steps[i];
      const Node& node = *step.node;
      if (node.block != block) continue;
      const std::string apart = node.opcode == Opcode::fused ? fmt::format("{:9.2f}", mib(bytes_one_by_one(node))) : "        -";
      const std::string reason = reason_of(step, options.compile, device);
      std::string row = step.implemented->row;
      if (row != step.kernel->implementation()) row += fmt::format(", {}", step.kernel->implementation());
      fmt::print("{:4} {:5} {:<11} {:10.2f} {:9.2f} {:9.2f} {}  {}{}: {}{}{}\n", i, block, name(kind_of_work(node)),
                 operations(node) / 1e6, mib(bytes_read(node)), mib(bytes_written(node)), apart,
                 node.name.empty() ? "" : node.name + " | ", headline(node), row, reason.empty() ? "" : "; ", reason);
      for (const Refusal& refusal : step.implemented->refused) fmt::print("{:68}not {}: {}\n", "", refusal.row, refusal.reason);
    }
  }
  flush();
}

// Calls `take` with each generated kernel's step, how many steps run it, its source, and what that is a source of.
void for_each_source(const Plan& plan, const ExplainOptions& options,
                     const std::function<void(const Step&, int, const std::string&, const char*)>& take) {
  std::map<const Kernel*, int> runs;
  for (const Step& step : plan.steps) ++runs[step.kernel.get()];
  for (const Step& step : plan.steps) {
    if (step.node->opcode != Opcode::fused || (options.block && *options.block != step.node->block)) continue;
    const auto count = runs.extract(step.kernel.get());
    if (count.empty()) continue;  // printed
    std::string text(step.kernel->source());
    const char* dialect = "";
    if (text.empty()) {  // of a platform that does not show its own
      const Lowered lowered = lower(inside(*step.node));
      if (lowered.chain) text = print_source(*lowered.chain, kCppDialect, {.name = "k"}).text;
      dialect = ", as C++";
    }
    take(step, count.mapped(), text, dialect);
  }
}

void print_sources(const Plan& plan, const ExplainOptions& options) {
  for_each_source(plan, options, [](const Step& step, int runs, const std::string& text, const char* dialect) {
    fmt::print("\n// {} ({}; {} runs{})\n{}\n", step.node->name, headline(*step.node), runs, dialect, text);
  });
}

Json to_json(const Totals& totals, const Plan& plan) {
  Json kinds = Json::object();
  for (const auto& [kind, sum] : totals.kinds) kinds[std::string(kind)] = {{"steps", sum.first}, {"bytes", sum.second}};
  return {{"steps", totals.steps},           {"kernels", totals.kernels.size()},        {"bytes_moved", totals.bytes},
          {"operations", totals.operations}, {"workspace_bytes", plan.workspace_bytes}, {"alive_bytes", plan.alive_bytes},
          {"kinds", std::move(kinds)}};
}

Json to_json(const Plan& plan, const Plan& apart, const PartGraph& part, const ExplainOptions& options, const DeviceInfo& device) {
  Json steps = Json::array();
  for (std::size_t i = 0; i < plan.steps.size(); ++i) {
    const Step& step = plan.steps[i];
    const Node& node = *step.node;
    if (options.block && *options.block != node.block) continue;
    Json refused = Json::array();
    for (const Refusal& refusal : step.implemented->refused) refused.push_back({{"row", refusal.row}, {"reason", refusal.reason}});
    Json one{{"step", i},
             {"block", node.block},
             {"kind", name(kind_of_work(node))},
             {"name", node.name},
             {"what", headline(node)},
             {"row", step.implemented->row},
             {"refused", std::move(refused)},
             {"implementation", step.kernel->implementation()},
             {"reason", reason_of(step, options.compile, device)},
             {"operations", operations(node)},
             {"bytes_read", bytes_read(node)},
             {"bytes_written", bytes_written(node)}};
    if (node.opcode == Opcode::fused) one["bytes_apart"] = bytes_one_by_one(node);
    steps.push_back(std::move(one));
  }
  Json json{{"plan", plan.graph.name},
            {"runs", part.times},
            {"blocks", plan.block_count},
            {"steps", std::move(steps)},
            {"totals", to_json(totals_of(plan, options.block), plan)},
            {"uncompiled", to_json(totals_of(apart, options.block), apart)},
            {"product_notes", plan.product_notes},
            {"chain_notes", plan.fusion_notes}};
  if (options.passes) {
    json["passes"] = Json::array();
    for (const auto& [pass, text] : plan.passes) json["passes"].push_back({{"pass", pass}, {"graph", text}});
  }
  if (options.source) {
    json["sources"] = Json::array();
    for_each_source(plan, options, [&](const Step& step, int runs, const std::string& text, const char*) {
      json["sources"].push_back({{"name", step.node->name}, {"what", headline(*step.node)}, {"steps", runs}, {"source", text}});
    });
  }
  return json;
}

void print_totals(const char* label, const Plan& plan, const Totals& totals) {
  std::string kinds;
  for (const auto& [kind, sum] : totals.kinds)
    kinds += fmt::format("{}{} {} ({:.1f} MiB)", kinds.empty() ? "" : ", ", sum.first, kind, mib(sum.second));
  fmt::print("{:<10} {:5} steps {:4} kernels {:10.1f} MiB moved {:8.1f} MiB workspace, {:.1f} alive at once: {}\n", label,
             totals.steps, totals.kernels.size(), mib(totals.bytes), mib(static_cast<double>(plan.workspace_bytes)),
             mib(static_cast<double>(plan.alive_bytes)), kinds);
}

int explain(const ExplainOptions& options) {
  const ModelConfig model = model_of(options.model);
  const auto platform = open(options.device);
  const DType dtype = chosen_dtype(options.device, *platform);
  const DeviceInfo& device = platform->info();
  const PartSize size{options.height.value_or(model.defaults.height),
                      options.width.value_or(model.defaults.width),
                      options.num_frames.value_or(model.defaults.num_frames),
                      options.text_tokens,
                      options.batch,
                      1,
                      options.token_pieces};
  Settled arithmetic;
  settle_arithmetic(options.request, model, dtype, tokens_of(model, size), *platform, Spelling::option, arithmetic);
  settle_exact_steps(options.request, model.defaults.num_inference_steps, Spelling::option, arithmetic);
  const std::string not_exact = arithmetic_text(arithmetic);
  CompileOptions off = options.compile;
  off.compile = false;
  Json plans = Json::array();
  if (!options.json)
    fmt::print("{}: {} at {}x{}, {} frame{}, {} text tokens, {} on {} ({}){}{}\n", model.name, options.part, size.width,
               size.height, size.num_frames, size.num_frames == 1 ? "" : "s", size.text_tokens, name(dtype), device.platform,
               device.name, not_exact.empty() ? "" : "; not exact: ", not_exact);
  CompileOptions as_asked = options.compile;
  as_asked.keep_passes = options.passes;
  std::vector<PartGraph> parts = trace_part(model, options.part, precision_of(arithmetic, dtype), size);
  if (!not_exact.empty() && !arithmetic.exact_steps.empty())  // these have plans of their own
    for (PartGraph& part : trace_part(model, options.part, precision_of(arithmetic, dtype, true), size)) {
      part.graph.name += " of exact steps";
      parts.push_back(std::move(part));
    }
  for (const PartGraph& part : parts) {
    const Plan plan = compile(part.graph, *platform, as_asked), apart = compile(part.graph, *platform, off);
    check(!options.block || *options.block < plan.block_count, ErrorKind::invalid_argument, "--block", "got {}, expected {}.",
          options.block.value_or(0),
          plan.block_count == 1 ? fmt::format("0: {} has no blocks of layers", options.part)
                                : fmt::format("0 (what is outside blocks) to {}", plan.block_count - 1));
    if (options.json) {
      plans.push_back(to_json(plan, apart, part, options, device));
      continue;
    }
    for (const auto& [pass, text] : plan.passes) fmt::print("\n// after {}\n{}", pass, text);
    fmt::print("\n{}{}\n", summarize(plan), part.times > 1 ? fmt::format("; runs {} times", part.times) : "");
    print_steps(plan, options, device);
    const Totals totals = totals_of(plan, options.block), totals_apart = totals_of(apart, options.block);
    print_totals(options.compile.compile ? "compiled" : "as asked", plan, totals);
    print_totals("uncompiled", apart, totals_apart);
    fmt::print("{:.3f} Gop; without compiling {:.2f} times the traffic, {:.1f} times the steps\n", totals.operations / 1e9,
               totals_apart.bytes / std::max(totals.bytes, 1.0),
               static_cast<double>(totals_apart.steps) / std::max(totals.steps, 1));
    const auto print_notes = [](std::string_view about, const std::vector<std::string>& notes) {
      std::map<std::string, int> counts;
      for (const std::string& note : notes) ++counts[note];
      for (const auto& [note, times] : counts) fmt::print("{}: {} ({} times)\n", about, note, times);
    };
    print_notes("products", plan.product_notes);
    print_notes("chains end", plan.fusion_notes);
    if (options.source) print_sources(plan, options);
  }
  if (options.json) {
    const Json json{{"model", model.name},   {"part", options.part},          {"height", size.height},
                    {"width", size.width},   {"num_frames", size.num_frames}, {"text_tokens", size.text_tokens},
                    {"batch", size.batch},   {"dtype", name(dtype)},          {"platform", device.platform},
                    {"device", device.name}, {"plans", std::move(plans)}};
    fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  return 0;
}

}  // namespace

Command add_explain(CLI::App& app) {
  auto options = std::make_shared<ExplainOptions>();
  app.add_option(
      "MODEL", options->model,
      "A model folder (its weights are not read), or a published member: wan2.1-t2v-14b, ... (default: the embedded toy model)");
  app.add_option("--part", options->part, "transformer, text-keys, text-encoder, vae-decode, vae-encode or image-encoder")
      ->type_name("PART")
      ->capture_default_str();
  const auto integer = [&app](const char* flag, std::optional<std::int64_t>& target, std::int64_t min, std::int64_t max,
                              const char* text) {
    app.add_option_function<std::string>(
           flag, [&target, flag, min, max](const std::string& value) { target = parse_integer(flag, value, min, max); }, text)
        ->type_name("N");
  };
  integer("--block", options->block, 0, 1000, "Only this block; 0 is what is outside blocks");
  integer("--height", options->height, 16, 8192, "Pixels (default: the model's)");
  integer("--width", options->width, 16, 8192, "Pixels (default: the model's)");
  integer("--num-frames", options->num_frames, 1, 1025, "Frames (default: the model's)");
  app.add_option_function<std::string>(
         "--batch", [o = options.get()](const std::string& value) { o->batch = parse_integer("--batch", value, 1, 8); },
         "Texts that the transformer takes at once: guidance may have it take 2 (default 1)")
      ->type_name("N");
  app.add_option_function<std::string>(
         "--token-pieces",
         [o = options.get()](const std::string& value) { o->token_pieces = parse_integer("--token-pieces", value, 1, 64); },
         "Pieces in which the transformer takes tokens, as where memory is short (default 1)")
      ->type_name("N");
  app.add_option_function<std::string>(
         "--text-tokens",
         [o = options.get()](const std::string& value) { o->text_tokens = parse_integer("--text-tokens", value, 1, 512); },
         "Rows of the prompt (default 512)")
      ->type_name("N");
  for (const char* field : {"quality", "precision", "attention", "exact_blocks", "exact_steps"})
    add_request_field(app, options->request, field);
  app.add_flag("--source", options->source, "Also the source of each generated kernel");
  app.add_flag("--passes", options->passes, "Also the graph after each pass of the compiler");
  add_json(app, options->json);
  add_device_options(app, options->device);
  add_compile_options(app, options->compile);
  return [options] { return explain(*options); };
}

}  // namespace zoe::cli
