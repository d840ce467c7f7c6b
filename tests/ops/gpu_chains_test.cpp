// Fused nodes on OpenCL, with kernels as CPUs and as GPUs get them, and on CUDA, against the reference interpreter; and results
// that lie over operands.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "codegen/chains.h"
#include "ops/platforms.h"
#include "ops/run_node.h"

namespace zoe::testing {
namespace {

struct ChainRun {
  const Node& node;
  std::vector<ReferenceTensor> inputs;

  explicit ChainRun(const Node& fused) : node(fused) {
    for (const Value& operand : node.inputs)
      inputs.push_back(operand.node().opcode == Opcode::constant
                           ? ReferenceTensor{{}, {operand.node().as<ConstantAttributes>().value}}
                           : random_tensor(operand.dtype(), operand.shape(), static_cast<std::uint32_t>(inputs.size() + 1)));
  }

  std::vector<ReferenceTensor> expected() const {
    return interpret(node.as<std::shared_ptr<const CallAttributes>>()->native, inputs, {});
  }

  // `shared`: an operand and the result that is written over it. `odd`: operands begin at an odd element of their buffers.
  std::vector<std::vector<float>> run(const Kernel& kernel, Platform& platform, std::pair<int, int> shared = {-1, -1},
                                      bool odd = true) const {
    const auto stream = platform.make_stream();
    std::vector<std::shared_ptr<Buffer>> buffers;
    std::vector<Slot> operands, results;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const DType dtype = node.inputs[i].dtype();
      std::vector<std::byte> bytes = shifted_bytes(inputs[i].values, dtype);
      if (!odd) bytes.erase(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size_of(dtype)));
      buffers.push_back(platform.allocate(bytes.size(), "operand"));
      platform.upload(*stream, bytes.data(), {buffers.back().get(), 0}, bytes.size());
      operands.push_back({buffers.back().get(), odd ? size_of(dtype) : 0});
    }
    for (std::size_t r = 0; r < node.types.size(); ++r) {
      if (shared.second == static_cast<int>(r)) {
        results.push_back(operands[static_cast<std::size_t>(shared.first)]);
        continue;
      }
      const std::vector<std::byte> unset(node.types[r].size_bytes(), std::byte{0xff});  // NaNs: an element left out is seen
      buffers.push_back(platform.allocate(unset.size(), "result"));
      platform.upload(*stream, unset.data(), {buffers.back().get(), 0}, unset.size());
      results.push_back({buffers.back().get(), 0});
    }
    const auto scratch = platform.allocate(kernel.scratch_bytes(), "scratch");
    kernel.run(*stream, operands, results, {scratch.get(), 0});
    stream->synchronize();
    std::vector<std::vector<float>> got;
    for (std::size_t r = 0; r < node.types.size(); ++r) {
      std::vector<std::byte> bytes(node.types[r].size_bytes());
      platform.download(*stream, results[r], bytes.data(), bytes.size());
      got.emplace_back(static_cast<std::size_t>(node.types[r].shape.count()));
      convert(bytes.data(), node.types[r].dtype, got.back().data(), DType::f32, got.back().size());
    }
    return got;
  }
};

// In f32 4e-6 of the largest element of a result: what the roundings of sums over 1536 columns add up to. In bf16 one unit in the
// last place besides, in u8 one.
void expect_agreement_and_runs_in_place(Platform& platform) {
  const std::vector<NamedChain> chains = op_chains();
  std::vector<const Node*> nodes;
  for (const NamedChain& named : chains) nodes.push_back(named.node.get());
  const auto kernels = platform.make_kernels(nodes);  // one program
  int in_place = 0;
  for (std::size_t n = 0; n < nodes.size(); ++n) {
    const ChainRun chain(*nodes[n]);
    const auto got = chain.run(*kernels[n], platform);
    const auto expected = chain.expected();
    for (std::size_t r = 0; r < got.size(); ++r) {
      double largest = 0, least = INFINITY, most = -INFINITY;
      for (const double value : expected[r].values) {
        largest = std::max(largest, std::abs(value));
        least = std::min(least, value), most = std::max(most, value);
      }
      ASSERT_LT(least, most) << chains[n].name;  // all the same would prove nothing
      for (std::size_t i = 0; i < got[r].size(); ++i) {
        const double value = expected[r].values[i];
        const DType dtype = nodes[n]->types[r].dtype;  // what is next to a tie may become either number of u8
        const double allowed = 4e-6 * largest + (dtype == DType::bf16 ? std::abs(value) * 0x1p-7 : 0) + (is_byte(dtype) ? 1 : 0);
        ASSERT_LE(std::abs(got[r][i] - value), allowed)
            << chains[n].name << " result " << r << " at " << i << ": got " << got[r][i] << ", expected " << value;
      }
    }
    for (int operand = 0; operand < static_cast<int>(nodes[n]->inputs.size()); ++operand)
      for (int result = 0; result < static_cast<int>(got.size()); ++result) {
        const auto& in = nodes[n]->inputs[static_cast<std::size_t>(operand)].type();
        if (!kernels[n]->can_overwrite(operand, result) ||
            in.size_bytes() != nodes[n]->types[static_cast<std::size_t>(result)].size_bytes())
          continue;
        ++in_place;
        EXPECT_EQ(chain.run(*kernels[n], platform, {operand, result}), got)
            << chains[n].name << " with result " << result << " over operand " << operand;
      }
  }
  EXPECT_GT(in_place, 20);
}

