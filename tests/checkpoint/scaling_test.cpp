// Weights with scales beside them, against comfy-kitchen's own widening (tests/fixtures/record_scaled.py), and wrong ones.
#include "checkpoint/scaling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "base/codes.h"
#include "base/error.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "testing/temporary_folder.h"
#include "testing/write_safetensors.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using testing::TensorToWrite;

const std::string kRecorded = std::string(ZOE_FIXTURES) + "/checkpoints/scaled.safetensors";

std::vector<float> values(const WeightReader& weight, std::int64_t begin, std::int64_t count) {
  std::vector<float> out(static_cast<std::size_t>(count));
  weight.fetch(begin, count);
  weight.read(begin, count, DType::f32, out.data());
  return out;
}

std::vector<std::string> layers() {
  return {"old.e4m3",   "old.e5m2",       "new.e4m3",        "new.e5m2", "plain.e4m3", "plain.int8",   "int8.rows",
          "int8.whole", "int8.convrot16", "int8.convrot256", "mxfp8",    "nvfp4",      "nvfp4.columns"};
}

TEST(Scaling, IsPartOfTheWeight) {
  const Checkpoint file(kRecorded, "part");
  for (const std::string& layer : layers()) {
    SCOPED_TRACE(layer);
    const TensorEntry* const entry = file.find(layer + ".weight");
    ASSERT_TRUE(entry && entry->scaling);
    const TensorEntry& expected = *file.find("expected." + layer);
    const WeightPtr weight = weight_of(*entry, "part");
    const std::int64_t width = weight->shape().dim(1);
    ASSERT_EQ(expected.shape.dim(1), width);
    const std::vector<float> rows = values(*weight_of(*file.find("rows." + layer), "part"), 0, expected.shape.dim(0));
    const WeightPtr reference = weight_of(expected, "part");
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const std::vector<float> got = values(*weight, static_cast<std::int64_t>(rows[i]) * width, width);
      const std::vector<float> wanted = values(*reference, static_cast<std::int64_t>(i) * width, width);
      double largest = 0;
      for (const float value : wanted) largest = std::max(largest, std::fabs(static_cast<double>(value)));
      ASSERT_GT(largest, 0);
      // A rotation is a sum of 16 or 256 products there, and of 2 or 4 times four here.
      const double bound = entry->scaling->rotation ? 1e-6 * largest : 0;
      for (std::size_t j = 0; j < got.size(); ++j) ASSERT_NEAR(got[j], wanted[j], bound) << rows[i] << ", " << j;
    }
  }
  for (const TensorEntry& tensor : file.tensors())
    for (const char* gone : {"scale", "comfy_quant", "scaled_fp8"})
      EXPECT_EQ(tensor.name.find(gone), std::string::npos) << tensor.name;
}

// A product of 8 bits makes codes of rows anew: of a file with ConvRot and a scale a row they are the file's, though the weight was
// rotated back and rounded to bf16 between.
TEST(Scaling, CodesOfRotatedRowsAreThoseOfTheFile) {
  const Checkpoint file(kRecorded, "part");
  const TensorEntry& entry = *file.find("int8.convrot256.weight");
  const WeightPtr weight = weight_of(entry, "part");
  const auto width = static_cast<std::size_t>(weight->shape().dim(1)), rows = static_cast<std::size_t>(weight->shape().dim(0));
  ASSERT_EQ(rotation_of(weight->shape().dim(1)), entry.scaling->rotation);
  std::size_t compared = 0;
  for (std::size_t row = 0; row < rows; ++row) {
    const auto* const stored = reinterpret_cast<const std::int8_t*>(entry.bytes.data()) + row * width;
    const auto is_largest = [](std::int8_t code) { return std::abs(int{code}) == 127; };
    if (std::none_of(stored, stored + width, is_largest)) continue;  // of a common scale: another one is this row's own
    std::vector<std::uint16_t> narrow(width);
    weight->read(static_cast<std::int64_t>(row * width), static_cast<std::int64_t>(width), DType::bf16, narrow.data());
    std::vector<float> wide(width);
    convert(narrow.data(), DType::bf16, wide.data(), DType::f32, width);
    std::vector<std::int8_t> codes(width);
    encode_row(wide, codes.data());
    EXPECT_TRUE(std::equal(codes.begin(), codes.end(), stored)) << row;
    ++compared;
  }
  EXPECT_GT(compared, 0U);
}

