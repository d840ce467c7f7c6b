// Rates of the fused ops on a GPU at Wan's widths and row counts, each beside copies of as many bytes at the same moment.
//
//   bench_device_ops [OP...] [--platform cuda] [--width N]... [--rows N]... [--dtype bf16|f32] [--least 85] [--exact]
//
// One JSON line a case: microseconds of the generated kernel and of a copy of as many bytes, medians of runs that alternate; TB/s
// of the bytes there are at least (every operand and result once); their percentage of the rate of a copy of 1 GiB. Operands are
// random, and working sets take turns so that none is found in a cache. `--exact`: a result's first rows are compared with the
// CPU's bits before anything is timed. Exit code 1 if a case is below --least percent of the large copy or has other bits.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/error.h"
#include "compiler/passes/fuse.h"
#include "compiler/passes/inline_calls.h"
#include "ir/trace.h"
#include "ops/channel_norm.h"
#include "ops/mul_add.h"
#include "ops/norm_scale_shift.h"
#include "ops/rms_norm.h"
#include "ops/rotary_interleaved.h"
#include "ops/scale_residual_norm_scale_shift.h"
#include "platform/platform.h"

namespace zoe {
namespace {

constexpr std::int64_t kHeadWidth = 128;

struct Case {
  std::string op;
  std::int64_t width, rows;
  DType dtype;
};

// The operands and results of an op; with `rows` as they are in the case or fewer.
struct Traced {
  std::vector<Value> inputs = {}, outputs = {};
};

Traced trace(const Case& c, std::int64_t rows) {
  Traced traced;
  const auto add = [&](std::string name, DType dtype, Shape shape) {
    traced.inputs.push_back(input(std::move(name), dtype, std::move(shape)));
    return traced.inputs.back();
  };
  const auto tokens = [&](std::string name) { return add(std::move(name), c.dtype, {1, rows, c.width}); };
  const auto modulation = [&](std::string name) { return add(std::move(name), DType::f32, {1, 1, c.width}); };
  if (c.op == "norm_scale_shift") {
    const Value x = tokens("x"), scale = modulation("scale"), shift = modulation("shift");
    traced.outputs = {norm_scale_shift(x, scale, shift)};
  } else if (c.op == "scale_residual_norm_scale_shift") {
    const Value residual = tokens("residual"), x = tokens("x"), gate = modulation("gate"), scale = modulation("scale"),
                shift = modulation("shift");
    NormOptions norm;
    norm.weight = add("weight", DType::f32, {c.width});
    norm.bias = add("bias", DType::f32, {c.width});
    const NormedResidual both = scale_residual_norm_scale_shift(residual, x, gate, scale, shift, norm);
    traced.outputs = {both.y, both.residual};
  } else if (c.op == "mul_add") {
    const Value a = tokens("a"), gate = modulation("gate"), residual = tokens("residual");
    traced.outputs = {mul_add(a, gate, residual)};
  } else if (c.op == "rms_norm_rotary") {
    const Value x = tokens("x"), weight = add("weight", c.dtype, {c.width});
    const Value cos = add("cos", DType::f32, {rows, 1, kHeadWidth}), sin = add("sin", DType::f32, {rows, 1, kHeadWidth});
    const Value heads = reshape(rms_norm(x, weight, 1e-6), {1, rows, c.width / kHeadWidth, kHeadWidth});
    traced.outputs = {rotary_interleaved(heads, cos, sin)};
  } else if (c.op == "channel_norm_silu") {
    const Value x = tokens("x"), gamma = add("gamma", c.dtype, {c.width});
    traced.outputs = {silu(channel_norm(x, gamma))};
  } else {
    const Value x = tokens("x");
    traced.outputs = {gelu_tanh(x)};
  }
  return traced;
}

// The one node that the op becomes.
NodePtr fused(const Case& c, std::int64_t rows) {
  DeviceInfo device{};
  device.generates_kernels = true;
  Traced traced = trace(c, rows);
  const Graph graph =
      fuse(inline_calls(make_graph(c.op, traced.inputs, traced.outputs)), device, [](const Node&) { return true; }).graph;
  NodePtr found;
  for (const NodePtr& node : graph.nodes) {
    if (node->opcode == Opcode::input || node->opcode == Opcode::constant || node->opcode == Opcode::reshape) continue;
    check(!found, ErrorKind::internal, "bench_device_ops", "{} is more than one kernel.", c.op);
    found = node;
  }
  return found;
}

std::vector<std::byte> random_bytes(const Type& type, std::size_t most_bytes, std::uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<std::byte> bytes(std::min(type.size_bytes(), most_bytes));
  std::vector<float> values(bytes.size() / size_of(type.dtype));
  for (float& value : values) value = static_cast<float>(generator()) * 0x1p-30f - 2.0f;
  convert(values.data(), DType::f32, bytes.data(), type.dtype, values.size());
  return bytes;
}

// Buffers of one working set.
struct Buffers {
  std::vector<std::shared_ptr<Buffer>> owned = {};
  std::vector<Slot> operands = {}, results = {};

