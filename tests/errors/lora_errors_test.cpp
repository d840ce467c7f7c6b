// Broken and foreign LoRA files: each is refused with one line that names the file and the key.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/lora.h"
#include "models/wan_dit/names.h"
#include "pipeline/lora_shelf.h"
#include "pipeline/model.h"
#include "testing/temporary_folder.h"
#include "testing/write_safetensors.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using testing::TensorToWrite;

constexpr std::int64_t kDim = 24, kFfn = 72;  // of loras/base.safetensors
const std::string kFile = "style.safetensors";

TensorToWrite tensor(const std::string& name, const Shape& shape, float value = 0.5f) {
  std::string bytes;
  for (std::int64_t i = 0; i < shape.count(); ++i) bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
  return {name, "F32", shape, bytes};
}

using Tensors = std::vector<TensorToWrite>;
const std::string kKey = "diffusion_model.blocks.0.self_attn.q";

Tensors pair(const std::string& key = kKey, std::int64_t rows = kDim, std::int64_t columns = kDim, std::int64_t rank = 2) {
  return {tensor(key + ".lora_A.weight", {rank, columns}), tensor(key + ".lora_B.weight", {rows, rank})};
}
Tensors operator+(Tensors a, const Tensors& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

struct Case {
  std::string name;
  std::function<void(const fs::path&)> write;
  std::vector<std::string> pieces;  // of the message, in this order
  ErrorKind kind = ErrorKind::invalid_argument;
  bool reads = false;  // fails when weights are read
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

Case tensors(std::string name, Tensors all, std::vector<std::string> pieces, ErrorKind kind = ErrorKind::invalid_argument) {
  return {std::move(name), [all](const fs::path& path) { testing::write_safetensors(path, all); }, std::move(pieces), kind};
}
Case bytes(std::string name, std::string all, std::vector<std::string> pieces, ErrorKind kind = ErrorKind::invalid_argument) {
  return {std::move(name), [all](const fs::path& path) { testing::write_bytes(path, all); }, std::move(pieces), kind};
}
Case metadata(std::string name, const std::string& value, std::vector<std::string> pieces) {
  const std::string text = testing::safetensors_bytes(pair());
  std::uint64_t length;
  std::memcpy(&length, text.data(), sizeof length);
  const std::string header = R"({"__metadata__":{"lora_adapter_metadata":")" + value + R"("},)" + text.substr(9, length - 1);
  return bytes(std::move(name), testing::safetensors_bytes(header, text.substr(8 + length)), std::move(pieces));
}
Case read_error(Case c) {
  c.reads = true;
  return c;
}

std::vector<Case> cases() {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  const std::string whole = testing::safetensors_bytes(pair());
  std::vector<Case> all{
      bytes("empty_file", "", {"style.safetensors is empty: got 0 bytes"}),
      bytes("four_bytes", "abcd", {"no safetensors file", "got 4 bytes"}),
      bytes("text", std::string(100, 'x'), {"header"}),
      bytes("cut", whole.substr(0, whole.size() - 4), {"[style.safetensors] ", "data_offsets"}),
      bytes("cut_header", whole.substr(0, 40), {"header beyond the end of the file"}),
      bytes("git_lfs_pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", {"Git LFS pointer"}),
      tensors("no_tensors", {}, {"no tensors", "Download or copy it again."}),
      tensors("whole_model", {tensor("blocks.0.attn1.to_q.weight", {kDim, kDim}), tensor("proj_out.bias", {16})},
              {"[style.safetensors] no LoRA", "got 2 tensors such as \"blocks.0.attn1.to_q.weight\"", "--model-path"}),
      tensors("only_a", {pair()[0]},
              {"half a pair", "\"diffusion_model.blocks.0.self_attn.q.lora_A.weight\"", "no lora_B or lora_up"}),
      tensors("only_b", {pair()[1]}, {"half a pair", "self_attn.q.lora_B.weight", "no lora_A or lora_down"}),
      tensors("only_alpha", pair("diffusion_model.blocks.1.self_attn.q") + Tensors{tensor(kKey + ".alpha", {}, 1)},
              {"half a pair", "self_attn.q.alpha", "nothing that it belongs to"}),
      tensors("only_bias_of_b", pair("diffusion_model.blocks.1.self_attn.q") + Tensors{tensor(kKey + ".lora_B.bias", {kDim})},
              {"half a pair", "lora_B.bias"}),
      tensors("only_dora_scale", pair("diffusion_model.blocks.1.self_attn.q") + Tensors{tensor(kKey + ".dora_scale", {kDim, 1})},
              {"half a pair", "dora_scale"}),
      tensors("ranks_differ", {tensor(kKey + ".lora_A.weight", {2, kDim}), tensor(kKey + ".lora_B.weight", {kDim, 3})},
              {"bad shape of \"diffusion_model.blocks.0.self_attn.q.lora_B.weight\"", "got [24,3], expected [24,2]",
               "blocks.0.attn1.to_q.weight [24,24] of transformer"}),
      tensors("another_size", pair(kKey, 5120, 5120, 4), {"bad shape of", "got [4,5120], expected [r,24]", "another size of it"}),
      tensors("another_size_of_rows", pair(kKey, 48, kDim), {"bad shape of", "got [48,2], expected [24,2]"}),
      tensors("turned", {tensor(kKey + ".lora_A.weight", {kDim, 2}), tensor(kKey + ".lora_B.weight", {2, kDim})},
              {"bad shape of", "got [24,2], expected [r,24]"}),
      tensors("vectors", {tensor(kKey + ".lora_A.weight", {kDim}), tensor(kKey + ".lora_B.weight", {kDim})},
              {"bad shape of", "got [24], expected [r,24]"}),
      tensors("rank_0", {tensor(kKey + ".lora_A.weight", {0, kDim}), tensor(kKey + ".lora_B.weight", {kDim, 0})},
              {"bad shape of", "got [0,24]"}),
      tensors("alpha_nan", pair() + Tensors{tensor(kKey + ".alpha", {}, nan)},
              {"bad value of \"diffusion_model.blocks.0.self_attn.q.alpha\"", "got nan, expected a finite number"}),
      tensors("alpha_infinite", pair() + Tensors{tensor(kKey + ".alpha", {}, infinity)}, {"bad value of", "got inf"}),
      tensors("alpha_of_wrong_shape", pair() + Tensors{tensor(kKey + ".alpha", {2}, 1)},
              {"bad shape of", "alpha", "got [2], expected one number"}),
      tensors("alpha_of_wrong_type", pair() + Tensors{{kKey + ".alpha", "BOOL", {}, "\1"}}, {"unsupported dtype of", "BOOL"},
              ErrorKind::unsupported),
      tensors("factors_of_wrong_type",
              {{kKey + ".lora_A.weight", "I8", {1, kDim}, std::string(kDim, 1)}, tensor(kKey + ".lora_B.weight", {kDim, 1})},
              {"unsupported dtype of", "I8"}, ErrorKind::unsupported),
      tensors("twice", pair() + pair("transformer.blocks.0.attn1.to_q"),
              {"two keys for one thing", "self_attn.q.lora_A.weight", "attn1.to_q.lora_A.weight", "blocks.0.attn1.to_q"}),
      tensors("difference_of_wrong_shape", {tensor("diffusion_model.blocks.0.norm3.diff", {kDim + 1})},
              {"bad shape of", "norm3.diff", "got [25], expected [24]", "blocks.0.norm2.weight"}),
      tensors("bias_difference_of_wrong_shape", {tensor(kKey + ".diff_b", {1})},
              {"bad shape of", "diff_b", "got [1], expected [24]"}),
      tensors("modulation_of_wrong_shape", {tensor("diffusion_model.blocks.0.diff_m", {1, 5, kDim})},
              {"bad shape of", "diff_m", "got [1,5,24], expected [1,6,24]"}),
      tensors("turned_difference", {tensor("diffusion_model.blocks.0.ffn.0.diff", {kDim, kFfn})},
              {"got [24,72], expected [72,24]"}),
      tensors("value_of_wrong_shape", {tensor(kKey + ".set_weight", {kDim, 1})}, {"bad shape of", "set_weight"}),
      tensors(
          "loha_without_a_factor",
          {tensor(kKey + ".hada_w1_a", {kDim, 2}), tensor(kKey + ".hada_w1_b", {2, kDim}), tensor(kKey + ".hada_w2_a", {kDim, 2})},
          {"half a pair", "hada_w1_a", "no hada_w2_b"}),
      tensors("loha_of_wrong_shape",
              {tensor(kKey + ".hada_w1_a", {kDim, 2}), tensor(kKey + ".hada_w1_b", {2, kDim}),
               tensor(kKey + ".hada_w2_a", {kDim, 2}), tensor(kKey + ".hada_w2_b", {3, kDim})},
              {"bad shape of", "hada_w2_a"}),
      tensors(
          "loha_of_a_convolution",
          {tensor(kKey + ".hada_w1_a", {kDim, 2}), tensor(kKey + ".hada_w1_b", {2, kDim}), tensor(kKey + ".hada_t1", {2, 2, 1, 1})},
          {"hada_t1\" is not supported"}, ErrorKind::unsupported),
      tensors("locon", pair() + Tensors{tensor(kKey + ".lora_mid.weight", {2, 2, 1, 1})}, {"lora_mid.weight\" is not supported"},
              ErrorKind::unsupported),
      tensors("lokr_without_w2", {tensor(kKey + ".lokr_w1", {4, 4})}, {"half a pair", "lokr_w1", "no lokr_w2"}),
      tensors("lokr_without_w1_b", {tensor(kKey + ".lokr_w1_a", {4, 2}), tensor(kKey + ".lokr_w2", {6, 6})},
              {"half a pair", "lokr_w1_a", "no lokr_w1_b"}),
      tensors("lokr_twice",
              {tensor(kKey + ".lokr_w1", {4, 4}), tensor(kKey + ".lokr_w1_a", {4, 2}), tensor(kKey + ".lokr_w2", {6, 6})},
              {"two keys for one thing", "lokr_w1\"", "lokr_w1_a\""}),
      tensors("lokr_of_another_size", {tensor(kKey + ".lokr_w1", {4, 4}), tensor(kKey + ".lokr_w2", {5, 6})},
              {"bad shape of", "got 4x4 times 5x6, expected 24x24"}),
      tensors("lokr_with_ranks_that_differ",
              {tensor(kKey + ".lokr_w1", {4, 4}), tensor(kKey + ".lokr_w2_a", {6, 2}), tensor(kKey + ".lokr_w2_b", {3, 6})},
              {"bad shape of", "lokr_w2_b", "got [3,6], expected [2,n]"}),
      tensors("lokr_empty", {tensor(kKey + ".lokr_w1", {0, 4}), tensor(kKey + ".lokr_w2", {6, 6})}, {"bad shape of", "lokr_w1"}),
      tensors("dora_of_wrong_shape", pair() + Tensors{tensor(kKey + ".dora_scale", {7, 1})},
              {"bad shape of", "dora_scale", "got [7,1]"}),
      tensors("magnitudes_of_wrong_shape", pair() + Tensors{tensor(kKey + ".lora_magnitude_vector", {7})},
              {"bad shape of", "lora_magnitude_vector", "got [7], expected [24]"}),
      metadata("metadata_no_json", "{", {"[style.safetensors, lora_adapter_metadata]"}),
      metadata("metadata_of_another_kind", R"({\"transformer.lora_alpha\": \"x\"})", {"bad transformer.lora_alpha"}),
      metadata("metadata_pattern_of_another_kind", R"({\"transformer.alpha_pattern\": {\"a\": []}})", {"bad", "alpha_pattern"}),
      read_error(tensors("factor_nan", pair() + Tensors{tensor("diffusion_model.blocks.0.norm3.diff", {kDim}, nan)},
                         {"bad value of \"diffusion_model.blocks.0.norm3.diff\"", "got nan as element 0"})),
      read_error(tensors("factor_infinite",
                         {tensor(kKey + ".lora_A.weight", {2, kDim}, infinity), tensor(kKey + ".lora_B.weight", {kDim, 2})},
                         {"bad value of", "lora_A.weight", "got inf"})),
  };
  return all;
}

void expect_pieces(const std::string& message, const std::vector<std::string>& pieces) {
  std::size_t at = 0;
  for (const std::string& piece : pieces) {
    const std::size_t found = message.find(piece, at);
    ASSERT_NE(found, std::string::npos) << piece << " in: " << message;
    at = found + piece.size();
  }
  EXPECT_EQ(message.find('\n'), std::string::npos);
}

class LoraErrors : public ::testing::TestWithParam<Case> {};

TEST_P(LoraErrors, AreOneLine) {
  const testing::TemporaryFolder folder;
  GetParam().write(folder.path() / kFile);
  const Checkpoint base(fs::path(ZOE_FIXTURES) / "loras/base.safetensors");
  std::vector<ExpectedTensor> expected;
  std::vector<TensorAlias> names;
  for (const TensorEntry& entry : base.tensors()) {
    expected.push_back({entry.name, entry.shape});
    if (const auto stored = wan_dit_original_names().stored_of(entry.name)) names.push_back({entry.name, stored->key});
  }
  try {
    const LoraFit fit = LoraFile(folder.path() / kFile).fit("transformer", expected, names, 1);
    EXPECT_TRUE(GetParam().reads);
    for (const auto& [tensor, of] : fit.changes) changed(weight_of(*base.find(tensor), "base"), fit.changes, tensor)->fetch(0, 1);
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), GetParam().kind) << error.what();
    expect_pieces(error.what(), GetParam().pieces);
  }
}
INSTANTIATE_TEST_SUITE_P(Files, LoraErrors, ::testing::ValuesIn(cases()), [](const auto& test) { return test.param.name; });

