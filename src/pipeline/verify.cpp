#include "pipeline/verify.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "base/error.h"
#include "ir/graph.h"
#include "ir/trace.h"
#include "pipeline/model.h"
#include "pipeline/session_access.h"
#include "pipeline/verify_codes.h"
#include "platform/platform.h"

namespace zoe {

namespace {

// On `cpu` a fused chain rounds as its nodes do. A device compiler may err in division and roots (OpenCL 1.2: 2.5 and 3 ulp), and a
// chain has a handful of them.
constexpr double kDeviceUlps = 32, kDeviceLatentRms = 1e-3;

// Attention from codes beside f64 from the same codes: the result's rounding to bf16, 0.11%, and codes of keys that another order
// of their mean rounds the other way. A single one moves a score by the query's largest code, and that key's weight by some
// percent.
constexpr double kAttentionRms = 3e-3, kAttentionLargest = 0.05;

using Origin = std::pair<int, int>;  // see Step::origins
using Bytes = std::vector<std::byte>;

std::vector<float> to_floats(const Bytes& bytes, DType dtype) {
  std::vector<float> values(bytes.size() / size_of(dtype));
  convert(bytes.data(), dtype, reinterpret_cast<std::byte*>(values.data()), DType::f32, values.size());
  return values;
}

// The distance between neighbours of numbers as large as `magnitude`.
double last_place(double magnitude, DType dtype) {
  if (is_byte(dtype)) return 1;
  const int mantissa_bits = dtype == DType::bf16 ? 7 : 23;
  constexpr int kSmallestExponent = -126;
  const int exponent = magnitude > 0 ? std::max(std::ilogb(magnitude), kSmallestExponent) : kSmallestExponent;
  return std::ldexp(1.0, exponent - mantissa_bits);
}

void compare(const Bytes& got, const Bytes& expected, DType dtype, ChainDifference& difference) {
  const std::size_t element = size_of(dtype), count = got.size() / element;
  difference.values += count;
  if (got == expected) return;
  const std::vector<float> a = to_floats(got, dtype), b = to_floats(expected, dtype);
  double squares = 0;
  for (const float value : b) squares += static_cast<double>(value) * static_cast<double>(value);
  const double rms = std::sqrt(squares / static_cast<double>(count));
  for (std::size_t i = 0; i < count; ++i) {
    if (std::memcmp(got.data() + i * element, expected.data() + i * element, element) == 0) continue;
    ++difference.different;
    double absolute = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!std::isfinite(absolute)) absolute = INFINITY;
    difference.max_absolute = std::max(difference.max_absolute, absolute);
    const double magnitude = std::max(std::abs(static_cast<double>(b[i])), rms);
    difference.max_ulps =
        std::max(difference.max_ulps, std::isfinite(magnitude) ? absolute / last_place(magnitude, dtype) : INFINITY);
  }
}

// A wanted value of a plan that is not compiled: a piece of the result of one of its steps.
struct Piece {
  Origin wanted;
  std::size_t offset, size;
};

// Which pieces to keep of each step's results. Values that no step makes (a reshape, the first rows of something) lie in those of
// one.
std::map<Origin, std::vector<Piece>> find_pieces(const Plan& plan, const std::set<Origin>& wanted) {
  std::set<Origin> made;
  for (const Step& step : plan.steps) made.insert(step.origins.begin(), step.origins.end());
  std::map<const Node*, int> numbers;
  for (std::size_t i = 0; i < plan.graph.nodes.size(); ++i) numbers[plan.graph.nodes[i].get()] = static_cast<int>(i);
  std::map<Origin, std::vector<Piece>> pieces;
  for (const Origin& each : wanted) {
    if (each.first < 0) continue;
    Value value(plan.graph.nodes[static_cast<std::size_t>(each.first)], each.second);
    const std::size_t size = value.type().size_bytes();
    std::size_t offset = 0;
    Origin at = each;
    while (!made.count(at) && (value.node().opcode == Opcode::reshape || value.node().opcode == Opcode::slice)) {
      const Value operand = value.node().inputs[0];
      if (value.node().opcode == Opcode::slice) {
        const auto& axis = value.node().as<AxisAttributes>();
        const Shape& shape = operand.shape();
        offset += static_cast<std::size_t>(axis.begin * shape.count(axis.axis + 1, shape.rank())) * size_of(operand.dtype());
      }
      value = operand;
      at = {numbers.at(&value.node()), value.output()};
    }
    if (made.count(at)) pieces[at].push_back({each, offset, size});
  }
  return pieces;
}

bool is_coded(const Node& node) { return codes_of(node) != Codes::none; }
std::size_t coded_operands(const Node& node) { return node.opcode == Opcode::linear ? 1 : 3; }

// Holds what a plan runs from codes to plain loops.
class CodesCheck {
 public:
  CodesCheck(Platform& platform, const CompileOptions& options, std::vector<CodesDifference>& found)
      : platform_(platform), options_(options), found_(found) {
    options_.compile = false;
  }

