// The Wan VAE against what Diffusers computes (tests/fixtures/models), however a video is cut into groups.
#include "models/wan_vae/model.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <limits>
#include <optional>
#include <random>
#include <set>

#include "base/error.h"
#include "compiler_fuzz/wrapped_platform.h"
#include "models/tensor_list.h"
#include "testing/compare.h"
#include "testing/graphs.h"
#include "testing/temporary_folder.h"
#include "testing/write_safetensors.h"

namespace zoe {
namespace {

using testing::read_tensor;
using testing::relative_rms_within;
using testing::run_graph;

const std::string kFullSize = std::string(ZOE_FIXTURES) + "/checkpoints/wan2.1-vae";
const std::string kFullSizeResidual = std::string(ZOE_FIXTURES) + "/checkpoints/wan2.2-vae";

std::string model_folder(const std::string& model) {
  return model == "wan_vae_toy" ? std::string(ZOE_MODELS) + "/toy-wan/vae" : std::string(ZOE_FIXTURES) + "/models/" + model;
}
WanVaeConfig read_config(const std::string& folder) {
  return parse_wan_vae_config(read_json_object(folder + "/config.json", "config.json"));
}

struct Model {
  explicit Model(const std::string& name)
      : Model(Checkpoint(model_folder(name)), read_config(model_folder(name)),
              Checkpoint(std::string(ZOE_FIXTURES) + "/models/" + name + ".safetensors")) {}
  Model(Checkpoint weights_, WanVaeConfig config_, std::optional<Checkpoint> recorded_ = {})
      : weights(std::move(weights_)), recorded(std::move(recorded_)), config(std::move(config_)) {}

  // [1,C,T,H,W] of the file as [T,H,W,C].
  bool has(const std::string& name) const { return recorded.value().find(name) != nullptr; }
  ReferenceTensor read(const std::string& name) const {
    const ReferenceTensor file = read_tensor(recorded.value(), name);
    const std::int64_t channels = file.shape.dim(1), positions = file.shape.count() / channels;
    ReferenceTensor tensor{{file.shape.dim(2), file.shape.dim(3), file.shape.dim(4), channels}, {}};
    for (std::int64_t i = 0; i < file.shape.count(); ++i)
      tensor.values.push_back(file.values[static_cast<std::size_t>(i % channels * positions + i / channels)]);
    return tensor;
  }

