// The tiny decoder against recorded frames of its layers (tests/fixtures/record_tiny_decoder.py), however a video is cut into
// groups.
#include "models/tiny_decoder/model.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "testing/compare.h"
#include "testing/graphs.h"
#include "testing/temporary_folder.h"
#include "testing/write_safetensors.h"

namespace zoe {
namespace {

using testing::read_tensor;
using testing::relative_rms_within;

const std::string kModels = std::string(ZOE_FIXTURES) + "/models/";

// [1,C,T,h,w] of the file as [T,h,w,C], or [T,C,h,w] likewise.
ReferenceTensor channels_last(const ReferenceTensor& file) {
  const bool has_batch = file.shape.rank() == 5;
  const std::int64_t channels = file.shape.dim(1), frames = file.shape.dim(has_batch ? 2 : 0),
                     height = file.shape.dim(file.shape.rank() - 2), width = file.shape.dim(file.shape.rank() - 1),
                     plane = height * width;
  ReferenceTensor tensor{{frames, height, width, channels}, {}};
  for (std::int64_t t = 0; t < frames; ++t)
    for (std::int64_t i = 0; i < plane; ++i)
      for (std::int64_t c = 0; c < channels; ++c)
        tensor.values.push_back(file.values[static_cast<std::size_t>((has_batch ? c * frames + t : t * channels + c) * plane + i)]);
  return tensor;
}

ReferenceTensor rows(const ReferenceTensor& tensor, std::int64_t begin, std::int64_t end) {
  const auto row = static_cast<std::ptrdiff_t>(tensor.shape.count() / tensor.shape.dim(0));
  ReferenceTensor part{tensor.shape, {tensor.values.begin() + begin * row, tensor.values.begin() + end * row}};
  part.shape.dim(0) = end - begin;
  return part;
}

struct Case {
  const char* runner;
  DType dtype;
  double tolerance;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.runner << " " << name(c.dtype); }

class TinyDecoder : public ::testing::TestWithParam<Case> {};

TEST_P(TinyDecoder, MakesTheRecordedFrames) {
  const Case& c = GetParam();
  if (std::string why; !testing::runs_here(c.runner, why)) GTEST_SKIP() << why;
  const Checkpoint weights(kModels + "tiny_decoder.pth"), recorded(kModels + "tiny_decoder.safetensors");
  const TinyDecoderConfig config = infer_tiny_decoder_config(weights);
  EXPECT_EQ(config.z_dim, 16);
  EXPECT_EQ(config.scale_factor_spatial(), 8);
  EXPECT_EQ(config.scale_factor_temporal(), 4);
  const ReferenceTensor latent = channels_last(read_tensor(recorded, "latent"));
  ReferenceTensor expected = channels_last(read_tensor(recorded, "frames"));
  for (double& value : expected.values) value = 2 * value - 1;
  const std::int64_t frames = latent.shape.dim(0), height = latent.shape.dim(1), width = latent.shape.dim(2);
  const std::int64_t leading = config.scale_factor_temporal() - 1;
  for (const std::int64_t group : {frames, std::int64_t{1}}) {
    const TinyDecoderGraph traced = trace_tiny_decoder(config, c.dtype, group, height, width);
    verify(traced.graph);
    std::vector<ReferenceTensor> states;
    for (std::size_t i = 1; i <= traced.states; ++i) {
      const Shape& shape = traced.graph.inputs[i].shape();
      states.push_back({shape, std::vector<double>(static_cast<std::size_t>(shape.count()))});
    }
    ReferenceTensor made{expected.shape, {}};
    for (std::int64_t t = 0; t < frames; t += group) {
      std::vector<ReferenceTensor> inputs{rows(latent, t, t + group)};
      inputs.insert(inputs.end(), states.begin(), states.end());
      const auto outputs = testing::run_graph(c.runner, traced.graph, inputs, &weights);
      const ReferenceTensor own = t == 0 ? rows(outputs[0], leading, outputs[0].shape.dim(0)) : outputs[0];
      made.values.insert(made.values.end(), own.values.begin(), own.values.end());
      states.assign(outputs.begin() + 1, outputs.end());
    }
    ASSERT_EQ(made.values.size(), expected.values.size());
    EXPECT_TRUE(relative_rms_within(made.values, expected.values, expected.shape, c.tolerance)) << "groups of " << group;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, TinyDecoder,
                         ::testing::Values(Case{"interpreter", DType::f32, 1e-5}, Case{"cpu", DType::f32, 1e-5},
                                           Case{"cpu", DType::bf16, 3e-2}, Case{"cuda", DType::f32, 1e-5}));

TEST(TinyDecoderFile, IsToldByItsShapes) {
  const testing::TemporaryFolder temporary;
  const auto error_of = [&](const std::vector<testing::TensorToWrite>& tensors) {
    const std::filesystem::path path = temporary.path() / "decoder.safetensors";
    testing::write_safetensors(path, tensors);
    try {
      infer_tiny_decoder_config(Checkpoint(path));
    } catch (const Error& error) {
      return std::string(name(error.kind())) + " " + error.what();
    }
    return std::string("none");
  };
  const auto zeros = [](std::string name, const Shape& shape) {
    return testing::TensorToWrite{std::move(name), "F16", shape, std::string(static_cast<std::size_t>(2 * shape.count()), '\0')};
  };
  std::vector<testing::TensorToWrite> tensors{zeros("decoder.22.weight", {12, 4, 3, 3})};
  EXPECT_NE(error_of(tensors).find("is no tiny decoder: it has no decoder.1.weight"), std::string::npos) << error_of(tensors);
  tensors.push_back(zeros("decoder.1.weight", {4, 48}));
  EXPECT_NE(error_of(tensors).find("decoder.1.weight is [4,48], expected 4 axes"), std::string::npos) << error_of(tensors);
}

}  // namespace
}  // namespace zoe
