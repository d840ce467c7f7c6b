// Layouts found from keys and shapes: names as Diffusers' own converters have them, published members of every layout without their
// bytes, and files that are wrong.
#include "models/layouts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "models/umt5/config.h"
#include "models/umt5/names.h"
#include "models/wan_dit/config.h"
#include "models/wan_dit/names.h"
#include "models/wan_vae/config.h"
#include "models/wan_vae/names.h"
#include "testing/sparse_checkpoint.h"
#include "testing/temporary_folder.h"
#include "testing/write_gguf.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using testing::ListedTensor;
using testing::TemporaryFolder;

const fs::path kLists = fs::path(ZOE_FIXTURES) / "checkpoints";

// original -> Diffusers, by part.
std::multimap<std::string, std::string> recorded_names(const std::string& part) {
  std::ifstream file(kLists / "original_names.txt");
  std::multimap<std::string, std::string> out;
  for (std::string kind, stored, name; file >> kind >> stored >> name;)
    if (kind == part) out.emplace(stored, name);
  return out;
}

TEST(Layouts, NamesAreThoseOfDiffusersOwnConverters) {
  const auto dit = recorded_names("transformer"), vae = recorded_names("vae");
  EXPECT_EQ(vae.size(), 194u);
  ASSERT_GT(dit.size(), 160u);
  const std::shared_ptr<const NameMap> vae_names =
      wan_vae_original_names([&](std::string_view key) { return vae.contains(std::string(key)); });
  for (const auto& [names, recorded] : {std::pair{&wan_dit_original_names(), &dit}, std::pair{&*vae_names, &vae}})
    for (const auto& [stored, name] : *recorded) {
      ASSERT_TRUE(names->stored_of(name)) << name;
      EXPECT_EQ(names->stored_of(name)->key, stored);
      const auto back = names->names_of(stored);
      EXPECT_EQ(back.size(), recorded->count(stored)) << stored;
      EXPECT_NE(std::find(back.begin(), back.end(), name), back.end()) << stored;
    }
}

// A published transformer, as in Diffusers' files.
struct Member {
  std::string name;
  std::int64_t heads, ffn, layers, in, out;
  bool image, first_and_last;
  int hints;
  std::size_t tensors;
};
void PrintTo(const Member& member, std::ostream* out) { *out << member.name; }

std::vector<ListedTensor> tensors_of(const Member& member) {
  const WanDitConfig config = parse_wan_dit_config(parse_json_object(
      fmt::format(R"({{"num_attention_heads": {}, "ffn_dim": {}, "num_layers": {}, "in_channels": {}, "out_channels": {}}})",
                  member.heads, member.ffn, member.layers, member.out, member.out),
      "member"));
  const std::int64_t dim = config.dim();
  std::vector<ListedTensor> out;
  for (const ExpectedTensor& tensor : wan_dit_tensors(config)) out.push_back({tensor.name, "F16", tensor.shape});
  const auto add = [&](const std::string& name, Shape shape) { out.push_back({name, "F16", std::move(shape)}); };
  const auto linear = [&](const std::string& name, std::int64_t to, std::int64_t from) {
    add(name + ".weight", {to, from});
    add(name + ".bias", {to});
  };
  for (ListedTensor& tensor : out)
    if (tensor.name == "patch_embedding.weight") tensor.shape = Shape{dim, member.in, 1, 2, 2};
  if (member.image) {
    const std::string image = "condition_embedder.image_embedder.";
    for (const auto& [norm, width] : {std::pair<std::string, std::int64_t>{"norm1", 1280}, {"norm2", dim}})
      for (const char* const kind : {".weight", ".bias"}) add(image + norm + kind, {width});
    linear(image + "ff.net.0.proj", 1280, 1280);
    linear(image + "ff.net.2", dim, 1280);
    if (member.first_and_last) add(image + "pos_embed", {1, 514, 1280});
    for (std::int64_t i = 0; i < member.layers; ++i) {
      const std::string attention = fmt::format("blocks.{}.attn2.", i);
      linear(attention + "add_k_proj", dim, dim);
      linear(attention + "add_v_proj", dim, dim);
      add(attention + "norm_added_k.weight", {dim});
    }
  }
  if (member.hints) {
    add("vace_patch_embedding.weight", {dim, 96, 1, 2, 2});
    add("vace_patch_embedding.bias", {dim});
    const std::vector<ListedTensor> plain = out;
    for (int i = 0; i < member.hints; ++i) {
      for (const ListedTensor& tensor : plain)
        if (tensor.name.starts_with("blocks.0.")) add(fmt::format("vace_blocks.{}.{}", i, tensor.name.substr(9)), tensor.shape);
      linear(fmt::format("vace_blocks.{}.proj_out", i), dim, dim);
    }
    linear("vace_blocks.0.proj_in", dim, dim);
  }
  return out;
}

