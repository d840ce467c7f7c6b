// Attention and convolutions by cuDNN: what it is asked for, what it takes, and that its plans are found again.
#include <set>

#include "base/log.h"
#include "ops/platforms.h"
#include "ops/run_kernel.h"
#include "platform/cuda/cudnn_plan.h"
#include "platform/cuda/kernels.h"
#include "testing/temporary_folder.h"

namespace zoe::testing {
namespace {

using cuda::CudnnGraph;
using cuda::CudnnTensor;
using Extents = std::vector<std::int64_t>;

struct ConvShape {
  Shape x, weight;
  ConvWindow window = {};
  bool residual = false;
};

const ConvWindow kSame{.pad_begin = {0, 1, 1}, .pad_end = {0, 1, 1}};
const ConvWindow kDownSpace{.stride = {1, 2, 2}, .pad_end = {0, 1, 1}}, kDownTime{.stride = {2, 1, 1}};
const ConvWindow kDoubled{.pad_begin = {0, 1, 1}, .pad_end = {0, 1, 1}, .upsample = 2};

// The Wan VAE's kinds of convolution, and channels that are no multiple of 8.
const ConvShape kConvs[] = {{{4, 9, 11, 32}, {48, 32, 3, 3, 3}, kSame, true}, {{4, 9, 11, 32}, {64, 32, 3, 1, 1}},
                            {{2, 9, 11, 32}, {16, 32, 1, 3, 3}, kDoubled},    {{2, 9, 12, 32}, {32, 32, 1, 3, 3}, kDownSpace},
                            {{5, 5, 6, 32}, {32, 32, 3, 1, 1}, kDownTime},    {{4, 9, 11, 24}, {3, 24, 3, 3, 3}, kSame},
                            {{4, 9, 11, 3}, {24, 3, 3, 3, 3}, kSame},         {{2, 9, 11, 3}, {24, 3, 1, 3, 3}, kDownSpace, true},
                            {{3, 9, 11, 20}, {12, 20, 3, 3, 3}, kSame},       {{3, 9, 11, 12}, {16, 12, 3, 3, 3}, kSame, true}};

Case make(const ConvShape& shape, bool has_bias = true) {
  const Value x = input("x", DType::bf16, shape.x), weight = parameter("w", DType::bf16, shape.weight);
  ProductOptions options;
  if (has_bias) options.bias = parameter("b", DType::bf16, {shape.weight.dim(0)});
  if (shape.residual) options.residual = input("r", DType::bf16, conv(x, weight, shape.window).shape());
  Case made{conv(x, weight, shape.window, options), {}, DType::f32};
  unsigned seed = 1;
  for (const Value& operand : made.result.node().inputs)
    made.operands.push_back(random_values(
        operand.type(), seed++, operand == weight ? 1.0 / std::sqrt(static_cast<double>(shape.weight.count(1, 5))) : 1.0));
  return made;
}

Case make_attention(std::int64_t batch, std::int64_t queries, std::int64_t keys, std::int64_t heads, std::int64_t width,
                    bool bias) {
  const Value q = input("q", DType::bf16, {batch, queries, heads, width}), k = input("k", DType::bf16, {batch, keys, heads, width}),
              v = input("v", DType::bf16, {batch, keys, heads, width});
  const Value b = bias ? input("b", DType::f32, {1, 1, 1, keys}) : Value();
  Case made{attention(q, k, v, 1.0 / std::sqrt(static_cast<double>(width)), b), {}};
  unsigned seed = 1;
  for (const Value& operand : made.result.node().inputs) made.operands.push_back(random_values(operand.type(), seed++));
  if (bias)  // as the text's keys: one row counts for many, those behind it are none
    for (std::int64_t key = 0; key < keys; ++key)
      made.operands[3][static_cast<std::size_t>(key)] = key < keys / 2    ? 0
                                                        : key == keys / 2 ? std::log(static_cast<float>(keys))
                                                                          : -std::numeric_limits<double>::infinity();
  return made;
}

bool has_cudnn() {
  for (const LibraryInfo& library : cuda()->libraries())
    if (library.name == "cuDNN") return !library.version.empty();
  return false;
}

#define ZOE_SKIP_WITHOUT_CUDNN() \
  ZOE_SKIP_WITHOUT_CUDA();       \
  if (!has_cudnn()) GTEST_SKIP() << "no cuDNN"

bool is_cudnn(const Kernel& kernel) { return kernel.implementation().starts_with("cudnn"); }

TEST(CudnnGraphs, AttentionReadsWhatTheProductsWrite) {
  const Case c = make_attention(2, 300, 77, 3, 128, true);
  for (const std::size_t version : {std::size_t{90100}, std::size_t{92800}}) {
    const CudnnGraph graph = cuda::attention_graph(c.result.node(), version);
    EXPECT_EQ(graph.tensors[0].dims, (Extents{2, 3, 300, 128}));
    EXPECT_EQ(graph.tensors[0].strides, (Extents{300 * 3 * 128, 128, 3 * 128, 1}));
    EXPECT_EQ(graph.tensors[1].dims, (Extents{2, 3, 128, 77}));
    EXPECT_EQ(graph.tensors[1].strides, (Extents{77 * 3 * 128, 128, 1, 3 * 128}));
    EXPECT_EQ(graph.tensors.back().dims, graph.tensors[0].dims);
    // Nothing is stored but the result, and what is given are q, k, v, the scale and the bias.
    std::set<int> results;
    for (const cuda::CudnnOperation& operation : graph.operations) results.insert(operation.output);
    int given = 0, stored = 0;
    for (std::size_t i = 0; i < graph.tensors.size(); ++i) {
      if (graph.tensors[i].where == CudnnTensor::Where::nowhere) continue;
      ++(results.count(static_cast<int>(i)) ? stored : given);
    }
    EXPECT_EQ(given, 5);
    EXPECT_EQ(stored, 1);
    EXPECT_EQ(graph.operations.size(), version < 92100 ? 11u : 5u);
  }
}

// v as the last third of one product's rows: its tokens are three times as far apart.
TEST(CudnnGraphs, AttentionReadsHeadsAmongOthers) {
  const Value q = input("q", DType::bf16, {1, 30, 2, 64}), qkv = input("qkv", DType::bf16, {1, 30, 6, 64});
  const CudnnGraph graph =
      cuda::attention_graph(attention(q, q, qkv, {.scale = 1, .heads = 2, .first_head = {0, 0, 4}}, {}).node(), 92800);
  EXPECT_EQ(graph.tensors[0].strides, (Extents{30 * 2 * 64, 64, 2 * 64, 1}));
  EXPECT_EQ(graph.tensors[1].strides, (Extents{30 * 2 * 64, 64, 1, 2 * 64}));
  EXPECT_EQ(graph.tensors[2].dims, (Extents{1, 2, 30, 64}));
  EXPECT_EQ(graph.tensors[2].strides, (Extents{30 * 6 * 64, 64, 6 * 64, 1}));
  EXPECT_EQ(graph.tensors.back().strides, graph.tensors[0].strides);
}

TEST(CudnnGraphs, ConvolutionsAreAskedForInTheirCheapestForm) {
  const auto of = [](const ConvShape& shape) { return cuda::conv_graph(make(shape).result.node()); };
  // Operands are x and the weight: [batch, channels, axes].
  const CudnnGraph same = of({{6, 9, 11, 32}, {48, 32, 3, 3, 3}, kSame});
  EXPECT_EQ(same.tensors[0].dims, (Extents{1, 32, 6, 9, 11}));
  EXPECT_EQ(same.tensors[0].strides, (Extents{6 * 9 * 11 * 32, 1, 9 * 11 * 32, 11 * 32, 32}));
  EXPECT_EQ(same.tensors[1].dims, (Extents{48, 32, 3, 3, 3}));
  const CudnnGraph frames = of({{6, 9, 12, 32}, {48, 32, 1, 3, 3}, kDownSpace});
  EXPECT_EQ(frames.tensors[0].dims, (Extents{6, 32, 9, 12}));
  EXPECT_EQ(frames.operations[0].stride, (Extents{2, 2}));
  const CudnnGraph time = of({{6, 9, 11, 32}, {48, 32, 3, 1, 1}});
  EXPECT_EQ(time.tensors[0].dims, (Extents{1, 32, 6, 9 * 11}));
  EXPECT_EQ(time.tensors[1].dims, (Extents{48, 32, 3, 1}));
  const CudnnGraph doubled = of({{6, 9, 11, 32}, {48, 32, 1, 3, 3}, kDoubled});
  EXPECT_EQ(doubled.tensors[1].dims, (Extents{4 * 48, 32, 2, 2}));
  EXPECT_EQ(doubled.tensors.back().dims, (Extents{6, 4 * 48, 10, 12}));
  const CudnnGraph spread = of({{6, 9, 11, 3}, {96, 3, 3, 3, 3}, kSame});
  EXPECT_EQ(spread.tensors[1].dims, (Extents{96, 32, 3, 1}));
  const CudnnGraph gathered = of({{6, 9, 11, 96}, {3, 96, 3, 3, 3}, kSame});
  EXPECT_EQ(gathered.tensors[1].dims, (Extents{32, 96, 3, 1}));
  EXPECT_EQ(gathered.tensors.back().type, static_cast<int>(cuda::cudnn::kFloat));
}

TEST(CudnnGraphs, TextTellsGraphsApart) {
  std::set<std::string> texts;
  for (const ConvShape& shape : kConvs) texts.insert(cuda::conv_graph(make(shape).result.node()).text());
  texts.insert(cuda::conv_graph(make({{4, 9, 11, 32}, {48, 32, 3, 3, 3}, kSame, false}).result.node()).text());
  texts.insert(cuda::conv_graph(make({{4, 9, 11, 32}, {48, 32, 3, 3, 3}, {}, true}).result.node()).text());
  EXPECT_EQ(texts.size(), std::size(kConvs) + 2);
  const std::string text = cuda::conv_graph(make(kConvs[0]).result.node()).text();
  EXPECT_EQ(text, cuda::conv_graph(make(kConvs[0]).result.node()).text());
}

TEST(CudnnOnCuda, ConvolutionsAgreeWithReference) {
  ZOE_SKIP_WITHOUT_CUDNN();
  for (const ConvShape& shape : kConvs)
    for (const bool bias : {true, false})
      for (const std::size_t shift : {0, 1}) {
        const Case c = make(shape, bias);
        const auto kernel = cuda()->make_kernel(c.result.node());
        // Without a bias cuDNN adds no residual. The fewest channels are faster by a product of our own where that has wgmma.
        if (shape.weight.dim(1) >= 8) {
          EXPECT_EQ(is_cudnn(*kernel), bias || !shape.residual)
              << kernel->implementation() << " for " << signature(c.result.node());
        }
        // Sums of taps are rounded too: one rounding more on each weight.
        const double more = shape.window.upsample == 2 ? 1.5 : 1;
        EXPECT_LE(relative_rms(run_kernel(*cuda(), c, shift), run_reference(c)), more * tolerance(DType::bf16))
            << kernel->implementation() << " for " << signature(c.result.node()) << ", " << shift
            << " elements behind an aligned address";
      }
}

TEST(CudnnOnCuda, TheResultMayLieOnTheResidual) {
  ZOE_SKIP_WITHOUT_CUDNN();
  const Case c = make({{6, 60, 52, 64}, {64, 64, 3, 3, 3}, kSame, true});
  const auto kernel = cuda()->make_kernel(c.result.node());
  ASSERT_TRUE(is_cudnn(*kernel));
  EXPECT_TRUE(kernel->can_overwrite(3, 0));
  EXPECT_FALSE(kernel->can_overwrite(0, 0));
  const auto stream = cuda()->make_stream();
  std::vector<std::shared_ptr<Buffer>> buffers;
  std::vector<Slot> slots;
  for (std::size_t i = 0; i < c.operands.size(); ++i) {
    const Value& operand = c.result.node().inputs[i];
    const int number = static_cast<int>(i);
    std::vector<std::byte> bytes = to_bytes(c.operands[i], DType::bf16);
    if (operand.node().opcode == Opcode::parameter) {
      std::vector<std::byte> packed(kernel->packed_bytes(number, operand.type()));
      kernel->pack_weight(number, operand.type(), DenseWeight(DType::bf16, operand.shape(), bytes.data()), packed.data());
      bytes = packed;
    }
    buffers.push_back(cuda()->allocate(bytes.size(), "operand"));
    slots.push_back({buffers.back().get(), 0});
    cuda()->upload(*stream, bytes.data(), slots.back(), bytes.size());
  }
  const auto scratch = cuda()->allocate(kernel->scratch_bytes(), "scratch");
  kernel->run(*stream, slots, {&slots[3], 1}, {scratch.get(), 0});
  std::vector<std::byte> bytes(c.operands[3].size() * 2);
  cuda()->download(*stream, slots[3], bytes.data(), bytes.size());
  std::vector<float> wide(c.operands[3].size());
  convert(bytes.data(), DType::bf16, wide.data(), DType::f32, wide.size());
  EXPECT_EQ(std::vector<double>(wide.begin(), wide.end()), run_kernel(*cuda(), c, 0));
}

TEST(CudnnOnCuda, AttentionAgreesWithReference) {
  ZOE_SKIP_WITHOUT_CUDNN();
  for (const bool bias : {false, true})
    for (const auto& [batch, queries, keys, heads, width] : {std::array<std::int64_t, 5>{1, 257, 257, 3, 96},
                                                             {2, 100, 77, 2, 32},
                                                             {1, 130, 512, 2, 96},
                                                             {1, 64, 64, 1, 256},
                                                             {1, 33, 9, 2, 40}})
      for (const std::size_t shift : {0, 1}) {
        const Case c = make_attention(batch, queries, keys, heads, width, bias);
        const auto kernel = cuda()->make_kernel(c.result.node());
        EXPECT_TRUE(is_cudnn(*kernel)) << kernel->implementation() << " for " << signature(c.result.node());
        // The weights of the keys are rounded, too.
        EXPECT_LE(relative_rms(run_kernel(*cuda(), c, shift), run_reference(c)), 2 * tolerance(DType::bf16))
            << kernel->implementation() << " for " << signature(c.result.node()) << ", " << shift
            << " elements behind an aligned address";
      }
}

// Heads that are too wide, a bias for every query, and f32 go to our own kernel.
TEST(CudnnOnCuda, LeavesTheRest) {
  ZOE_SKIP_WITHOUT_CUDNN();
  const auto taken = [](const Value& value) { return is_cudnn(*cuda()->make_kernel(value.node())); };
  const auto attend = [](DType dtype, std::int64_t width, std::int64_t bias_rows) {
    const Value x = input("x", dtype, {1, 64, 1, width});
    return attention(x, x, x, 0.1, input("b", DType::f32, {1, 1, bias_rows, 64}));
  };
  EXPECT_TRUE(taken(attend(DType::bf16, 96, 1)));
  EXPECT_FALSE(taken(attend(DType::bf16, 384, 1)));
  EXPECT_FALSE(taken(attend(DType::bf16, 96, 64)));
  EXPECT_FALSE(taken(attend(DType::f32, 96, 1)));
  const Value x = input("x", DType::bf16, {3, 8, 8, 16}), computed = input("w", DType::bf16, {16, 16, 3, 3, 3});
  EXPECT_FALSE(taken(conv(x, computed, kSame)));
  const Value weight = parameter("w", DType::bf16, {16, 16, 3, 3, 3});
  EXPECT_TRUE(taken(conv(x, weight, kSame)));
  EXPECT_FALSE(taken(conv(x, weight, kSame, {.activation = Activation::silu})));
}

// The second platform, as a second process would, finds what the first one measured.
TEST(CudnnOnCuda, MeasuresOnce) {
  ZOE_SKIP_WITHOUT_CUDNN();
  const TemporaryFolder folder;
  std::string messages;
  const LogScope log_scope([&](LogLevel, std::string_view text) { messages += std::string(text) + "\n"; });
  const Case c = make({{6, 60, 104, 64}, {64, 64, 3, 3, 3}, kSame, true});  // no columns for our own kernel
  std::string implementations[2];
  for (std::string& implementation : implementations) {
    messages.clear();
    implementation = open_platform("cuda", {.cache_dir = folder.path()})->make_kernel(c.result.node())->implementation();
    EXPECT_EQ(messages.find("is the fastest") != std::string::npos, &implementation == &implementations[0]) << messages;
  }
  EXPECT_EQ(implementations[0], implementations[1]);
}

}  // namespace
}  // namespace zoe::testing