// The same bits, but for what a NaN holds.
bool is_equal(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

// Each chain has two kernels, for operands at multiples of 16 bytes and elsewhere.
void expect_the_bits_of_the_cpu(Platform& platform) {
  const auto cpu = open_platform("cpu", {.threads = 2});
  std::vector<NamedChain> chains = op_chains(51);  // no multiple of the rows that a block has
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::int64_t width : {8, 40, 96, 384, 1000, 3072, 5120, 13824}) {
      const Value x = input("x", dtype, {1, 51, width}), y = input("y", dtype, {1, 51, width});
      const Value scale = input("scale", DType::f32, {1, 1, width}), shift = input("shift", DType::f32, {1, 1, width});
      const Value gate = input("gate", dtype, {1, 1, width}), gamma = input("gamma", dtype, {width});
      const std::string suffix = fmt::format("_{}_{}", name(dtype), width);
      const NormedResidual both = scale_residual_norm_scale_shift(y, x, gate, scale, shift);
      chains.push_back(fuse_whole("residual" + suffix, {y, x, gate, scale, shift}, {both.y, both.residual}));
      chains.push_back(fuse_whole("channel_norm_silu" + suffix, {x, gamma}, {silu(channel_norm(x, gamma))}));
      const Value power = exp(cast(x, DType::f32)), sums = sum(power);
      chains.push_back(fuse_whole("softmax" + suffix, {x}, {cast(power / sums, dtype), sums}));
    }
    for (const std::int64_t width : {6, 12, 40, 1000, 5120})
      for (NamedChain& named : u8_chains(dtype, 51, width)) chains.push_back(std::move(named));
  }
  std::vector<const Node*> nodes;
  for (const NamedChain& named : chains) nodes.push_back(named.node.get());
  const auto kernels = platform.make_kernels(nodes), expected = cpu->make_kernels(nodes);
  for (std::size_t n = 0; n < nodes.size(); ++n) {
    const ChainRun chain(*nodes[n]);
    const auto want = chain.run(*expected[n], *cpu);
    for (const bool odd : {false, true}) {
      const auto got = chain.run(*kernels[n], platform, {-1, -1}, odd);
      for (std::size_t r = 0; r < want.size(); ++r) {
        const auto [a, b] = std::mismatch(got[r].begin(), got[r].end(), want[r].begin(), is_equal);
        EXPECT_TRUE(a == got[r].end()) << chains[n].name << (odd ? " odd" : "") << " result " << r << " at " << a - got[r].begin()
                                       << ": got " << *a << ", expected " << *b;
      }
      for (int operand = 0; operand < static_cast<int>(nodes[n]->inputs.size()); ++operand)
        for (int result = 0; result < static_cast<int>(got.size()); ++result) {
          if (!kernels[n]->can_overwrite(operand, result) ||
              nodes[n]->inputs[static_cast<std::size_t>(operand)].type().size_bytes() !=
                  nodes[n]->types[static_cast<std::size_t>(result)].size_bytes())
            continue;
          const auto in_place = chain.run(*kernels[n], platform, {operand, result}, odd);
          for (std::size_t r = 0; r < want.size(); ++r)
            EXPECT_TRUE(std::equal(got[r].begin(), got[r].end(), in_place[r].begin(), is_equal))
                << chains[n].name << " with result " << result << " over operand " << operand;
        }
    }
  }
}

// Where a number of bf16 is all there is to a function, devices have shorter ways to its result.
void expect_the_bits_of_the_cpu_for_each_bf16(Platform& platform) {
  const auto cpu = open_platform("cpu", {.threads = 2});
  const Value x = input("x", DType::bf16, {256, 256}), one = input("one", DType::bf16, {256, 256});
  for (const auto& [name, of_x] : {std::pair{"silu", silu(x)}, std::pair{"gelu_tanh", gelu_tanh(x)}}) {
    const NamedChain named = fuse_whole(name, {x, one}, {of_x * one});
    ChainRun chain(*named.node);
    for (std::uint32_t bits = 0; bits < 65536; ++bits) {
      chain.inputs[0].values[bits] = bf16_to_f32(static_cast<std::uint16_t>(bits));
      chain.inputs[1].values[bits] = 1;
    }
    const Node* const nodes[] = {named.node.get()};
    const auto want = chain.run(*cpu->make_kernels(nodes)[0], *cpu)[0];
    for (const bool odd : {false, true}) {
      const auto got = chain.run(*platform.make_kernels(nodes)[0], platform, {-1, -1}, odd)[0];
      for (std::size_t i = 0; i < want.size(); ++i)
        EXPECT_TRUE(is_equal(got[i], want[i]))
            << name << (odd ? " odd" : "") << " of " << chain.inputs[0].values[i] << ": got " << got[i] << ", expected " << want[i];
    }
  }
}

class ChainsOnOpencl : public ::testing::TestWithParam<bool> {};

TEST_P(ChainsOnOpencl, AgreeWithTheInterpreterAndRunInPlace) {
  ZOE_SKIP_WITHOUT_OPENCL();
  expect_agreement_and_runs_in_place(*opencl(GetParam()));
}

TEST(ChainsOnCuda, AgreeWithTheInterpreterAndRunInPlace) {
  ZOE_SKIP_WITHOUT_CUDA();
  expect_agreement_and_runs_in_place(*cuda());
}

TEST(ChainsOnCuda, HaveTheBitsOfTheCpuWhereverOperandsLie) {
  ZOE_SKIP_WITHOUT_CUDA();
  expect_the_bits_of_the_cpu(*cuda());
}

TEST(ChainsOnCuda, HaveTheBitsOfTheCpuForEachNumberOfBf16) {
  ZOE_SKIP_WITHOUT_CUDA();
  expect_the_bits_of_the_cpu_for_each_bf16(*cuda());
}

INSTANTIATE_TEST_SUITE_P(Kernels, ChainsOnOpencl, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "of_gpus" : "of_cpus"; });

}  // namespace
}  // namespace zoe::testing
