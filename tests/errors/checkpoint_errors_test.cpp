// Broken, hostile and mismatched checkpoints: each is refused with one line that says where, what, got and expected.
#include <gtest/gtest.h>

#include <chrono>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "testing/temporary_folder.h"
#include "testing/write_safetensors.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using testing::header_entry;
using testing::safetensors_bytes;
using testing::write_bytes;
using testing::write_safetensors;

const std::string kSingle = "diffusion_pytorch_model.safetensors";
const std::string kIndex = "diffusion_pytorch_model.safetensors.index.json";

struct Case {
  std::string name;
  std::function<void(const fs::path&)> write;  // puts files into the folder
  std::vector<std::string> pieces;             // of the message, in this order
  ErrorKind kind = ErrorKind::invalid_argument;
  std::vector<ExpectedTensor> expected = {};
  std::vector<TensorAlias> aliases = {};
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

// A single file with this header in front of `data_bytes` zeros.
std::function<void(const fs::path&)> header(const std::string& text, std::size_t data_bytes = 0) {
  return [=](const fs::path& folder) { write_bytes(folder / kSingle, safetensors_bytes(text, std::string(data_bytes, '\0'))); };
}

// A single file with these bytes.
std::function<void(const fs::path&)> raw(const std::string& bytes) {
  return [=](const fs::path& folder) { write_bytes(folder / kSingle, bytes); };
}

// A single file with one f32 tensor [2] of each name.
std::function<void(const fs::path&)> tensors(const std::vector<std::string>& names) {
  return [=](const fs::path& folder) {
    std::vector<testing::TensorToWrite> out;
    for (const std::string& name : names) out.push_back({name, "F32", {2}, std::string(8, '\0')});
    write_safetensors(folder / kSingle, out);
  };
}

// Two shards, a.safetensors and b.safetensors with one tensor each of these names, and an index with this weight_map.
std::function<void(const fs::path&)> shards(const std::string& in_a, const std::string& in_b, const std::string& weight_map) {
  return [=](const fs::path& folder) {
    write_safetensors(folder / "a.safetensors", {{in_a, "F32", {2}, std::string(8, '\0')}});
    write_safetensors(folder / "b.safetensors", {{in_b, "F32", {2}, std::string(8, '\0')}});
    write_bytes(folder / kIndex, R"({"metadata":{"total_size":16},"weight_map":)" + weight_map + "}");
  };
}

std::string many_tensors(int count) {
  std::string out = "{";
  for (int i = 0; i < count; ++i) out += (i ? "," : "") + header_entry("t" + std::to_string(i), "F32", {0}, 0, 0);
  return out + "}";
}

std::vector<Case> cases() {
  const std::string file = "[part/" + kSingle + "]", index = "[part/" + kIndex + "]";
  return {
      // The frame around the header.
      {"EmptyFile", raw(""), {"is empty", "got 0 bytes"}},
      {"FiveBytes", raw("abcde"), {file, "no safetensors file", "got 5 bytes", "expected at least 8"}},
      {"HeaderBeyondTheFile",
       raw(std::string("\x10\0\0\0\0\0\0\0{}", 10)),
       {file, "header beyond the end", "got a header of 16", "expected at most 2"}},
      {"HeaderLengthOf64Bits",
       raw(std::string(8, '\xff') + "{}"),
       {file, "header beyond the end", "18446744073709551615", "at most 2"}},
      {"HeaderOver100MB",
       [](const fs::path& folder) {
         write_bytes(folder / kSingle, std::string("\x01\xe1\xf5\x05\0\0\0\0{}", 10));
         fs::resize_file(folder / kSingle, 200'000'000);
       },
       {file, "header too large", "got 100000001 bytes", "expected at most 100000000"}},
      {"AnotherFormat",
       raw(std::string("\x80\0\0\0\0\0\0\0", 8) + std::string(300, 'P')),
       {file, "no safetensors header", "PPPP", "expected a JSON object"}},
      // The header's JSON.
      {"EmptyHeader", header(""), {file, "no safetensors header", "got \"\"", "expected a JSON object"}},
      {"HeaderIsAnArray", header("[1,2]"), {file, "no safetensors header", "got \"[1,2]\"", "expected a JSON object"}},
      {"HeaderCutShort",
       header(R"({"a":{"dtype":"F32",)"),
       {file, "broken JSON at line 1, column 20", "got the end of the text", "expected"}},
      {"HeaderWithGarbage",
       header(R"({"a": nonsense})"),
       {file, "broken JSON at line 1", "got \"{\"a\": no\"", "expected valid JSON"}},
      {"HeaderWithZeroPadding",
       header(std::string("{}\0\0\0\0", 6)),
       {file, "broken JSON at line 1, column 3", "got a zero byte", "expected JSON text"}},
      {"HeaderNestedDeeply",
       header(R"({"a":)" + std::string(100'000, '[')),
       {file, "broken JSON", "got more than 64 levels", "expected fewer"}},
      {"HeaderInLatin1", header("{\"caf\xe9\":1}"), {file, "broken JSON", "got \"", "expected valid JSON"}},
      {"TensorTwice",
       header("{" + header_entry("a", "F32", {1}, 0, 4) + "," + header_entry("a", "F32", {1}, 4, 8) + "}", 8),
       {file, "got the key \"a\" twice", "expected every key once"}},
      {"NewlineInAKey", header(R"({"a\nb":1})"), {file, "bad a\\nb: got 1", "expected an object"}},
      // One tensor.
      {"TensorIsANumber", header(R"({"a":7})"), {file, "bad a: got 7", "expected an object"}},
      {"UnknownDType",
       header("{" + header_entry("a", "F128", {1}, 0, 16) + "}", 16),
       {file, "bad dtype of \"a\"", "got \"F128\"", "expected a safetensors type"}},
      {"DTypeIsANumber",
       header(R"({"a":{"dtype":32,"shape":[1],"data_offsets":[0,4]}})", 4),
       {file, "bad a.dtype", "got 32", "expected a string"}},
      {"NoShape",
       header(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4),
       {file, "missing a.shape", "got no such key", "expected an array of"}},
      {"NegativeExtent",
       header("{" + header_entry("a", "F32", {-1}, 0, 4) + "}", 4),
       {file, "bad a.shape[0]", "got -1", "expected an integer of at least 0"}},
      {"FractionalExtent",
       header(R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4),
       {file, "bad a.shape[0]", "got 1.0", "expected an integer"}},
      {"ExtentOf64Bits",
       header(R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]}})", 4),
       {file, "bad a.shape[0]", "got 18446744073709551615", "expected an integer"}},
      {"NineDimensions",
       header("{" + header_entry("a", "F32", {1, 1, 1, 1, 1, 1, 1, 1, 1}, 0, 4) + "}", 4),
       {file, "bad a.shape", "got an array of 9", "expected an array of 0 to 8"}},
      {"ShapeThatOverflows",
       header("{" + header_entry("a", "F32", {4294967296, 4294967296}, 0, 0) + "}"),
       {file, "bad shape of \"a\"", "got [4294967296,4294967296]", "expected fewer than 2^63 bytes"}},
      {"EmptyShapeThatOverflows",
       header("{" + header_entry("a", "F32", {0, 4294967296, 4294967296}, 0, 0) + "}"),
       {file, "bad shape of \"a\"", "got [0,4294967296,4294967296]", "expected fewer than 2^63 bytes"}},
      {"OffsetsReversed",
       header("{" + header_entry("a", "F32", {1}, 4, 0) + "}", 4),
       {file, "bad data_offsets of \"a\"", "got [4,0]", "expected begin <= end <= 4"}},
      {"OffsetsBeyondTheEnd",
       header("{" + header_entry("a", "F32", {4}, 0, 16) + "}", 12),
       {file, "bad data_offsets of \"a\"", "got [0,16]", "expected begin <= end <= 12"}},
      {"NegativeOffset",
       header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}})"),
       {file, "bad a.data_offsets[0]", "got -4", "expected an integer of at least 0"}},
      {"ThreeOffsets",
       header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 8),
       {file, "bad a.data_offsets", "got an array of 3", "expected an array of 2"}},
      {"SizeOfAnotherShape",
       header("{" + header_entry("a", "BF16", {3}, 0, 8) + "}", 8),
       {file, "bad size of \"a\"", "got 8 bytes", "expected 6 for BF16 [3]"}},
      {"UnknownField",
       header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"scale":2}})", 4),
       {file, "unknown field of \"a\"", "got \"scale\"", "expected dtype, shape and data_offsets"}},
      {"MetadataOfNumbers",
       header(R"({"__metadata__":{"format":1}})"),
       {file, "bad __metadata__.format", "got 1", "expected a string"}},
      // All tensors.
      {"Overlap",
       header("{" + header_entry("a", "F32", {2}, 0, 8) + "," + header_entry("b", "F32", {2}, 4, 12) + "}", 12),
       {file, "overlap in the data before \"b\"", "got its begin at 4", "expected 8"}},
      {"SameBytesTwice",
       header("{" + header_entry("a", "F32", {2}, 0, 8) + "," + header_entry("b", "F32", {2}, 0, 8) + "}", 8),
       {file, "overlap", "got its begin at 0", "expected 8"}},
      {"Hole",
       header("{" + header_entry("a", "F32", {1}, 0, 4) + "," + header_entry("b", "F32", {1}, 8, 12) + "}", 12),
       {file, "hole in the data before \"b\"", "got its begin at 8", "expected 4"}},
      {"TrailingBytes",
       header("{" + header_entry("a", "F32", {1}, 0, 4) + "}", 7),
       {file, "bytes behind the last tensor", "got 7 bytes", "expected 4"}},
      {"TooManyTensors", header(many_tensors(100'001)), {file, "too many tensors", "got 100001", "expected at most 100000"}},
      // The folder.
      {"NoFolder", [](const fs::path& folder) { fs::remove(folder); }, {"[part]", "no weights", "got ", "expected a folder"}},
      {"EmptyFolder",
       [](const fs::path&) {},
       {"[part]", "no weights in", "got no .safetensors file", "expected diffusion_pytorch_model.safetensors"}},
      {"WeightsAreAFolder",
       [](const fs::path& folder) { fs::create_directory(folder / kSingle); },
       {"is a folder", "expected a regular file"}},
      // The index and its shards.
      {"IndexIsBroken", shards("x", "y", R"({"x":"a.safetensors",})"), {index, "broken JSON", "expected valid JSON"}},
      {"IndexWithoutMap",
       [](const fs::path& folder) { write_bytes(folder / kIndex, R"({"metadata":{}})"); },
       {index, "missing weight_map", "expected an object"}},
      {"IndexIsEmpty", shards("x", "y", "{}"), {index, "empty weight_map", "got 0 tensors", "expected at least 1"}},
      {"KeyTwiceInIndex",
       shards("x", "y", R"({"x":"a.safetensors","x":"b.safetensors"})"),
       {index, "got the key \"x\" twice", "expected every key once"}},
      {"ShardIsANumber", shards("x", "y", R"({"x":1})"), {index, "bad weight_map.x", "got 1", "expected a string"}},
      {"ShardClimbsOut",
       shards("x", "y", R"({"x":"../part/a.safetensors"})"),
       {index, "bad shard of \"x\"", "got \"../part/a.safetensors\"", "expected the name of a .safetensors file"}},
      {"ShardIsAbsolute",
       shards("x", "y", R"({"x":"/tmp/a.safetensors"})"),
       {index, "bad shard of \"x\"", "got \"/tmp/a.safetensors\"", "expected the name"}},
      {"ShardInASubfolder",
       shards("x", "y", R"({"x":"sub/a.safetensors"})"),
       {index, "bad shard of \"x\"", "got \"sub/a.safetensors\"", "expected the name"}},
      {"ShardIsTheParent", shards("x", "y", R"({"x":".."})"), {index, "bad shard of \"x\"", "got \"..\"", "expected the name"}},
      {"ShardNameWithAZero",
       shards("x", "y", R"({"x":"a\u0000.safetensors"})"),
       {index, "bad shard of \"x\"", "got \"a\\x00.safetensors\"", "expected the name"}},
      {"ShardOfAnotherFormat",
       shards("x", "y", R"({"x":"pytorch_model.bin"})"),
       {index, "bad shard of \"x\"", "got \"pytorch_model.bin\"", "expected the name"}},
      {"MissingShard",
       shards("x", "y", R"({"x":"a.safetensors","y":"c.safetensors"})"),
       {index, "missing shard", "got no file \"c.safetensors\"", "expected 2 shards"}},
      {"KeyNotInItsShard",
       shards("x", "y", R"({"x":"a.safetensors","y":"b.safetensors","z":"b.safetensors"})"),
       {index, "tensor \"z\" is missing", "got no such tensor in b.safetensors", "expected it there"}},
      {"TensorNotInTheIndex",
       shards("x", "y", R"({"x":"a.safetensors","z":"b.safetensors"})"),
       {"[part/b.safetensors]", "tensor \"y\" is not in the index", "expected every tensor in " + kIndex}},
      {"TensorInTwoShards",
       shards("x", "x", R"({"x":"a.safetensors","y":"b.safetensors"})"),
       {"[part/b.safetensors]", "tensor \"x\" is in the wrong shard", "got it in b.safetensors", "expected it in a.safetensors"}},
      {"ShardIsBroken",
       [](const fs::path& folder) {
         shards("x", "y", R"({"x":"a.safetensors","y":"b.safetensors"})")(folder);
         fs::resize_file(folder / "b.safetensors", fs::file_size(folder / "b.safetensors") - 1);
       },
       {"[part/b.safetensors]", "bad data_offsets of \"y\"", "got [0,8]", "expected begin <= end <= 7"}},
      // What a model expects of it.
      {"MissingTensor",
       tensors({"block.0.bias"}),
       {"[part]", "missing tensor \"block.0.weight\"", "got no similar unknown name", "expected 2 tensors", "1 missing, 0 unknown"},
       ErrorKind::invalid_argument,
       {{"block.0.bias", {2}}, {"block.0.weight", {2}}}},
      {"RenamedTensor",
       tensors({"block.0.bias", "block.0.wieght", "extra"}),
       {"[part]", "missing tensor \"block.0.weight\"", "got \"block.0.wieght\" as the nearest unknown name", "expected 2 tensors",
        "1 missing, 2 unknown"},
       ErrorKind::invalid_argument,
       {{"block.0.bias", {2}}, {"block.0.weight", {2}}}},
      {"UnknownTensor",
       tensors({"block.0.bias", "block.0.bias2"}),
       {"[part]", "unknown tensor \"block.0.bias2\"", "got 2 tensors (0 missing, 1 unknown)",
        "expected 1, the nearest being \"block.0.bias\""},
       ErrorKind::invalid_argument,
       {{"block.0.bias", {2}}}},
      {"ShapeOfAnotherModel",
       tensors({"block.0.bias"}),
       {"[part]", "bad shape of \"block.0.bias\"", "got [2]", "expected [1,2]"},
       ErrorKind::invalid_argument,
       {{"block.0.bias", {1, 2}}}},
      {"IntegersAsWeights",
       header("{" + header_entry("a", "I64", {1}, 0, 8) + "}", 8),
       {"[part]", "unsupported dtype of \"a\"", "got I64", "expected floats or a block type of GGUF"},
       ErrorKind::unsupported,
       {{"a", {1}}}},
      {"AliasInAnotherShape",
       header("{" + header_entry("shared.weight", "F32", {2}, 0, 8) + "," + header_entry("tied.weight", "F32", {1}, 8, 12) + "}",
              12),
       {"[part]", "bad shape of \"tied.weight\"", "got [1]", "expected [2]"},
       ErrorKind::invalid_argument,
       {{"shared.weight", {2}}},
       {{"shared.weight", "tied.weight"}}},
  };
}

class CheckpointErrors : public ::testing::TestWithParam<Case> {};

TEST_P(CheckpointErrors, IsOneLineThatSaysWhatToExpect) {
  const testing::TemporaryFolder temporary;
  const fs::path folder = temporary.path() / "part";
  fs::create_directory(folder);
  GetParam().write(folder);
  const auto start = std::chrono::steady_clock::now();
  try {
    match_tensors(Checkpoint(folder), GetParam().expected, GetParam().aliases);
    FAIL() << "was accepted";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.kind(), GetParam().kind) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_LT(message.size(), 1000u) << message;
    EXPECT_TRUE(message.ends_with('.')) << message;
    std::size_t at = 0;
    for (const std::string& piece : GetParam().pieces) {
      at = message.find(piece, at);
      ASSERT_NE(at, std::string::npos) << "lacks " << piece << ": " << message;
    }
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

INSTANTIATE_TEST_SUITE_P(Checkpoint, CheckpointErrors, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });

#ifdef __SANITIZE_ADDRESS__
constexpr std::clock_t kMostSeconds = 25;  // the sanitizer's checks take time
#else
constexpr std::clock_t kMostSeconds = 5;
#endif

// Headers of the largest size allowed that try to cost time and memory.
TEST(HostileHeader, OfFullSizeIsRefusedWithinSeconds) {
  const std::size_t size = 100'000'000;
  const auto repeat = [&](std::string begin, std::string_view piece) {
    begin.reserve(size);
    while (begin.size() + piece.size() <= size) begin += piece;
    return begin;
  };
  for (const std::string& text : {repeat("{\"a\":[0", ",0"), repeat("{\"", "\\u00e9"), repeat("{", " "), repeat("{\"a\":", "[")}) {
    const std::string bytes = safetensors_bytes(text, "");
    const std::clock_t start = std::clock();
    try {
      parse_safetensors(std::as_bytes(std::span(bytes)), "hostile");
      FAIL() << "was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::invalid_argument) << error.what();
      EXPECT_LT(std::string_view(error.what()).size(), 1000u);
    }
    EXPECT_LT(std::clock() - start, kMostSeconds * CLOCKS_PER_SEC) << text.substr(0, 8);
  }
}

}  // namespace
}  // namespace zoe
