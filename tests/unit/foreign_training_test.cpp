// Transformers that are trained for something else.
#include "pipeline/foreign_training.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "pipeline/component.h"
#include "testing/temporary_folder.h"

namespace zoe {
namespace {

TEST(ForeignTraining, IsToldByKeysAndNames) {
  const auto told = [](std::vector<std::string> keys, std::string_view name) { return foreign_training(keys, name); };
  EXPECT_EQ(told({"blocks.0.attn1.to_q.weight", "blocks.0.attn1.to_gate_compress.weight"}, "FastWan2.1-T2V-1.3B"),
            "video sparse attention (VSA)");
  EXPECT_EQ(told({"blocks.0.self_attn.attn_op.local_attn.proj_l.weight"}, "TurboWan2.1-T2V-1.3B"), "sparse-linear attention (SLA)");
  EXPECT_EQ(told({}, "Wan2.1-Self_Forcing-DMD"), "causal attention, a few frames at a time");
  EXPECT_EQ(told({}, "CausalWan2.2"), "causal attention, a few frames at a time");
  for (const char* name : {"Wan2.1-T2V-1.3B-Diffusers", "CausVid-bidirectional", "FastWan2.2-TI2V-5B-FullAttn", "toy-wan"})
    EXPECT_EQ(told({"blocks.0.attn1.to_q.weight", "blocks.0.cross_attn.k_img.weight"}, name), "") << name;
}

TEST(ForeignTraining, IsRefusedWhereWeightsAreOpened) {
  const testing::TemporaryFolder temporary;
  const auto folder = temporary.path() / "toy-causal";
  std::filesystem::create_directory_symlink(std::filesystem::path(ZOE_MODELS) / "toy-wan", folder);
  const ModelConfig model = read_model_config(folder);
  EXPECT_NO_THROW(open_weights(model, "vae"));
  try {
    open_weights(model, "transformer");
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::unsupported);
    EXPECT_EQ(
        std::string(error.what()),
        "[transformer] toy-causal was trained for causal attention, a few frames at a time, which is not done here. Choose a model "
        "with full attention over all frames.");
  }
}

}  // namespace
}  // namespace zoe
