// Compiled against uncompiled on the embedded model, and a difference planted in one kernel.
#include "pipeline/verify.h"

#include "pipeline/model.h"
#include "platform/platform.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/error.h"
#include "ir/interpreter.h"
#include "ir/trace.h"
#include "platform/implementation.h"
#include "testing/merging_platform.h"

namespace zoe {
namespace {

// A kernel whose first result is off by one bit in one element: the last one, unless another is said.
struct OffByOne : Kernel {
  std::unique_ptr<Kernel> inner;
  DType dtype;
  unsigned bit;
  OffByOne(std::unique_ptr<Kernel> kernel, DType type, unsigned which = 0) : inner(std::move(kernel)), dtype(type), bit(which) {}
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
    bits ^= 1u << bit;
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

// Attention from codes as ir/trace.h defines it, which no CPU row makes.
struct DefinedAttention : Kernel {
  explicit DefinedAttention(const Node& node) {
    std::vector<Value> operands;
    for (const Value& each : node.inputs) operands.push_back(input("x", each.dtype(), each.shape()));
    const Value result = attention(operands[0], operands[1], operands[2], node.as<AttentionAttributes>(), {});
    graph = make_graph("attention", operands, {result});
  }
  std::string_view implementation() const override { return "as it is defined"; }
  void run(Stream&, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot) const override {
    std::vector<ReferenceTensor> given;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const Type& type = graph.inputs[i].type();
      std::vector<float> values(static_cast<std::size_t>(type.shape.count()));
      convert(inputs[i].data(), type.dtype, reinterpret_cast<std::byte*>(values.data()), DType::f32, values.size());
      given.push_back({type.shape, {values.begin(), values.end()}});
    }
    const std::vector<double> made = interpret(graph, given, {})[0].values;
    const std::vector<float> values(made.begin(), made.end());
    convert(reinterpret_cast<const std::byte*>(values.data()), DType::f32, outputs[0].data(), graph.outputs[0].dtype(),
            values.size());
  }
  Graph graph;
};

// A product from codes that has one code of its weight wrong, by one.
struct WrongCode : OffByOne {
  using OffByOne::OffByOne;
  void pack_weight(int input, const Type& type, const WeightReader& source, std::byte* packed) const override {
    inner->pack_weight(input, type, source, packed);
    if (input == 1) packed[0] = static_cast<std::byte>(std::to_integer<int>(packed[0]) ^ 1);
  }
  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    inner->run(stream, inputs, outputs, scratch);
  }
};

// `cpu` with attention from codes, and with what is planted in nodes that run from codes: also where they run alone, so that
// compiled and uncompiled runs agree in it.
class CodesPlatform : public fuzz::WrappedPlatform {
 public:
  enum class Planted { nothing, last_bit, wrong_code, attention };
  explicit CodesPlatform(Planted planted) : WrappedPlatform(open_platform("cpu", {.threads = 1})), planted_(planted) {
    const std::span<const Implementation> rows = WrappedPlatform::implementations();
    table_.push_back({.name = "defined_attention",
                      .of = one_of<Opcode::attention>,
                      .make = [](const Node& node, Making&) { return std::make_unique<DefinedAttention>(node); },
                      .takes_codes = true});
    table_.insert(table_.end(), rows.begin(), rows.end());
  }
  std::span<const Implementation> implementations() const override { return table_; }
  std::vector<Implemented> implement(std::span<const Node* const> nodes, const OverrideRules& rules) override {
    std::vector<const Node*> of_cpu;
    for (const Node* node : nodes)
      if (!is_attention(*node)) of_cpu.push_back(node);
    std::vector<Implemented> others = WrappedPlatform::implement(of_cpu, rules), made;
    auto next = others.begin();
    for (const Node* node : nodes) {
      made.push_back(is_attention(*node) ? Selection("cpu", table_).implement(*node) : std::move(*next++));
      std::unique_ptr<Kernel>& kernel = made.back().kernel;
      const DType dtype = node->types[0].dtype;
      const bool is_product = node->opcode == Opcode::linear && node->as<ProductAttributes>().codes != Codes::none;
      if ((is_product && planted_ == Planted::last_bit) || (is_attention(*node) && planted_ == Planted::attention))
        kernel = std::make_unique<OffByOne>(std::move(kernel), dtype, is_product ? 0 : 4);
      else if (is_product && planted_ == Planted::wrong_code) kernel = std::make_unique<WrongCode>(std::move(kernel), dtype);
    }
    return made;
  }