  // The values that check() wants.
  static void add_wanted(const Plan& twin, std::set<Origin>& wanted) {
    for (const NodePtr& node : twin.graph.nodes)
      if (is_coded(*node)) {
        for (std::size_t i = 0; i < coded_operands(*node); ++i) wanted.insert(origin_of(twin, node->inputs[i]));
        if (node->opcode == Opcode::attention) wanted.insert(origin_of(twin, Value(node, 0)));
      }
  }

  // `values`: of a run of the uncompiled plan.
  void check(const Plan& twin, const std::map<Origin, Bytes>& values, WeightStore& weights, const Component& component,
             Stream& stream) {
    const std::vector<Plan>& alone = alone_of(twin);
    std::size_t next = 0;
    for (const NodePtr& node : twin.graph.nodes) {
      if (!is_coded(*node)) continue;
      std::vector<std::vector<float>> operands;
      for (std::size_t i = 0; i < coded_operands(*node); ++i)
        if (const auto value = values.find(origin_of(twin, node->inputs[i])); value != values.end())
          operands.push_back(to_floats(value->second, node->inputs[i].dtype()));
      const auto step = std::find_if(twin.steps.begin(), twin.steps.end(), [&](const Step& each) { return each.node == node; });
      ZOE_INTERNAL_CHECK(step != twin.steps.end());
      CodesDifference& difference = difference_of(twin, *step);
      ++difference.runs;
      const bool is_product = node->opcode == Opcode::linear, narrow = node->types[0].dtype == DType::bf16;
      // Where weights come and go, those of a plan that is not among theirs are not there.
      if (operands.size() < coded_operands(*node) || weights.is_streaming()) ++difference.unseen;
      else if (is_product)
        check_product(*node, operands[0], alone[next], narrow ? &alone[next + 1] : nullptr, weights, component, stream, difference);
      else check_attention(*step, {operands[0], operands[1], operands[2]}, values.at(origin_of(twin, Value(node, 0))), difference);
      if (is_product) next += narrow ? 2 : 1;
    }
  }

 private:
  static Origin origin_of(const Plan& plan, const Value& value) {
    const auto found = std::find(plan.graph.nodes.begin(), plan.graph.nodes.end(), value.node_ptr());
    return {static_cast<int>(found - plan.graph.nodes.begin()), value.output()};
  }

  CodesDifference& difference_of(const Plan& plan, const Step& step) {
    const std::string what(name(step.node->opcode)), implementation(step.kernel->implementation());
    for (CodesDifference& each : found_)
      if (each.plan == plan.graph.name && each.what == what && each.implementation == implementation) return each;
    return found_.emplace_back(CodesDifference{.plan = plan.graph.name, .what = what, .implementation = implementation});
  }

  // Each product from codes of a plan without bias and activation, and in bf16 with a residual, too.
  const std::vector<Plan>& alone_of(const Plan& twin) {
    const auto [found, is_new] = alone_.try_emplace(&twin);
    if (!is_new) return found->second;
    std::vector<Graph> graphs;
    for (const NodePtr& node : twin.graph.nodes) {
      if (!is_coded(*node) || node->opcode != Opcode::linear) continue;
      const Type &x = node->inputs[0].type(), &result = node->types[0];
      const Value operand = input("x", x.dtype, x.shape), residual = input("residual", result.dtype, result.shape);
      const Value& matrix = node->inputs[1];
      graphs.push_back(make_graph("codes", {operand}, {linear(operand, matrix, {.codes = Codes::i8})}));
      if (result.dtype == DType::bf16)
        graphs.push_back(
            make_graph("codes", {operand, residual}, {linear(operand, matrix, {.residual = residual, .codes = Codes::i8})}));
    }
    return found->second = compile(graphs, platform_, options_);
  }

