// Rates of the CPU platform's linear, conv and attention kernels at the shapes of Wan (full size and the embedded model).
//
//   bench_products [--dtype f32|bf16] [--threads N] [--only linear|conv|attention|winograd] [--runs N] [--most-gflop N]
//                  [--processor-time]
//
// One JSON line a case: what, shape, dtype, implementation, threads, median ms, GFLOP/s; for bf16 on cores with AMX also the median
// of what tiles alone did just before each run, loaded from the first cache, and the rates of two kinds of runs, with their number:
// "alone" while the cores were ours, before and after, and "shared" while others used their other halves. There are up to six times
// --runs, until there are --runs of each.
// `--processor-time`: the least processor
// time of a run instead, for busy cores (give it one thread: waiting ones spin). With DNNL_MAX_CPU_ISA=AVX2: what cores
// without AVX-512 would run. `--only winograd` times the direct and the Winograd convolution in turn at the shapes of the VAE's
// 3x3 layers: the least processor time of each (give it one thread: waiting ones spin), their ratio, whether the table takes
// Winograd, and the relative RMS error of both against f64 at some pixels.
#include <CLI/CLI.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "ir/trace.h"
#include "platform/cpu/kernels.h"
#include "platform/cpu/tiles.h"
#include "platform/platform.h"

namespace zoe {
namespace {

struct Options {
  std::string dtype = "f32", only;
  int threads = 0, runs = 5;
  double most_gflop = 1e9;
  bool processor_time = false;
};

// A kernel with its operands, small pseudo-random numbers: the same for every kernel of a node.
struct Prepared {
  Prepared(Platform& platform, const Node& node, std::unique_ptr<Kernel> given) : kernel(std::move(given)) {
    stream = platform.make_stream();
    std::uint32_t state = 1;
    for (std::size_t i = 0; i < node.inputs.size(); ++i) {
      const Type& type = node.inputs[i].type();
      hosts.emplace_back(type.size_bytes());
      std::vector<std::byte>& host = hosts.back();
      for (std::int64_t j = 0; j < type.shape.count(); ++j) {
        state = state * 1664525u + 1013904223u;
        const float value = static_cast<float>(state >> 8) * 0x1p-24f - 0.5f;
        convert(&value, DType::f32, host.data() + static_cast<std::size_t>(j) * size_of(type.dtype), type.dtype, 1);
      }
      const bool weight = node.inputs[i].node().opcode == Opcode::parameter;
      const int input = static_cast<int>(i);
      buffers.push_back(platform.allocate(weight ? kernel->packed_bytes(input, type) : host.size(), "operand"));
      if (weight)
        kernel->pack_weight(input, type, DenseWeight(type.dtype, type.shape, host.data()),
                            static_cast<std::byte*>(buffers.back()->data));
      else platform.upload(*stream, host.data(), {buffers.back().get(), 0}, host.size());
      slots.push_back({buffers.back().get(), 0});
    }
    output = platform.allocate(node.types[0].size_bytes(), "result");
    scratch = platform.allocate(std::max<std::size_t>(kernel->scratch_bytes(), 1), "scratch");
  }