  Checkpoint weights;
  std::optional<Checkpoint> recorded;
  WanVaeConfig config;
};

ReferenceTensor frames_of(const ReferenceTensor& video, std::int64_t begin, std::int64_t end) {
  const std::int64_t frame = video.shape.count() / video.shape.dim(0);
  return {{end - begin, video.shape.dim(1), video.shape.dim(2), video.shape.dim(3)},
          {video.values.begin() + begin * frame, video.values.begin() + end * frame}};
}

void append_frames(ReferenceTensor& video, const ReferenceTensor& more) {
  const std::int64_t before = video.values.empty() ? 0 : video.shape.dim(0);
  video.shape = {before + more.shape.dim(0), more.shape.dim(1), more.shape.dim(2), more.shape.dim(3)};
  video.values.insert(video.values.end(), more.values.begin(), more.values.end());
}

enum class Half { decode, encode };

WanVaeGraph trace_group(Half half, const WanVaeConfig& config, DType dtype, const Shape& group, bool first) {
  const auto trace = [&](auto function) { return function(group.dim(0), group.dim(1), group.dim(2)); };
  return half == Half::decode ? trace([&](auto t, auto h, auto w) { return trace_wan_vae_decode(config, dtype, t, h, w, first); })
                              : trace([&](auto t, auto h, auto w) { return trace_wan_vae_encode(config, dtype, t, h, w, first); });
}

// The sizes of a video's groups: one frame, then `group` at a time, the last as many as are left.
std::vector<std::int64_t> group_sizes(std::int64_t frames, std::int64_t group) {
  std::vector<std::int64_t> sizes{1};
  for (std::int64_t done = 1; done < frames; done += sizes.back()) sizes.push_back(std::min(group, frames - done));
  return sizes;
}

struct Walk {
  std::vector<ReferenceTensor> results;  // of all groups, one behind the other
  std::vector<ReferenceTensor> states;
};

// A video group by group, the states handed on from each to the next.
Walk walk(const std::string& runner, const Model& model, Half half, DType dtype, const ReferenceTensor& video,
          const std::vector<std::int64_t>& sizes) {
  Walk walked;
  std::int64_t begin = 0;
  for (const std::int64_t size : sizes) {
    const ReferenceTensor group = frames_of(video, begin, begin + size);
    const WanVaeGraph traced = trace_group(half, model.config, dtype, group.shape, begin == 0);
    verify(traced.graph);
    if (begin == 0) {
      walked.results.resize(traced.results);
      for (const Type& type : traced.states)
        walked.states.push_back({type.shape, std::vector<double>(static_cast<std::size_t>(type.shape.count()))});
    }
    std::vector<ReferenceTensor> inputs{group};
    for (const std::size_t number : traced.reads) inputs.push_back(walked.states[number]);
    const auto outputs = run_graph(runner, traced.graph, inputs, &model.weights);
    for (std::size_t i = 0; i < traced.results; ++i) append_frames(walked.results[i], outputs[i]);
    for (std::size_t i = 0; i < traced.writes.size(); ++i) walked.states[traced.writes[i]] = outputs[traced.results + i];
    begin += size;
  }
  EXPECT_EQ(begin, video.shape.dim(0));
  return walked;
}

::testing::AssertionResult near(const ReferenceTensor& got, const ReferenceTensor& expected, double tolerance) {
  if (got.shape != expected.shape)
    return ::testing::AssertionFailure() << "got shape " << got.shape.str() << ", expected " << expected.shape.str();
  return relative_rms_within(got.values, expected.values, expected.shape, tolerance);
}

// f32: the reference itself is f32, about 1e-6 from the exact result. bf16: every value is rounded by up to 2e-3 of itself, and the
// roundings of some twenty layers add up; measured up to 1.9e-2 with random weights, 1.2e-2 with trained ones.
constexpr double kF32 = 1e-5, kBf16 = 3e-2;

struct StageCase {
  const char *runner, *model;
  DType dtype;
  double tolerance;
};

void PrintTo(const StageCase& c, std::ostream* out) { *out << c.runner << " " << c.model << " " << name(c.dtype); }

class WanVaeStages : public ::testing::TestWithParam<StageCase> {};

TEST_P(WanVaeStages, OfTheFirstFrameMatchDiffusers) {
  const StageCase& c = GetParam();
  if (std::string why; !testing::runs_here(c.runner, why)) GTEST_SKIP() << why;
  const Model model(c.model);
  const ReferenceTensor latent = model.read("decode.t1.latents");
  const WanVaeGraph traced = trace_wan_vae_decode(model.config, c.dtype, 1, latent.shape.dim(1), latent.shape.dim(2), true, true);
  verify(traced.graph);
  std::vector<ReferenceTensor> inputs{latent};
  for (const std::size_t number : traced.reads) {
    const Shape& shape = traced.states[number].shape;
    inputs.push_back({shape, std::vector<double>(static_cast<std::size_t>(shape.count()))});
  }
  const auto outputs = run_graph(c.runner, traced.graph, inputs, &model.weights);

  std::vector<std::string> parts{"video", "post_quant_conv", "conv_in", "mid_block"};
  for (std::size_t i = 0; i < model.config.dim_mult.size(); ++i) parts.push_back(fmt::format("up_block{}", i));
  parts.push_back("conv_out");
  ASSERT_EQ(traced.results, parts.size());
  std::size_t compared = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (!model.has("decode.t1." + parts[i])) continue;  // the toy's largest stage is not recorded
    EXPECT_TRUE(near(outputs[i], model.read("decode.t1." + parts[i]), c.tolerance)) << parts[i];
    ++compared;
  }
  EXPECT_GE(compared, parts.size() - 1);
}

INSTANTIATE_TEST_SUITE_P(Models, WanVaeStages,
                         ::testing::Values(StageCase{"interpreter", "wan_vae_small", DType::f32, kF32},
                                           StageCase{"cpu", "wan_vae_small", DType::f32, kF32},
                                           StageCase{"cpu", "wan_vae_toy", DType::f32, kF32},
                                           StageCase{"cpu", "wan_vae_residual", DType::f32, kF32},
                                           StageCase{"cpu", "wan_vae_residual_alternate", DType::f32, kF32},
                                           StageCase{"cpu", "wan_vae_small", DType::bf16, kBf16},
                                           StageCase{"cpu", "wan_vae_toy", DType::bf16, kBf16},
                                           StageCase{"cpu", "wan_vae_residual", DType::bf16, kBf16},
                                           StageCase{"cpu", "wan_vae_residual_alternate", DType::bf16, kBf16}));
INSTANTIATE_TEST_SUITE_P(OnCuda, WanVaeStages,
                         ::testing::Values(StageCase{"cuda", "wan_vae_small", DType::f32, kF32},
                                           StageCase{"cuda", "wan_vae_toy", DType::f32, kF32},
                                           StageCase{"cuda", "wan_vae_residual", DType::f32, kF32},
                                           StageCase{"cuda", "wan_vae_small", DType::bf16, kBf16},
                                           StageCase{"cuda", "wan_vae_toy", DType::bf16, kBf16},
                                           StageCase{"cuda", "wan_vae_residual", DType::bf16, kBf16}));

struct VideoCase {
  const char *model, *video;
  Half half;
};

void PrintTo(const VideoCase& c, std::ostream* out) {
  *out << c.model << (c.half == Half::decode ? " decode." : " encode.") << c.video;
}

class WanVaeVideo : public ::testing::TestWithParam<VideoCase> {
 protected:
  const VideoCase& c = GetParam();
  const Model model{c.model};
  const std::string prefix = (c.half == Half::decode ? "decode." : "encode.") + std::string(c.video);
  const ReferenceTensor given = model.read(prefix + (c.half == Half::decode ? ".latents" : ".video"));
  const std::vector<std::string> parts =
      c.half == Half::decode ? std::vector<std::string>{".video"} : std::vector<std::string>{".mean", ".logvar"};
  const std::int64_t step = c.half == Half::decode ? 1 : model.config.scale_factor_temporal;  // the smallest group's frames
  const std::int64_t frames = given.shape.dim(0);

