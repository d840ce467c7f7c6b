#include "checkpoint/safetensors.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "testing/sparse_checkpoint.h"
#include "testing/temporary_folder.h"
#include "testing/write_safetensors.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using testing::ListedTensor;
using testing::TemporaryFolder;

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

std::vector<float> values_of(const TensorEntry& tensor, std::int64_t begin, std::int64_t count) {
  std::vector<float> out(static_cast<std::size_t>(count));
  weight_of(tensor, "file")->read(begin, count, DType::f32, out.data());
  return out;
}

TEST(Safetensors, ReadsTensorsAndMetadata) {
  const std::string header = "{\"__metadata__\":{\"format\":\"pt\"}," + testing::header_entry("scalar", "F32", {}, 20, 24) + "," +
                             testing::header_entry("matrix", "BF16", {2, 3}, 0, 12) + "," +
                             testing::header_entry("none", "F32", {0, 7}, 12, 12) + "," +
                             testing::header_entry("index", "I64", {1}, 12, 20) + "}   ";
  const std::string file =
      testing::safetensors_bytes(header, bytes_of<std::uint16_t>({0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0}) +
                                             bytes_of<std::int64_t>({42}) + bytes_of<float>({2.5f}));
  const Safetensors read = parse_safetensors(std::as_bytes(std::span(file)), "file");
  ASSERT_EQ(read.tensors.size(), 4u);
  EXPECT_EQ(read.metadata, (std::map<std::string, std::string>{{"format", "pt"}}));
  EXPECT_EQ(read.tensors[0].name, "index");
  EXPECT_EQ(read.tensors[0].dtype(), "I64");
  EXPECT_EQ(read.tensors[1].name, "matrix");
  EXPECT_EQ(read.tensors[1].shape, Shape({2, 3}));
  EXPECT_EQ(read.tensors[1].encoding->dtype, DType::bf16);
  EXPECT_EQ(values_of(read.tensors[1], 0, 6), (std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(values_of(read.tensors[1], 2, 3), (std::vector<float>{3, 4, 5}));
  EXPECT_EQ(read.tensors[2].shape, Shape({0, 7}));
  EXPECT_EQ(read.tensors[2].bytes.size(), 0u);
  EXPECT_EQ(values_of(read.tensors[2], 0, 0), std::vector<float>());
  EXPECT_EQ(read.tensors[3].shape, Shape());
  EXPECT_EQ(values_of(read.tensors[3], 0, 1), (std::vector<float>{2.5f}));
  EXPECT_THROW(weight_of(read.tensors[0], "file"), Error);
}

TEST(Safetensors, NoTensorsAtAll) {
  const std::string file = testing::safetensors_bytes("{}", "");
  EXPECT_TRUE(parse_safetensors(std::as_bytes(std::span(file)), "file").tensors.empty());
}

// A byte tensor in front and headers of every length put the weights at odd addresses.
TEST(Safetensors, ReadsWeightsAtAnyAlignment) {
  constexpr int kCount = 9000;  // more than two pieces of the aligned copy
  std::vector<std::uint16_t> bf16(kCount);
  std::vector<float> f32(kCount);
  for (int i = 0; i < kCount; ++i) {
    f32[static_cast<std::size_t>(i)] = static_cast<float>(i % 251) - 100.0f;
    bf16[static_cast<std::size_t>(i)] = f32_to_bf16(f32[static_cast<std::size_t>(i)]);
  }
  for (int padding = 0; padding < 4; ++padding) {
    const std::string header = "{" + testing::header_entry("odd", "U8", {1}, 0, 1) + "," +
                               testing::header_entry("a", "F32", {kCount}, 1, 1 + 4 * kCount) + "," +
                               testing::header_entry("b", "BF16", {kCount}, 1 + 4 * kCount, 1 + 6 * kCount) + "}" +
                               std::string(static_cast<std::size_t>(padding), ' ');
    const std::string file = testing::safetensors_bytes(header, "x" + bytes_of(f32) + bytes_of(bf16));
    const Safetensors read = parse_safetensors(std::as_bytes(std::span(file)), "file");
    EXPECT_EQ(values_of(read.tensors[0], 0, kCount), f32);
    EXPECT_EQ(values_of(read.tensors[1], 0, kCount), f32);
    EXPECT_EQ(values_of(read.tensors[1], 7, 8000), std::vector<float>(f32.begin() + 7, f32.begin() + 8007));
    std::vector<std::uint16_t> narrow(kCount);
    weight_of(read.tensors[0], "file")->read(0, kCount, DType::bf16, narrow.data());
    EXPECT_EQ(narrow, bf16);
  }
}

TEST(Checkpoint, ReadsTheEmbeddedModel) {
  const Checkpoint transformer(fs::path(ZOE_MODELS) / "toy-wan/transformer");
  EXPECT_EQ(transformer.where(), "transformer");
  EXPECT_EQ(transformer.file_names().size(), 3u);
  EXPECT_EQ(transformer.tensors().size(), 231u);
  EXPECT_EQ(transformer.parameter_count(), 9098560);
  EXPECT_EQ(transformer.size_bytes(), 18197120);
  const TensorEntry* weight = transformer.find("blocks.7.ffn.net.0.proj.weight");
  ASSERT_TRUE(weight);
  EXPECT_EQ(weight->shape, Shape({1024, 256}));
  EXPECT_EQ(transformer.find("blocks.8.ffn.net.0.proj.weight"), nullptr);
  EXPECT_EQ(Checkpoint(fs::path(ZOE_MODELS) / "toy-wan/vae/").where(), "vae");
  EXPECT_EQ(Checkpoint(fs::path(ZOE_MODELS) / "toy-wan/vae").tensors().size(), 146u);
  EXPECT_EQ(Checkpoint(fs::path(ZOE_MODELS) / "toy-wan/text_encoder").tensors().size(), 32u);
  EXPECT_EQ(Checkpoint(fs::path(ZOE_MODELS) / "toy-wan/vae/diffusion_pytorch_model.safetensors").tensors().size(), 146u);
}

void write_one(const fs::path& path, const std::string& name) {
  testing::write_safetensors(path, {{name, "F32", {1}, bytes_of<float>({1})}});
}

TEST(Checkpoint, ChoosesTheFileThatDiffusersAndTransformersChoose) {
  const TemporaryFolder folder;
  write_one(folder.path() / "model.fp16.safetensors", "variant");
  write_one(folder.path() / "shard.safetensors", "sharded");
  testing::write_bytes(folder.path() / "model.safetensors.index.json", R"({"weight_map":{"sharded":"shard.safetensors"}})");
  EXPECT_TRUE(Checkpoint(folder.path()).find("sharded"));
  write_one(folder.path() / "model.safetensors", "single");
  EXPECT_TRUE(Checkpoint(folder.path()).find("single"));
  write_one(folder.path() / "diffusion_pytorch_model.safetensors", "diffusers");
  EXPECT_TRUE(Checkpoint(folder.path()).find("diffusers"));
  testing::write_bytes(folder.path() / "diffusion_pytorch_model.safetensors.index.json",
                       R"({"weight_map":{"sharded":"shard.safetensors"}})");
  EXPECT_TRUE(Checkpoint(folder.path()).find("sharded"));
}

// The Hugging Face cache keeps files elsewhere, under their hash.
TEST(Checkpoint, ShardsMayBeLinks) {
  const TemporaryFolder folder;
  fs::create_directories(folder.path() / "blobs");
  fs::create_directories(folder.path() / "snapshot");
  write_one(folder.path() / "blobs/4a5e", "x");
  fs::create_symlink("../blobs/4a5e", folder.path() / "snapshot/model-00001-of-00001.safetensors");
  testing::write_bytes(folder.path() / "snapshot/model.safetensors.index.json",
                       R"({"weight_map":{"x":"model-00001-of-00001.safetensors"}})");
  EXPECT_TRUE(Checkpoint(folder.path() / "snapshot").find("x"));
}

TEST(Checkpoint, AnAliasStandsForItsTensorOrBesideIt) {
  const std::vector<ExpectedTensor> expected = {{"other", {1}}, {"shared.weight", {1}}};
  const std::vector<TensorAlias> aliases = {{"shared.weight", "encoder.embed_tokens.weight"}};
  for (const std::string stored : {"shared.weight", "encoder.embed_tokens.weight", "both"}) {
    const TemporaryFolder folder;
    std::vector<testing::TensorToWrite> tensors = {{"other", "F32", {1}, bytes_of<float>({1})}};
    if (stored != "encoder.embed_tokens.weight") tensors.push_back({"shared.weight", "F32", {1}, bytes_of<float>({2})});
    if (stored != "shared.weight") tensors.push_back({"encoder.embed_tokens.weight", "F32", {1}, bytes_of<float>({2})});
    testing::write_safetensors(folder.path() / "model.safetensors", tensors);
    const Checkpoint checkpoint(folder.path());
    const auto matched = match_tensors(checkpoint, expected, aliases);
    ASSERT_EQ(matched.size(), 2u);
    EXPECT_EQ(matched[0]->name, "other");
    EXPECT_EQ(matched[1]->name, stored == "both" ? "shared.weight" : stored);
  }
}

std::vector<ExpectedTensor> expected_of(const std::vector<ListedTensor>& listed) {
  std::vector<ExpectedTensor> out;
  for (const ListedTensor& tensor : listed) out.push_back({tensor.name, tensor.shape});
  return out;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Every recorded key list of a released checkpoint: as one file and as five shards, without the bytes.
TEST(Checkpoint, OpensFilesOfTheReleasedSizes) {
  int lists = 0;
  for (const fs::directory_entry& file : fs::recursive_directory_iterator(fs::path(ZOE_FIXTURES) / "checkpoints")) {
    if (file.path().filename() != "keys.txt") continue;
    SCOPED_TRACE(file.path().string());
    ++lists;
    const std::vector<ListedTensor> listed = testing::read_checkpoint_list(file.path());
    const std::vector<ExpectedTensor> expected = expected_of(listed);
    std::int64_t size_bytes = 0;
    for (const ListedTensor& tensor : listed) size_bytes += static_cast<std::int64_t>(tensor.size_bytes());
    for (const std::size_t shard_count : {1u, 5u}) {
      const TemporaryFolder folder;
      testing::write_sparse_checkpoint(folder.path(), "diffusion_pytorch_model", listed, shard_count);
      const auto start = std::chrono::steady_clock::now();
      const Checkpoint checkpoint(folder.path());
      const auto matched = match_tensors(checkpoint, expected);
      EXPECT_LT(seconds_since(start), 2.0);
      EXPECT_EQ(matched.size(), listed.size());
      EXPECT_EQ(checkpoint.size_bytes(), size_bytes);
      EXPECT_EQ(checkpoint.file_names().size(), shard_count);
      std::int64_t last = matched.back()->shape.count() - 1;
      EXPECT_EQ(values_of(*matched.back(), last, 1), std::vector<float>{0});  // the far end of the map is readable
    }
  }
  EXPECT_GE(lists, 4);
}

// The worst case for the nearest name: a thousand keys, all renamed.
TEST(Checkpoint, AnotherModelsKeysAreRefusedAtOnce) {
  std::vector<ListedTensor> listed;
  for (int block = 0; block < 100; ++block)
    for (int i = 0; i < 10; ++i)
      listed.push_back(
          {"model.transformer.blocks." + std::to_string(block) + ".self_attention.projection." + std::to_string(i) + ".weight",
           "F32",
           {8}});
  std::vector<ExpectedTensor> expected = expected_of(listed);
  for (ExpectedTensor& tensor : expected) tensor.name.replace(tensor.name.find("self_attention"), 14, "attn1");
  const TemporaryFolder folder;
  testing::write_sparse_checkpoint(folder.path(), "model", listed);
  const auto start = std::chrono::steady_clock::now();
  try {
    match_tensors(Checkpoint(folder.path(), "transformer"), expected);
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_STREQ(
        error.what(),
        "[transformer] missing tensor \"model.transformer.blocks.0.attn1.projection.0.weight\": got "
        "\"model.transformer.blocks.0.self_attention.projection.0.weight\" as the nearest unknown name, expected 1000 tensors "
        "(1000 missing, 1000 unknown). Check that the weights belong to the config.");
  }
  EXPECT_LT(seconds_since(start), 1.0);
}

}  // namespace
}  // namespace zoe