  Buffers(Platform& platform, Stream& stream, const Node& node) {
    constexpr std::size_t kDrawn = std::size_t{1} << 24;  // bytes that are drawn; larger operands repeat them
    for (std::size_t i = 0; i < node.inputs.size(); ++i) {
      const Type& type = node.inputs[i].type();
      owned.push_back(platform.allocate(type.size_bytes(), "operand"));
      const std::vector<std::byte> bytes = random_bytes(type, kDrawn, static_cast<std::uint32_t>(i + 1));
      for (std::size_t done = 0; done < type.size_bytes(); done += bytes.size())
        platform.upload(stream, bytes.data(), {owned.back().get(), done}, std::min(bytes.size(), type.size_bytes() - done));
      operands.push_back({owned.back().get(), 0});
    }
    for (const Type& type : node.types) {
      owned.push_back(platform.allocate(type.size_bytes(), "result"));
      results.push_back({owned.back().get(), 0});
    }
  }
};

std::vector<float> result_of(Platform& platform, const Node& node, std::size_t result) {
  const auto stream = platform.make_stream();
  const Buffers buffers(platform, *stream, node);
  const Node* const one[] = {&node};
  const auto kernel = std::move(platform.make_kernels(one)[0]);
  const auto scratch = platform.allocate(kernel->scratch_bytes(), "scratch");
  kernel->run(*stream, buffers.operands, buffers.results, {scratch.get(), 0});
  std::vector<std::byte> bytes(node.types[result].size_bytes());
  platform.download(*stream, buffers.results[result], bytes.data(), bytes.size());
  stream->synchronize();
  std::vector<float> values(static_cast<std::size_t>(node.types[result].shape.count()));
  convert(bytes.data(), node.types[result].dtype, values.data(), DType::f32, values.size());
  return values;
}

bool has_the_bits_of_the_cpu(const Case& c, Platform& platform) {
  constexpr std::int64_t kChecked = 97;  // rows: no multiple of what a block works on
  const NodePtr node = fused(c, kChecked);
  const auto cpu = open_platform("cpu");
  for (std::size_t result = 0; result < node->types.size(); ++result) {
    const std::vector<float> got = result_of(platform, *node, result), expected = result_of(*cpu, *node, result);
    for (std::size_t i = 0; i < got.size(); ++i) {
      if (std::bit_cast<std::uint32_t>(got[i]) == std::bit_cast<std::uint32_t>(expected[i])) continue;
      fmt::print(stderr, "{} {}: result {} at {}: got {}, the CPU has {}\n", c.op, c.width, result, i, got[i], expected[i]);
      return false;
    }
  }
  return true;
}

// Seconds of one of several runs that are queued together.
double seconds(Stream& stream, int runs, const std::function<void(int)>& run) {
  const auto begin = stream.record_event();
  for (int i = 0; i < runs; ++i) run(i);
  const auto end = stream.record_event();
  end->wait();
  return end->seconds_since(*begin) / runs;
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

// What Wan's models have: tokens of 832x480x81 and 1280x720x81; of the VAE the pictures of a group of 832x480.
std::vector<std::int64_t> widths_of(const std::string& op) {
  if (op == "channel_norm_silu") return {96, 192, 384};
  if (op == "gelu_tanh") return {8960, 13824};
  return {1536, 5120};
}
std::vector<std::int64_t> rows_of(const std::string& op, std::int64_t width) {
  if (op == "channel_norm_silu") return {width <= 96 ? 8 * 480 * 832 : width <= 192 ? 8 * 240 * 416 : 4 * 120 * 208};
  if (width == 5120 || width == 13824) return {32760, 75600};
  return {32760};
}

// Bytes a second that a copy of 1 GiB reads and writes: the device's own rate, without beginning and end.
double large_copy_rate(Platform& platform) {
  constexpr std::size_t kBytes = std::size_t{1} << 30;
  const auto stream = platform.make_stream();
  const auto from = platform.allocate(kBytes, "copy"), to = platform.allocate(kBytes, "copy");
  const auto copy = [&](int) { platform.copy(*stream, {from.get(), 0}, {to.get(), 0}, kBytes); };
  seconds(*stream, 2, copy);
  std::vector<double> copies;
  for (int round = 0; round < 5; ++round) copies.push_back(seconds(*stream, 4, copy));
  return 2 * static_cast<double>(kBytes) / median(copies);
}

struct Measured {
  double microseconds, copy_microseconds, bytes;
  double percent_of(double rate) const { return 100 * bytes / (microseconds * 1e-6) / rate; }
};

Measured measure(const Case& c, Platform& platform) {
  constexpr double kSetsBytes = 4e8;  // several times what a cache holds
  constexpr int kRuns = 8, kRounds = 9;
  const NodePtr node = fused(c, c.rows);
  const Node* const one[] = {node.get()};
  const auto kernel = std::move(platform.make_kernels(one)[0]);
  const auto scratch = platform.allocate(kernel->scratch_bytes(), "scratch");
  double bytes = 0;
  for (const Value& operand : node->inputs) bytes += static_cast<double>(operand.type().size_bytes());
  for (const Type& type : node->types) bytes += static_cast<double>(type.size_bytes());
  const auto stream = platform.make_stream();
  std::vector<Buffers> sets;
  const int count = std::max(1, static_cast<int>(std::ceil(kSetsBytes / bytes)));
  for (int i = 0; i < count; ++i) sets.emplace_back(platform, *stream, *node);
  const auto half = static_cast<std::size_t>(bytes / 2) / 256 * 256;  // a copy reads as much as it writes
  const auto from = platform.allocate(half * static_cast<std::size_t>(count), "copy"),
             to = platform.allocate(half * static_cast<std::size_t>(count), "copy");
  const auto run = [&](int i) {
    const Buffers& set = sets[static_cast<std::size_t>(i % count)];
    kernel->run(*stream, set.operands, set.results, {scratch.get(), 0});
  };
  const auto copy = [&](int i) {
    const std::size_t offset = half * static_cast<std::size_t>(i % count);
    platform.copy(*stream, {from.get(), offset}, {to.get(), offset}, half);
  };
  seconds(*stream, kRuns, run);  // to warm up
  seconds(*stream, kRuns, copy);
  std::vector<double> runs, copies;
  for (int round = 0; round < kRounds; ++round) {
    runs.push_back(seconds(*stream, kRuns, run));
    copies.push_back(seconds(*stream, kRuns, copy));
  }
  return {median(runs) * 1e6, median(copies) * 1e6, bytes};
}

int main_of(int argc, char** argv) {
  const std::vector<std::string> known = {
      "norm_scale_shift", "scale_residual_norm_scale_shift", "mul_add", "rms_norm_rotary", "gelu_tanh", "channel_norm_silu"};
  std::vector<std::string> ops, dtypes;
  std::vector<std::int64_t> widths, rows;
  std::string platform_name = "cuda";
  double least = 85;
  bool exact = false;
  CLI::App app("Rates of the fused ops on a GPU beside copies of as many bytes.");
  app.add_option("op", ops, "Ops; all by default")->check(CLI::IsMember(known));
  app.add_option("--platform", platform_name, "Platform")->capture_default_str();
  app.add_option("--width", widths, "Columns, those of tokens multiples of 128; by default what the models have");
  app.add_option("--rows", rows, "Tokens, or pixels; by default what the models have of this width");
  app.add_option("--dtype", dtypes, "bf16 or f32; both by default")->check(CLI::IsMember({"bf16", "f32"}));
  app.add_option("--least", least, "Percent of the copy's rate below which the exit code is 1")->capture_default_str();
  app.add_flag("--exact", exact, "Compare bits with the CPU first");
  CLI11_PARSE(app, argc, argv);
  if (ops.empty()) ops = known;
  if (dtypes.empty()) dtypes = {"bf16", "f32"};
  const auto platform = open_platform(platform_name);
  const double rate = large_copy_rate(*platform);
  bool good = true;
  for (const std::string& op : ops)
    for (const std::string& dtype : dtypes)
      for (const std::int64_t width : widths.empty() ? widths_of(op) : widths)
        for (const std::int64_t count : rows.empty() ? rows_of(op, width) : rows) {
          const Case c{op, width, count, dtype == "bf16" ? DType::bf16 : DType::f32};
          const bool same = !exact || has_the_bits_of_the_cpu(c, *platform);
          const Measured m = measure(c, *platform);
          const double percent = m.percent_of(rate);
          good = good && same && percent >= least;
          fmt::print(
              "{{\"op\": \"{}\", \"rows\": {}, \"width\": {}, \"dtype\": \"{}\", \"us\": {:.1f}, \"copy_us\": {:.1f}, "
              "\"tb_s\": {:.3f}, \"percent\": {:.1f}{}}}\n",
              op, count, width, dtype, m.microseconds, m.copy_microseconds, m.bytes / m.microseconds * 1e-6, percent,
              exact ? fmt::format(", \"exact\": {}", same) : "");
          std::fflush(stdout);
        }
  return good ? 0 : 1;
}

}  // namespace
}  // namespace zoe

int main(int argc, char** argv) {
  try {
    return zoe::main_of(argc, argv);
  } catch (const zoe::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return error.kind() == zoe::ErrorKind::unsupported ? 3 : 1;
  }
}
