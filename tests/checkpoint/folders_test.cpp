// Folders as tools write them, and files that change while they are read.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/component_weights.h"
#include "testing/temporary_folder.h"
#include "testing/write_safetensors.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using testing::TemporaryFolder;
using testing::TensorToWrite;

// What is logged while it lives.
struct Notices {
  std::vector<std::string> lines;
  const LogScope scope{[this](LogLevel level, std::string_view message) {
    if (level == LogLevel::notice) lines.emplace_back(message);
  }};
};

TensorToWrite tensor(const std::string& name, float value, std::int64_t count = 1) {
  const std::vector<float> values(static_cast<std::size_t>(count), value);
  return {name, "F32", {count}, {reinterpret_cast<const char*>(values.data()), values.size() * 4}};
}

float first_value(const WeightReader& weight) {
  float value = 0;
  weight.read(0, 1, DType::f32, &value);
  return value;
}

template <class Action>
void expect_error(const Action& action, ErrorKind kind, const std::vector<std::string>& pieces) {
  try {
    action();
    FAIL() << "no error; expected " << pieces.front();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    for (const std::string& piece : pieces) EXPECT_NE(std::string(error.what()).find(piece), std::string::npos) << error.what();
  }
}

TEST(Variants, TheOnlyOneIsReadWithANotice) {
  for (const std::string name :
       {"diffusion_pytorch_model.fp16.safetensors", "model.fp16.safetensors", "model.fp8_e4m3.safetensors"}) {
    const TemporaryFolder folder;
    testing::write_safetensors(folder.path() / name, {tensor("x", 1)});
    testing::write_safetensors(folder.path() / "other.safetensors", {tensor("y", 1)});
    const Notices notices;
    EXPECT_TRUE(Checkpoint(folder.path(), "vae").find("x")) << name;
    EXPECT_EQ(notices.lines, std::vector<std::string>{"vae: " + name + " is read, as there are no weights of the plain name."});
  }
}

TEST(Variants, MayBeSharded) {
  const TemporaryFolder folder;
  testing::write_safetensors(folder.path() / "model.fp16-00001-of-00002.safetensors", {tensor("x", 1)});
  testing::write_safetensors(folder.path() / "model.fp16-00002-of-00002.safetensors", {tensor("y", 2)});
  testing::write_bytes(
      folder.path() / "model.safetensors.index.fp16.json",
      R"({"weight_map":{"x":"model.fp16-00001-of-00002.safetensors","y":"model.fp16-00002-of-00002.safetensors"}})");
  const Checkpoint checkpoint(folder.path());
  EXPECT_TRUE(checkpoint.find("x") && checkpoint.find("y"));
}

TEST(Variants, ThePlainNameComesFirstAndOfSeveralNoneIsTaken) {
  const TemporaryFolder folder;
  testing::write_safetensors(folder.path() / "model.fp16.safetensors", {tensor("narrow", 1)});
  testing::write_safetensors(folder.path() / "model.bf16.safetensors", {tensor("other", 1)});
  expect_error(
      [&] { Checkpoint(folder.path(), "vae"); }, ErrorKind::invalid_argument,
      {"[vae] several variants of the weights", "got \"model.bf16.safetensors\" and \"model.fp16.safetensors\"", "expected one"});
  testing::write_safetensors(folder.path() / "model.safetensors", {tensor("plain", 1)});
  EXPECT_TRUE(Checkpoint(folder.path()).find("plain"));
}

