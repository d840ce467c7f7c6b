// Fused nodes on OpenCL, with kernels as CPUs and as GPUs get them, and on CUDA, against the reference interpreter; and results
// that lie over operands.
#include <gtest/gtest.h>

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

  // `shared`: an operand and the result that is written over it.
  std::vector<std::vector<float>> run(const Kernel& kernel, Platform& platform, std::pair<int, int> shared = {-1, -1}) const {
    const auto stream = platform.make_stream();
    std::vector<std::shared_ptr<Buffer>> buffers;
    std::vector<Slot> operands, results;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const DType dtype = node.inputs[i].dtype();
      const std::vector<std::byte> bytes = shifted_bytes(inputs[i].values, dtype);  // at an odd element
      buffers.push_back(platform.allocate(bytes.size(), "operand"));
      platform.upload(*stream, bytes.data(), {buffers.back().get(), 0}, bytes.size());
      operands.push_back({buffers.back().get(), size_of(dtype)});
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
    kernel.run(*stream, operands, results, {});
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
// last place besides.
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
        const double allowed = 4e-6 * largest + (nodes[n]->types[r].dtype == DType::bf16 ? std::abs(value) * 0x1p-7 : 0);
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

class ChainsOnOpencl : public ::testing::TestWithParam<bool> {};

TEST_P(ChainsOnOpencl, AgreeWithTheInterpreterAndRunInPlace) {
  ZOE_SKIP_WITHOUT_OPENCL();
  expect_agreement_and_runs_in_place(*opencl(GetParam()));
}

TEST(ChainsOnCuda, AgreeWithTheInterpreterAndRunInPlace) {
  ZOE_SKIP_WITHOUT_CUDA();
  expect_agreement_and_runs_in_place(*cuda());
}

INSTANTIATE_TEST_SUITE_P(Kernels, ChainsOnOpencl, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "of_gpus" : "of_cpus"; });

}  // namespace
}  // namespace zoe::testing
