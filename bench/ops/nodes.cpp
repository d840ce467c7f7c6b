// The rate of single nodes (products, attentions, convolutions) on a platform, asked for line by line: compare_products.py,
// compare_attention.py and compare_convs.py run it in turns with PyTorch.
//
//   bench_nodes [--platform cuda] [--seconds S]    < lines "ROWS COLUMNS INNER bf16|f32 [bias] [gelu] [residual]",
//                                                     "attention QUERIES KEYS HEADS CHANNELS bf16|f32 [bias]" or
//                                                     "conv FRAMES HEIGHT WIDTH CHANNELS COLUMNS bf16|f32 [residual]
//                                                      [tile COLUMNS PIECES_H PIECES_W GROUPS_H GROUPS_W]"
//
// `tile`: the kernel for capability 9.0 with tiles of that kind (ImplicitGemmTile in platform/cuda/kernels.h) instead of what the
// platform takes. One JSON line an answer: milliseconds a run, of many queued one behind the other for S seconds, and the
// implementation.
#include <CLI/CLI.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "ir/trace.h"
#include "platform/cuda/device.h"
#include "platform/cuda/kernels.h"
#include "platform/platform.h"

namespace zoe {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// A bias is one for each key.
Value parse_attention(const std::string& line) {
  std::istringstream words(line);
  std::int64_t queries = 0, keys = 0, heads = 0, channels = 0;
  std::string what, dtype_name, bias;
  words >> what >> queries >> keys >> heads >> channels >> dtype_name;
  check(words && queries > 0 && keys > 0 && heads > 0 && channels > 0 && (dtype_name == "bf16" || dtype_name == "f32") &&
            (!(words >> bias) || bias == "bias"),
        ErrorKind::invalid_argument, "bench_nodes",
        "bad attention: got \"{}\", expected attention QUERIES KEYS HEADS CHANNELS bf16|f32 [bias].", line);
  const DType dtype = dtype_name == "f32" ? DType::f32 : DType::bf16;
  return attention(input("q", dtype, {1, queries, heads, channels}), input("k", dtype, {1, keys, heads, channels}),
                   input("v", dtype, {1, keys, heads, channels}), 1 / std::sqrt(static_cast<double>(channels)),
                   bias.empty() ? Value() : input("bias", DType::f32, {1, 1, 1, keys}));
}

// The VAE's causal convolutions: 3x3x3, frames behind two cached ones, with a bias.
Value parse_conv(const std::string& line) {
  std::istringstream words(line);
  std::int64_t frames = 0, height = 0, width = 0, channels = 0, columns = 0;
  std::string what, dtype_name, residual;
  words >> what >> frames >> height >> width >> channels >> columns >> dtype_name;
  check(words && frames > 0 && height > 0 && width > 0 && channels > 0 && columns > 0 &&
            (dtype_name == "bf16" || dtype_name == "f32") && (!(words >> residual) || residual == "residual" || residual == "tile"),
        ErrorKind::invalid_argument, "bench_nodes",
        "bad convolution: got \"{}\", expected conv FRAMES HEIGHT WIDTH CHANNELS COLUMNS bf16|f32 [residual].", line);
  const DType dtype = dtype_name == "f32" ? DType::f32 : DType::bf16;
  ProductOptions options;
  options.bias = parameter("bias", dtype, {columns});
  if (residual == "residual") options.residual = input("residual", dtype, {frames, height, width, columns});
  return conv(input("x", dtype, {frames + 2, height, width, channels}), parameter("weight", dtype, {columns, channels, 3, 3, 3}),
              {.pad_begin = {0, 1, 1}, .pad_end = {0, 1, 1}}, options);
}

Value parse(const std::string& line) {
  if (line.starts_with("attention ")) return parse_attention(line);
  if (line.starts_with("conv ")) return parse_conv(line);
  std::istringstream words(line);
  std::int64_t rows = 0, columns = 0, inner = 0;
  std::string dtype_name;
  words >> rows >> columns >> inner >> dtype_name;
  check(words && rows > 0 && columns > 0 && inner > 0 && (dtype_name == "bf16" || dtype_name == "f32"), ErrorKind::invalid_argument,
        "bench_nodes", "bad product: got \"{}\", expected ROWS COLUMNS INNER bf16|f32 [bias] [gelu] [residual].", line);
  const DType dtype = dtype_name == "f32" ? DType::f32 : DType::bf16;
  ProductOptions options;
  for (std::string word; words >> word;) {
    if (word == "bias") options.bias = parameter("bias", dtype, {columns});
    else if (word == "gelu") options.activation = Activation::gelu_tanh;
    else if (word == "residual") options.residual = input("residual", dtype, {rows, columns});
    else fail(ErrorKind::invalid_argument, "bench_nodes", "bad epilogue: got \"{}\", expected bias, gelu or residual.", word);
  }
  return linear(input("x", dtype, {rows, inner}), parameter("weight", dtype, {columns, inner}), options);
}

// Of the tile that a line asks for.
std::unique_ptr<Kernel> make_kernel(Platform& platform, const std::string& line, const Node& node) {
  const std::size_t at = line.find(" tile ");
  if (at == line.npos) return platform.make_kernel(node);
  cuda::ImplicitGemmTile tile;
  std::istringstream words(line.substr(at + 6));
  words >> tile.columns >> tile.pieces[0] >> tile.pieces[1] >> tile.groups[0] >> tile.groups[1];
  auto kernel =
      words ? cuda::make_implicit_gemm(node, std::make_shared<cuda::Device>(cuda::kCuda, 0, PlatformOptions{}), tile) : nullptr;
  check(kernel != nullptr, ErrorKind::invalid_argument, "bench_nodes", "bad tile: got \"{}\", expected one that this device takes.",
        line);
  return kernel;
}

// A kernel with operands of normal values: what power it takes depends on them.
struct Prepared {
  Prepared(Platform& platform, const std::string& line)
      : result(parse(line)), kernel(make_kernel(platform, line, result.node())), stream(platform.make_stream()) {
    std::mt19937 generator(1);
    const Node& node = result.node();
    std::normal_distribution<float> normal(0.0f, node.opcode == Opcode::attention ? 1.0f : 0.25f);
    std::vector<float> values(std::size_t{1} << 18);
    for (std::size_t i = 0; i < node.inputs.size(); ++i) {
      for (float& value : values) value = normal(generator);
      const Type& type = node.inputs[i].type();
      const auto count = static_cast<std::size_t>(type.shape.count());
      std::vector<std::byte> host(type.size_bytes());
      for (std::size_t begin = 0; begin < count; begin += values.size())
        convert(values.data(), DType::f32, host.data() + begin * size_of(type.dtype), type.dtype,
                std::min(values.size(), count - begin));
      if (node.inputs[i].node().opcode == Opcode::parameter) {
        std::vector<std::byte> packed(kernel->packed_bytes(static_cast<int>(i), type));
        kernel->pack_weight(static_cast<int>(i), type, DenseWeight(type.dtype, type.shape, host.data()), packed.data());
        host = std::move(packed);
      }
      buffers.push_back(platform.allocate(host.size(), "operand"));
      slots.push_back({buffers.back().get(), 0});
      platform.upload(*stream, host.data(), slots.back(), host.size());
    }
    output = platform.allocate(node.types[0].size_bytes(), "result");
    scratch = platform.allocate(kernel->scratch_bytes(), "scratch");
  }