  // The bits of `bare` are those of the plain loops' integers times the scales. In bf16 that leaves the last bits of an integer
  // open; less the rounded result, as a residual, these come out, too, to 16 bits in all: the integer of a sum below 32,000, of a
  // larger one so many in front.
  void check_product(const Node& node, const std::vector<float>& x, const Plan& bare, const Plan* with_residual,
                     WeightStore& weights, const Component& component, Stream& stream, CodesDifference& difference) {
    const Type &weight = node.inputs[1].type(), &result = node.types[0];
    const auto columns = static_cast<std::size_t>(weight.shape.dim(0));
    std::vector<float> numbers(static_cast<std::size_t>(weight.shape.count()));
    float* next = numbers.data();
    for (const Value& part : parts_of(node.inputs[1].node_ptr())) {
      component.read(part.node().name, 0, part.shape().count(), next);
      next += part.shape().count();
    }
    const std::vector<std::int64_t> rows = looked_at(result.shape.count() / weight.shape.dim(0));
    const CodeSums expected = sums_of_codes(x, rows, weight, *dense_weight(DType::f32, weight.shape, numbers.data()));

    const std::vector<float> first = run(bare, {&x}, weights, stream);
    std::vector<float> less(first.size()), second;
    std::transform(first.begin(), first.end(), less.begin(), [](float value) { return -value; });
    if (with_residual) second = run(*with_residual, {&x, &less}, weights, stream);
    for (std::size_t i = 0; i < rows.size(); ++i)
      for (std::size_t column = 0; column < columns; ++column) {
        const std::int32_t sum = expected.sums[i * columns + column];
        const float product = static_cast<float>(sum) * expected.x_scales[i] * expected.w_scales[column],
                    rounded = result.dtype == DType::bf16 ? bf16_to_f32(f32_to_bf16(product)) : product;
        const std::size_t at = static_cast<std::size_t>(rows[i]) * columns + column;
        bool same = std::memcmp(&first[at], &rounded, sizeof rounded) == 0 || (std::isnan(first[at]) && std::isnan(rounded));
        if (same && !second.empty() && std::isfinite(product)) {
          const double unit = static_cast<double>(expected.x_scales[i]) * static_cast<double>(expected.w_scales[column]),
                       got = (static_cast<double>(first[at]) + static_cast<double>(second[at])) / unit;
          same = unit == 0 || std::abs(got - sum) < std::max(0.5, 1.01 * std::ldexp(std::abs(static_cast<double>(sum)), -16));
        }
        ++difference.values;
        difference.different += same ? 0 : 1;
      }
  }

  std::vector<float> run(const Plan& plan, const std::vector<const std::vector<float>*>& inputs, WeightStore& weights,
                         Stream& stream) {
    const Graph& graph = plan.graph;
    weights.add(plan);
    std::vector<Tensor> given;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      given.push_back(make_tensor(platform_, graph.inputs[i].type(), "verify"));
      upload(platform_, stream, std::span<const float>(*inputs[i]), given.back());
    }
    const Tensor made = make_tensor(platform_, graph.outputs[0].type(), "verify");
    const Plan* const only = &plan;
    zoe::run(plan, stream, weights, given, {&made, 1}, make_workspace(platform_, {&only, 1}));
    std::vector<float> results(static_cast<std::size_t>(made.type.shape.count()));
    download(platform_, stream, made, results);
    return results;
  }

  void check_attention(const Step& step, const std::array<std::vector<float>, 3>& operands, const Bytes& bytes,
                       CodesDifference& difference) {
    const Node& node = *step.node;
    const Shape& shape = node.types[0].shape;
    const auto width = static_cast<std::size_t>(shape.dim(2) * shape.dim(3));
    const std::vector<std::int64_t> queries = looked_at(shape.dim(1));
    const std::vector<double> expected = attention_from_codes(node, operands, queries, attention_codes_of(step.implemented->row));
    const std::vector<float> got = to_floats(bytes, node.types[0].dtype);
    double squares = 0, error = 0;
    for (const double value : expected) squares += value * value;
    const double rms = std::sqrt(squares / static_cast<double>(expected.size()));
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const std::size_t row = i / width, batch = row / queries.size();
      const std::size_t at =
          (batch * static_cast<std::size_t>(shape.dim(1)) + static_cast<std::size_t>(queries[row % queries.size()])) * width +
          i % width;
      const double absolute = std::abs(static_cast<double>(got[at]) - expected[i]);
      error += absolute * absolute;
      difference.largest = std::max(difference.largest, absolute / std::max(std::abs(expected[i]), rms));
      if (!std::isfinite(absolute)) difference.largest = INFINITY;
    }
    const double relative = std::sqrt(error / squares);
    difference.relative_rms = std::max(difference.relative_rms, std::isfinite(relative) ? relative : INFINITY);
    difference.values += expected.size();
  }

  Platform& platform_;
  CompileOptions options_;
  std::vector<CodesDifference>& found_;
  std::map<const Plan*, std::vector<Plan>> alone_;
};