  Walk walk_by(std::int64_t group, DType dtype = DType::f32) const {
    return walk("cpu", model, c.half, dtype, given, group_sizes(frames, group));
  }
  void expect_recorded(const Walk& walked, double tolerance) const {
    for (std::size_t i = 0; i < parts.size(); ++i)
      EXPECT_TRUE(near(walked.results[i], model.read(prefix + parts[i]), tolerance)) << parts[i];
  }
};

TEST_P(WanVaeVideo, MatchesDiffusersInGroupsOfAnySize) {
  const Walk one_by_one = walk_by(step);
  expect_recorded(one_by_one, kF32);
  for (const std::int64_t group : std::set{2 * step, frames - 1}) {
    if (group <= step || group >= frames) continue;
    SCOPED_TRACE(fmt::format("groups of {}", group));
    const Walk walked = walk_by(group);
    expect_recorded(walked, kF32);
    // The same sums, bit for bit where products add in one order at any number of rows; no library promises that.
    for (std::size_t i = 0; i < parts.size(); ++i) EXPECT_TRUE(near(walked.results[i], one_by_one.results[i], 1e-6)) << parts[i];
    for (std::size_t i = 0; i < walked.states.size(); ++i)
      EXPECT_TRUE(near(walked.states[i], one_by_one.states[i], 1e-6)) << "state " << i;
  }
}

TEST_P(WanVaeVideo, InBf16StaysNearDiffusersInF32) { expect_recorded(walk_by(step, DType::bf16), kBf16); }

// States updated where they lie, as the pipeline does.
TEST_P(WanVaeVideo, InPlaceIsTheSameBitForBit) {
  const Walk expected = walk_by(step);
  const auto platform = open_platform("cpu");
  const auto stream = platform->make_stream();
  WeightStore store(*platform, [&](const std::string& name) {
    const TensorEntry& entry = *model.weights.find(name);
    return weight_of(entry, "vae");
  });
  std::vector<Tensor> states;
  std::vector<ReferenceTensor> results(parts.size());
  std::int64_t begin = 0;
  for (const std::int64_t size : group_sizes(frames, step)) {
    const ReferenceTensor group = frames_of(given, begin, begin + size);
    const WanVaeGraph traced = trace_group(c.half, model.config, DType::f32, group.shape, begin == 0);
    const Plan plan = compile(traced.graph, *platform);
    store.load(plan);
    if (begin == 0)
      for (const Type& type : traced.states) states.push_back(make_tensor(*platform, type, "state"));
    std::vector<Tensor> inputs{make_tensor(*platform, traced.graph.inputs[0].type(), "group")}, outputs;
    upload(*platform, *stream, std::vector<float>(group.values.begin(), group.values.end()), inputs[0]);
    for (const std::size_t number : traced.reads) inputs.push_back(states[number]);
    for (std::size_t i = 0; i < traced.results; ++i)
      outputs.push_back(make_tensor(*platform, traced.graph.outputs[i].type(), "result"));
    for (const std::size_t number : traced.writes) outputs.push_back(states[number]);
    const Plan* const plans[] = {&plan};
    run(plan, *stream, store, inputs, outputs, make_workspace(*platform, plans));
    for (std::size_t i = 0; i < traced.results; ++i) {
      std::vector<float> values(static_cast<std::size_t>(outputs[i].type.shape.count()));
      download(*platform, *stream, outputs[i], values);
      append_frames(results[i], testing::make_reference(outputs[i].type.shape, values));
    }
    begin += size;
  }
  for (std::size_t i = 0; i < parts.size(); ++i) {
    EXPECT_EQ(results[i].shape, expected.results[i].shape);
    EXPECT_TRUE(results[i].values == expected.results[i].values) << parts[i];
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, WanVaeVideo,
    ::testing::Values(VideoCase{"wan_vae_toy", "t3", Half::decode}, VideoCase{"wan_vae_small", "t4", Half::decode},
                      VideoCase{"wan_vae_toy", "t1", Half::encode}, VideoCase{"wan_vae_toy", "t9", Half::encode},
                      VideoCase{"wan_vae_small", "t1", Half::encode}, VideoCase{"wan_vae_small", "t13", Half::encode},
                      VideoCase{"wan_vae_residual", "t3", Half::decode}, VideoCase{"wan_vae_residual", "t1", Half::encode},
                      VideoCase{"wan_vae_residual", "t9", Half::encode},
                      VideoCase{"wan_vae_residual_alternate", "t3", Half::decode},
                      VideoCase{"wan_vae_residual_alternate", "t9", Half::encode}));

TEST(WanVaeInterpreter, AgreesWithTheCpuPlatformInResultsAndStates) {
  const Model model("wan_vae_small");
  for (const Half half : {Half::decode, Half::encode}) {
    const bool decodes = half == Half::decode;
    const ReferenceTensor all = model.read(decodes ? "decode.t4.latents" : "encode.t13.video");
    const std::vector<std::int64_t> sizes{1, decodes ? 1 : 4};
    const ReferenceTensor given = frames_of(all, 0, 1 + sizes[1]);
    const Walk exact = walk("interpreter", model, half, DType::f32, given, sizes);
    const Walk got = walk("cpu", model, half, DType::f32, given, sizes);
    for (std::size_t i = 0; i < exact.results.size(); ++i)
      EXPECT_TRUE(near(got.results[i], exact.results[i], kF32)) << (decodes ? "decode " : "encode ") << i;
    ASSERT_GT(exact.states.size(), 10u);
    for (std::size_t i = 0; i < exact.states.size(); ++i)
      EXPECT_TRUE(near(got.states[i], exact.states[i], kF32)) << (decodes ? "decode state " : "encode state ") << i;
  }
}

// A picture, and nothing behind it: levels that see nothing new are left out, and nothing changes in any bit.
TEST(WanVaeStill, LevelsThatSettledAreLeftOut) {
  for (const char* const name : {"wan_vae_toy", "wan_vae_residual"}) {
    const Model model(name);
    const std::int64_t levels = static_cast<std::int64_t>(model.config.dim_mult.size()), group = 4, frames = 1 + 12 * group;
    ReferenceTensor video = frames_of(model.read("encode.t1.video"), 0, 1);
    video.values.resize(video.values.size() * static_cast<std::size_t>(frames));
    video.shape = {frames, video.shape.dim(1), video.shape.dim(2), 3};
    const Walk whole = walk("cpu", model, Half::encode, DType::f32, video, group_sizes(frames, group));

    Walk shortened = walk("cpu", model, Half::encode, DType::f32, frames_of(video, 0, 1), {1});
    std::vector<ReferenceTensor> given(static_cast<std::size_t>(levels));
    std::vector<int> taken(static_cast<std::size_t>(levels));
    for (std::int64_t begin = 1; begin < frames; begin += group) {
      std::int64_t from = levels - 1;
      while (from > 0 && begin - group - wan_vae_frames_seen(model.config, from) <= 0) --from;
      ++taken[static_cast<std::size_t>(from)];
      const WanVaeGraph traced =
          trace_wan_vae_encode_from(model.config, DType::f32, group, video.shape.dim(1), video.shape.dim(2), from);
      verify(traced.graph);
      std::vector<ReferenceTensor> inputs{from == 0 ? frames_of(video, begin, begin + group)
                                                    : given[static_cast<std::size_t>(from)]};
      for (const std::size_t number : traced.reads) inputs.push_back(shortened.states[number]);
      const auto outputs = run_graph("cpu", traced.graph, inputs, &model.weights);
      for (std::size_t i = 0; i < 2; ++i) append_frames(shortened.results[i], outputs[i]);
      for (std::size_t i = 2; i < traced.results; ++i) given[static_cast<std::size_t>(from) + i - 1] = outputs[i];
      for (std::size_t i = 0; i < traced.writes.size(); ++i) shortened.states[traced.writes[i]] = outputs[traced.results + i];
    }
    for (std::size_t i = 0; i < 2; ++i) EXPECT_EQ(shortened.results[i].values, whole.results[i].values) << name << " result " << i;
    for (std::size_t i = 0; i < whole.states.size(); ++i)
      EXPECT_EQ(shortened.states[i].values, whole.states[i].values) << name << " state " << i;
    for (const int groups : taken) EXPECT_GT(groups, 0) << name;
  }
}

// As wide as the published VAE, whose convolutions a GPU may compute by other kernels, and of pictures large enough for these.
TEST(WanVaeOnCuda, WidePicturesInBf16StayNearTheCpuInF32) {
  if (std::string why; !testing::runs_here("cuda", why)) GTEST_SKIP() << why;
  WanVaeConfig config = read_config(kFullSize);
  config.dim_mult = {1, 1};
  config.num_res_blocks = 1;
  config.temporal_downsample = {true};
  config.scale_factor_spatial = config.scale_factor_temporal = 2;
  std::mt19937 generator(1);
  const auto normal = [&](const Shape& shape, float mean, double deviation) {
    std::normal_distribution<float> values(mean, static_cast<float>(deviation));
    std::vector<float> drawn(static_cast<std::size_t>(shape.count()));
    for (float& value : drawn) value = values(generator);
    return drawn;
  };
  std::vector<testing::TensorToWrite> tensors;
  for (const ExpectedTensor& tensor : wan_vae_tensors(config)) {
    const bool is_gamma = tensor.name.ends_with("gamma");
    const double inner = static_cast<double>(tensor.shape.count()) / static_cast<double>(tensor.shape.dim(0));
    const std::vector<float> values = normal(tensor.shape, is_gamma ? 1.0f : 0.0f, is_gamma ? 0.1 : 1 / std::sqrt(inner));
    const auto* const bytes = reinterpret_cast<const char*>(values.data());
    tensors.push_back({tensor.name, "F32", tensor.shape, {bytes, bytes + values.size() * sizeof(float)}});
  }
  const testing::TemporaryFolder folder;
  testing::write_safetensors(folder.path() / "vae.safetensors", tensors);
  const Model model{Checkpoint(folder.path() / "vae.safetensors"), config};
  for (const Half half : {Half::decode, Half::encode}) {
    const Shape shape = half == Half::decode ? Shape{5, 48, 49, config.z_dim} : Shape{17, 96, 96, 3};
    const std::vector<float> values = normal(shape, 0.0f, half == Half::decode ? 1.0 : 0.4);
    const ReferenceTensor given{shape, {values.begin(), values.end()}};
    const std::vector<std::int64_t> sizes =
        half == Half::decode ? std::vector<std::int64_t>{1, 2, 2} : std::vector<std::int64_t>{1, 8, 8};
    const Walk expected = walk("cpu", model, half, DType::f32, given, sizes),
               got = walk("cuda", model, half, DType::bf16, given, sizes);
    for (std::size_t i = 0; i < expected.results.size(); ++i)
      EXPECT_TRUE(near(got.results[i], expected.results[i], kBf16)) << (half == Half::decode ? "decode " : "encode ") << i;
    for (std::size_t i = 0; i < expected.states.size(); ++i)
      EXPECT_TRUE(near(got.states[i], expected.states[i], kBf16))
          << (half == Half::decode ? "decode state " : "encode state ") << i;
  }
}

TEST(WanVaeTensors, AreThoseOfTheFiles) {
  for (const std::string name : {"wan_vae_toy", "wan_vae_small", "wan_vae_residual", "wan_vae_residual_alternate"}) {
    const Model model(name);
    EXPECT_EQ(testing::names_and_shapes(wan_vae_tensors(model.config)), testing::names_and_shapes(model.weights.tensors())) << name;
    match_tensors(model.weights, wan_vae_tensors(model.config));
  }
  EXPECT_EQ(testing::names_and_shapes(wan_vae_tensors(read_config(kFullSize))), testing::recorded_names_and_shapes("wan2.1-vae"));
  EXPECT_EQ(testing::names_and_shapes(wan_vae_tensors(read_config(kFullSizeResidual))),
            testing::recorded_names_and_shapes("wan2.2-vae"));
}

// Plans of a platform that has, as CUDA has, convolutions which read the frames before x where they lie.
class ReadingPlatform : public fuzz::WrappedPlatform {
 public:
  ReadingPlatform() : WrappedPlatform(open_platform("null")) {
    for (const Implementation& row : WrappedPlatform::implementations()) rows_.push_back(row);
    rows_.push_back(
        {.name = "null_history",
         .of = one_of<Opcode::conv>,
         .supports = [](const Node& conv) { return conv.inputs[1].dim(3) == 3 ? Support::yes() : Support::no("not 3 rows"); },
         .make = rows_.front().make,
         .reads_history = true});
  }
  std::span<const Implementation> implementations() const override { return rows_; }
  std::vector<Implemented> implement(std::span<const Node* const> nodes, const OverrideRules& rules) override {
    return Platform::implement(nodes, rules);
  }

 private:
  std::vector<Implementation> rows_;
};

TEST(WanVaeGraph, EveryStateCanBeUpdatedInPlaceAndIsWrittenAsItIsRead) {
  const auto platform = open_platform("null");
  ReadingPlatform reading;
  for (const std::string& folder : {model_folder("wan_vae_toy"), model_folder("wan_vae_small"), model_folder("wan_vae_residual"),
                                    model_folder("wan_vae_residual_alternate"), kFullSize, kFullSizeResidual}) {
    const WanVaeConfig config = read_config(folder);
    for (const Half half : {Half::decode, Half::encode}) {
      std::vector<Type> states;
      for (const std::int64_t latents : {1, 1, 2, 5}) {  // the first 1 is the first group
        SCOPED_TRACE(fmt::format("{} {} {} latent frames", folder, half == Half::decode ? "decode" : "encode", latents));
        const bool first = states.empty();
        const std::int64_t scale = half == Half::decode ? 1 : config.scale_factor_spatial;
        const std::int64_t frames = half == Half::decode || first ? latents : latents * config.scale_factor_temporal;
        const WanVaeGraph traced = trace_group(half, config, DType::f32, {frames, 4 * scale, 3 * scale, 1}, first);
        const Plan plan = compile(traced.graph, *platform);
        const Plan plan_apart = compile(traced.graph, reading);
        EXPECT_EQ(print(plan_apart.graph) != print(plan.graph), !first);
        if (first) states = traced.states;
        EXPECT_TRUE(traced.states == states);  // one set of buffers serves all plans
        ASSERT_EQ(traced.graph.inputs.size(), 1 + traced.reads.size());
        ASSERT_EQ(traced.graph.outputs.size(), traced.results + traced.writes.size());
        for (std::size_t i = 0; i < traced.reads.size(); ++i) {
          EXPECT_TRUE(traced.graph.inputs[1 + i].type() == states[traced.reads[i]]) << i;
          const auto written = std::find(traced.writes.begin(), traced.writes.end(), traced.reads[i]) - traced.writes.begin();
          ASSERT_LT(static_cast<std::size_t>(written), traced.writes.size()) << "state " << traced.reads[i] << " is never written";
          const std::size_t output = traced.results + static_cast<std::size_t>(written);
          EXPECT_TRUE(traced.graph.outputs[output].type() == states[traced.reads[i]]) << i;
          EXPECT_TRUE(plan.can_update_in_place(1 + i, output)) << "state " << traced.reads[i];
          EXPECT_TRUE(plan_apart.can_update_in_place(1 + i, output)) << "state " << traced.reads[i];
        }
        if (!first) {
          EXPECT_EQ(traced.reads.size(), states.size());
        }
      }
    }
  }
}

// What the memory of decoding is made of, on a platform whose kernels need none of their own.
TEST(WanVaeGraph, FullSizeFits) {
  const auto platform = open_platform("null");
  const WanVaeConfig config = read_config(kFullSize);
  const auto mib = [](std::size_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  for (const auto& [height, width] : {std::pair{256, 256}, {480, 832}}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const bool first : {true, false}) {
        const WanVaeGraph traced = trace_wan_vae_decode(config, dtype, 1, height / 8, width / 8, first);
        verify(traced.graph);
        EXPECT_EQ(traced.graph.outputs[0].type().str(), fmt::format("f32[{},{},{},3]", first ? 1 : 4, height, width));
        const Plan plan = compile(traced.graph, *platform);
        std::size_t states = 0;
        for (const Type& type : traced.states) states += type.size_bytes();
        fmt::print("decode {}x{} {} {}: states {:.1f} MiB, workspace {:.1f} MiB, weights {:.1f} MiB\n", width, height, name(dtype),
                   first ? "first" : "group", mib(states), mib(plan.workspace_bytes), mib(plan.weight_bytes()));
        // The widest pictures and what their convolution reads, and no more than a few such at once.
        const std::size_t widest = static_cast<std::size_t>((first ? 1 : 4) * height * width * 192) * size_of(dtype);
        EXPECT_GE(plan.workspace_bytes, widest);
        EXPECT_LE(plan.workspace_bytes, 5 * widest);
        if (height == 256) {
          EXPECT_LT(states + plan.workspace_bytes, std::size_t{3} << 29);  // 1.5 GiB
        }
      }
    }
  }
}

std::string error_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& e) {
    return std::string(name(e.kind())) + " " + e.what();
  }
  return "none";
}