  void run() const {
    const Slot written{output.get(), 0};
    kernel->run(*stream, slots, {&written, 1}, {scratch.get(), 0});
    stream->synchronize();
  }
  double seconds() const {
    const auto start = std::chrono::steady_clock::now();
    run();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  // Of all threads: other work on the cores counts less.
  double processor_seconds() const {
    const std::clock_t start = std::clock();
    run();
    return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  }

  std::unique_ptr<Kernel> kernel;
  std::unique_ptr<Stream> stream;
  std::vector<std::vector<std::byte>> hosts;  // the operands before packing
  std::vector<std::shared_ptr<Buffer>> buffers;
  std::vector<Slot> slots;
  std::shared_ptr<Buffer> output, scratch;
};

std::string shapes(const Node& node) {
  std::string text;
  for (const Value& operand : node.inputs) text += (text.empty() ? "" : " ") + operand.shape().str();
  return text;
}

// Relative RMS error of a convolution of stride 1 padded by 1 in space, at some of its pixels.
double conv_error(const Node& node, const Prepared& prepared) {
  const Shape &x = node.inputs[0].shape(), &weight = node.inputs[1].shape(), &result = node.types[0].shape;
  const DType dtype = node.types[0].dtype;
  const auto at = [&](const std::byte* data, std::int64_t index) {
    float value;
    convert(data + static_cast<std::size_t>(index) * size_of(dtype), dtype, &value, DType::f32, 1);
    return static_cast<double>(value);
  };
  double error = 0, norm = 0;
  constexpr std::int64_t kPixels = 16;
  for (std::int64_t n = 0; n < kPixels; ++n) {
    const std::int64_t pixel = n * (result.count(0, 3) - 1) / (kPixels - 1);
    const std::int64_t t = pixel / result.count(1, 3), row = pixel / result.dim(2) % result.dim(1), column = pixel % result.dim(2);
    for (std::int64_t o = 0; o < weight.dim(0); ++o) {
      double sum = at(prepared.hosts[2].data(), o);
      for (std::int64_t f = 0; f < weight.dim(2); ++f)
        for (std::int64_t i = 0; i < 3; ++i)
          for (std::int64_t j = 0; j < 3; ++j) {
            const std::int64_t y = row + i - 1, z = column + j - 1;
            if (y < 0 || y >= x.dim(1) || z < 0 || z >= x.dim(2)) continue;
            for (std::int64_t c = 0; c < x.dim(3); ++c)
              sum += at(prepared.hosts[0].data(), ((t + f) * x.count(1, 3) + y * x.dim(2) + z) * x.dim(3) + c) *
                     at(prepared.hosts[1].data(), (((o * x.dim(3) + c) * weight.dim(2) + f) * 3 + i) * 3 + j);
          }
      const double off = at(static_cast<const std::byte*>(prepared.output->data), pixel * weight.dim(0) + o) - sum;
      error += off * off;
      norm += sum * sum;
    }
  }
  return std::sqrt(error / norm);
}

// GFLOP/s of products of tiles that the first cache holds, of all threads together, in a millisecond or so; 0 where there are none.
double tile_rate(int threads) {
#if defined(__x86_64__)
  if (!cpu::why_no_tiles().empty()) return 0;
  using Tiles = cpu::HardwareTiles;
  constexpr int kSteps = 20000;
  constexpr double kStepFlops = 4 * 2.0 * 16 * 16 * 32;
  const auto start = std::chrono::steady_clock::now();
#pragma omp parallel num_threads(threads)
  {
    alignas(64) std::array<std::byte, 4 * cpu::kTileRows * cpu::kTileBytes> operands{};
    const auto tile = [&](std::int64_t i) { return operands.data() + i * cpu::kTileRows * cpu::kTileBytes; };
    Tiles::configure(cpu::TileShapes::of_rows({16, 16, 16, 16, 16, 16, 16, 16}));
    for (int step = 0; step < kSteps; ++step) {
      Tiles::load<4>(tile(0), cpu::kTileBytes);
      Tiles::load<6>(tile(1), cpu::kTileBytes);
      Tiles::multiply<0, 4, 6>();
      Tiles::load<7>(tile(2), cpu::kTileBytes);
      Tiles::multiply<1, 4, 7>();
      Tiles::load<5>(tile(3), cpu::kTileBytes);
      Tiles::multiply<2, 5, 6>();
      Tiles::multiply<3, 5, 7>();
    }
    Tiles::release();
  }
  return threads * kSteps * kStepFlops * 1e-9 / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
#else
  return 0;
#endif
}

// Whether all threads have their cores to themselves: such a core takes six instructions that do nothing a cycle, and three while
// another process runs on its other half. A multiplication takes three cycles.
enum class Cores { alone, shared, mixed };
Cores cores(int threads) {
#if defined(__x86_64__)
  int alone = 0, shared = 0;
#pragma omp parallel num_threads(threads) reduction(+ : alone, shared)
  {
    constexpr int kRounds = 2000;
    const auto seconds = [](const auto& body) {
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < kRounds; ++i) body();
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    const double nothing = seconds([] { asm volatile(".rept 96\n\tnop\n\t.endr"); });
    const double cycles = seconds([] { asm volatile(".rept 32\n\timul %%rax, %%rax\n\t.endr" ::: "rax", "cc"); });
    const double a_cycle = cycles / nothing;  // 96 of both
    if (a_cycle > 4.5) ++alone;
    if (a_cycle < 4) ++shared;
  }
  return alone == threads ? Cores::alone : shared == threads ? Cores::shared : Cores::mixed;
#else
  static_cast<void>(threads);
  return Cores::mixed;
#endif
}

struct Bench {
  Platform& platform;
  const Options& options;