class PublishedTransformer : public ::testing::TestWithParam<Member> {};

TEST_P(PublishedTransformer, IsKnownInEveryLayout) {
  const Member& member = GetParam();
  const std::vector<ListedTensor> tensors = tensors_of(member);
  EXPECT_EQ(tensors.size(), member.tensors);
  for (const std::string layout : {"Diffusers", "original Wan"})
    for (const std::string prefix : {"", "model.diffusion_model.", "diffusion_model.", "model.", "net."}) {
      SCOPED_TRACE(layout + " " + prefix);
      std::vector<ListedTensor> stored = tensors;
      for (ListedTensor& tensor : stored)
        tensor.name = prefix + (layout == "Diffusers" ? tensor.name : wan_dit_original_names().stored_of(tensor.name).value().key);
      const TemporaryFolder folder;
      testing::write_sparse_safetensors(folder.path() / "x.safetensors", stored);
      const Checkpoint file(folder.path() / "x.safetensors", "transformer");
      const std::vector<FoundLayout> found = find_layouts(file);
      ASSERT_EQ(found.size(), 1u);
      EXPECT_EQ(found[0].layout->part, "transformer");
      EXPECT_EQ(found[0].layout->name, layout);
      EXPECT_EQ(found[0].keys.prefix, prefix);
      const FoundConfig config = infer_config(file, found[0]);
      EXPECT_NE(config.assumed.find("heads of 128"), std::string::npos);
      const auto number = [&](std::string_view key) { return config.json.integer(key, 0, 1 << 20); };
      EXPECT_EQ(number("num_attention_heads"), member.heads);
      EXPECT_EQ(number("ffn_dim"), member.ffn);
      EXPECT_EQ(number("num_layers"), member.layers);
      EXPECT_EQ(number("in_channels"), member.in);
      EXPECT_EQ(number("out_channels"), member.out);
      EXPECT_EQ(number("text_dim"), 4096);
      EXPECT_EQ(number("freq_dim"), 256);
      EXPECT_EQ(config.json.has("image_dim"), member.image);
      EXPECT_EQ(config.json.has("added_kv_proj_dim"), member.image);
      EXPECT_EQ(config.json.integer("pos_embed_seq_len", 0, 1000, 0), member.first_and_last ? 514 : 0);
      EXPECT_EQ(config.json.string("_class_name"), member.hints ? "WanVACETransformer3DModel" : "WanTransformer3DModel");
      if (member.hints) {
        const auto layers = config.json.integers("vace_layers", 0, 100, 1, 100);
        EXPECT_EQ(layers.size(), static_cast<std::size_t>(member.hints));
        EXPECT_EQ(layers.back(), member.layers - member.layers / member.hints);
        EXPECT_EQ(number("vace_in_channels"), 96);
      }
      std::vector<ExpectedTensor> expected;
      for (const ListedTensor& tensor : tensors) expected.push_back({tensor.name, tensor.shape});
      EXPECT_EQ(match_tensors(file, expected, {}, found[0].keys).size(), tensors.size());
      if (layout != "Diffusers" || !prefix.empty()) continue;
      // What the graphs of that configuration ask for is what the file holds.
      std::map<std::string, std::string> asked, held;
      for (const ExpectedTensor& tensor : wan_dit_tensors(parse_wan_dit_config(config.json)))
        asked[tensor.name] = tensor.shape.str();
      for (const ListedTensor& tensor : tensors) held[tensor.name] = tensor.shape.str();
      EXPECT_EQ(asked, held);
    }
}

