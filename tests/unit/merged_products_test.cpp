// Products of one operand as one: their packed weights, their plans, and that results stay the same.
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>

#include "base/error.h"
#include "compiler/run.h"
#include "ir/trace.h"
#include "testing/merging_platform.h"

namespace zoe {
namespace {

constexpr std::int64_t kRows = 37, kHeads = 3, kChannels = 16, kWidth = kHeads * kChannels;

struct Stored {
  DType dtype;
  Shape shape;
  std::vector<std::byte> bytes;
};

// A checkpoint: k in bf16, all others in f32.
class Checkpoint {
 public:
  Checkpoint() {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0.0f, 0.2f);
    for (int block = 0; block < 2; ++block)
      for (const std::string kind : {"q", "k", "v", "out"})
        for (const std::string what : {"weight", "bias"}) {
          const Shape shape = what == "bias" ? Shape{kWidth} : Shape{kWidth, kWidth};
          std::vector<float> values(static_cast<std::size_t>(shape.count()));
          for (float& value : values) value = normal(random);
          const DType dtype = kind == "k" ? DType::bf16 : DType::f32;
          Stored& tensor = tensors[std::to_string(block) + "." + kind + "." + what];
          tensor = {dtype, shape, std::vector<std::byte>(values.size() * size_of(dtype))};
          convert(values.data(), DType::f32, tensor.bytes.data(), dtype, values.size());
        }
  }
  WeightSource source() const {
    return [this](const std::string& name) {
      const Stored& tensor = tensors.at(name);
      return dense_weight(tensor.dtype, tensor.shape, tensor.bytes.data());
    };
  }
  std::map<std::string, Stored> tensors;
};

// Two blocks of attention with q and k behind a chain.
Graph trace(DType dtype) {
  const Value x = input("x", dtype, {1, kRows, kWidth});
  Value y = x;
  for (int block = 0; block < 2; ++block) {
    const auto project = [&](const std::string& kind, const Value& of, const Value& residual = {}) {
      const std::string name = std::to_string(block) + "." + kind;
      return linear(of, parameter(name + ".weight", dtype, {kWidth, kWidth}, block + 1),
                    {.bias = parameter(name + ".bias", dtype, {kWidth}, block + 1), .residual = residual});
    };
    const auto heads = [](const Value& of) { return reshape(of, {1, kRows, kHeads, kChannels}); };
    const auto normed = [](const Value& of) {
      const Value wide = cast(of, DType::f32);
      return cast(wide * rsqrt(mean(square(wide)) + 1e-6), of.dtype());
    };
    const Value q = swap_pairs(heads(normed(project("q", y)))), k = heads(normed(project("k", y))), v = heads(project("v", y));
    y = project("out", reshape(attention(q, k, v, 0.25), x.shape()), y);
  }
  return make_graph("blocks", {x}, {y});
}

std::vector<float> run_on(Platform& platform, const Plan& plan, WeightStore& store, const RunOptions& options = {}) {
  const auto stream = platform.make_stream();
  const Type type = plan.graph.inputs[0].type();
  const std::vector<Tensor> inputs{make_tensor(platform, type, "in")}, outputs{make_tensor(platform, type, "out")};
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(type.shape.count()));
  for (float& value : values) value = normal(random);
  upload(platform, *stream, values, inputs[0]);
  const Plan* const only = &plan;
  run(plan, *stream, store, inputs, outputs, make_workspace(platform, {&only, 1}), options);
  download(platform, *stream, outputs[0], values);
  return values;
}

