// linear with a weight that stays as it is stored: the bits of the same weight widened beforehand.
#include <gtest/gtest.h>

#include <cstring>

#include "base/encoding.h"
#include "checkpoint/changed_weight.h"
#include "checkpoint/random_weight.h"
#include "ir/change.h"
#include "ops/platforms.h"
#include "ops/run_kernel.h"
#include "platform/cpu/kernels.h"
#include "platform/kept_weight.h"

namespace zoe::testing {
namespace {

constexpr const char* kEncodings[] = {"F8_E4M3", "F8_E5M2", "Q4_0", "Q4_1", "Q5_0", "Q5_1",   "Q8_0",
                                      "Q2_K",    "Q3_K",    "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"};

// A tensor in an encoding, its rows scaled or not.
class ScaledWeight : public WeightReader {
 public:
  ScaledWeight(WeightPtr of, bool is_scaled) : of_(std::move(of)), is_scaled_(is_scaled) {}
  const Shape& shape() const override { return of_->shape(); }
  std::size_t stored_bytes() const override { return of_->stored_bytes(); }
  Storage storage() const override { return {of_->storage().encoding, is_scaled_}; }
  void read_blocks(std::int64_t begin, std::int64_t count, std::byte* out) const override { of_->read_blocks(begin, count, out); }
  void read_scales(std::int64_t begin, std::int64_t count, float* out) const override {
    for (std::int64_t i = 0; i < count; ++i) out[i] = scale(begin + i);
  }
  void read(std::int64_t begin, std::int64_t count, DType dtype, void* out) const override {
    std::vector<float> values(static_cast<std::size_t>(count));
    of_->read(begin, count, DType::f32, values.data());
    if (is_scaled_)
      for (std::int64_t i = 0; i < count; ++i) values[static_cast<std::size_t>(i)] *= scale((begin + i) / shape().dim(1));
    convert(values.data(), DType::f32, out, dtype, values.size());
  }

 private:
  static float scale(std::int64_t row) { return 0.3f + 0.01f * static_cast<float>(row % 97); }
  WeightPtr of_;
  bool is_scaled_;
};

struct Part {
  std::string encoding;  // "F32", "BF16": stays dense
  std::int64_t rows;
  bool is_scaled = false;
};

struct KeptCase {
  DType dtype;
  std::int64_t m, k;
  std::vector<Part> parts;
  bool bias = false, residual = false, change = false;