INSTANTIATE_TEST_SUITE_P(Layouts, PublishedTransformer,
                         ::testing::Values(Member{"T2V_1_3B", 12, 8960, 30, 16, 16, false, false, 0, 825},
                                           Member{"T2V_14B", 40, 13824, 40, 16, 16, false, false, 0, 1095},
                                           Member{"I2V_14B", 40, 13824, 40, 36, 16, true, false, 0, 1303},
                                           Member{"FLF2V_14B", 40, 13824, 40, 36, 16, true, true, 0, 1304},
                                           Member{"I2V_A14B", 40, 13824, 40, 36, 16, false, false, 0, 1095},
                                           Member{"TI2V_5B", 24, 14336, 30, 48, 48, false, false, 0, 825},
                                           Member{"VACE_1_3B", 12, 8960, 30, 16, 16, false, false, 15, 1264},
                                           Member{"VACE_14B", 40, 13824, 40, 16, 16, false, false, 8, 1331}),
                         [](const auto& each) { return each.param.name; });

TEST(Layouts, TheTextEncoderIsKnownInEveryLayout) {
  const std::vector<ListedTensor> tensors = testing::read_checkpoint_list(kLists / "umt5-xxl/keys.txt");
  const std::vector<std::pair<std::string, const NameMap*>> layouts{
      {"Transformers", nullptr}, {"original umT5", &umt5_original_names()}, {"llama.cpp", &umt5_llama_names()}};
  for (const auto& [layout, names] : layouts) {
    SCOPED_TRACE(layout);
    std::vector<ListedTensor> stored;
    for (const ListedTensor& tensor : tensors) {
      if (tensor.name == "encoder.embed_tokens.weight" && names) continue;
      stored.push_back(tensor);
      if (names) stored.back().name = names->stored_of(tensor.name).value().key;
    }
    const TemporaryFolder folder;
    testing::write_sparse_safetensors(folder.path() / "x.safetensors", stored);
    const Checkpoint file(folder.path() / "x.safetensors", "text_encoder");
    const std::vector<FoundLayout> found = find_layouts(file);
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(found[0].layout->name, layout);
    const Umt5Config config = parse_umt5_config(infer_config(file, found[0]).json);
    EXPECT_EQ(config.vocab_size, 256384);
    EXPECT_EQ(config.d_model, 4096);
    EXPECT_EQ(config.d_ff, 10240);
    EXPECT_EQ(config.num_heads, 64);
    EXPECT_EQ(config.d_kv, 64);
    EXPECT_EQ(config.num_layers, 24);
    EXPECT_EQ(config.buckets, 32);
    EXPECT_EQ(match_tensors(file, umt5_tensors(config), umt5_aliases(config), found[0].keys).size(), 242u);
  }
}

TEST(Layouts, TheVaeIsKnownInEveryLayout) {
  std::map<std::string, std::string> original;
  for (const auto& [stored, name] : recorded_names("vae")) original[name] = stored;
  const std::vector<ListedTensor> tensors = testing::read_checkpoint_list(kLists / "wan2.1-vae/keys.txt");
  for (const bool is_original : {false, true}) {
    std::vector<ListedTensor> stored = tensors;
    if (is_original)
      for (ListedTensor& tensor : stored) tensor.name = original.at(tensor.name);
    const TemporaryFolder folder;
    testing::write_sparse_safetensors(folder.path() / "x.safetensors", stored);
    const Checkpoint file(folder.path() / "x.safetensors", "vae");
    const std::vector<FoundLayout> found = find_layouts(file);
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(found[0].layout->name, is_original ? "original Wan" : "Diffusers");
    const WanVaeConfig config = parse_wan_vae_config(infer_config(file, found[0]).json),
                       published = parse_wan_vae_config(parse_json_object("{}", "vae"));
    EXPECT_EQ(config.base_dim, published.base_dim);
    EXPECT_EQ(config.z_dim, published.z_dim);
    EXPECT_EQ(config.dim_mult, published.dim_mult);
    EXPECT_EQ(config.num_res_blocks, published.num_res_blocks);
    EXPECT_EQ(config.temporal_downsample, published.temporal_downsample);
    EXPECT_EQ(config.latents_std, published.latents_std);
    EXPECT_EQ(match_tensors(file, wan_vae_tensors(config), {}, found[0].keys).size(), 194u);
  }
}