  // `flops` a run of the node.
  void measure(const Value& result, double flops) const {
    if (flops > options.most_gflop * 1e9) return;
    const Node& node = result.node();
    const DeviceInfo& device = platform.info();
    std::unique_ptr<Kernel> kernel = platform.make_kernel(node);
    const bool on_tiles = kernel->implementation().find("amx tiles") != std::string_view::npos;
    measure(node, std::move(kernel), flops);
    // On AMX tiles as well, and without, whichever the table takes.
    if (!cpu::why_no_tiles().empty()) return;
    const auto other = [&](bool takes, auto make_on_tiles, auto make) {
      if (takes) measure(node, on_tiles ? make(node, device) : make_on_tiles(node, device, false), flops);
    };
    if (node.opcode == Opcode::linear) other(cpu::tiles_take(node), cpu::make_tile_linear, cpu::make_onednn_linear);
    if (node.opcode == Opcode::attention)
      other(cpu::tiles_take_attention(node), cpu::make_tile_attention, cpu::make_vector_attention);
    if (node.opcode == Opcode::conv) other(cpu::tiles_take_conv(node), cpu::make_tile_conv, cpu::make_direct_conv);
  }

  void measure(const Node& node, std::unique_ptr<Kernel> kernel, double flops) const {
    const Prepared prepared(platform, node, std::move(kernel));
    const auto measured = [&] { return options.processor_time ? prepared.processor_seconds() : prepared.seconds(); };
    const bool has_tiles = node.types[0].dtype == DType::bf16 && cpu::why_no_tiles().empty();
    std::vector<double> times, tile_rates, alone, shared;
    measured();  // to warm up
    const auto enough = [&](const std::vector<double>& kind) { return static_cast<int>(kind.size()) >= options.runs; };
    for (int run = 0; run < (has_tiles ? 6 : 1) * options.runs && !(enough(alone) && enough(shared)); ++run) {
      if (!has_tiles) {
        times.push_back(measured());
        continue;
      }
      const int threads = platform.info().threads;
      tile_rates.push_back(tile_rate(threads));
      const Cores before = cores(threads);
      times.push_back(measured());
      if (before != cores(threads) || before == Cores::mixed) continue;
      (before == Cores::alone ? alone : shared).push_back(times.back());
    }
    const auto median_of = [](std::vector<double> values) {
      std::sort(values.begin(), values.end());
      return values.empty() ? 0.0 : values[values.size() / 2];
    };
    const double median = options.processor_time ? *std::min_element(times.begin(), times.end()) : median_of(times);
    std::string tiles;
    if (has_tiles) {
      tiles = fmt::format(",\"tiles_gflops\":{:.0f}", median_of(tile_rates));
      for (const auto& [kind, name] : {std::pair(&alone, "alone"), {&shared, "shared"}})
        if (!kind->empty())
          tiles += fmt::format(",\"{0}_runs\":{1},\"{0}_gflops\":{2:.0f}", name, kind->size(), flops / median_of(*kind) * 1e-9);
    }
    fmt::print(
        "{{\"what\":\"{}\",\"shape\":\"{}\",\"dtype\":\"{}\",\"implementation\":\"{}\",\"threads\":{},\"median_ms\":{:.3f},"
        "\"gflops\":{:.1f}{}}}\n",
        name(node.opcode), shapes(node), name(node.types[0].dtype), prepared.kernel->implementation(), platform.info().threads,
        median * 1e3, flops / median * 1e-9, tiles);
    std::fflush(stdout);
  }