TEST(WanVaeErrors, NameTheValueAndItsKind) {
  const auto config_error = [](const std::string& text) {
    return error_of([&] { parse_wan_vae_config(parse_json_object(text, "config.json")); });
  };
  EXPECT_EQ(config_error("{}"), "none");
  const std::string bad = "invalid argument [config.json] ", unsupported = "unsupported [config.json] ";
  for (const auto& [text, start] : std::vector<std::pair<std::string, std::string>>{
           {R"({"is_residual":true,"dim_mult":[1,2,4,8]})", unsupported + "dim_mult is not supported: expected 1 first"},
           {R"({"is_residual":true,"dim_mult":[2,2,4,4]})", unsupported + "dim_mult is not supported: expected 1 first"},
           {R"({"is_residual":true,"dim_mult":[1,2,2,2],"temperal_downsample":[true,false,true]})",
            unsupported + "dim_mult is not supported: expected 1 first"},
           {R"({"is_residual":true,"dim_mult":[1,1,3,3]})", unsupported + "dim_mult is not supported: expected 1 first"},
           {R"({"patch_size":2})", unsupported + "in_channels or out_channels is not supported: expected 12"},
           {R"({"patch_size":9})", bad + "bad patch_size: got 9"},
           {R"({"attn_scales":[0.5]})", unsupported + "attn_scales is not supported: expected []."},
           {R"({"in_channels":12})",
            unsupported + "in_channels or out_channels is not supported: expected 3, three colours of 1x1 pixels."},
           {R"({"decoder_base_dim":0})", bad + "bad decoder_base_dim: got 0"},
           {R"({"temperal_downsample":[false,false,true]})",
            unsupported + "temperal_downsample is not supported: expected two true"},
           {R"({"base_dim":-96})", bad + "bad base_dim: got -96, expected an integer from 1 to 4096."},
           {R"({"base_dim":"96"})", bad + "bad base_dim: got the string \"96\", expected an integer"},
           {R"({"z_dim":0})", bad + "bad z_dim: got 0, expected an integer from 1 to 1024."},
           {R"({"num_res_blocks":9223372036854775807})", bad + "bad num_res_blocks: got 9223372036854775807, expected"},
           {R"({"dim_mult":[1]})", bad + "bad dim_mult: got an array of 1, expected an array of 2 to 8"},
           {R"({"dim_mult":[1,2,-4,4]})", bad + "bad dim_mult[2]: got -4, expected an integer from 1 to 64."},
           {R"({"base_dim":4096,"dim_mult":[1,2,4,64]})", bad + "base_dim x dim_mult is too large: got 4096 x 64, expected"},
           {R"({"base_dim":3,"dim_mult":[1,2,3,4]})", bad + "bad dim_mult: got 3 x 3 channels, expected an even number."},
           {R"({"dim_mult":[1,2,4]})", bad + "bad temperal_downsample: got 3 values, expected 2, one less than dim_mult has."},
           {R"({"temperal_downsample":[true,true]})", bad + "bad temperal_downsample: got an array of 2, expected an array of 3"},
           {R"({"latents_mean":[0,1]})", bad + "bad latents_mean: got an array of 2, expected an array of 16"},
           {R"({"z_dim":4})", bad + "missing latents_mean: got no such key, expected an array of 4"},
           {R"({"z_dim":1,"latents_mean":[0],"latents_std":[0]})", bad + "bad latents_std[0]: got 0, expected a number from"},
           {R"({"z_dim":1,"latents_mean":[NaN],"latents_std":[1]})", bad + "broken JSON at line 1, column"},
           {R"({"scale_factor_spatial":16})", bad + "bad scale_factor_spatial: got 16, expected 8 by dim_mult"},
           {R"({"scale_factor_temporal":8})", bad + "bad scale_factor_temporal: got 8, expected 4 by dim_mult"}}) {
    const std::string error = config_error(text);
    EXPECT_TRUE(error.starts_with(start)) << text << "\n" << error;
  }

  const WanVaeConfig config = parse_wan_vae_config(parse_json_object("{}", "config.json"));
  constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();
  for (const auto& [half, group, first] : {std::tuple{Half::decode, std::array<std::int64_t, 3>{2, 4, 4}, true},
                                           {Half::decode, {0, 4, 4}, false},
                                           {Half::decode, {1, 0, 4}, true},
                                           {Half::decode, {1, 4, -4}, false},
                                           {Half::decode, {1, kHuge, kHuge}, true},
                                           {Half::decode, {2, 8192, 4097}, false},
                                           {Half::encode, {8, 65536, 32776}, false},
                                           {Half::encode, {4, 16, 16}, true},
                                           {Half::encode, {3, 16, 16}, false},
                                           {Half::encode, {4, 12, 16}, false},
                                           {Half::encode, {1, 16, 20}, true},
                                           {Half::encode, {kHuge - 3, kHuge - 7, 16}, false}}) {
    const std::string error = error_of([&, h = half, g = group, f = first] {
      if (h == Half::decode) trace_wan_vae_decode(config, DType::f32, g[0], g[1], g[2], f);
      else trace_wan_vae_encode(config, DType::f32, g[0], g[1], g[2], f);
    });
    const std::string start =
        fmt::format("invalid argument [wan_vae_{}] bad size: got ", half == Half::decode ? "decode" : "encode");
    EXPECT_TRUE(error.starts_with(start)) << group[0] << "x" << group[1] << "x" << group[2] << " " << error;
  }
}

}  // namespace
}  // namespace zoe
