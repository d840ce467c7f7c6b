#include "compiler_fuzz/fuzz.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>

#include "compiler/run.h"
#include "compiler_fuzz/bounds.h"
#include "compiler_fuzz/wrapped_platform.h"
#include "testing/random_graph.h"
#include "testing/temporary_folder.h"

namespace zoe::fuzz {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

Graph joined(const std::vector<Graph>& graphs) {
  if (graphs.size() == 1) return graphs.front();
  std::vector<Value> inputs, outputs;
  for (const Graph& graph : graphs) {
    inputs.insert(inputs.end(), graph.inputs.begin(), graph.inputs.end());
    outputs.insert(outputs.end(), graph.outputs.begin(), graph.outputs.end());
  }
  return make_graph("batch", std::move(inputs), std::move(outputs));
}

bool has_codes(const Graph& graph) {
  return std::ranges::any_of(graph.nodes, [](const NodePtr& node) {
    const auto* const product = std::get_if<ProductAttributes>(&node->attributes);
    return product && product->codes != Codes::none;
  });
}

// Poisoned memory with a guard behind it.
class Guarded {
 public:
  Guarded(Platform& platform, Stream& stream, std::size_t size_bytes, std::string what)
      : platform_(&platform), stream_(&stream), what_(std::move(what)), size_bytes_(size_bytes) {
    const Bytes poison(size_bytes + kGuardBytes, kPoison);
    buffer_ = platform.allocate(poison.size(), what_);
    platform.upload(stream, poison.data(), {buffer_.get(), 0}, poison.size());
  }
  Tensor tensor(Type type) const { return {std::move(type), buffer_, 0}; }
  void fill(const Bytes& bytes) { platform_->upload(*stream_, bytes.data(), {buffer_.get(), 0}, bytes.size()); }
  Bytes read() const {
    Bytes bytes(size_bytes_ + kGuardBytes);
    platform_->download(*stream_, {buffer_.get(), 0}, bytes.data(), bytes.size());
    for (std::size_t i = size_bytes_; i < bytes.size(); ++i)
      if (bytes[i] != kPoison) throw std::runtime_error(fmt::format("written {} bytes behind {}", i - size_bytes_, what_));
    bytes.resize(size_bytes_);
    return bytes;
  }

 private:
  static constexpr std::size_t kGuardBytes = 4096;
  static constexpr std::byte kPoison{0xff};  // of these, every f32 and bf16 is NaN
  Platform* platform_;
  Stream* stream_;
  std::string what_;
  std::size_t size_bytes_;
  std::shared_ptr<Buffer> buffer_;
};

float element(const Bytes& bytes, std::size_t i, DType dtype) {
  float value = 0;
  convert(bytes.data() + i * size_of(dtype), dtype, &value, DType::f32, 1);
  return value;
}

std::string out_of_bounds(const Bytes& got, const Bounded& expected, const Type& type, Report* report) {
  for (std::size_t i = 0; i < expected.error.size(); ++i) {
    const double value = expected.value.values[i], error = expected.error[i], is = element(got, i, type.dtype);
    ++report->elements;
    if (std::isfinite(value) && error < std::max(std::abs(value) / 8, 1e-3)) ++report->bounded;
    if (std::isfinite(value) && std::isfinite(error) && !(std::abs(is - value) <= error))
      return fmt::format("element {} of {}: got {}, expected {} within {}", i, type.str(), is, value, error);
  }
  return {};
}

// Cannot be written: there would be tens of thousands of kernels in it.
constexpr const char* kNoCache = "/dev/null/kernels";

std::unique_ptr<Platform> open_cpu(const std::string& compiler) {
  constexpr int kThreads = 3;  // pieces of odd sizes
  return open_platform("cpu", {.threads = kThreads, .cache_dir = kNoCache, .compiler = compiler});
}

// Fusion has to end chains early.
class NarrowPlatform : public WrappedPlatform {
 public:
  explicit NarrowPlatform(std::unique_ptr<Platform> platform) : WrappedPlatform(std::move(platform)) {
    device_info.max_kernel_operands = 5;
    device_info.max_kept_bytes = 1500;
  }
};

}  // namespace

Runner uncompiled_cpu() {
  return {.name = "cpu uncompiled", .open = [] { return open_cpu(""); }, .compile = false, .is_exact = true};
}
// No program has this name, so that chains are interpreted.
Runner row_blocks() {
  return {.name = "cpu row blocks", .open = [] { return open_cpu("no-such-compiler"); }, .is_exact = true};
}
Runner narrow_row_blocks() {
  Runner runner = row_blocks();
  runner.name = "cpu row blocks, narrow";
  runner.open = [open = runner.open] { return std::make_unique<NarrowPlatform>(open()); };
  runner.excluded_ops = {"op1"};
  runner.updates_in_place = true;
  return runner;
}

