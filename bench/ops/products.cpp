// Rates of the CPU platform's linear, conv and attention kernels at the shapes of Wan (full size and the embedded model).
//
//   bench_products [--dtype f32|bf16] [--threads N] [--only linear|conv|attention] [--runs N]
//
// One JSON line a case: what, shape, dtype, implementation, threads, median ms, GFLOP/s. oneDNN's DNNL_MAX_CPU_ISA=AVX2 shows
// what cores without AVX-512 would run.
#include <CLI/CLI.hpp>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "ir/trace.h"
#include "platform/platform.h"

namespace zoe {
namespace {

struct Options {
  std::string dtype = "f32", only;
  int threads = 0, runs = 5;
};

struct Bench {
  Platform& platform;
  Stream& stream;
  const Options& options;

  // `flops` a run of the node; operands are small pseudo-random numbers.
  void measure(const Value& result, double flops) {
    const Node& node = result.node();
    const auto kernel = platform.make_kernel(node);
    std::vector<std::shared_ptr<Buffer>> buffers;
    std::vector<Slot> slots;
    std::string shape;
    std::uint32_t state = 1;
    for (std::size_t i = 0; i < node.inputs.size(); ++i) {
      const Type& type = node.inputs[i].type();
      std::vector<std::byte> host(type.size_bytes());
      for (std::int64_t j = 0; j < type.shape.count(); ++j) {
        state = state * 1664525u + 1013904223u;
        const float value = static_cast<float>(state >> 8) * 0x1p-24f - 0.5f;
        convert(&value, DType::f32, host.data() + static_cast<std::size_t>(j) * size_of(type.dtype), type.dtype, 1);
      }
      const bool weight = node.inputs[i].node().opcode == Opcode::parameter;
      const int input = static_cast<int>(i);
      buffers.push_back(platform.allocate(weight ? kernel->packed_bytes(input, type) : host.size(), "operand"));
      if (weight)
        kernel->pack_weight(input, type, {type.dtype, type.shape, host.data()}, static_cast<std::byte*>(buffers.back()->data));
      else platform.upload(stream, host.data(), {buffers.back().get(), 0}, host.size());
      slots.push_back({buffers.back().get(), 0});
      shape += (i ? " " : "") + type.shape.str();
    }
    const auto output = platform.allocate(node.types[0].size_bytes(), "result");
    const auto scratch = platform.allocate(std::max<std::size_t>(kernel->scratch_bytes(), 1), "scratch");
    const Slot written{output.get(), 0};
    std::vector<double> times;
    for (int run = 0; run <= options.runs; ++run) {  // the first warms up
      const auto start = std::chrono::steady_clock::now();
      kernel->run(stream, slots, {&written, 1}, {scratch.get(), 0});
      stream.synchronize();
      if (run > 0) times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    std::sort(times.begin(), times.end());
    const double median = times[times.size() / 2];
    fmt::print(
        "{{\"what\":\"{}\",\"shape\":\"{}\",\"dtype\":\"{}\",\"implementation\":\"{}\",\"threads\":{},\"median_ms\":{:.3f},"
        "\"gflops\":{:.1f}}}\n",
        name(node.opcode), shape, name(node.types[0].dtype), kernel->implementation(), platform.info().threads, median * 1e3,
        flops / median * 1e-9);
    std::fflush(stdout);
  }
};

void run(const Options& options) {
  const auto platform = open_platform("cpu", {options.threads});
  const auto stream = platform->make_stream();
  Bench bench{*platform, *stream, options};
  const DType dtype = options.dtype == "f32" ? DType::f32 : DType::bf16;
  const auto wanted = [&](std::string_view what) { return options.only.empty() || options.only == what; };

  struct Linear {
    std::int64_t m, k, n;
    Activation activation = Activation::none;
    bool residual = false;
  };
  if (wanted("linear"))
    for (const Linear& c : {Linear{512, 1536, 1536},
                            {2550, 1536, 1536},
                            {2550, 1536, 8960, Activation::gelu_tanh},
                            {2550, 8960, 1536, Activation::none, true},
                            {576, 256, 256, Activation::none, true},
                            {576, 256, 1024, Activation::gelu_tanh},
                            {576, 1024, 256},
                            {1, 1536, 9216}}) {
      const Value x = input("x", dtype, {c.m, c.k}), weight = parameter("weight", dtype, {c.n, c.k}),
                  bias = parameter("bias", dtype, {c.n});
      const Value residual = c.residual ? input("residual", dtype, {c.m, c.n}) : Value();
      bench.measure(linear(x, weight, {bias, residual, c.activation}), 2.0 * static_cast<double>(c.m * c.k * c.n));
    }

  struct Conv {
    Shape x, weight;
    ConvWindow window;
  };
  const ConvWindow same{{1, 1, 1}, {0, 1, 1}, {0, 1, 1}}, down_space{{1, 2, 2}, {0, 0, 0}, {0, 1, 1}}, down_time{{2, 1, 1}, {}, {}};
  if (wanted("conv"))
    for (const Conv& c : {Conv{{6, 256, 256, 96}, {96, 96, 3, 3, 3}, same},
                          {{6, 128, 128, 192}, {192, 192, 3, 3, 3}, same},
                          {{6, 64, 64, 384}, {384, 384, 3, 3, 3}, same},
                          {{6, 256, 256, 96}, {3, 96, 3, 3, 3}, same},
                          {{6, 256, 256, 3}, {96, 3, 3, 3, 3}, same},
                          {{4, 256, 256, 192}, {96, 192, 1, 3, 3}, same},
                          {{4, 64, 64, 384}, {768, 384, 3, 1, 1}, {}},
                          {{4, 256, 256, 96}, {96, 96, 1, 3, 3}, down_space},
                          {{5, 64, 64, 384}, {384, 384, 3, 1, 1}, down_time},
                          {{6, 128, 128, 16}, {16, 16, 3, 3, 3}, same},
                          {{6, 64, 64, 32}, {32, 32, 3, 3, 3}, same},
                          {{6, 32, 32, 64}, {64, 64, 3, 3, 3}, same},
                          {{6, 128, 128, 16}, {3, 16, 3, 3, 3}, same},
                          {{4, 128, 128, 32}, {16, 32, 1, 3, 3}, same},
                          {{4, 64, 64, 32}, {16, 32, 1, 1, 1}, {}}}) {
      const Value x = input("x", dtype, c.x), weight = parameter("weight", dtype, c.weight),
                  bias = parameter("bias", dtype, {c.weight.dim(0)});
      const Value result = conv(x, weight, c.window, {bias, {}, Activation::none});
      bench.measure(result, 2.0 * static_cast<double>(result.shape().count() * c.weight.count(1, 5)));
    }

  struct Attention {
    std::int64_t queries, keys, heads, channels;
    bool bias = false;
  };
  if (wanted("attention"))
    for (const Attention& c : {Attention{2550, 2550, 12, 128},
                               {2550, 512, 12, 128},
                               {512, 512, 12, 128},
                               {576, 576, 4, 64},
                               {576, 16, 4, 64},
                               {576, 512, 4, 64},
                               {1024, 1024, 1, 384},
                               {256, 256, 1, 64},
                               {512, 512, 64, 64, true}}) {
      const Value q = input("q", dtype, {1, c.queries, c.heads, c.channels}),
                  k = input("k", dtype, {1, c.keys, c.heads, c.channels});
      const Value bias = c.bias ? input("bias", DType::f32, {1, c.heads, c.queries, c.keys}) : Value();
      bench.measure(attention(q, k, input("v", dtype, k.shape()), 0.1, bias),
                    4.0 * static_cast<double>(c.heads * c.queries * c.keys * c.channels));
    }
}

}  // namespace
}  // namespace zoe

int main(int argc, char** argv) {
  zoe::Options options;
  CLI::App app("Rates of the CPU platform's products at the shapes of Wan");
  app.add_option("--dtype", options.dtype)->check(CLI::IsMember({"f32", "bf16"}));
  app.add_option("--only", options.only)->check(CLI::IsMember({"linear", "conv", "attention"}));
  app.add_option("--threads", options.threads, "0: as many as the process may use")->check(CLI::Range(0, 1024));
  app.add_option("--runs", options.runs)->check(CLI::Range(1, 1000));
  CLI11_PARSE(app, argc, argv);
  try {
    zoe::run(options);
  } catch (const zoe::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
