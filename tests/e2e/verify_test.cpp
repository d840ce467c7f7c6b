// Compiled against uncompiled on the embedded model, and a difference planted in one kernel.
#include "pipeline/verify.h"

#include "pipeline/model.h"
#include "platform/platform.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/error.h"
#include "platform/implementation.h"
#include "testing/merging_platform.h"

namespace zoe {
namespace {

// A fused kernel whose first result is off by one unit in the last place in one element.
struct OffByOne : Kernel {
  std::unique_ptr<Kernel> inner;
  DType dtype;
  OffByOne(std::unique_ptr<Kernel> kernel, DType type) : inner(std::move(kernel)), dtype(type) {}
  std::string_view implementation() const override { return inner->implementation(); }
  std::size_t scratch_bytes() const override { return inner->scratch_bytes(); }
  std::string weight_layout(int input) const override { return inner->weight_layout(input); }
  std::size_t packed_bytes(int input, const Type& type) const override { return inner->packed_bytes(input, type); }
  void pack_weight(int input, const Type& type, const WeightReader& source, std::byte* packed) const override {
    inner->pack_weight(input, type, source, packed);
  }
  bool can_overwrite(int input, int output) const override { return inner->can_overwrite(input, output); }
  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    inner->run(stream, inputs, outputs, scratch);
    std::byte* const element = outputs[0].data() + 7 * size_of(dtype);
    std::uint32_t bits = 0;
    std::memcpy(&bits, element, size_of(dtype));
    bits ^= 1;
    std::memcpy(element, &bits, size_of(dtype));
  }
};

// `cpu`, whose chains of `broken` are wrong ("": of none).
class PlantingPlatform : public Platform {
 public:
  explicit PlantingPlatform(std::string broken) : broken_(std::move(broken)) {}
  const DeviceInfo& info() const override { return cpu_->info(); }
  std::uint64_t free_bytes() const override { return cpu_->free_bytes(); }
  std::shared_ptr<Buffer> allocate(std::size_t bytes, std::string_view what) override { return cpu_->allocate(bytes, what); }
  std::unique_ptr<Stream> make_stream() override { return cpu_->make_stream(); }
  void upload(Stream& s, const void* host, Slot device, std::size_t bytes) override { cpu_->upload(s, host, device, bytes); }
  void download(Stream& s, Slot device, void* host, std::size_t bytes) override { cpu_->download(s, device, host, bytes); }
  std::span<const Implementation> implementations() const override { return cpu_->implementations(); }
  std::vector<Implemented> implement(std::span<const Node* const> nodes, const OverrideRules& rules) override {
    auto made = cpu_->implement(nodes, rules);
    for (std::size_t i = 0; i < nodes.size(); ++i)
      if (nodes[i]->opcode == Opcode::fused && nodes[i]->name == broken_)
        made[i].kernel = std::make_unique<OffByOne>(std::move(made[i].kernel), nodes[i]->types[0].dtype);
    return made;
  }

 private:
  std::unique_ptr<Platform> cpu_ = open_platform("cpu", {.threads = 1});
  std::string broken_;
};

Request small() {
  Request request;
  request.prompts = {"a red circle"};
  request.height = request.width = 64;
  request.num_frames = 5;
  request.num_inference_steps = 2;
  return request;
}

void expect_the_same_bits(const std::shared_ptr<Platform>& platform) {
  const ModelConfig model = read_model_config(ZOE_MODELS "/toy-wan");
  for (const auto& [dtype, batch] : {std::pair{DType::f32, GuidanceBatch::on},
                                     {DType::f32, GuidanceBatch::off},
                                     {DType::bf16, GuidanceBatch::on},
                                     {DType::bf16, GuidanceBatch::off}}) {
    Request request = small();
    request.guidance_batch = batch;
    const VerifyReport report = verify(model, platform, dtype, request, {});
    EXPECT_TRUE(report.passed());
    EXPECT_EQ(report.allowed_ulps, 0);
    std::size_t fused = 0;
    for (const ChainDifference& chain : report.chains) {
      EXPECT_EQ(chain.different, 0u) << chain.plan << ": " << chain.what;
      EXPECT_EQ(chain.unmatched, 0u) << chain.plan << ": " << chain.what;
      EXPECT_GT(chain.values, 0u) << chain.plan << ": " << chain.what;
      fused += chain.fused ? 1 : 0;
    }
    EXPECT_GE(fused, 10u);
    EXPECT_EQ(report.latents.values, 16u * 2 * 8 * 8);
    EXPECT_EQ(report.latents.different, 0u);
  }
}

TEST(Verify, EveryChainHasTheSameBitsOnCpu) {
  const auto platform = std::make_shared<PlantingPlatform>("");
  expect_the_same_bits(platform);
}

// With products as a device has them, whose results chains and attention read inside wider rows.
TEST(Verify, MergedProductsHaveTheSameBitsOnCpu) {
  const auto platform = std::make_shared<testing::MergingPlatform>();
  expect_the_same_bits(platform);
}

TEST(VerifyOnCuda, EveryChainHasTheSameBits) {
  std::shared_ptr<Platform> platform;
  try {
    platform = open_platform("cuda");
  } catch (const Error& error) {
    GTEST_SKIP() << error.what();
  }
  expect_the_same_bits(platform);
}

TEST(Verify, APlantedDifferenceIsFoundWhereItIsMade) {
  const auto platform = std::make_shared<PlantingPlatform>("norm_scale_shift");
  const VerifyReport report = verify(read_model_config(ZOE_MODELS "/toy-wan"), platform, DType::f32, small(), {});
  EXPECT_FALSE(report.passed());
  for (const ChainDifference& chain : report.chains) {
    if (chain.plan == "wan_dit" && chain.what == "norm_scale_shift") {
      EXPECT_FALSE(report.passes(chain));
      EXPECT_EQ(chain.different, chain.runs);  // one element each time
      EXPECT_GT(chain.max_absolute, 0);
      EXPECT_LE(chain.max_ulps, 1);
    } else {  // its readers got the right values
      EXPECT_TRUE(report.passes(chain)) << chain.plan << ": " << chain.what;
    }
  }
  EXPECT_GT(report.latents.different, 0u);  // on its own values the run goes astray
  EXPECT_FALSE(report.latents_pass());
}

// Whatever OpenCL device there is.
TEST(Verify, ChainsHoldOnOpenCl) {
  std::shared_ptr<Platform> platform;
  try {
    platform = open_platform("opencl");
  } catch (const Error& error) {
    GTEST_SKIP() << error.what();
  }
  const VerifyReport report = verify(read_model_config(ZOE_MODELS "/toy-wan"), platform, DType::f32, small(), {});
  EXPECT_EQ(report.allowed_ulps, 32);
  for (const ChainDifference& chain : report.chains)
    EXPECT_TRUE(report.passes(chain)) << chain.plan << ": " << chain.what << " " << chain.max_ulps << " ulp";
  EXPECT_TRUE(report.latents_pass()) << report.latents.relative_rms;
}

}  // namespace
}  // namespace zoe