// Runs plans of a compiled job, each with its uncompiled twin.
class SideBySide {
 public:
  SideBySide(Platform& platform, const Session& session, const Job& compiled, const Job& uncompiled, const CompileOptions& options,
             VerifyReport& report)
      : platform_(platform), session_(session), chains_(report.chains), codes_(platform, options, report.codes) {
    const BoundProgram &a = SessionAccess::program(compiled), &b = SessionAccess::program(uncompiled);
    for (const ProgramPlan& plan : a.program().plans) twins_[&a.plan(plan.name).plan] = &b.plan(plan.name).plan;
  }

  void run(const Plan& plan, Stream& stream, WeightStore& weights, std::span<const Tensor> inputs, std::span<const Tensor> outputs,
           const Tensor& workspace, const RunOptions& options) {
    const Plan& twin = *twins_.at(&plan);
    std::map<Origin, Bytes> values = run_twin(plan, twin, stream, weights, inputs, options);
    if (std::any_of(twin.graph.nodes.begin(), twin.graph.nodes.end(), [](const NodePtr& node) { return is_coded(*node); }))
      codes_.check(twin, values, weights, SessionAccess::component(session_, weights), stream);
    const StepObserver observer = [&](const StepRun& ran) {
      const Step& step = plan.steps[ran.step];
      ChainDifference& chain = chain_of(plan, step);
      ++chain.runs;
      for (std::size_t r = 0; r < ran.results.size(); ++r) {
        const auto expected = values.find(step.origins[r]);
        if (expected == values.end()) {
          ++chain.unmatched;
          continue;
        }
        const Bytes got = download(stream, ran.results[r], expected->second.size());
        compare(got, expected->second, step.node->types[r].dtype, chain);
        if (got != expected->second) platform_.upload(stream, expected->second.data(), ran.results[r], got.size());
      }
      stream.synchronize();
    };
    RunOptions observed = options;
    observed.observe = &observer;
    zoe::run(plan, stream, weights, inputs, outputs, workspace, observed);
  }

 private:
  std::map<Origin, Bytes> run_twin(const Plan& plan, const Plan& twin, Stream& stream, WeightStore& weights,
                                   std::span<const Tensor> inputs, const RunOptions& options) {
    std::set<Origin> wanted;
    for (const Step& step : plan.steps) wanted.insert(step.origins.begin(), step.origins.end());
    CodesCheck::add_wanted(twin, wanted);
    const std::map<Origin, std::vector<Piece>> pieces = find_pieces(twin, wanted);
    std::size_t total = 0;
    for (const auto& [origin, kept] : pieces)
      for (const Piece& piece : kept) total += piece.size;
    check(total <= platform_.free_bytes() / 2, ErrorKind::out_of_memory, "verify",
          "the values of plan {} take {} MiB, more than half of what is free. Lower --width, --height or --num-frames.",
          plan.graph.name, total >> 20);
    std::map<Origin, Bytes> values;
    const StepObserver observer = [&](const StepRun& ran) {
      for (std::size_t r = 0; r < ran.results.size(); ++r)
        if (const auto found = pieces.find(twin.steps[ran.step].origins[r]); found != pieces.end())
          for (const Piece& piece : found->second) {
            const Slot slot{ran.results[r].buffer, ran.results[r].offset + piece.offset};
            values[piece.wanted] = download(stream, slot, piece.size);
          }
    };
    // Results of its own: where an argument is updated in place, the compiled plan must find it as it was.
    std::vector<Tensor> outputs;
    for (const Value& output : twin.graph.outputs) outputs.push_back(make_tensor(platform_, output.type(), "verify"));
    const Plan* const only = &twin;
    const Tensor workspace = make_workspace(platform_, {&only, 1});
    weights.add(twin);
    RunOptions observed = options;
    observed.observe = &observer;
    zoe::run(twin, stream, weights, inputs, outputs, workspace, observed);
    return values;
  }

  Bytes download(Stream& stream, const Slot& slot, std::size_t size) const {
    Bytes bytes(size);
    platform_.download(stream, slot, bytes.data(), size);
    return bytes;
  }