// --- Small ones

ListedTensor listed(const std::string& name, Shape shape) { return {name, "F32", std::move(shape)}; }

// The smallest transformer in the original names: one head, one layer.
std::vector<ListedTensor> small(const std::string& prefix = {}) {
  const WanDitConfig config = parse_wan_dit_config(parse_json_object(
      R"({"num_attention_heads": 1, "ffn_dim": 8, "num_layers": 1, "in_channels": 4, "out_channels": 4, "text_dim": 8, "freq_dim": 4})",
      "small"));
  std::vector<ListedTensor> out;
  for (const ExpectedTensor& tensor : wan_dit_tensors(config))
    out.push_back(listed(prefix + wan_dit_original_names().stored_of(tensor.name).value().key, tensor.shape));
  return out;
}

const Checkpoint& opened(const TemporaryFolder& folder, const std::vector<ListedTensor>& tensors, std::optional<Checkpoint>& to) {
  testing::write_sparse_safetensors(folder.path() / "x.safetensors", tensors);
  return to.emplace(folder.path() / "x.safetensors", "transformer");
}

TEST(Layouts, ShapesMayBeWrittenInOtherWords) {
  const TemporaryFolder folder;
  std::vector<ListedTensor> tensors = small();
  for (ListedTensor& tensor : tensors) {
    if (tensor.name == "patch_embedding.weight") tensor.shape = Shape{128, 16};
    if (tensor.name == "head.modulation") tensor.shape = Shape{2, 128};
    if (tensor.name == "blocks.0.modulation") tensor.shape = Shape{1, 1, 6, 128};
  }
  std::optional<Checkpoint> file;
  opened(folder, tensors, file);
  const FoundConfig inferred = infer_config(*file, find_layouts(*file).at(0));
  EXPECT_NE(inferred.assumed.find("patches of 1x2x2"), std::string::npos);
  const WanDitConfig config = parse_wan_dit_config(inferred.json);
  EXPECT_EQ(config.in_channels, 4);
  const auto expected = wan_dit_tensors(config);
  const KeyMap keys = keys_of_part(*file, "transformer");
  const auto matched = match_tensors(*file, expected, {}, keys);
  for (std::size_t i = 0; i < expected.size(); ++i)
    EXPECT_EQ(weight_of(matched[i], expected[i].shape, "transformer")->shape(), expected[i].shape);
}

TEST(Layouts, APieceOfATensorsRowsIsAWeight) {
  const TemporaryFolder folder;
  const std::vector<float> values{0, 1, 2, 3, 4, 5, 6, 7};
  testing::write_safetensors(folder.path() / "x.safetensors",
                             {{"a.qkv.weight", "F32", {4, 2}, {reinterpret_cast<const char*>(values.data()), 32}}});
  const Checkpoint file(folder.path() / "x.safetensors", "part");
  const KeyMap keys{"a.", std::make_shared<const NameMap>(std::vector<NameRule>{{"qkv", "q", 0, 2}, {"qkv", "k", 1, 2}})};
  const std::vector<ExpectedTensor> expected{{"q.weight", {2, 2}}, {"k.weight", {2, 1, 2}}};
  const auto matched = match_tensors(file, expected, {}, keys);
  const WeightPtr k = weight_of(matched[1], expected[1].shape, "part");
  EXPECT_EQ(k->shape(), expected[1].shape);
  std::vector<float> got(4);
  k->fetch(0, 4);
  k->read(0, 4, DType::f32, got.data());
  EXPECT_EQ(got, (std::vector<float>{4, 5, 6, 7}));
  EXPECT_EQ(std::memcmp(k->dense(DType::f32), values.data() + 4, 16), 0);
  EXPECT_EQ(k->stored_bytes(), 16u);
}