TEST(MergedProducts, GiveWhatThreeProductsGive) {
  const auto cpu = open_platform("cpu", {.threads = 1});
  testing::MergingPlatform merging;
  const Checkpoint checkpoint;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Graph graph = trace(dtype);
    const Plan apart = compile(graph, *cpu), plan = compile(graph, merging),
               uncompiled = compile(graph, merging, {.compile = false});
    WeightStore apart_store(*cpu, checkpoint.source()), store(merging, checkpoint.source());
    apart_store.load(apart);
    store.load(plan);
    EXPECT_EQ(plan.weights.size() + 2 * 2 * 2, apart.weights.size());
    EXPECT_EQ(apart_store.size_bytes(), apart.weight_bytes());
    EXPECT_EQ(store.size_bytes(), plan.weight_bytes());
    // No copy of a slice: three steps fewer a block become one, and the chains are the same.
    EXPECT_EQ(plan.steps.size() + 2 * 2, apart.steps.size());
    EXPECT_EQ(plan.product_notes.size(), 2u);
    EXPECT_EQ(apart.product_notes.front().substr(apart.product_notes.front().find("stay")),
              "stay apart: onednn_matmul of cpu gains nothing by that");

    const std::vector<float> expected = run_on(*cpu, apart, apart_store), got = run_on(merging, plan, store);
    double error = 0, power = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      error += std::pow(got[i] - expected[i], 2);
      power += std::pow(expected[i], 2);
    }
    // oneDNN may sum in another order where a product is wider.
    EXPECT_LE(std::sqrt(error / power), dtype == DType::f32 ? 1e-6 : 1e-2);
    store.load(uncompiled);
    EXPECT_EQ(run_on(merging, uncompiled, store), got) << "compiled or not, the products are the same";
    WeightStore streamed(merging, checkpoint.source());
    streamed.stream({&plan}, {});
    EXPECT_EQ(run_on(merging, plan, streamed), got);
  }
}

// A kernel of no use but that its weights are as they come, or as it likes them.
struct WeightKernel : Kernel {
  explicit WeightKernel(bool turned_) : turned(turned_) {}
  std::string_view implementation() const override { return "none"; }
  std::string weight_layout(int input) const override { return turned && input == 1 ? "turned" : "dense bf16"; }
  void pack_weight(int input, const Type& type, const WeightReader& source, std::byte* packed) const override {
    Kernel::pack_weight(input, type, source, packed);
    if (turned && input == 1) std::reverse(packed, packed + packed_bytes(input, type));
  }
  void run(Stream&, std::span<const Slot>, std::span<const Slot>, Slot) const override {}
  bool turned;
};

struct WeightPlatform : testing::MergingPlatform {
  bool turned = false;
  std::vector<Implemented> implement(std::span<const Node* const> nodes, const OverrideRules&) override {
    std::vector<Implemented> made(nodes.size());
    for (Implemented& each : made) each.kernel = std::make_unique<WeightKernel>(turned);
    return made;
  }
};

TEST(MergedProducts, EachTensorIsLoadedToItsRows) {
  Checkpoint checkpoint;
  const Graph graph = trace(DType::bf16);
  std::vector<std::byte> expected;
  for (const std::string name : {"1.q.weight", "1.k.weight", "1.v.weight"}) {
    const Stored& tensor = checkpoint.tensors.at(name);
    const auto count = static_cast<std::size_t>(tensor.shape.count());
    std::vector<std::byte> rounded(count * 2);
    convert(tensor.bytes.data(), tensor.dtype, rounded.data(), DType::bf16, count);
    expected.insert(expected.end(), rounded.begin(), rounded.end());
  }
  for (const bool turned : {false, true})
    for (const bool addressable : {false, true}) {
      WeightPlatform platform;
      platform.turned = turned;
      platform.device_info.host_addressable = addressable;
      const Plan plan = compile(graph, platform);
      WeightStore store(platform, checkpoint.source());
      store.load(plan, 2);
      const auto weight = std::find_if(plan.weights.begin(), plan.weights.end(),
                                       [](const PlanWeight& each) { return each.name == "1.q.weight + 1.k.weight + 1.v.weight"; });
      ASSERT_NE(weight, plan.weights.end());
      const Buffer& buffer = *store.at(*weight).buffer;
      ASSERT_EQ(buffer.size_bytes, expected.size());
      std::vector<std::byte> bytes(expected.size());
      std::memcpy(bytes.data(), buffer.data, bytes.size());
      if (turned) std::reverse(bytes.begin(), bytes.end());
      EXPECT_EQ(bytes, expected);
      store.clear();
      EXPECT_EQ(store.size_bytes(), 0u);
    }
}

TEST(MergedProducts, AWrongTensorIsNamed) {
  Checkpoint checkpoint;
  checkpoint.tensors.at("0.k.weight").shape = {kWidth, kWidth / 2};
  testing::MergingPlatform merging;
  const Plan plan = compile(trace(DType::f32), merging);
  WeightStore store(merging, checkpoint.source());
  try {
    store.load(plan);
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(
        error.what(),
        "[weights] bad size of 0.k.weight: got [48,24], expected [48,48]. The checkpoint does not belong to its config.json.");
  }
  EXPECT_EQ(store.size_bytes(), 0u);
}

}  // namespace
}  // namespace zoe