  ChainDifference& chain_of(const Plan& plan, const Step& step) {
    const Node& node = *step.node;
    const bool fused = node.opcode == Opcode::fused;
    const std::string what = fused || node.opcode == Opcode::call ? node.name : std::string(name(node.opcode));
    const std::string implementation(step.kernel->implementation());
    const auto found = std::find_if(chains_.begin(), chains_.end(), [&](const ChainDifference& chain) {
      return chain.plan == plan.graph.name && chain.what == what && chain.implementation == implementation && chain.fused == fused;
    });
    if (found != chains_.end()) return *found;
    return chains_.emplace_back(
        ChainDifference{.plan = plan.graph.name, .what = what, .implementation = implementation, .fused = fused});
  }

  Platform& platform_;
  const Session& session_;
  std::vector<ChainDifference>& chains_;
  CodesCheck codes_;
  std::map<const Plan*, const Plan*> twins_;
};

std::vector<float> final_latents(Session& session, Job& job) {
  std::vector<float> all;
  Callbacks callbacks;
  callbacks.latents = [&](std::size_t, std::span<const float> latents) { all.insert(all.end(), latents.begin(), latents.end()); };
  session.run(job, callbacks);
  return all;
}

LatentDifference compare_latents(const std::vector<float>& got, const std::vector<float>& expected) {
  LatentDifference difference{.values = expected.size()};
  ZOE_INTERNAL_CHECK(got.size() == expected.size());
  double error = 0, power = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double absolute = std::abs(static_cast<double>(got[i]) - static_cast<double>(expected[i]));
    if (std::memcmp(&got[i], &expected[i], sizeof(float)) != 0) ++difference.different;
    difference.max_absolute = std::max(difference.max_absolute, std::isfinite(absolute) ? absolute : INFINITY);
    error += absolute * absolute;
    power += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  difference.relative_rms = difference.different == 0 ? 0 : std::sqrt(error / power);
  if (std::isnan(difference.relative_rms)) difference.relative_rms = INFINITY;
  return difference;
}

}  // namespace

bool VerifyReport::passes(const ChainDifference& chain) const {
  return allowed_ulps == 0 ? chain.different == 0 : chain.max_ulps <= allowed_ulps;
}

bool VerifyReport::passes(const CodesDifference& each) const {
  return each.different == 0 && each.relative_rms <= kAttentionRms && each.largest <= kAttentionLargest;
}

bool VerifyReport::latents_pass() const {
  return allowed_relative_rms == 0 ? latents.different == 0 : latents.relative_rms <= allowed_relative_rms;
}

bool VerifyReport::passed() const {
  return latents_pass() &&
         std::all_of(chains.begin(), chains.end(), [this](const ChainDifference& chain) { return passes(chain); }) &&
         std::all_of(codes.begin(), codes.end(), [this](const CodesDifference& each) { return passes(each); });
}

VerifyReport verify(const ModelConfig& model, std::shared_ptr<Platform> platform, DType dtype, const Request& request,
                    const CompileOptions& options) {
  const auto open = [&](bool compile) {
    SessionOptions own{.dtype = dtype, .compile = options, .single_request = true, .parallel = Parallel::none};
    own.compile.compile = compile;
    return Session(model, platform, own);
  };
  Session compiled = open(true), uncompiled = open(false);
  Job compiled_job = compiled.prepare(request);
  Request same = request;
  same.guidance_batch = compiled_job.settled().batch == 2 ? GuidanceBatch::on : GuidanceBatch::off;
  same.token_pieces = static_cast<int>(compiled_job.settled().token_pieces);
  same.vae_tiles = static_cast<int>(compiled_job.settled().vae_tiles);
  Job uncompiled_job = uncompiled.prepare(same);
  VerifyReport report;
  if (!platform->info().exact_bits) report.allowed_ulps = kDeviceUlps, report.allowed_relative_rms = kDeviceLatentRms;

  SideBySide side_by_side(*platform, compiled, compiled_job, uncompiled_job, options, report);
  PlanRunner& runner = SessionAccess::runner(compiled);
  const PlanRunner alone =
      std::exchange(runner, [&](const NamedPlan& plan, auto&&... arguments) { side_by_side.run(plan.plan, arguments...); });
  compiled.run(compiled_job, {});
  runner = alone;
  report.latents = compare_latents(final_latents(compiled, compiled_job), final_latents(uncompiled, uncompiled_job));
  return report;
}

}  // namespace zoe
