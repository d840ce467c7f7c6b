// GGUF files: what gguf-py writes and widens (tests/fixtures/record_gguf.py), and files that are not what they say.
#include "checkpoint/gguf.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "testing/temporary_folder.h"
#include "testing/write_safetensors.h"

namespace zoe {
namespace {

std::string fixture() { return std::string(ZOE_FIXTURES) + "/checkpoints/blocks.gguf"; }

std::vector<float> read(const WeightReader& weight, std::int64_t begin, std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  weight.read(begin, count, DType::f32, values.data());
  return values;
}

class Blocks : public ::testing::TestWithParam<const char*> {};

TEST_P(Blocks, HaveTheBitsOfGgufPy) {
  const Checkpoint file(fixture());
  const TensorEntry* const entry = file.find(GetParam());
  ASSERT_TRUE(entry);
  EXPECT_EQ(entry->dtype(), GetParam());
  const TensorEntry* const widened = file.find(std::string(GetParam()) + ".f32");
  EXPECT_EQ(entry->shape, widened->shape);
  const WeightPtr weight = weight_of(*entry, "part");
  const std::int64_t count = weight->count();
  const std::vector<float> expected = read(*weight_of(*widened, "part"), 0, count);
  EXPECT_GT(*std::max_element(expected.begin(), expected.end()), 0.0f);
  const std::vector<float> got = read(*weight, 0, count);
  for (std::size_t i = 0; i < got.size(); ++i)
    ASSERT_EQ(std::bit_cast<std::uint32_t>(got[i]), std::bit_cast<std::uint32_t>(expected[i]))
        << i << ": " << got[i] << " " << expected[i];
  // Any piece is that piece of the whole, in bf16 rounded once.
  for (const auto& [begin, length] : {std::pair<std::int64_t, std::int64_t>{1, 3}, {7, count - 9}, {count - 1, 1}, {5, 0}}) {
    EXPECT_EQ(read(*weight, begin, length), std::vector<float>(got.begin() + begin, got.begin() + begin + length)) << begin;
    std::vector<std::uint16_t> narrow(static_cast<std::size_t>(length));
    weight->read(begin, length, DType::bf16, narrow.data());
    for (std::size_t i = 0; i < narrow.size(); ++i)
      ASSERT_EQ(narrow[i], f32_to_bf16(got[static_cast<std::size_t>(begin) + i])) << begin;
  }
  weight->fetch(0, count);
}

INSTANTIATE_TEST_SUITE_P(Types, Blocks,
                         ::testing::Values("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL",
                                           "IQ4_XS", "F16", "BF16"),
                         [](const auto& test) { return test.param; });

TEST(Gguf, ShapesAreOutermostFirstAndAsBeforeConversion) {
  const Checkpoint file(fixture());
  EXPECT_EQ(file.find("five")->shape, Shape({2, 3, 1, 2, 2}));
  EXPECT_EQ(file.find("flattened")->shape, Shape({2, 3, 4}));
  EXPECT_EQ(read(*weight_of(*file.find("five"), "part"), 22, 2), (std::vector<float>{22, 23}));
}

TEST(Gguf, MetadataIsText) {
  const MappedFile file(fixture());
  ASSERT_TRUE(is_gguf(file.bytes()));
  const Gguf read = parse_gguf(file.bytes(), "file");
  EXPECT_EQ(read.metadata.at("general.architecture"), "wan");
  EXPECT_EQ(read.metadata.at("test.text"), "grüße");
  EXPECT_EQ(read.metadata.at("test.number"), "0.5");
  EXPECT_EQ(read.metadata.at("test.truth"), "true");
  EXPECT_EQ(read.metadata.at("test.large"), "-1099511627776");
  EXPECT_FALSE(read.metadata.contains("test.words"));
}

// Every byte that is read was fetched before.
TEST(Gguf, FetchesWhatItReads) {
  const MappedFile file(fixture());
  std::size_t fetched = 0;
  parse_gguf(file.bytes(), "file", [&](std::size_t begin, std::size_t count) {
    EXPECT_EQ(begin, fetched);
    fetched += count;
    EXPECT_LE(fetched, file.bytes().size());
  });
  EXPECT_GT(fetched, 1000u);
}

// A file put together by hand.
struct Written {
  std::string bytes;
  template <class Number>
  Written& number(Number value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Written& text(std::string_view value) {
    number<std::uint64_t>(value.size()).bytes.append(value);
    return *this;
  }
  Written& head(std::uint64_t tensors, std::uint64_t entries, std::uint32_t version = 3) {
    bytes += "GGUF";
    return number(version).number(tensors).number(entries);
  }
  Written& tensor(std::string_view name, const std::vector<std::uint64_t>& innermost_first, std::uint32_t type,
                  std::uint64_t offset) {
    text(name).number(static_cast<std::uint32_t>(innermost_first.size()));
    for (const std::uint64_t extent : innermost_first) number(extent);
    return number(type).number(offset);
  }
  Written& data(std::size_t count, std::size_t alignment = 32) {
    bytes.resize((bytes.size() + alignment - 1) / alignment * alignment);
    bytes.append(count, '\0');
    return *this;
  }
};

std::string message_of(const std::string& bytes, ErrorKind kind = ErrorKind::invalid_argument) {
  try {
    parse_gguf(std::as_bytes(std::span(bytes)), "file");
    return "was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
}

void expect_pieces(const std::string& message, const std::vector<std::string>& pieces) {
  for (const std::string& piece : pieces) EXPECT_NE(message.find(piece), std::string::npos) << message << "\nlacks " << piece;
}

TEST(Gguf, SmallestFilesOfBothVersions) {
  for (const std::uint32_t version : {2u, 3u}) {
    const std::string bytes = Written().head(1, 0, version).tensor("a", {2}, 0, 0).data(8).bytes;
    EXPECT_EQ(parse_gguf(std::as_bytes(std::span(bytes)), "file").tensors.at(0).shape, Shape({2}));
  }
  EXPECT_TRUE(parse_gguf(std::as_bytes(std::span(Written().head(0, 0).bytes)), "file").tensors.empty());
}

TEST(Gguf, LyingFilesAreRefusedInOneLine) {
  const std::uint64_t huge = ~std::uint64_t{0};
  expect_pieces(message_of("GGUF"), {"the file ends in its version", "got 0 bytes behind byte 4"});
  expect_pieces(message_of(Written().head(0, 0, 1).bytes, ErrorKind::unsupported),
                {"GGUF version 1 is not supported", "expected 2 or 3"});
  expect_pieces(message_of(Written().head(0, 0, 0x03000000).bytes, ErrorKind::unsupported), {"little-endian"});
  expect_pieces(message_of(Written().head(huge, 0).bytes), {"too many tensors", "expected at most 100000"});
  expect_pieces(message_of(Written().head(0, huge).bytes), {"too much metadata"});
  expect_pieces(message_of(Written().head(1, 0).number(huge).bytes), {"the file ends in a tensor's name"});
  expect_pieces(message_of(Written().head(0, 1).text("k").number<std::uint32_t>(13).data(16).bytes),
                {"bad type of \"k\"", "got 13"});
  expect_pieces(message_of(Written().head(0, 1).text("k").number<std::uint32_t>(9).number<std::uint32_t>(4).number(huge).bytes),
                {"\"k\" lies beyond the end", "array of 18446744073709551615 elements"});
  expect_pieces(message_of(Written().head(0, 1).text("k").number<std::uint32_t>(9).number<std::uint32_t>(8).number(huge).bytes),
                {"the file ends in a string"});
  expect_pieces(
      message_of(Written().head(0, 1).text("k").number<std::uint32_t>(9).number<std::uint32_t>(9).number<std::uint64_t>(1).bytes,
                 ErrorKind::unsupported),
      {"array of arrays"});
  for (const std::uint32_t alignment : {0u, 24u, 1u << 20})
    expect_pieces(message_of(Written().head(0, 1).text("general.alignment").number<std::uint32_t>(4).number(alignment).bytes),
                  {"bad general.alignment"});
  expect_pieces(message_of(Written().head(1, 0).tensor("a", {1, 1, 1, 1, 1, 1, 1, 1, 1}, 0, 0).data(4).bytes),
                {"bad rank of \"a\"", "got 9"});
  expect_pieces(message_of(Written().head(1, 0).tensor("a", {huge}, 0, 0).data(4).bytes), {"bad shape of \"a\""});
  expect_pieces(message_of(Written().head(1, 0).tensor("a", {std::uint64_t{1} << 40, std::uint64_t{1} << 40}, 0, 0).data(4).bytes),
                {"bad shape of \"a\"", "fewer than 2^48 elements"});
  expect_pieces(message_of(Written().head(1, 0).tensor("a", {0, std::uint64_t{1} << 40, std::uint64_t{1} << 40}, 0, 0).bytes),
                {"bad shape of \"a\"", "got [1099511627776,1099511627776,0]", "fewer than 2^48 elements"});
  expect_pieces(message_of(Written().head(1, 0).tensor("a", {4}, 39, 0).data(4).bytes, ErrorKind::unsupported),
                {"unsupported type of \"a\"", "ggml's type 39"});
  expect_pieces(message_of(Written().head(1, 0).tensor("a", {48}, 8, 0).data(64).bytes),
                {"rows of 48", "multiple of 32, the block of Q8_0"});
  expect_pieces(message_of(Written().head(1, 0).tensor("a", {4}, 0, 8).data(64).bytes), {"bad offset of \"a\"", "multiple of 32"});
  expect_pieces(message_of(Written().head(1, 0).tensor("a", {4}, 0, 64).data(64).bytes), {"\"a\" lies beyond the end of the file"});
  expect_pieces(message_of(Written().head(1, 0).tensor("a", {4}, 0, huge - 31).data(64).bytes),
                {"\"a\" lies beyond the end of the file"});
  expect_pieces(message_of(Written().head(2, 0).tensor("a", {9}, 0, 0).tensor("b", {4}, 0, 32).data(64).bytes),
                {"\"a\" and \"b\" overlap"});
  expect_pieces(message_of(Written().head(2, 0).tensor("a", {4}, 0, 0).tensor("a", {4}, 0, 32).data(64).bytes),
                {"two tensors of one name", "a second \"a\""});
  expect_pieces(message_of(Written()
                               .head(1, 1)
                               .text("comfy.gguf.orig_shape.a")
                               .number<std::uint32_t>(9)
                               .number<std::uint32_t>(5)
                               .number<std::uint64_t>(2)
                               .number<std::int32_t>(2)
                               .number<std::int32_t>(3)
                               .tensor("a", {4}, 0, 0)
                               .data(64)
                               .bytes),
                {"bad comfy.gguf.orig_shape.a", "got [2,3]", "as many elements as [4]"});
}

// Any cut of a good file is an error, never a crash.
TEST(Gguf, CutAnywhereIsRefused) {
  const MappedFile file(fixture());
  const std::string whole(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  for (std::size_t size = 4; size < whole.size(); size += size < 4000 ? 7 : 1999)
    EXPECT_NE(message_of(whole.substr(0, size)), "was accepted");
}

TEST(Gguf, IsOpenedByWhatItIsNotByItsName) {
  const testing::TemporaryFolder folder;
  std::filesystem::copy_file(fixture(), folder.path() / "model.safetensors");
  EXPECT_TRUE(Checkpoint(folder.path()).find("Q4_K"));
}

}  // namespace
}  // namespace zoe