TEST(Match, TensorsThatNoModelOfThisKindHasAreNamedAndPassedOver) {
  const TemporaryFolder folder;
  const std::vector<ExpectedTensor> expected{{"encoder.block.0.weight", {1}}};
  const fs::path file = folder.path() / "model.safetensors";
  const std::vector<TensorToWrite> tensors{tensor("encoder.block.0.weight", 1), tensor("lm_head.weight", 2)};
  testing::write_safetensors(file, tensors);
  {
    const Notices notices;
    EXPECT_EQ(match_tensors(Checkpoint(folder.path(), "text_encoder"), expected).size(), 1u);
    EXPECT_EQ(notices.lines,
              std::vector<std::string>{"text_encoder: \"lm_head.weight\" is not read: the model has no such tensor."});
  }
  testing::write_safetensors(file, {tensors[0], tensors[1], {"ema_decay", "F64", {}, std::string(8, '\0')}});
  {
    const Notices notices;
    match_tensors(Checkpoint(folder.path(), "text_encoder"), expected);
    EXPECT_EQ(notices.lines,
              std::vector<std::string>{"text_encoder: \"ema_decay\" and 1 more are not read: the model has no such tensor."});
  }
  // One more layer than the config says is not passed over: the file is of another model.
  testing::write_safetensors(file, {tensors[0], tensor("encoder.block.1.weight", 2)});
  expect_error([&] { match_tensors(Checkpoint(folder.path(), "text_encoder"), expected); }, ErrorKind::invalid_argument,
               {"unknown tensor \"encoder.block.1.weight\"", "0 missing, 1 unknown"});
}