  double milliseconds(int times) const {
    const Slot written{output.get(), 0};
    const double start = now();
    for (int i = 0; i < times; ++i) kernel->run(*stream, slots, {&written, 1}, {scratch.get(), 0});
    stream->synchronize();
    return (now() - start) * 1e3 / times;
  }

  const Value result;
  const std::unique_ptr<Kernel> kernel;
  const std::unique_ptr<Stream> stream;
  std::vector<std::shared_ptr<Buffer>> buffers;
  std::vector<Slot> slots;
  std::shared_ptr<Buffer> output, scratch;
};

void answer(Platform& platform, double seconds) {
  std::unique_ptr<Prepared> prepared;
  std::string line, before;
  while (std::getline(std::cin, line)) {
    if (line != before) {
      prepared.reset();  // its memory goes first
      prepared = std::make_unique<Prepared>(platform, line);
      before = line;
      prepared->milliseconds(1);
    }
    const double one = prepared->milliseconds(3);
    const double ms = prepared->milliseconds(std::clamp(static_cast<int>(seconds * 1e3 / one), 1, 1 << 20));
    fmt::print("{{\"ms\":{:.5f},\"implementation\":\"{}\",\"device\":\"{}\"}}\n", ms, prepared->kernel->implementation(),
               platform.info().name);
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace zoe

int main(int argc, char** argv) {
  std::string platform = "cuda";
  double seconds = 0.05;
  CLI::App app("Rates of single products, attentions and convolutions");
  app.add_option("--platform", platform);
  app.add_option("--seconds", seconds, "how long one answer's runs take")->check(CLI::Range(0.001, 60.0));
  CLI11_PARSE(app, argc, argv);
  try {
    zoe::answer(*zoe::open_platform(platform), seconds);
  } catch (const zoe::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
