// Files of torch.save: one that PyTorch wrote (tests/fixtures/record_pytorch.py), and pickles that want more than tensors.
#include "checkpoint/pytorch.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "testing/temporary_folder.h"
#include "testing/write_safetensors.h"

namespace zoe {
namespace {

std::string fixture() { return std::string(ZOE_FIXTURES) + "/checkpoints/state.pth"; }

std::vector<float> read(const Checkpoint& file, const std::string& name) {
  const WeightPtr weight = weight_of(*file.find(name), "part");
  weight->fetch(0, weight->count());
  std::vector<float> values(static_cast<std::size_t>(weight->count()));
  weight->read(0, weight->count(), DType::f32, values.data());
  return values;
}

TEST(Pytorch, ReadsWhatTorchSaves) {
  const Checkpoint file(fixture());
  std::vector<std::string> names;
  for (const TensorEntry& tensor : file.tensors())
    names.push_back(tensor.name + " " + std::string(tensor.dtype()) + " " + tensor.shape.str());
  EXPECT_EQ(names, (std::vector<std::string>{"bf16 BF16 [1,2,3]", "f16 F16 [10]", "f32 F32 [4,6]", "f64 F64 [2]", "i64 I64 [1]",
                                             "linear.bias F32 [1]", "linear.weight F32 [1,2]", "module.weight F32 [3]",
                                             "none F32 [0,3]", "parameter F32 [2,2]", "rows F32 [2,6]", "scalar F32 []"}));
  const std::vector<float> all = read(file, "f32");
  EXPECT_EQ(read(file, "rows"), std::vector<float>(all.begin() + 6, all.begin() + 18));
  EXPECT_NEAR(all[0], -1.1258398f, 1e-6);  // of torch.randn with seed 0
  EXPECT_EQ(read(file, "f16"), (std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
  EXPECT_EQ(read(file, "bf16"), (std::vector<float>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(read(file, "f64"), (std::vector<float>{1.0f / 3, -2}));
  EXPECT_EQ(read(file, "scalar"), std::vector<float>{2.5f});
  EXPECT_EQ(read(file, "parameter"), (std::vector<float>{0.5f, 0.5f, 0.5f, 0.5f}));
  EXPECT_EQ(read(file, "linear.weight"), (std::vector<float>{3, 3}));
}

using Entries = std::vector<std::pair<std::string, std::string>>;

template <class Number>
std::string bytes_of(Number value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

// An archive with these entries, stored as they are.
std::string zip(const Entries& entries, std::uint16_t method = 0) {
  std::string file, directory;
  for (const auto& [name, bytes] : entries) {
    const auto size = static_cast<std::uint32_t>(bytes.size());
    const std::string common = bytes_of<std::uint16_t>(0) + bytes_of(method) + bytes_of<std::uint32_t>(0) +
                               bytes_of<std::uint32_t>(0) + bytes_of(size) + bytes_of(size) +
                               bytes_of(static_cast<std::uint16_t>(name.size())) + bytes_of<std::uint16_t>(0);
    directory += "PK\1\2" + bytes_of<std::uint16_t>(20) + bytes_of<std::uint16_t>(20) + common + std::string(10, '\0') +
                 bytes_of(static_cast<std::uint32_t>(file.size())) + name;
    file += "PK\3\4" + bytes_of<std::uint16_t>(20) + common + name + bytes;
  }
  const auto count = static_cast<std::uint16_t>(entries.size());
  return file + directory + "PK\5\6" + bytes_of<std::uint32_t>(0) + bytes_of(count) + bytes_of(count) +
         bytes_of(static_cast<std::uint32_t>(directory.size())) + bytes_of(static_cast<std::uint32_t>(file.size())) +
         bytes_of<std::uint16_t>(0);
}

std::string pickled(const std::string& pickle) { return zip({{"a/data.pkl", pickle}, {"a/data/0", std::string(64, '\0')}}); }

std::string text(const std::string& value) { return "X" + bytes_of(static_cast<std::uint32_t>(value.size())) + value; }

// {"x": tensor} of a storage of 16 floats.
std::string tensor_pickle(const std::string& storage_count, const std::string& first, const std::string& extents,
                          const std::string& strides) {
  return "\x80\x02}" + text("x") + "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "ctorch\nFloatStorage\n" +
         text("0") + text("cpu") + storage_count + "tQ" + first + extents + strides + "\x89N" + "tRs.";
}

std::string message_of(const std::string& bytes, ErrorKind kind = ErrorKind::invalid_argument) {
  try {
    parse_pytorch(std::as_bytes(std::span(bytes)), "file");
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

TEST(Pytorch, ReadsAHandWrittenFile) {
  const std::string bytes = pickled(tensor_pickle("K\x10", "K\x02", "K\x02K\x03\x86", "K\x03K\x01\x86"));
  const auto tensors = parse_pytorch(std::as_bytes(std::span(bytes)), "file");
  ASSERT_EQ(tensors.size(), 1u);
  EXPECT_EQ(tensors[0].shape, Shape({2, 3}));
  EXPECT_EQ(tensors[0].bytes.size(), 24u);
}

TEST(Pytorch, NamesThatNoCheckpointNeedsAreRefusedByName) {
  for (const auto& [module, name] : {std::pair<std::string, std::string>{"os", "system"},
                                     {"builtins", "eval"},
                                     {"posix", "system"},
                                     {"torch._utils", "_rebuild_sparse_tensor"},
                                     {"numpy.core.multiarray", "_reconstruct"}}) {
    const std::string full = "the pickle asks for \"" + module + "." + name + "\"";
    const std::string run = "(" + text("touch /tmp/x") + "tR.";
    expect_pieces(message_of(pickled("\x80\x02"
                                     "c" +
                                     module + "\n" + name + "\n" + run),
                             ErrorKind::unsupported),
                  {full, "It was not run"});
    expect_pieces(message_of(pickled("\x80\x04" + text(module) + text(name) + "\x93" + run), ErrorKind::unsupported), {full});
  }
  // Opcodes that make objects without naming them in these ways are not known at all.
  for (const char opcode : {'i', 'o', '\x81', '\x92', 'P', '\x82', 'I', 'S', 'V', 'd', 'l', '2'})
    expect_pieces(message_of(pickled(std::string("\x80\x02") + opcode + "os\nsystem\n.")), {"broken pickle: got opcode 0x"});
}

TEST(Pytorch, BrokenPicklesAreRefusedInOneLine) {
  expect_pieces(message_of(pickled("")), {"broken pickle: got its end at byte 0"});
  expect_pieces(message_of(pickled("\x80\x09.")), {"an unknown protocol"});
  expect_pieces(message_of(pickled("\x80\x02.")), {"an empty stack"});
  expect_pieces(message_of(pickled("\x80\x02t.")), {"no mark"});
  expect_pieces(message_of(pickled("\x80\x02h\x05.")), {"a memo that was never set"});
  expect_pieces(message_of(pickled("\x80\x02K\x01K\x02"
                                   "a.")),
                {"elements of no container"});
  expect_pieces(message_of(pickled("\x80\x02}(K\x01u.")), {"elements of no container"});
  expect_pieces(message_of(pickled("\x80\x02K\x01Q.")), {"no tuple of that length"});
  expect_pieces(message_of(pickled("\x80\x02X\xff\xff\xff\x7f.")), {"its end"});
  expect_pieces(message_of(pickled("\x80\x02\x8a\x09"
                                   "123456789.")),
                {"an integer of more than 8 bytes"});
  expect_pieces(message_of(pickled("\x80\x02"
                                   "ccollections\nOrderedDict\nK\x01\x85R.")),
                {"an OrderedDict with arguments"});
  expect_pieces(message_of(pickled("\x80\x02K\x07.")), {"no dict of tensors"});
  expect_pieces(message_of(pickled("\x80\x02}.")), {"no tensors"});
  const std::string one = "K\x01\x85";
  expect_pieces(message_of(pickled(tensor_pickle("K\x10", "K\x10", one, one))), {"a tensor beyond its storage"});
  expect_pieces(message_of(pickled(tensor_pickle("K\x10", "J\xff\xff\xff\xff", one, one))), {"a tensor beyond its storage"});
  expect_pieces(message_of(pickled(tensor_pickle("K\x11", "K\x01", one, one))),
                {"bad storage of \"x\"", "got 64 bytes", "17 elements of F32"});
  expect_pieces(message_of(pickled(tensor_pickle("K\x10", "K\x01", "K\x01\x85", ")"))), {"bad extents"});
  expect_pieces(message_of(pickled(tensor_pickle("K\x10", "K\x01", "J\xff\xff\xff\xff\x85", one))), {"bad extents"});
  const std::string huge("\x8a\x06\0\0\0\0\0\x01", 8), zero("K\0", 2);
  expect_pieces(message_of(pickled(tensor_pickle("K\x10", "K\x01", huge + huge + zero + "\x87", "K\x01K\x01K\x01\x87"))),
                {"bad extents"});
  expect_pieces(message_of(pickled(tensor_pickle("K\x10", "K\x01", "K\x02K\x03\x86", "K\x01K\x02\x86")), ErrorKind::unsupported),
                {"a tensor of [2,3] is not contiguous", ".contiguous()"});
}

// Lists of lists of lists double what they hold at each step without holding more bytes; dicts in themselves have no end.
TEST(Pytorch, MemoBombsAreBounded) {
  std::string bomb = "\x80\x02}q";
  bomb += '\0';
  bomb += text("x") + "K\x01s.";
  expect_pieces(message_of(pickled(bomb)), {"no tensors"});
  std::string loop = "\x80\x02}q";
  loop += '\0';
  loop += text("x") + "h" + '\0' + "s.";
  expect_pieces(message_of(pickled(loop)), {"dicts are nested too deep"});
  // Fifteen dicts, each holding the one before ten times: 10^15 tensors.
  std::string wide = "\x80\x02}q" + std::string(1, '\0') + "0";
  for (int level = 1; level < 15; ++level) {
    wide += "}q" + std::string(1, static_cast<char>(level));
    for (int i = 0; i < 10; ++i)
      wide += text(std::string(1, static_cast<char>('a' + i))) + "h" + static_cast<char>(level - 1) + "s";
    wide += "0";
  }
  expect_pieces(message_of(pickled(wide + "h\x0e.")), {"too many tensors"});
  std::string marks = "\x80\x02K\x01q" + std::string(1, '\0') + "0(";
  for (int i = 0; i < 1'100'000; ++i) marks += std::string("h") + '\0';
  expect_pieces(message_of(pickled(marks + "t.")), {"too many values"});
}

TEST(Pytorch, BrokenArchivesAreRefusedInOneLine) {
  expect_pieces(message_of("PK\3\4"), {"no zip archive", "got 4 bytes"});
  expect_pieces(message_of("PK\3\4" + std::string(100, 'x')), {"no directory at its end"});
  expect_pieces(message_of(zip({{"a/other", "x"}})), {"no data.pkl"});
  expect_pieces(message_of(zip({{"a/data.pkl", "\x80\x02}."}}, 8), ErrorKind::unsupported), {"\"a/data.pkl\" is compressed"});
  expect_pieces(message_of(zip({{"a/data.pkl", "\x80\x02}."}, {"a/byteorder", "big"}}), ErrorKind::unsupported),
                {"byte order \"big\""});
  const MappedFile file(fixture());
  const std::string whole(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  for (std::size_t size = 4; size < whole.size(); size += 13) EXPECT_NE(message_of(whole.substr(0, size)), "was accepted");
}

}  // namespace
}  // namespace zoe