  std::int64_t n() const {
    std::int64_t rows = 0;
    for (const Part& part : parts) rows += part.rows;
    return rows;
  }
};

// The node with a weight as it is stored, and with an ordinary one of the same numbers.
struct Made {
  Value kept, plain;
  std::vector<WeightPtr> parts;
  std::vector<std::vector<std::byte>> dense;  // what ordinary parts read
  WeightPtr whole;
  std::vector<std::byte> change;  // of the weight, as the last operand has it
};

Made make(const KeptCase& c) {
  Made made;
  std::vector<Value> values;
  for (const Part& part : c.parts) {
    const std::string name = "w" + std::to_string(values.size());
    const Shape shape{part.rows, c.k};
    const Value plain = parameter(name, c.dtype, shape);
    const Encoding& encoding = *find_encoding(part.encoding);
    if (encoding.dtype) {
      // Of the dtype it lies in: a change is added to the numbers that are kept.
      const WeightPtr numbers = random_weight(3, name, shape);
      std::vector<std::byte>& bytes = made.dense.emplace_back(static_cast<std::size_t>(shape.count()) * size_of(c.dtype));
      numbers->read(0, numbers->count(), c.dtype, bytes.data());
      made.parts.push_back(dense_weight(c.dtype, shape, bytes.data()));
      values.push_back(plain);
    } else {
      made.parts.push_back(std::make_shared<ScaledWeight>(random_stored_weight(3, name, shape, encoding), part.is_scaled));
      values.push_back(kept_parameter(plain.node(), {&encoding, part.is_scaled}));
    }
  }
  made.whole = made.parts.size() == 1 ? made.parts[0] : std::make_shared<JoinedWeight>(Shape{c.n(), c.k}, made.parts);
  const Value x = input("x", c.dtype, {1, c.m, c.k}), weight = values.size() == 1 ? values[0] : packed_parameter(values);
  ProductOptions options;
  if (c.bias) options.bias = input("b", c.dtype, {c.n()});
  if (c.residual) options.residual = input("r", c.dtype, {1, c.m, c.n()});
  made.plain = linear(x, parameter("w", c.dtype, {c.n(), c.k}), options);
  if (c.change) {
    const Value change = input("c", c.dtype, {c.n(), c.k});
    made.change = to_bytes(random_values(change.type(), 9), c.dtype);
    made.kept = with_change(linear(x, weight, options).node(), change);
    made.whole = add_difference(made.whole, {dense_weight(c.dtype, {c.n(), c.k}, made.change.data()), "test", "c"}, 1);
  } else {
    made.kept = linear(x, weight, options);
  }
  return made;
}

// The bytes of what a platform's buffer holds of a kept weight.
std::vector<std::byte> kept_bytes(const Made& made) {
  const KeptLayout layout(made.kept.node().inputs[1].node());
  std::vector<std::byte> bytes(layout.size_bytes);
  for (std::size_t i = 0; i < made.parts.size(); ++i) {
    const KeptPlace& place = layout.places[i];
    const WeightReader& source = *made.parts[i];
    if (place.part.storage.encoding->dtype) source.read(0, source.count(), place.part.type.dtype, bytes.data() + place.blocks);
    else source.read_blocks(0, source.count(), bytes.data() + place.blocks);
    if (!place.part.storage.is_scaled) continue;
    std::vector<float> scales(static_cast<std::size_t>(place.rows()));
    source.read_scales(0, place.rows(), scales.data());
    std::memcpy(bytes.data() + place.scales, scales.data(), scales.size() * sizeof(float));
  }
  return bytes;
}

std::vector<std::byte> run_linear(Platform& platform, const Kernel& kernel, const Made& made, bool kept) {
  const Node& node = kept ? made.kept.node() : made.plain.node();
  const auto stream = platform.make_stream();
  std::vector<std::shared_ptr<Buffer>> buffers;
  std::vector<Slot> slots;
  const auto upload = [&](const std::vector<std::byte>& bytes) {
    buffers.push_back(platform.allocate(std::max<std::size_t>(bytes.size(), 1), "operand"));
    slots.push_back({buffers.back().get(), 0});
    platform.upload(*stream, bytes.data(), slots.back(), bytes.size());
  };
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    const Type& type = node.inputs[i].type();
    if (kept && !made.change.empty() && i + 1 == node.inputs.size()) {
      upload(made.change);
    } else if (i != 1) {
      upload(to_bytes(random_values(type, static_cast<unsigned>(i) + 1), type.dtype));
    } else if (kept) {
      upload(kept_bytes(made));
    } else {
      std::vector<std::byte> packed(kernel.packed_bytes(1, type));
      kernel.pack_weight(1, type, *made.whole, packed.data());
      upload(packed);
    }
  }
  std::vector<std::byte> result(node.types[0].size_bytes(), std::byte{0xff});
  upload(result);
  const Slot output = slots.back();
  slots.pop_back();
  const auto scratch = platform.allocate(kernel.scratch_bytes() + 1, "scratch");
  kernel.run(*stream, slots, {&output, 1}, {scratch.get(), 0});
  stream->synchronize();
  platform.download(*stream, output, result.data(), result.size());
  return result;
}

std::vector<KeptCase> cases(DType dtype) {
  std::vector<KeptCase> all;
  const std::string dense = dtype == DType::f32 ? "F32" : "BF16";
  for (const char* encoding : kEncodings) {
    all.push_back({dtype, 7, 512, {{encoding, 37}}, true, true});
    all.push_back({dtype, 65, 1280, {{encoding, 130}}, true});
    all.push_back({dtype, 33, 768, {{encoding, 35}}, true, true, true});
  }
  for (const char* encoding : {"F8_E4M3", "F8_E5M2"}) {
    all.push_back({dtype, 3, 77, {{encoding, 19}}});
    all.push_back({dtype, 5, 129, {{encoding, 33, true}}, true});
    all.push_back({dtype, 5, 131, {{encoding, 33, true}}, false, false, true});
  }
  all.push_back({dtype, 9, 256, {{"Q4_K", 32}, {"Q4_K", 32}, {"Q6_K", 32}}, true});
  all.push_back({dtype, 9, 96, {{"Q8_0", 5}, {"F8_E4M3", 11, true}, {dense, 7}, {"F8_E4M3", 3, true}}});
  all.push_back({dtype, 9, 96, {{"Q8_0", 5}, {"F8_E4M3", 11, true}, {dense, 7}}, true, false, true});
  all.push_back({dtype, 4, 1056, {{"Q8_0", 19}, {"Q5_0", 6}}, false, false, true});
  return all;
}

void expect_same(Platform& platform, const KeptCase& c) {
  const Made made = make(c);
  const auto kept = platform.make_kernel(made.kept.node()), plain = platform.make_kernel(made.plain.node());
  const std::vector<std::byte> expected = run_linear(platform, *plain, made, false), got = run_linear(platform, *kept, made, true);
  std::vector<float> numbers(expected.size() / size_of(c.dtype));
  convert(expected.data(), c.dtype, numbers.data(), DType::f32, numbers.size());
  double power = 0;
  for (const float number : numbers) power += static_cast<double>(number) * static_cast<double>(number);
  EXPECT_GT(power, 0.0);
  EXPECT_TRUE(std::isfinite(power)) << signature(made.kept.node());
  EXPECT_EQ(kept->implementation().starts_with("widened and changed, "), c.change);
  EXPECT_EQ(got == expected, true) << signature(made.kept.node()) << " by " << kept->implementation();
}

TEST(KeptLinear, HasTheBitsOfAWidenedWeight) {
  const auto cpu = open_platform("cpu", {.threads = 2});
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const KeptCase& c : cases(dtype)) expect_same(*cpu, c);
}