TEST(Match, OfTwoEmbeddingsTheOneThatTheModelReadsIsTakenAndTheDifferenceIsSaid) {
  const std::vector<ExpectedTensor> expected{{"shared.weight", {40'000}}};
  for (const bool alias_first : {false, true})
    for (const bool differ : {false, true}) {
      const TemporaryFolder folder;
      testing::write_safetensors(
          folder.path() / "model.safetensors",
          {tensor("shared.weight", 2, 40'000), tensor("encoder.embed_tokens.weight", differ ? 3 : 2, 40'000)});
      const std::vector<TensorAlias> aliases{{"shared.weight", "encoder.embed_tokens.weight", alias_first}};
      const Checkpoint checkpoint(folder.path(), "text_encoder");
      const Notices notices;
      const std::string taken = alias_first ? "encoder.embed_tokens.weight" : "shared.weight";
      EXPECT_EQ(match_tensors(checkpoint, expected, aliases).front()->name, taken);
      EXPECT_EQ(notices.lines,
                differ ? std::vector<std::string>{"text_encoder: shared.weight and encoder.embed_tokens.weight differ; " + taken +
                                                  " is taken."}
                       : std::vector<std::string>{});
      EXPECT_EQ(first_value(*ComponentWeights(checkpoint, expected, aliases)("shared.weight")),
                differ && alias_first ? 3.0f : 2.0f);
    }
}

TEST(Shards, AGitLfsPointerIsSaidToBeOne) {
  const TemporaryFolder folder;
  testing::write_bytes(folder.path() / "model.safetensors",
                       "version https://git-lfs.github.com/spec/v1\noid sha256:" + std::string(64, '0') + "\nsize 507591892\n");
  expect_error([&] { Checkpoint(folder.path(), "vae"); }, ErrorKind::invalid_argument,
               {"[vae/model.safetensors]", "got a Git LFS pointer of 134 bytes", "git lfs pull"});
}

TEST(HubCache, TheSnapshotOfMainOrTheOnlyOneIsTaken) {
  const TemporaryFolder folder;
  const fs::path cache = folder.path() / "models--owner--name";
  EXPECT_EQ(resolve_snapshot(folder.path()), folder.path());
  fs::create_directories(cache / "snapshots/aaaa");
  EXPECT_EQ(resolve_snapshot(cache), cache / "snapshots/aaaa");
  fs::create_directories(cache / "snapshots/bbbb");
  expect_error([&] { resolve_snapshot(cache); }, ErrorKind::invalid_argument,
               {"[models--owner--name]", "got 2 revisions", "expected one"});
  fs::create_directories(cache / "refs");
  testing::write_bytes(cache / "refs/main", "bbbb\n");
  EXPECT_EQ(resolve_snapshot(cache), cache / "snapshots/bbbb");
  testing::write_bytes(cache / "refs/main", "../..");
  expect_error([&] { resolve_snapshot(cache); }, ErrorKind::invalid_argument, {"got 2 revisions"});
}

TEST(ComponentWeights, KeepTheirFilesMappedWhoeverGoesFirst) {
  WeightPtr weight;
  {
    const TemporaryFolder folder;
    testing::write_safetensors(folder.path() / "model.safetensors", {tensor("a", 5), tensor("b", 6)});
    const std::vector<ExpectedTensor> expected{{"b", {1}}, {"a", {1}}};
    const ComponentWeights weights(Checkpoint(folder.path(), "vae"), expected);
    EXPECT_EQ(weights.where(), "vae");
    EXPECT_EQ(weights.parameter_count(), 2);
    EXPECT_EQ(weights.stored_bytes(), 8);
    weight = weights("b");
    expect_error([&] { weights("c"); }, ErrorKind::internal, {"[vae] no tensor \"c\""});
  }
  weight->fetch(0, 1);
  EXPECT_EQ(first_value(*weight), 6);
}

TEST(ComponentWeights, MadeUpOnesHaveEveryExpectedTensor) {
  const std::vector<ExpectedTensor> expected{{"a.weight", {4, 8}}, {"a.bias", {4}}};
  const ComponentWeights weights("transformer", expected, 3), same("transformer", expected, 3);
  EXPECT_EQ(weights.parameter_count(), 36);
  EXPECT_EQ(weights("a.weight")->shape(), Shape({4, 8}));
  EXPECT_EQ(first_value(*weights("a.weight")), first_value(*same("a.weight")));
}

// A file that shrinks behind its map would end the process where it is touched; fetching it is an error instead.
TEST(Fetch, AFileThatWasCutIsAnErrorNotASignal) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "model.safetensors";
  constexpr std::int64_t kCount = 3 << 20;  // 12 MiB: several pieces
  testing::write_safetensors(path, {tensor("x", 1, kCount)});
  const Checkpoint checkpoint(folder.path(), "vae");
  const WeightPtr weight = weight_of(*checkpoint.find("x"), "vae");
  weight->fetch(0, kCount);
  const std::string size = std::to_string(fs::file_size(path));
  fs::resize_file(path, 6 << 20);
  expect_error([&] { weight->fetch(0, kCount); }, ErrorKind::io,
               {"[file]", path.string() + " was cut while it was read", "got 6291456 bytes", "expected " + size});
  expect_error([&] { weight->fetch(kCount - 1, 1); }, ErrorKind::io, {"was cut"});
  fs::resize_file(path, 0);
  expect_error([&] { weight->fetch(0, 1); }, ErrorKind::io, {"got 0 bytes"});
}

TEST(Fetch, GatheringRowsOfACutTableIsAnErrorToo) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "model.safetensors";
  std::vector<float> table(1024 * 1024);
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = static_cast<float>(i / 1024);
  testing::write_safetensors(path, {{"x", "F32", {1024, 1024}, {reinterpret_cast<const char*>(table.data()), table.size() * 4}}});
  const Checkpoint checkpoint(folder.path(), "vae");
  const WeightPtr weight = weight_of(*checkpoint.find("x"), "vae");
  const std::vector<std::int32_t> rows{1023, 0, 5};
  const std::vector<float> gathered = gather_rows(*weight, rows);
  ASSERT_EQ(gathered.size(), 3u * 1024);
  for (std::size_t i = 0; i < gathered.size(); ++i) ASSERT_EQ(gathered[i], static_cast<float>(rows[i / 1024]));
  fs::resize_file(path, 1 << 20);
  expect_error([&] { gather_rows(*weight, rows); }, ErrorKind::io, {"was cut"});
}

}  // namespace
}  // namespace zoe