TEST(Scaling, AnyElementsMayBeRead) {
  const Checkpoint file(kRecorded, "part");
  for (const std::string& layer : layers()) {
    const WeightPtr weight = weight_of(*file.find(layer + ".weight"), "part");
    const std::vector<float> all = values(*weight, 0, weight->count());
    for (const auto& [begin, count] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {17, 61}, {39, 42}, {weight->count() - 5, 5}}) {
      const std::vector<float> some = values(*weight, begin, count);
      EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin() + begin)) << layer << " " << begin;
      std::vector<std::uint16_t> narrow(static_cast<std::size_t>(count)), expected(narrow.size());
      weight->read(begin, count, DType::bf16, narrow.data());
      convert(some.data(), DType::f32, expected.data(), DType::bf16, expected.size());
      EXPECT_EQ(narrow, expected) << layer;
    }
    EXPECT_EQ(weight->dense(DType::f32), nullptr);
    EXPECT_GT(weight->stored_bytes(), file.find(layer + ".weight")->bytes.size());
  }
}

std::string floats(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}
TensorToWrite matrix(const std::string& name = "a.weight", const std::string& dtype = "F8_E4M3", Shape shape = {4, 64}) {
  const auto count = static_cast<std::size_t>(shape.count());
  return {name, dtype, std::move(shape), std::string(count, '\x38')};
}
TensorToWrite scale(const std::string& name, const std::vector<float>& values, Shape shape) {
  return {name, "F32", std::move(shape), floats(values)};
}
TensorToWrite mark(const std::string& json) { return {"a.comfy_quant", "U8", {static_cast<std::int64_t>(json.size())}, json}; }

TEST(Scaling, MarksMayStandInTheMetadataWithoutThePrefix) {
  const testing::TemporaryFolder folder;
  const std::string header =
      R"({"__metadata__":{"_quantization_metadata":"{\"format_version\":\"1.0\",\"layers\":{\"a\":{\"format\":\"float8_e4m3fn\"}}}"},)" +
      testing::header_entry("model.a.weight", "F8_E4M3", {1, 2}, 0, 2) + "," +
      testing::header_entry("model.a.weight_scale", "F32", {}, 2, 6) + "}";
  testing::write_bytes(folder.path() / "x.safetensors", testing::safetensors_bytes(header, "\x38\x40" + floats({0.5f})));
  const Checkpoint file(folder.path() / "x.safetensors", "part");
  ASSERT_EQ(file.tensors().size(), 1u);
  EXPECT_EQ(values(*weight_of(file.tensors()[0], "part"), 0, 2), (std::vector<float>{0.5f, 1.0f}));
  EXPECT_EQ(file.size_bytes(), 6);
}

TEST(Scaling, WhatAMarkSaysThatIsNotKnownIsNamed) {
  const testing::TemporaryFolder folder;
  testing::write_safetensors(folder.path() / "x.safetensors",
                             {matrix(), scale("a.weight_scale", {1}, {}), mark(R"({"format":"float8_e4m3fn","zero_point":3})")});
  std::vector<std::string> lines;
  const LogScope scope([&](LogLevel, std::string_view line) { lines.emplace_back(line); });
  const Checkpoint file(folder.path() / "x.safetensors", "part");
  EXPECT_EQ(lines, std::vector<std::string>{
                       "part: \"zero_point\" in the marks of quantised layers has no known meaning and is passed over."});
}

struct Wrong {
  std::string name;
  std::vector<TensorToWrite> tensors;
  std::vector<std::string> pieces;
  ErrorKind kind = ErrorKind::invalid_argument;
};
void PrintTo(const Wrong& c, std::ostream* out) { *out << c.name; }

