// Which way a guided step goes, on a platform that makes plans and has as much room as a test says.
#include <gtest/gtest.h>

#include "base/error.h"
#include "compiler_fuzz/wrapped_platform.h"
#include "pipeline/model.h"
#include "pipeline/session.h"

namespace zoe {
namespace {

class LimitedPlatform : public fuzz::WrappedPlatform {
 public:
  LimitedPlatform() : WrappedPlatform(open_platform("null")) {}
  std::uint64_t free_bytes() const override { return free; }
  std::uint64_t free = WrappedPlatform::free_bytes();
};

class GuidanceBatchTest : public ::testing::Test {
 protected:
  struct Prepared {
    std::int64_t batch;
    std::size_t peak;
    std::int64_t pieces;
    std::size_t denoise;
  };
  Prepared prepare(GuidanceBatch batch, double guidance_scale = 4, int frames = 5) {
    Request request;
    request.prompts = {"a red circle"};
    request.height = 64, request.width = 64, request.num_frames = frames, request.num_inference_steps = 2;
    request.guidance_scale = guidance_scale;
    request.guidance_batch = batch;
    request.token_pieces = pieces_, request.vae_tiles = 1;
    Session session(read_model_config(ZOE_MODELS "/toy-wan"), platform_,
                    {.dtype = DType::f32, .single_request = true, .spelling = Spelling::option, .offload = Offload::none});
    const Job job = session.prepare(request);
    return {job.settled().batch, job.memory().peak(), job.settled().token_pieces, job.memory().of(Phase::denoise)};
  }
  std::shared_ptr<LimitedPlatform> platform_ = std::make_shared<LimitedPlatform>();
  std::optional<int> pieces_ = 1;  // nothing: as few as fit
};

TEST_F(GuidanceBatchTest, IsAsAsked) {
  EXPECT_EQ(prepare(GuidanceBatch::on).batch, 2);
  EXPECT_EQ(prepare(GuidanceBatch::off).batch, 1);
}

TEST_F(GuidanceBatchTest, IsOfOneWithoutGuidance) {
  for (const GuidanceBatch batch : {GuidanceBatch::automatic, GuidanceBatch::on, GuidanceBatch::off})
    EXPECT_EQ(prepare(batch, 1).batch, 1);
}

TEST_F(GuidanceBatchTest, OfTwoTakesMoreMemoryAndIsLeftWhereThatDoesNotFit) {
  const std::size_t of_two = prepare(GuidanceBatch::on).peak, of_one = prepare(GuidanceBatch::off).peak;
  EXPECT_LT(of_one, of_two);
  platform_->free = of_two;
  EXPECT_EQ(prepare(GuidanceBatch::automatic).batch, 2);
  platform_->free = of_two - 1;
  const Prepared smaller = prepare(GuidanceBatch::automatic);
  EXPECT_EQ(smaller.batch, 1);
  EXPECT_EQ(smaller.peak, of_one);
  try {
    prepare(GuidanceBatch::on);
    ADD_FAILURE() << "does not fit";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::out_of_memory);
    EXPECT_NE(std::string(error.what()).find("or try --guidance-batch off"), std::string::npos) << error.what();
  }
  platform_->free = of_one - 1;
  EXPECT_THROW(prepare(GuidanceBatch::automatic), Error);
}

// Of a long video the denoising takes most: where two texts one behind the other are too much, tokens go in as few pieces as fit.
TEST_F(GuidanceBatchTest, TokensGoInPiecesWhereTheRestDoesNotFit) {
  constexpr int kFrames = 257;
  const Prepared whole = prepare(GuidanceBatch::off, 4, kFrames);
  ASSERT_EQ(whole.denoise + 4 * 1024 * 1024, whole.peak) << "the decoder takes more: another size is needed";
  pieces_ = 8;
  const Prepared least = prepare(GuidanceBatch::off, 4, kFrames);
  EXPECT_LT(least.denoise, whole.denoise);
  EXPECT_EQ(prepare(GuidanceBatch::automatic, 4, kFrames).batch, 1) << "a batch in pieces";
  pieces_ = {};
  platform_->free = whole.peak;
  EXPECT_EQ(prepare(GuidanceBatch::automatic, 4, kFrames).pieces, 1);
  platform_->free = whole.peak - 1;
  const Prepared in_pieces = prepare(GuidanceBatch::automatic, 4, kFrames);
  EXPECT_GT(in_pieces.pieces, 1);
  EXPECT_LE(in_pieces.peak, whole.peak - 1);
}

}  // namespace
}  // namespace zoe