TEST(Layouts, AGgufPatchEmbeddingMayHaveFiveAxes) {
  const TemporaryFolder folder;
  std::vector<testing::TensorToWrite> tensors;
  for (const ListedTensor& tensor : small("model.diffusion_model."))
    tensors.push_back({tensor.name, "F32", tensor.shape, std::string(tensor.size_bytes(), '\0')});
  testing::write_gguf(folder.path() / "x.gguf", tensors, {});
  const Checkpoint file(folder.path() / "x.gguf", "transformer");
  const std::vector<FoundLayout> found = find_layouts(file);
  ASSERT_EQ(found.size(), 1u);
  const WanDitConfig config = parse_wan_dit_config(infer_config(file, found[0]).json);
  EXPECT_EQ(match_tensors(file, wan_dit_tensors(config), {}, found[0].keys).size(), small().size());
}

TEST(Layouts, WansOwnConfigSaysWhatShapesDoNot) {
  const TemporaryFolder folder;
  std::optional<Checkpoint> file;
  opened(folder, small(), file);
  const JsonObject said = parse_json_object(
      R"({"_class_name": "WanModel", "dim": 128, "num_heads": 2, "num_layers": 1, "in_dim": 4, "out_dim": 4, "eps": 1e-5})",
      "config.json");
  EXPECT_TRUE(is_original_config(said));
  const WanDitConfig config = parse_wan_dit_config(infer_config(*file, find_layouts(*file).at(0), &said).json);
  EXPECT_EQ(config.num_heads, 2);
  EXPECT_EQ(config.head_dim, 64);
  EXPECT_EQ(config.eps, 1e-5);
}

struct Wrong {
  std::string name;
  std::function<void(std::vector<ListedTensor>&)> change;
  std::vector<std::string> pieces;
};
void PrintTo(const Wrong& c, std::ostream* out) { *out << c.name; }

class WrongLayout : public ::testing::TestWithParam<Wrong> {};

// Infers and matches: one line that speaks of the file's own names.
TEST_P(WrongLayout, IsOneLine) {
  const TemporaryFolder folder;
  std::vector<ListedTensor> tensors = small();
  GetParam().change(tensors);
  std::optional<Checkpoint> file;
  opened(folder, tensors, file);
  try {
    const KeyMap keys = keys_of_part(*file, "transformer");
    const auto config = parse_wan_dit_config(infer_config(*file, find_layouts(*file).at(0)).json);
    match_tensors(*file, wan_dit_tensors(config), {}, keys);
    FAIL() << "was accepted";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.kind(), ErrorKind::invalid_argument) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
    for (const std::string& piece : GetParam().pieces) EXPECT_NE(message.find(piece), std::string::npos) << message;
  }
}

// A file of a network that is not built says of which, instead of running as the plain one it has inside.
TEST(Layouts, NetworksThatAreNotBuiltAreRefusedByName) {
  for (const auto& [key, network] : std::map<std::string, std::string>{{"ref_conv.weight", "Fun Control"},
                                                                       {"pose_patch_embedding.weight", "Animate"},
                                                                       {"control_adapter.conv.weight", "Fun Camera Control"},
                                                                       {"audio_injector.injector.0.q.weight", "S2V"},
                                                                       {"audio_proj.proj1.weight", "sound"}})
    for (const std::string prefix : {"", "model.diffusion_model."}) {
      std::vector<ListedTensor> tensors = small();
      tensors.push_back(listed(key, {4, 4}));
      for (ListedTensor& tensor : tensors) tensor.name = prefix + tensor.name;
      const TemporaryFolder folder;
      std::optional<Checkpoint> file;
      opened(folder, tensors, file);
      try {
        find_layouts(*file);
        ADD_FAILURE() << key << " was accepted";
      } catch (const Error& error) {
        const std::string message = error.what();
        EXPECT_EQ(error.kind(), ErrorKind::unsupported) << message;
        EXPECT_NE(message.find(network), std::string::npos) << message;
        EXPECT_NE(message.find("\"" + prefix + key + "\""), std::string::npos) << message;
      }
    }
}