std::vector<Wrong> wrong() {
  const std::string fp8 = R"({"format":"float8_e4m3fn"})", int8 = R"({"format":"int8_tensorwise"})", mx = R"({"format":"mxfp8"})",
                    nv = R"({"format":"nvfp4"})", convrot = R"({"format":"int8_tensorwise","convrot":true,"convrot_groupsize":)";
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  const TensorToWrite one = scale("a.weight_scale", {1}, {});
  const TensorToWrite tiles{"a.weight_scale", "U8", {128, 4}, std::string(512, '\x7f')};
  const auto only = ErrorKind::unsupported;
  return {
      {"OldScaleWithoutItsWeight", {scale("a.scale_weight", {1}, {})}, {"\"a.scale_weight\" has no weight", "\"a.weight\""}},
      {"NewScaleWithoutItsWeight", {one}, {"\"a.weight_scale\" has no weight"}},
      {"MarkWithoutItsWeight", {mark(fp8), one}, {"\"a.comfy_quant\" has no weight"}},
      {"MarkWithoutItsScale", {matrix(), mark(fp8)}, {"missing tensor \"a.weight_scale\"", "float8_e4m3fn"}},
      {"TwoScales", {matrix(), scale("a.scale_weight", {1}, {}), one}, {"two scales for \"a.weight\""}},
      {"ScaleIsNotANumber", {matrix(), scale("a.scale_weight", {nan}, {})}, {"bad scale \"a.scale_weight\"", "got nan", "finite"}},
      {"ScaleIsInfinite", {matrix(), mark(fp8), scale("a.weight_scale", {infinity}, {1})}, {"bad scale", "got inf"}},
      {"ScaleOfARowIsNotANumber", {matrix(), scale("a.weight_scale", {1, 1, nan, 1}, {4, 1})}, {"bad scale", "got nan at 2"}},
      {"ScaleOfAnotherShape", {matrix(), scale("a.weight_scale", {1, 1, 1}, {3})}, {"bad scale", "got F32 [3]", "each of 4 rows"}},
      {"ScaleOfEachColumn",
       {matrix("a.weight", "I8", {2, 4}), mark(int8), scale("a.weight_scale", {1, 1, 1, 1}, {1, 4})},
       {"each of 2 rows"}},
      {"ScaleIsEmpty", {matrix(), scale("a.scale_weight", {}, {0})}, {"bad scale", "got F32 [0]"}},
      {"ScaleOfIntegers",
       {matrix(), {"a.weight_scale", "I32", {1}, std::string(4, '\1')}},
       {"bad scale", "got I32 [1]", "expected one float"}},
      {"ScaledIntegers", {matrix("a.weight", "U8"), one}, {"stored in an unknown way", "got U8"}, only},
      {"MarkIsNoJson", {matrix(), mark("format"), one}, {"a.comfy_quant", "broken JSON"}},
      {"MarkWithoutFormat", {matrix(), mark("{}"), one}, {"not supported", "got no name"}, only},
      {"AwqInt4", {matrix(), mark(R"({"format":"awq_w4a16"})"), one}, {"not supported", "awq_w4a16"}, only},
      {"ConvrotInt4", {matrix(), mark(R"({"format":"convrot_w4a4"})"), one}, {"not supported", "convrot_w4a4"}, only},
      {"SvdQuant", {matrix("a.qweight", "I8")}, {"\"a.qweight\" is int4 of AWQ or SVDQuant"}, only},
      {"LightX2vsNvfp4", {scale("a.weight_global_scale", {1}, {})}, {"LightX2V's own packing"}, only},
      {"Fp8OfAnotherType", {matrix("a.weight", "F8_E5M2"), mark(fp8), one}, {"bad dtype", "got F8_E5M2", "expected F8_E4M3"}},
      {"Int8OfAnotherType", {matrix(), mark(int8), one}, {"bad dtype", "expected I8"}},
      {"RotationOfNoPowerOfFour", {matrix("a.weight", "I8"), mark(convrot + "32}"), one}, {"bad convrot_groupsize", "got 32"}},
      {"RotationBeyondTheRow",
       {matrix("a.weight", "I8"), mark(convrot + "256}"), one},
       {"bad shape", "got [4,64]", "multiple of 256"}},
      {"RotationTooLarge", {matrix("a.weight", "I8"), mark(convrot + "4096}"), one}, {"convrot_groupsize", "4096"}},
      {"RotatedVector", {matrix("a.weight", "I8", {64}), mark(convrot + "16}"), one}, {"bad shape", "got [64]", "matrix"}},
      {"MxScalesAreTooFew",
       {matrix(), mark(mx), {"a.weight_scale", "U8", {4, 2}, std::string(8, '\x7f')}},
       {"bad scale", "got U8 [4,2]", "[128,4]"}},
      {"MxScalesOfAnotherType",
       {matrix(), mark(mx), {"a.weight_scale", "F8_E4M3", {128, 4}, std::string(512, '\x38')}},
       {"bad scale", "got F8_E4M3"}},
      {"MxRowsOfNoBlocks", {matrix("a.weight", "F8_E4M3", {4, 33}), mark(mx), tiles}, {"bad shape", "multiple of 32"}},
      {"Nvfp4WithoutItsSecondScale",
       {matrix("a.weight", "U8", {4, 32}), mark(nv), {"a.weight_scale", "F8_E4M3", {128, 4}, std::string(512, '\x38')}},
       {"missing tensor \"a.weight_scale_2\""}},
      {"Nvfp4OfBytesAsScales",
       {matrix("a.weight", "U8", {4, 32}), mark(nv), scale("a.weight_scale_2", {1}, {}), tiles},
       {"bad scale", "expected F8_E4M3 [128,4]"}},
      {"ColumnsOfAnotherNumber",
       {matrix(), mark(fp8), one, scale("a.pre_quant_scale", {1, 1}, {2})},
       {"bad scale \"a.pre_quant_scale\"", "64 columns"}},
      {"ColumnsBesideARotation",
       {matrix("a.weight", "I8"), mark(convrot + "16}"), one, scale("a.pre_quant_scale", {1}, {1})},
       {"beside a rotation"},
       only},
  };
}