// What a request says, against the toy model (256 wide).
struct ShelfCase {
  std::string name;
  Tensors tensors;
  std::vector<std::string> pieces;
  bool allow_unused = false;
};
void PrintTo(const ShelfCase& c, std::ostream* out) { *out << c.name; }

class LoraRequests : public ::testing::TestWithParam<ShelfCase> {};

TEST_P(LoraRequests, AreRefused) {
  const testing::TemporaryFolder folder;
  testing::write_safetensors(folder.path() / kFile, GetParam().tensors);
  Request request;
  request.loras = {{(folder.path() / kFile).string(), 1}};
  request.lora_allow_unused = GetParam().allow_unused;
  try {
    LoraShelf().changes(request, read_model_config(ZOE_MODELS "/toy-wan"), {"text_encoder", "transformer", "vae"},
                        Spelling::option);
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid_argument) << error.what();
    expect_pieces(error.what(), GetParam().pieces);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Toy, LoraRequests,
    ::testing::Values(
        ShelfCase{
            "unknown_keys",
            pair(kKey, 256, 256) + pair("diffusion_model.blocks.0.cross_attn.k_img", 256, 256) + pair("lora_te1_layers_0_q", 4, 4),
            {"[style.safetensors] 4 of 6 keys mean nothing in transformer of toy-wan",
             "\"diffusion_model.blocks.0.cross_attn.k_img.lora_A.weight\"", "and 1 more", "nearest name is",
             "--lora-allow-unused"}},
        ShelfCase{"more_layers",
                  pair("diffusion_model.blocks.29.ffn.0", 1024, 256) + pair(kKey, 256, 256),
                  {"2 of 4 keys mean nothing", "blocks.29.ffn.0.lora_A.weight"}},
        ShelfCase{
            "nothing_fits", pair("unet.down_blocks.0.attentions.0.to_q", 320, 320), {"fits nothing in transformer of toy-wan"}},
        ShelfCase{"nothing_fits_though_allowed",
                  pair("unet.down_blocks.0.attentions.0.to_q", 320, 320),
                  {"fits nothing in transformer of toy-wan"},
                  true},
        ShelfCase{
            "wrong_shape_though_allowed", pair(kKey, 1536, 1536) + pair("x.y", 1, 1), {"bad shape of", "got [2,1536]"}, true}),
    [](const auto& test) { return test.param.name; });

TEST(LoraRequests, NoSuchFileIsSaid) {
  Request request;
  request.loras = {{"/nowhere/style.safetensors", 1}};
  try {
    LoraShelf().changes(request, read_model_config(ZOE_MODELS "/toy-wan"), {"transformer"}, Spelling::option);
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    expect_pieces(error.what(), {"[style.safetensors] no such file: got /nowhere/style.safetensors"});
  }
}

}  // namespace
}  // namespace zoe
