// The published members have the tensors that their checkpoints have: as many, of as many parameters.
#include <gtest/gtest.h>

#include <tuple>

#include "models/clip_vision/config.h"
#include "pipeline/model.h"
#include "pipeline/recipe.h"

namespace zoe {
namespace {

struct Published {
  const char *name, *recipe;
  std::size_t tensors;
  std::int64_t parameters;  // of a transformer
};

TEST(PublishedModels, HaveTheTensorsOfTheirCheckpoints) {
  for (const Published& each : {Published{"wan2.1-t2v-1.3b", "text to video", 825, 1'418'996'800},
                                {"wan2.1-t2v-14b", "text to video", 1095, 14'288'491'584},
                                {"wan2.1-i2v-14b-480p", "image to video", 1303, 16'394'878'784},
                                {"wan2.1-i2v-14b-720p", "image to video", 1303, 16'394'878'784},
                                {"wan2.1-flf2v-14b-720p", "first and last frame to video", 1304, 16'395'536'704},
                                {"wan2.2-t2v-a14b", "text to video", 1095, 14'288'491'584},
                                {"wan2.2-i2v-a14b", "image to video", 1095, 14'288'901'184},
                                {"wan2.2-ti2v-5b", "text or image to video", 825, 4'999'787'712},
                                {"wan2.1-vace-1.3b", "text, video or reference images to video", 1264, 2'153'972'032},
                                {"wan2.1-vace-14b", "text, video or reference images to video", 1331, 17'337'592'896},
                                {"wan2.2-vace-fun-a14b", "text, video or reference images to video", 1331, 17'337'592'896}}) {
    const std::optional<ModelConfig> model = published_model(each.name);
    ASSERT_TRUE(model) << each.name;
    std::int64_t parameters = 0;
    const std::vector<ExpectedTensor> tensors = wan_dit_tensors(model->transformer);
    for (const ExpectedTensor& tensor : tensors) parameters += tensor.shape.count();
    EXPECT_EQ(tensors.size(), each.tensors) << each.name;
    EXPECT_EQ(parameters, each.parameters) << each.name;
    EXPECT_EQ(make_recipe(*model)->name(), each.recipe) << each.name;
  }
}

TEST(PublishedModels, OfVaceTakeWhatTheyTake) {
  EXPECT_EQ(published_model("wan2.1-vace-1.3b")->transformer.vace_layers.back(), 28);
  EXPECT_EQ(published_model("wan2.1-vace-14b")->transformer.vace_layers.back(), 35);
  for (const auto& [name, member] : {std::pair{"wan2.1-vace-14b", members::vace}, {"wan2.2-vace-fun-a14b", members::vace_a14b}}) {
    EXPECT_EQ(make_recipe(*published_model(name))->member(), member) << name;
    EXPECT_EQ(published_model(name)->boundary_ratio.has_value(), member == members::vace_a14b) << name;
  }
}

// Of both VAEs, also what only their encoders have.
TEST(PublishedModels, HaveTheVaesOfTheirCheckpoints) {
  for (const auto& [name, tensors, parameters] :
       {std::tuple{"wan2.2-i2v-a14b", 194u, INT64_C(126'892'531)}, {"wan2.2-ti2v-5b", 196u, INT64_C(704'688'668)}}) {
    std::int64_t sum = 0;
    const std::vector<ExpectedTensor> expected = wan_vae_tensors(published_model(name)->vae);
    for (const ExpectedTensor& tensor : expected) sum += tensor.shape.count();
    EXPECT_EQ(expected.size(), tensors) << name;
    EXPECT_EQ(sum, parameters) << name;
  }
}

// CLIP's ViT-H: 32 layers of 16 tensors, the embeddings' 3, two norms.
TEST(PublishedModels, HaveTheImageEncoderOfClip) {
  const ModelConfig model = *published_model("wan2.1-flf2v-14b-720p");
  ASSERT_TRUE(model.image_encoder);
  EXPECT_EQ(clip_vision_tensors(*model.image_encoder).size(), 32u * 16 + 3 + 4);
  EXPECT_EQ(model.image_rows(), 514);
  EXPECT_FALSE(published_model("wan2.2-i2v-a14b")->image_encoder);
}

}  // namespace
}  // namespace zoe