class WrongScaling : public ::testing::TestWithParam<Wrong> {};

TEST_P(WrongScaling, IsOneLine) {
  const testing::TemporaryFolder folder;
  testing::write_safetensors(folder.path() / "x.safetensors", GetParam().tensors);
  try {
    const Checkpoint file(folder.path() / "x.safetensors", "part");
    FAIL() << "was accepted";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.kind(), GetParam().kind) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
    for (const std::string& piece : GetParam().pieces) EXPECT_NE(message.find(piece), std::string::npos) << message;
  }
}

INSTANTIATE_TEST_SUITE_P(Scaling, WrongScaling, ::testing::ValuesIn(wrong()), [](const auto& each) { return each.param.name; });

TEST(Scaling, ABlockScaleThatIsNoNumberIsAnErrorWhereItIsRead) {
  const testing::TemporaryFolder folder;
  std::string blocks(1024, '\x7f');
  blocks[600] = '\xff';  // of the second 128 rows
  testing::write_safetensors(
      folder.path() / "x.safetensors",
      {matrix("a.weight", "F8_E4M3", {200, 64}), mark(R"({"format":"mxfp8"})"), {"a.weight_scale", "F8_E8M0", {256, 4}, blocks}});
  const Checkpoint file(folder.path() / "x.safetensors", "part");
  const WeightPtr weight = weight_of(*file.find("a.weight"), "part");
  weight->fetch(0, 128 * 64);
  try {
    weight->fetch(128 * 64, 64);
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "[part] bad block scale in \"a.weight_scale\": got a byte that is no number, expected finite scales. Download the "
                 "file again.");
  }
}

}  // namespace
}  // namespace zoe