  void compare(const Value& result, double flops) const {
    const Node& node = result.node();
    const DeviceInfo& device = platform.info();
    const Prepared direct(platform, node, cpu::make_direct_conv(node, device));
    const Prepared winograd(platform, node, cpu::make_winograd_conv(node, device));
    double least[2] = {1e30, 1e30};
    for (int run = 0; run <= options.runs; ++run) {  // the first warms up
      const double seconds[2] = {direct.processor_seconds(), winograd.processor_seconds()};
      if (run > 0)
        for (int i = 0; i < 2; ++i) least[i] = std::min(least[i], seconds[i]);
    }
    fmt::print(
        "{{\"what\":\"winograd\",\"shape\":\"{}\",\"dtype\":\"{}\",\"direct\":\"{}\",\"winograd\":\"{}\",\"threads\":{},"
        "\"direct_ms\":{:.3f},\"winograd_ms\":{:.3f},\"direct_gflops\":{:.1f},\"ratio\":{:.2f},\"taken\":{},"
        "\"direct_error\":{:.2e},\"winograd_error\":{:.2e}}}\n",
        shapes(node), name(node.types[0].dtype), direct.kernel->implementation(), winograd.kernel->implementation(), device.threads,
        least[0] * 1e3, least[1] * 1e3, flops / least[0] * 1e-9, least[0] / least[1],
        static_cast<bool>(cpu::winograd_wins(node, device)), conv_error(node, direct), conv_error(node, winograd));
    std::fflush(stdout);
  }
};

void run(const Options& options) {
  const auto platform = open_platform("cpu", {options.threads});
  const Bench bench{*platform, options};
  const DType dtype = options.dtype == "f32" ? DType::f32 : DType::bf16;
  const auto wanted = [&](std::string_view what) { return options.only.empty() || options.only == what; };

  struct Linear {
    std::int64_t m, k, n;
    Activation activation = Activation::none;
    bool residual = false;
  };
  if (wanted("linear"))
    for (const Linear& c : {Linear{512, 1536, 1536},
                            {512, 1536, 8960, Activation::gelu_tanh},
                            {512, 8960, 1536, Activation::none, true},
                            {2550, 1536, 1536},
                            {2550, 1536, 8960, Activation::gelu_tanh},
                            {2560, 1536, 8960, Activation::gelu_tanh},
                            {2550, 8960, 1536, Activation::none, true},
                            {2560, 8960, 1536, Activation::none, true},
                            {9000, 1536, 1536},
                            {9000, 1536, 8960, Activation::gelu_tanh},
                            {9000, 8960, 1536, Activation::none, true},
                            {512, 5120, 5120},
                            {512, 5120, 13824, Activation::gelu_tanh},
                            {512, 13824, 5120, Activation::none, true},
                            {2550, 5120, 5120},
                            {2550, 5120, 13824, Activation::gelu_tanh},
                            {2550, 13824, 5120, Activation::none, true},
                            {9000, 5120, 5120},
                            {9000, 5120, 13824, Activation::gelu_tanh},
                            {9000, 13824, 5120, Activation::none, true},
                            {576, 256, 256, Activation::none, true},
                            {576, 256, 1024, Activation::gelu_tanh},
                            {576, 1024, 256},
                            {2304, 256, 256, Activation::none, true},
                            {2304, 256, 1024, Activation::gelu_tanh},
                            {512, 512, 512},
                            {2550, 768, 768},
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
                          {{3, 32, 32, 16}, {384, 16, 3, 3, 3}, same},
                          {{3, 32, 32, 384}, {384, 384, 3, 3, 3}, same},
                          {{6, 120, 208, 192}, {384, 192, 3, 3, 3}, same},
                          {{6, 256, 256, 96}, {3, 96, 3, 3, 3}, same},
                          {{6, 256, 256, 3}, {96, 3, 3, 3, 3}, same},
                          {{4, 256, 256, 192}, {96, 192, 1, 3, 3}, same},
                          {{4, 129, 129, 384}, {192, 384, 1, 2, 2}, {}},
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

  // The residual blocks of the decoder by level, in the first and in later groups of frames, and its last convolution: full size
  // at 256x256, then the embedded model at 128x128. The encoder's first. Kernels of one frame, and a picture as small as pays.
  struct Layer {
    std::int64_t frames, size, channels, out_channels, kernel_frames = 3;
  };
  if (options.only == "winograd")
    for (const Layer& c :
         {Layer{3, 32, 16, 384}, {3, 32, 384, 384},  {3, 64, 192, 384}, {4, 64, 192, 384}, {3, 64, 384, 384}, {4, 64, 384, 384},
          {3, 128, 192, 192},    {6, 128, 192, 192}, {3, 256, 96, 96},  {6, 256, 96, 96},  {3, 256, 96, 3},   {6, 256, 96, 3},
          {3, 16, 16, 64},       {3, 16, 64, 64},    {4, 32, 32, 64},   {4, 32, 64, 64},   {3, 64, 32, 32},   {6, 64, 32, 32},
          {3, 128, 16, 16},      {6, 128, 16, 16},   {6, 128, 16, 3},   {6, 128, 3, 16},   {6, 256, 3, 96},   {4, 128, 192, 96, 1},
          {4, 64, 32, 16, 1},    {3, 8, 384, 384},   {3, 8, 64, 64}}) {
      const Value x = input("x", dtype, {c.frames, c.size, c.size, c.channels}),
                  weight = parameter("weight", dtype, {c.out_channels, c.channels, c.kernel_frames, 3, 3}),
                  bias = parameter("bias", dtype, {c.out_channels});
      const Value result = conv(x, weight, same, {bias, {}, Activation::none});
      bench.compare(result, 2.0 * static_cast<double>(result.shape().count() * weight.shape().count(1, 5)));
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
  app.add_option("--only", options.only)->check(CLI::IsMember({"linear", "conv", "attention", "winograd"}));
  app.add_option("--threads", options.threads, "0: as many as the process may use")->check(CLI::Range(0, 1024));
  app.add_option("--runs", options.runs)->check(CLI::Range(1, 1000));
  app.add_option("--most-gflop", options.most_gflop, "Larger cases are left out");
  app.add_flag("--processor-time", options.processor_time);
  CLI11_PARSE(app, argc, argv);
  try {
    zoe::run(options);
  } catch (const zoe::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
