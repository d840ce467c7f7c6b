// The store's part in weights that stay as they are stored: each tensor's blocks and scales lie where the layout says, however they
// come to the device.
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <string>
#include <utility>

#include "base/encoding.h"
#include "base/error.h"
#include "checkpoint/random_weight.h"
#include "compiler/passes/keep_stored.h"
#include "compiler/weights.h"
#include "ir/trace.h"
#include "models/wan_dit/model.h"
#include "pipeline/model.h"
#include "testing/merging_platform.h"

namespace zoe {
namespace {

constexpr std::int64_t kRows = 512, kColumns = 1024;  // more than is fetched at a time

// In memory of its own, so that its bytes can be taken as they lie.
class Kept : public WeightReader {
 public:
  Kept(const std::string& name, const char* encoding, bool is_scaled)
      : made_(random_stored_weight(1, name, {kRows, kColumns}, *find_encoding(encoding))), is_scaled_(is_scaled) {
    bytes_.resize(made_->stored_bytes() + 1);
    made_->read_blocks(0, made_->count(), bytes_.data() + 1);  // at an odd address
  }
  const Shape& shape() const override { return made_->shape(); }
  void read(std::int64_t begin, std::int64_t count, DType dtype, void* out) const override {
    made_->read(begin, count, dtype, out);
  }
  std::size_t stored_bytes() const override { return made_->stored_bytes(); }
  Storage storage() const override { return {made_->storage().encoding, is_scaled_}; }
  const std::byte* blocks() const override { return bytes_.data() + 1; }
  void read_scales(std::int64_t begin, std::int64_t count, float* out) const override {
    for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(begin + i);
  }
  bool fails = false;
  void fetch(std::int64_t, std::int64_t) const override { check(!fails, ErrorKind::io, "file", "the disk is gone."); }

