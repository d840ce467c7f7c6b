// What tensors are called: rules of whole words, and those of the original Wan naming.
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/name_map.h"
#include "models/wan_dit/names.h"
#include "testing/sparse_checkpoint.h"

namespace zoe {
namespace {

using Names = std::vector<std::string>;

TEST(NameMap, TheRuleOfMostWordsCountsAndTheRestIsKept) {
  const NameMap map({{"a", "x"}, {"a.*.b", "y.*"}, {"a.*.b.c", "z.*.w"}, {"qkv", "q", 0, 2}, {"qkv", "k", 1, 2}});
  EXPECT_EQ(map.names_of("a"), Names{"x"});
  EXPECT_EQ(map.names_of("a.weight"), Names{"x.weight"});
  EXPECT_EQ(map.names_of("a.12.b.weight"), Names{"y.12.weight"});
  EXPECT_EQ(map.names_of("a.12.b.c"), Names{"z.12.w"});
  EXPECT_EQ(map.names_of("a.one.b"), Names{"x.one.b"});
  EXPECT_EQ(map.names_of("qkv.bias"), (Names{"q.bias", "k.bias"}));
  EXPECT_EQ(map.names_of("ab.weight"), Names{});
  EXPECT_EQ(map.names_of(""), Names{});
  EXPECT_EQ(map.stored_of("y.3.weight")->key, "a.3.b.weight");
  EXPECT_EQ(map.stored_of("k.bias")->key, "qkv.bias");
  EXPECT_EQ(map.stored_of("k.bias")->rule->part, 1);
  EXPECT_FALSE(map.stored_of("unknown"));
}

TEST(WanNames, BothDirections) {
  const std::vector<std::pair<std::string, std::string>> pairs{
      {"patch_embedding.weight", "patch_embedding.weight"},
      {"time_embedding.2.bias", "condition_embedder.time_embedder.linear_2.bias"},
      {"time_projection.1.weight", "condition_embedder.time_proj.weight"},
      {"img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed"},
      {"img_emb.proj.4.weight", "condition_embedder.image_embedder.norm2.weight"},
      {"head.modulation", "scale_shift_table"},
      {"head.head.bias", "proj_out.bias"},
      {"blocks.11.modulation", "blocks.11.scale_shift_table"},
      {"blocks.11.norm3.weight", "blocks.11.norm2.weight"},
      {"blocks.0.cross_attn.norm_k_img.weight", "blocks.0.attn2.norm_added_k.weight"},
      {"blocks.0.cross_attn.k_img.lora_A.weight", "blocks.0.attn2.add_k_proj.lora_A.weight"},
      {"blocks.39.ffn.2.diff_b", "blocks.39.ffn.net.2.diff_b"},
      {"vace_blocks.7.before_proj.weight", "vace_blocks.7.proj_in.weight"},
      {"vace_blocks.7.self_attn.o.weight", "vace_blocks.7.attn1.to_out.0.weight"},
      {"motion_encoder.enc.net_app.convs.0.1.bias", "motion_encoder.conv_in.act_fn.bias"},
      {"motion_encoder.enc.net_app.convs.7.conv2.2.bias", "motion_encoder.res_blocks.6.conv2.act_fn.bias"},
      {"motion_encoder.enc.fc.4.weight", "motion_encoder.motion_network.4.weight"},
      {"motion_encoder.dec.direction.weight", "motion_encoder.motion_synthesis_weight"},
      {"face_encoder.conv2.conv.weight", "face_encoder.conv2.weight"},
      {"face_adapter.fuser_blocks.3.q_norm.weight", "face_adapter.3.norm_q.weight"},
  };
  for (const auto& [stored, name] : pairs) {
    EXPECT_EQ(wan_dit_original_names().names_of(stored), Names{name});
    ASSERT_TRUE(wan_dit_original_names().stored_of(name)) << name;
    EXPECT_EQ(wan_dit_original_names().stored_of(name)->key, stored);
  }
  EXPECT_EQ(wan_dit_original_names().names_of("face_adapter.fuser_blocks.0.linear1_kv.bias"),
            (Names{"face_adapter.0.to_k.bias", "face_adapter.0.to_v.bias"}));
}

TEST(WanNames, EveryTensorOfThePublishedTransformersHasAnOriginalNameOfItsOwn) {
  for (const std::string member : {"wan2.1-t2v-1.3b", "wan2.1-t2v-14b"}) {
    std::set<std::string> stored;
    const auto tensors =
        testing::read_checkpoint_list(std::string(ZOE_FIXTURES) + "/checkpoints/" + member + "/transformer/keys.txt");
    for (const testing::ListedTensor& tensor : tensors) {
      const auto found = wan_dit_original_names().stored_of(tensor.name);
      ASSERT_TRUE(found) << tensor.name;
      EXPECT_EQ(wan_dit_original_names().names_of(found->key), Names{tensor.name});
      stored.insert(found->key);
    }
    EXPECT_EQ(stored.size(), member == "wan2.1-t2v-1.3b" ? 825u : 1095u);
  }
}

TEST(WanNames, OnePrefixIsLeftOut) {
  for (const std::string prefix : {"", "model.diffusion_model.", "diffusion_model.", "model.", "net."})
    EXPECT_EQ(without_wan_dit_prefix(prefix + "blocks.0.norm3.weight"), "blocks.0.norm3.weight");
  EXPECT_EQ(without_wan_dit_prefix("head.modulation"), "head.modulation");
}

}  // namespace
}  // namespace zoe