TEST(KeptLinear, HasTheBitsOfAWidenedWeightOnOpenCl) {
  ZOE_SKIP_WITHOUT_OPENCL();
  for (const KeptCase& c : cases(DType::bf16)) expect_same(*opencl(), c);
  // The rest is the same text: a program takes a driver half a second.
  for (const bool local_tiles : {false, true})
    for (const KeptCase& c : cases(DType::f32))
      if (c.parts.size() > 1 || c.parts[0].encoding == "Q6_K") expect_same(*opencl(local_tiles), c);
}

TEST(KeptLinearOnCuda, HasTheBitsOfAWidenedWeight) {
  ZOE_SKIP_WITHOUT_CUDA();
  for (const bool vendor_products : {false, true})
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const KeptCase& c : cases(dtype)) expect_same(*cuda(vendor_products), c);
}

TEST(KeptLinear, SaysWhatItKeeps) {
  const Made made = make({DType::bf16, 9, 256, {{"Q4_K", 32}, {"BF16", 4}, {"F8_E5M2", 3, true}}});
  const KeptLayout layout(made.kept.node().inputs[1].node());
  EXPECT_EQ(layout.name, "as stored: Q4_K [32,256], BF16 [4,256], F8_E5M2 with scales [3,256]");
  EXPECT_EQ(layout.size_bytes, 32u * 144 + 4 * 512 + 768 + 64);
  EXPECT_NE(signature(made.kept.node()).find("parts=32,4,3 kept=Q4_K,BF16,F8_E5M2*scale"), std::string::npos)
      << signature(made.kept.node());
  const auto cpu = open_platform("cpu", {.threads = 1});
  EXPECT_TRUE(cpu->make_kernel(made.kept.node())->implementation().starts_with("widened, "));
}

}  // namespace
}  // namespace zoe::testing