Runner streamed_row_blocks() {
  Runner runner = row_blocks();
  runner.name = "cpu row blocks, streamed";
  runner.streams_weights = true;
  return runner;
}

Runner generated_code(const std::string& arguments, const std::string& edit) {
  Runner runner{.name = "cpu generated", .open = [] { return open_cpu(""); }, .is_exact = true};
  if (arguments.empty() && edit.empty()) return runner;
  static const testing::TemporaryFolder folder;
  static int scripts = 0;
  const auto script = folder.path() / fmt::format("compiler{}", scripts++);
  std::ofstream(script) << "#!/bin/sh\nfor each; do case $each in *.cpp) sed -i '" << edit
                        << "' \"$each\";; esac; done\nexec c++ \"$@\" " << arguments << "\n";
  std::filesystem::permissions(script, std::filesystem::perms::owner_all);
  if (!arguments.empty()) runner.name += " " + arguments;
  runner.open = [script] { return open_cpu(script.string()); };
  return runner;
}

std::vector<Runner> all_runners() {
  std::vector<Runner> runners{uncompiled_cpu(),          row_blocks(),     narrow_row_blocks(),
                              streamed_row_blocks(),     generated_code(), generated_code("-mno-avx512f"),
                              generated_code("-mno-avx")};
  for (const PlatformReport& each : list_platforms())
    if (each.name == "opencl" && each.opens)
      for (const bool as_gpu : {false, true})
        runners.push_back({.name = as_gpu ? "opencl, as for a GPU" : "opencl, as for a CPU",
                           .open = [=] { return open_platform("opencl", {.cache_dir = kNoCache, .opencl_local_tiles = as_gpu}); },
                           .division_ulps = 2.5,
                           .tiny = 0x1p-126,
                           .takes_codes = false});
  return runners;
}

std::string difference(const Bytes& got, const Bytes& expected, const Type& type) {
  const std::size_t size = size_of(type.dtype);
  for (std::size_t i = 0; i < expected.size() / size; ++i) {
    if (std::memcmp(got.data() + i * size, expected.data() + i * size, size) == 0) continue;
    const float a = element(got, i, type.dtype), b = element(expected, i, type.dtype);
    if (std::isnan(a) && std::isnan(b)) continue;
    return fmt::format("element {} of {}: got {:a} ({}), expected {:a} ({})", i, type.str(), a, a, b, b);
  }
  return {};
}

std::vector<Bytes> run_plan(const std::vector<Graph>& graphs, const Runner& runner, Report* report) {
  const auto platform = runner.open();
  const auto stream = platform->make_stream();
  const Graph graph = joined(graphs);
  Plan plan = compile(graph, *platform, {.compile = runner.compile, .excluded_ops = runner.excluded_ops});
  if (runner.change_plan) runner.change_plan(plan);
  if (report && runner.compile) {
    report->steps += plan.steps.size();
    for (const Step& step : plan.steps) report->chains += step.node->opcode == Opcode::fused;
  }
  std::map<std::string, std::pair<std::string, Type>> weights;  // to the graph's name
  for (const Graph& each : graphs)
    for (const NodePtr& parameter : each.parameters()) weights[parameter->name] = {each.name, parameter->types[0]};
  std::map<std::string, Bytes> weight_bytes;
  WeightStore store(*platform, [&](const std::string& name) {
    const auto& [from, type] = weights.at(name);
    Bytes& bytes = weight_bytes[name];  // stays where it is: a weight in two layouts is asked for twice
    if (bytes.empty()) bytes = testing::RandomGraph::wide_values(from, name, type);
    return dense_weight(type.dtype, type.shape, bytes.data());
  });
  if (runner.streams_weights) store.stream({&plan}, {});
  else store.load(plan);
  std::vector<Guarded> given, made;
  std::vector<Bytes> values;
  std::vector<Tensor> inputs, outputs;
  for (const Graph& each : graphs)
    for (const Value& input : each.inputs) {
      values.push_back(testing::RandomGraph::wide_values(each.name, input.node().name, input.type()));
      given.emplace_back(*platform, *stream, values.back().size(), fmt::format("input {}", given.size()));
      given.back().fill(values.back());
      inputs.push_back(given.back().tensor(input.type()));
    }
  std::vector<bool> is_replaced(given.size());
  for (std::size_t o = 0; o < graph.outputs.size(); ++o) {
    const Type& type = graph.outputs[o].type();
    std::size_t i = runner.updates_in_place ? 0 : given.size();
    while (i < given.size() && (is_replaced[i] || inputs[i].type != type || !plan.can_update_in_place(i, o))) ++i;
    if (i < given.size()) {
      is_replaced[i] = true;
      made.push_back(given[i]);
    } else {
      made.emplace_back(*platform, *stream, type.size_bytes(), fmt::format("result {}", o));
    }
    outputs.push_back(made.back().tensor(type));
  }
  const std::size_t floats = (plan.workspace_bytes + 3) / 4;
  const Guarded workspace(*platform, *stream, floats * 4, "the workspace");
  run(plan, *stream, store, inputs, outputs, workspace.tensor({DType::f32, {static_cast<std::int64_t>(floats)}}));
  workspace.read();
  for (std::size_t i = 0; i < given.size(); ++i)
    if (!is_replaced[i] && given[i].read() != values[i]) throw std::runtime_error(fmt::format("input {} was written", i));
  std::vector<Bytes> results;
  for (const Guarded& each : made) results.push_back(each.read());
  return results;
}

