#include "pipeline/verify.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "base/error.h"
#include "ir/graph.h"
#include "pipeline/model.h"
#include "pipeline/session_access.h"
#include "platform/platform.h"

namespace zoe {

namespace {

// On `cpu` a fused chain rounds as its nodes do. A device compiler may err in division and roots (OpenCL 1.2: 2.5 and 3 ulp), and a
// chain has a handful of them.
constexpr double kDeviceUlps = 32, kDeviceLatentRms = 1e-3;

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

// Runs plans of a compiled job, each with its uncompiled twin.
class SideBySide {
 public:
  SideBySide(Platform& platform, const Job& compiled, const Job& uncompiled, std::vector<ChainDifference>& chains)
      : platform_(platform), chains_(chains) {
    const BoundProgram &a = SessionAccess::program(compiled), &b = SessionAccess::program(uncompiled);
    for (const ProgramPlan& plan : a.program().plans) twins_[&a.plan(plan.name).plan] = &b.plan(plan.name).plan;
  }

  void run(const Plan& plan, Stream& stream, WeightStore& weights, std::span<const Tensor> inputs, std::span<const Tensor> outputs,
           const Tensor& workspace, const RunOptions& options) {
    const Plan& twin = *twins_.at(&plan);
    std::map<Origin, Bytes> values = run_twin(plan, twin, stream, weights, inputs, options);
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
  std::vector<ChainDifference>& chains_;
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

bool VerifyReport::latents_pass() const {
  return allowed_relative_rms == 0 ? latents.different == 0 : latents.relative_rms <= allowed_relative_rms;
}

bool VerifyReport::passed() const {
  return latents_pass() &&
         std::all_of(chains.begin(), chains.end(), [this](const ChainDifference& chain) { return passes(chain); });
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

  SideBySide side_by_side(*platform, compiled_job, uncompiled_job, report.chains);
  PlanRunner& runner = SessionAccess::runner(compiled);
  const PlanRunner alone =
      std::exchange(runner, [&](const NamedPlan& plan, auto&&... arguments) { side_by_side.run(plan.plan, arguments...); });
  compiled.run(compiled_job, {});
  runner = alone;
  report.latents = compare_latents(final_latents(compiled, compiled_job), final_latents(uncompiled, uncompiled_job));
  return report;
}

}  // namespace zoe