 private:
  static bool is_attention(const Node& node) {
    return node.opcode == Opcode::attention && node.as<AttentionAttributes>().codes != Codes::none;
  }
  Planted planted_;
  std::vector<Implementation> table_;
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

// Of a request whose first step is exact and whose second one runs from codes.
VerifyReport verify_codes(const std::shared_ptr<Platform>& platform, DType dtype, Arithmetic attention, std::int64_t size = 64) {
  Request request = small();
  request.height = request.width = size;
  request.precision = Arithmetic::int8;
  request.attention = attention;
  request.exact_steps = "0";
  return verify(read_model_config(ZOE_MODELS "/toy-wan"), platform, dtype, request, {});
}

TEST(Verify, WhatRunsFromCodesIsWhatPlainLoopsMake) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const auto platform = std::make_shared<CodesPlatform>(CodesPlatform::Planted::nothing);
    const VerifyReport report = verify_codes(platform, dtype, Arithmetic::int8);
    EXPECT_TRUE(report.passed());
    ASSERT_EQ(report.codes.size(), 2u);
    for (const CodesDifference& each : report.codes) {
      EXPECT_GT(each.values, 0u) << each.what;
      EXPECT_EQ(each.unseen, 0u) << each.what;
      EXPECT_EQ(each.different, 0u) << each.what;
      std::printf("%s %s: %zu values, %.3g, %.3g\n", std::string(name(dtype)).c_str(), each.what.c_str(), each.values,
                  each.relative_rms, each.largest);
    }
  }
}

TEST(VerifyOnCuda, WhatRunsFromCodesIsWhatPlainLoopsMake) {
  std::shared_ptr<Platform> platform;
  try {
    platform = open_platform("cuda");
    for (const Arithmetic attention : {Arithmetic::exact, Arithmetic::int8}) {
      const VerifyReport report = verify_codes(platform, DType::bf16, attention);
      EXPECT_TRUE(report.passed());
      for (const CodesDifference& each : report.codes) {
        EXPECT_TRUE(report.passes(each)) << each.what << " " << each.different << " " << each.relative_rms << " " << each.largest;
        EXPECT_EQ(each.unseen, 0u) << each.what;
      }
    }
  } catch (const Error& error) {
    if (platform && error.kind() != ErrorKind::unsupported) throw;
    GTEST_SKIP() << error.what();
  }
}

// Compiled and uncompiled runs have the same wrong kernel: only the codes tell.
TEST(Verify, ADifferenceFromPlainLoopsIsFound) {
  using enum CodesPlatform::Planted;
  for (const auto& [planted, dtype] : {std::pair{last_bit, DType::f32}, {wrong_code, DType::bf16}, {attention, DType::bf16}}) {
    const VerifyReport report = verify_codes(std::make_shared<CodesPlatform>(planted), dtype, Arithmetic::int8, 32);
    EXPECT_FALSE(report.passed());
    for (const ChainDifference& chain : report.chains) EXPECT_TRUE(report.passes(chain)) << chain.what;
    EXPECT_TRUE(report.latents_pass());
    for (const CodesDifference& each : report.codes)
      EXPECT_EQ(report.passes(each), (each.what == "attention") != (planted == attention))
          << each.what << " " << static_cast<int>(planted);
  }
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