Report check(const std::vector<Graph>& graphs, const std::vector<Runner>& runners, bool with_reference) {
  Report report;
  std::vector<std::pair<std::size_t, Type>> outputs;  // graph and type
  for (std::size_t g = 0; g < graphs.size(); ++g)
    for (const Value& output : graphs[g].outputs) outputs.emplace_back(g, output.type());

  std::map<std::pair<double, double>, std::vector<Bounded>> references;  // by rounding
  const auto reference_of = [&](const Runner& runner) -> const std::vector<Bounded>& {
    std::vector<Bounded>& found = references[{runner.division_ulps, runner.tiny}];
    const auto start = Clock::now();
    if (found.empty())
      for (const Graph& graph : graphs) {
        const auto leaves = [&](const std::string& name, const Type& type) {
          const Bytes bytes = testing::RandomGraph::wide_values(graph.name, name, type);
          ReferenceTensor tensor{type.shape, {}};
          for (std::size_t i = 0; i < bytes.size() / size_of(type.dtype); ++i)
            tensor.values.push_back(element(bytes, i, type.dtype));
          return tensor;
        };
        for (Bounded& each : bounded_reference(graph, leaves, {runner.division_ulps, runner.tiny}))
          found.push_back(std::move(each));
      }
    report.reference_seconds += seconds_since(start);
    return found;
  };

  std::vector<Bytes> exact;
  for (const Runner& runner : runners) {
    const auto start = Clock::now();
    const auto is_left_out = [&](const Graph& graph) { return !runner.takes_codes && has_codes(graph); };
    std::vector<Graph> own;
    std::ranges::copy_if(graphs, std::back_inserter(own), [&](const Graph& graph) { return !is_left_out(graph); });
    if (own.empty()) continue;
    std::vector<Bytes> got;
    try {
      if (runner.streams_weights)
        for (const Graph& graph : own) std::ranges::move(run_plan({graph}, runner, &report), std::back_inserter(got));
      else got = run_plan(own, runner, &report);
    } catch (const std::exception& error) {
      if (graphs.size() == 1) {
        report.failures.push_back({0, runner.name, error.what()});
        continue;
      }
      const std::size_t before = report.failures.size();
      for (std::size_t g = 0; g < graphs.size(); ++g) try {
          if (!is_left_out(graphs[g])) run_plan({graphs[g]}, runner);
        } catch (const std::exception& alone) {
          report.failures.push_back({g, runner.name, alone.what()});
        }
      if (report.failures.size() == before)
        report.failures.push_back({0, runner.name, fmt::format("{} (with {} graphs in one plan)", error.what(), graphs.size())});
      continue;
    }
    report.seconds.push_back(seconds_since(start));
    const bool is_oracle = runner.is_exact && exact.empty();
    const bool in_bounds = with_reference && (is_oracle || !runner.is_exact);
    std::size_t next = 0;  // of what was made
    for (std::size_t o = 0; o < outputs.size(); ++o) {
      const auto& [g, type] = outputs[o];
      if (is_left_out(graphs[g])) continue;
      const Bytes& made = got[next++];
      if (!report.failures.empty() && report.failures.back().graph == g && report.failures.back().runner == runner.name) continue;
      std::string what = in_bounds                           ? out_of_bounds(made, reference_of(runner)[o], type, &report)
                         : runner.is_exact && !exact.empty() ? difference(made, exact[o], type)
                                                             : "";
      std::size_t first = o;
      while (first > 0 && outputs[first - 1].first == g) --first;
      if (!what.empty()) report.failures.push_back({g, runner.name, fmt::format("result {}: {}", o - first, what)});
    }
    if (is_oracle) exact = std::move(got);
  }
  return report;
}

}  // namespace zoe::fuzz