ListedTensor& named(std::vector<ListedTensor>& tensors, const std::string& name) {
  return *std::find_if(tensors.begin(), tensors.end(), [&](const ListedTensor& tensor) { return tensor.name == name; });
}
std::function<void(std::vector<ListedTensor>&)> without(const std::string& name) {
  return [=](std::vector<ListedTensor>& tensors) {
    std::erase_if(tensors, [&](const ListedTensor& tensor) { return tensor.name == name; });
  };
}
std::function<void(std::vector<ListedTensor>&)> shaped(const std::string& name, const Shape& shape) {
  return [=](std::vector<ListedTensor>& tensors) { named(tensors, name).shape = shape; };
}
std::function<void(std::vector<ListedTensor>&)> called(const std::string& name, const std::string& other) {
  return [=](std::vector<ListedTensor>& tensors) { named(tensors, name).name = other; };
}
std::function<void(std::vector<ListedTensor>&)> with(const std::string& name, const Shape& shape) {
  return [=](std::vector<ListedTensor>& tensors) { tensors.push_back(listed(name, shape)); };
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, WrongLayout,
    ::testing::Values(
        Wrong{"HalfABlock", without("blocks.0.self_attn.k.weight"), {"missing tensor \"blocks.0.self_attn.k.weight\""}},
        Wrong{"NoPatchEmbedding", without("patch_embedding.weight"), {"missing tensor \"patch_embedding.weight\""}},
        Wrong{"NoHead", without("head.head.weight"), {"missing tensor \"head.head.weight\""}},
        Wrong{"NoTextEmbedding", without("text_embedding.0.weight"), {"missing tensor \"text_embedding.0.weight\""}},
        Wrong{"NoBlocks", without("blocks.0.ffn.0.weight"), {"missing tensor \"blocks.0.ffn.0.weight\""}},
        Wrong{"MixedPrefixes",
              called("blocks.0.norm3.weight", "model.diffusion_model.blocks.0.norm3.weight"),
              {"missing tensor \"blocks.0.norm3.", "\"model.diffusion_model.blocks.0.norm3.weight\""}},
        Wrong{"ANameOfDiffusers",
              called("blocks.0.self_attn.q.weight", "blocks.0.attn1.to_q.weight"),
              {"missing tensor \"blocks.0.self_attn.q.weight\""}},
        Wrong{"TwiceBehindTwoPrefixes",
              with("model.head.modulation", {1, 2, 128}),
              {"holds the transformer twice", "\"head.modulation\"", "\"model.head.modulation\""}},
        Wrong{"TwiceInTwoNamings",
              with("condition_embedder.time_embedder.linear_1.weight", {128, 4}),
              {"holds the transformer twice"}},
        Wrong{"TransposedMatrix",
              shaped("blocks.0.ffn.0.weight", {8, 64}),
              {"bad shape of \"blocks.0.ffn.0.weight\"", "got [8,64]", "expected [8,128]"}},
        Wrong{"RowsOfTheOtherAxis",
              shaped("text_embedding.0.weight", {8, 128}),
              {"bad shape of \"text_embedding.0.weight\"", "got [8,128]"}},
        Wrong{"FlattenedTheWrongWay",
              shaped("patch_embedding.weight", {16, 128}),
              {"bad shape of \"patch_embedding.weight\"", "got [16,128]", "[128,4,1,2,2]"}},
        Wrong{"WidthOfNoHeads", shaped("head.modulation", {1, 2, 100}), {"bad shape of \"head.modulation\"", "multiple of 128"}},
        Wrong{"ScalarHead", shaped("text_embedding.0.weight", {}), {"bad shape of \"text_embedding.0.weight\"", "got []"}},
        Wrong{"ALayerInBetweenIsGone", with("blocks.2.norm3.weight", {128}), {"unknown tensor \"blocks.2.norm3.weight\""}},
        Wrong{"AnotherKindOfAttention",
              with("blocks.0.cross_attn.k_audio.weight", {128, 128}),
              {"unknown tensor \"blocks.0.cross_attn.k_audio.weight\"", "the nearest being \"blocks.0.cross_attn."}},
        Wrong{"VaceBlocksOfNoDivisor",
              [](std::vector<ListedTensor>& tensors) {
                tensors.push_back(listed("vace_patch_embedding.weight", {128, 96, 1, 2, 2}));
                for (int i = 0; i < 2; ++i)
                  tensors.push_back(listed(fmt::format("vace_blocks.{}.after_proj.weight", i), {128, 128}));
              },
              {"got 2 VACE blocks beside 1 layers"}}),
    [](const auto& each) { return each.param.name; });

}  // namespace
}  // namespace zoe
