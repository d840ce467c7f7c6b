#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <map>
#include <random>

#include "apps/cli/commands.h"
#include "base/error.h"
#include "base/files.h"
#include "compiler/profile.h"
#include "compiler/run.h"
#include "ir/cost.h"
#include "pipeline/memory.h"
#include "pipeline/parts.h"

namespace zoe::cli {

namespace {

struct BenchOptions {
  DeviceOptions device;
  CompileOptions compile;
  std::string part, size = "1.3b", profile;
  std::int64_t height = 272, width = 480, num_frames = 17, text_tokens = 512;
  int repeat = 3;
  bool per_op = false, plan = false;
};

struct Case {
  std::vector<Plan> plans;  // run in this order, each `times` times
  std::vector<PartGraph> graphs;
};

std::vector<Tensor> random_tensors(Platform& platform, Stream& stream, const std::vector<Value>& values) {
  std::mt19937 generator(0);
  std::normal_distribution<float> normal;
  std::vector<Tensor> tensors;
  for (const Value& value : values) {
    tensors.push_back(make_tensor(platform, value.type(), "bench"));
    if (value.dtype() == DType::i32) continue;  // zeros: every index exists
    std::vector<float> host(static_cast<std::size_t>(value.shape().count()));
    for (float& element : host) element = 0.5f * normal(generator);
    upload(platform, stream, host, tensors.back());
  }
  return tensors;
}

Case make_case(const BenchOptions& options, Platform& platform, DType dtype) {
  const ModelConfig model =
      options.size == "toy" ? read_model_config(embedded_model_path()) : *published_model("wan2.1-t2v-" + options.size);
  Case made;
  made.graphs = trace_part(model, options.part, dtype, {options.height, options.width, options.num_frames, options.text_tokens});
  std::vector<Graph> graphs;
  for (const PartGraph& part : made.graphs) graphs.push_back(part.graph);
  made.plans = compile(graphs, platform, options.compile);
  return made;
}

void print_per_op(const Case& measured, const std::vector<std::vector<double>>& seconds, int runs) {
  struct Row {
    double seconds = 0, operations = 0;
    int count = 0;
  };
  std::map<std::string, Row> rows;
  for (std::size_t p = 0; p < measured.plans.size(); ++p)
    for (std::size_t i = 0; i < measured.plans[p].steps.size(); ++i) {
      const Step& step = measured.plans[p].steps[i];
      Row& row = rows[fmt::format("{} | {} {}", step.kernel->implementation(), step.node->name, headline(*step.node))];
      row.seconds += seconds[p][i] / runs;
      row.operations += product_operations(*step.node) * measured.graphs[p].times;
      row.count += measured.graphs[p].times;
    }
  std::vector<std::pair<std::string, Row>> sorted(rows.begin(), rows.end());
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  for (const auto& [label, row] : sorted)
    fmt::print("{:9.2f} ms {:5} x {:8.1f} GFLOP/s  {}\n", row.seconds * 1e3, row.count, row.operations / row.seconds / 1e9, label);
}

int bench(const BenchOptions& options) {
  Profile profile;
  std::optional<PendingOutput> profile_file;
  if (!options.profile.empty()) profile_file.emplace(options.profile, PendingOutput::Kind::file, "--profile");
  const auto platform = open(options.device);
  const DType dtype = chosen_dtype(options.device, *platform);
  MemoryWatch watch;
  const Case measured = make_case(options, *platform, dtype);

  std::int64_t largest = 1;
  for (const Plan& plan : measured.plans)
    for (const PlanWeight& weight : plan.weights) largest = std::max(largest, weight.type.shape.count());
  std::vector<float> values(static_cast<std::size_t>(largest));
  std::mt19937 generator(0);
  std::normal_distribution<float> normal(0, 0.02f);
  for (float& value : values) value = normal(generator);
  std::map<std::string, Shape> shapes;
  for (const Plan& plan : measured.plans)
    for (const PlanWeight& weight : plan.weights) shapes[weight.name] = weight.type.shape;
  WeightStore store(*platform, [&](const std::string& name) {
    return HostTensor{DType::f32, shapes.at(name), reinterpret_cast<const std::byte*>(values.data())};
  });
  // As in a pipeline: weights that would fill the memory come and go block by block, and their packing is part of the time.
  const bool streamed = measured.plans[0].weight_bytes() > platform->info().free_bytes / 2;
  double operations = 0;
  std::size_t workspace_bytes = 0;
  std::vector<const Plan*> plans;
  for (std::size_t p = 0; p < measured.plans.size(); ++p) {
    if (!streamed) store.load(measured.plans[p]);
    operations += product_operations(measured.plans[p].graph) * measured.graphs[p].times;
    workspace_bytes = std::max(workspace_bytes, measured.plans[p].workspace_bytes);
    plans.push_back(&measured.plans[p]);
  }
  const auto stream = platform->make_stream();
  const Tensor workspace = make_workspace(*platform, plans);
  std::vector<std::vector<Tensor>> inputs, outputs;
  std::vector<Tensor> states;
  for (std::size_t p = 0; p < plans.size(); ++p) {
    const Graph& graph = plans[p]->graph;
    const PartGraph& part = measured.graphs[p];
    if (part.states.empty()) {
      inputs.push_back(random_tensors(*platform, *stream, graph.inputs));
      outputs.push_back(random_tensors(*platform, *stream, graph.outputs));
      continue;
    }
    if (states.empty())
      for (const Type& type : part.states) states.push_back(make_tensor(*platform, type, "decoder state"));
    inputs.push_back(random_tensors(*platform, *stream, {graph.inputs[0]}));
    outputs.push_back(random_tensors(*platform, *stream, {graph.outputs[0]}));
    for (const std::size_t state : part.reads) inputs.back().push_back(states[state]);
    for (const std::size_t state : part.writes) outputs.back().push_back(states[state]);
  }
  std::vector<std::vector<double>> step_seconds;
  for (const Plan& plan : measured.plans) step_seconds.emplace_back(plan.steps.size());
  const StepTimer timer = [&](const StepTime& time) {
    step_seconds[static_cast<std::size_t>(&time.plan - measured.plans.data())][time.step] +=
        std::chrono::duration<double>(time.end - time.begin).count();
    if (profile_file) profile.step(time);
  };
  std::vector<double> seconds;
  for (int run_number = 0; run_number <= options.repeat; ++run_number) {
    const bool counted = run_number > 0;  // the first warms up
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t p = 0; p < measured.plans.size(); ++p)
      for (int time = 0; time < measured.graphs[p].times; ++time) {
        RunOptions run_options{.stream_weights = streamed};
        if ((options.per_op || profile_file) && counted) run_options.time = &timer;
        zoe::run(measured.plans[p], *stream, store, inputs[p], outputs[p], workspace, run_options);
      }
    watch.sample();
    const auto end = std::chrono::steady_clock::now();
    if (counted) seconds.push_back(std::chrono::duration<double>(end - start).count());
    if (counted && profile_file) profile.phase(fmt::format("run {}", run_number), start, end);
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  fmt::print(
      R"({{"what": "{}", "size": "{}", "video": "{}x{}x{}", "dtype": "{}", "threads": {}, "median_s": {:.4f}, "min_s": {:.4f}, "max_s": {:.4f}, "gflop": {:.1f}, "gflop_per_s": {:.1f}, "weights_mib": {:.1f}, "streamed": {}, "workspace_mib": {:.1f}, "peak_mib": {:.1f}, "cpu": "{}"}})"
      "\n",
      options.part, options.part == "transformer" || options.size == "toy" ? options.size : "published", options.width,
      options.height, options.num_frames, name(dtype), platform->info().threads, median, seconds.front(), seconds.back(),
      operations / 1e9, operations / median / 1e9,
      static_cast<double>(streamed ? measured.plans[0].streamed_weight_bytes() : store.size_bytes()) / 1048576.0, streamed,
      static_cast<double>(workspace_bytes) / 1048576.0, static_cast<double>(watch.peak_bytes()) / 1048576.0, platform->info().name);
  if (options.plan)
    for (const Plan& plan : measured.plans) fmt::print("{}", describe(plan));
  if (profile_file) {
    profile.write(profile_file->path());
    profile_file->commit();
  }
  if (options.per_op) print_per_op(measured, step_seconds, options.repeat);
  return 0;
}

}  // namespace

Command add_bench(CLI::App& app) {
  auto options = std::make_shared<BenchOptions>();
  app.add_option("PART", options->part, "transformer (one forward), vae-decode, or text-encoder")->required();
  app.add_option("--size", options->size, "transformer: 1.3b, 14b or toy; the others: published size or toy")
      ->check(CLI::IsMember({"1.3b", "14b", "toy"}))
      ->capture_default_str();
  const auto integer = [&app](const char* flag, std::int64_t& target, std::int64_t min, std::int64_t max, const char* text) {
    app.add_option_function<std::string>(
           flag, [&target, flag, min, max](const std::string& value) { target = parse_integer(flag, value, min, max); }, text)
        ->type_name("N");
  };
  integer("--height", options->height, 16, 8192, "Pixels (default 272)");
  integer("--width", options->width, 16, 8192, "Pixels (default 480)");
  integer("--num-frames", options->num_frames, 1, 1025, "Frames (default 17)");
  integer("--text-tokens", options->text_tokens, 1, 512, "Rows of the prompt (default 512)");
  app.add_option_function<std::string>(
         "--repeat",
         [o = options.get()](const std::string& text) { o->repeat = static_cast<int>(parse_integer("--repeat", text, 1, 1000)); },
         "Counted runs after one warm-up (default 3)")
      ->type_name("N");
  app.add_flag("--per-op", options->per_op, "Also where the time goes, by operation and shape");
  app.add_flag("--plan", options->plan, "Also the plan: every step with its op and its implementation");
  add_device_options(app, options->device);
  add_compile_options(app, options->compile);
  app.add_option("--profile", options->profile, "A trace of the counted runs for Perfetto")->type_name("FILE");
  return [options] { return bench(*options); };
}

}  // namespace zoe::cli