 private:
  WeightPtr made_;
  std::vector<std::byte> bytes_;
  bool is_scaled_;
};

struct Far : testing::MergingPlatform {
  Far() { device_info.host_addressable = false; }
};

class KeptStore : public ::testing::Test {
 protected:
  std::map<std::string, WeightPtr> weights{{"a", std::make_shared<Kept>("a", "Q6_K", false)},
                                           {"b", random_weight(1, "b", {kRows, kColumns})},
                                           {"c", std::make_shared<Kept>("c", "F8_E4M3", true)},
                                           {"d", random_stored_weight(1, "d", {kRows, kColumns}, *find_encoding("Q4_0"))}};
  WeightSource source() const {
    return [this](const std::string& name) { return weights.at(name); };
  }
  // Three products of one operand, which become one, and another.
  Plan plan_on(Platform& platform) const {
    const Value x = input("x", DType::bf16, {3, kColumns});
    const auto product = [&](const char* name) { return linear(x, parameter(name, DType::bf16, {kRows, kColumns})); };
    const Value sum = product("a") + product("b") + product("c");
    const Graph graph = make_graph("g", {x}, {sum, linear(sum, parameter("e", DType::bf16, {4, kRows})), exp(product("d"))});
    return compile(
        keep_stored(
            graph, [this](const std::string& name) { return weights.contains(name) ? weights.at(name)->storage() : Storage{}; },
            [&](const Encoding& encoding) { return platform.keeps_stored(encoding); }),
        platform);
  }
};

TEST_F(KeptStore, HasTheBytesOfTheTensorsHoweverTheyCome) {
  weights["e"] = random_weight(1, "e", {4, kRows});
  testing::MergingPlatform near;
  Far far;
  for (Platform* platform : {static_cast<Platform*>(&near), static_cast<Platform*>(&far)}) {
    const Plan plan = plan_on(*platform);
    WeightStore store(*platform, source());
    std::size_t told = 0, total = 0;
    store.load(plan, {.progress = [&](std::size_t done, std::size_t all) { told = done, total = all; }});
    EXPECT_EQ(told, total);
    EXPECT_EQ(store.size_bytes(), plan.weight_bytes());
    int kept = 0;
    for (const PlanWeight& weight : plan.weights) {
      if (!weight.kept) continue;
      const Buffer& buffer = *store.at(weight).buffer;
      ASSERT_EQ(buffer.size_bytes, weight.kept->size_bytes);
      const auto* const bytes = static_cast<const std::byte*>(buffer.data);
      for (std::size_t i = 0; i < weight.parts.size(); ++i, ++kept) {
        const KeptPlace& place = weight.kept->places[i];
        const WeightReader& tensor = *weights.at(weight.parts[i].name);
        const auto count = static_cast<std::size_t>(tensor.count());
        std::vector<std::byte> expected(static_cast<std::size_t>(place.part.storage.encoding->size_bytes(tensor.count())));
        if (place.part.storage.encoding->dtype) tensor.read(0, tensor.count(), DType::bf16, expected.data());
        else tensor.read_blocks(0, tensor.count(), expected.data());
        EXPECT_EQ(std::memcmp(bytes + place.blocks, expected.data(), expected.size()), 0) << weight.parts[i].name;
        if (place.part.storage.is_scaled) {
          float last = 0;
          std::memcpy(&last, bytes + place.scales + (kRows - 1) * 4, 4);
          EXPECT_EQ(last, static_cast<float>(kRows - 1));
        }
        std::vector<std::uint16_t> numbers(count), read(count);
        KeptWeight(*weight.kept, weight.type.shape, bytes).read(place.first, tensor.count(), DType::bf16, read.data());
        tensor.read(0, tensor.count(), DType::bf16, numbers.data());
        if (!place.part.storage.is_scaled) {
          EXPECT_EQ(read, numbers) << weight.parts[i].name;
        }
      }
    }
    EXPECT_EQ(kept, 4);
  }
}

TEST_F(KeptStore, AnErrorLeavesItAsItWas) {
  weights["e"] = random_weight(1, "e", {4, kRows});
  auto broken = std::make_shared<Kept>("c", "F8_E4M3", true);
  broken->fails = true;
  weights["c"] = broken;
  Far far;
  const Plan plan = plan_on(far);
  WeightStore store(far, source());
  try {
    store.load(plan);
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::io);
  }
  EXPECT_EQ(store.size_bytes(), 0u);
}

// A transformer of 14B in Q4_K, all that is no matrix of whole blocks in F32: no more memory than its file, and 10%.
TEST(KeptPlans, OfTheLargeTransformerTakeTheMemoryOfItsFile) {
  const WanDitConfig config = published_model("wan2.1-t2v-14b")->transformer;
  const Encoding& q4_k = *find_encoding("Q4_K");
  const auto null = open_platform("null");
  std::map<std::string, std::size_t> stored;
  std::map<std::pair<std::string, std::string>, std::size_t> kept, widened;
  for (const Graph& graph :
       {trace_wan_dit(config, DType::bf16, {1, 60, 104, 512, 2}), trace_wan_context(config, DType::bf16, 512, 2)}) {
    const Graph as_stored = keep_stored(
        graph, [&](const std::string&) { return Storage{&q4_k}; }, [](const Encoding&) { return Support::yes(); });
    const Plan plan = compile(as_stored, *null, {.compile = false}), wide = compile(graph, *null, {.compile = false});
    for (const PlanWeight& weight : plan.weights) {
      kept[{weight.name, weight.layout}] = weight.size_bytes;
      for (const PlanWeight::Part& part : weight.parts) {
        const bool is_matrix = part.type.shape.rank() == 2 && part.type.shape.dim(1) % q4_k.block_elements == 0;
        const std::int64_t count = part.type.shape.count();
        stored[part.name] = static_cast<std::size_t>(is_matrix ? q4_k.size_bytes(count) : 4 * count);
      }
    }
    for (const PlanWeight& weight : wide.weights) widened[{weight.name, weight.layout}] = weight.size_bytes;
  }
  const auto total = [](const auto& sizes) {
    std::size_t sum = 0;
    for (const auto& [name, bytes] : sizes) sum += bytes;
    return sum;
  };
  EXPECT_GT(total(stored), std::size_t{7} << 30);
  EXPECT_LE(total(kept), total(stored) + total(stored) / 10);
  EXPECT_GT(total(widened), 3 * total(kept));
}

}  // namespace
}  // namespace zoe
