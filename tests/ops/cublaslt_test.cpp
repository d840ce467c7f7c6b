// linear by cuBLASLt: what it takes, at the shapes of Wan's layers, and where it hands over to our own product.
#include "base/log.h"
#include "ops/platforms.h"
#include "ops/run_kernel.h"
#include "platform/cuda/kernels.h"
#include "testing/temporary_folder.h"

namespace zoe::testing {
namespace {

struct Epilogue {
  bool bias, residual;
  Activation activation;
};

constexpr Epilogue kEpilogues[] = {
    {false, false, Activation::none},    {true, false, Activation::none},       {false, true, Activation::none},
    {true, true, Activation::none},      {false, false, Activation::gelu_tanh}, {true, false, Activation::gelu_tanh},
    {true, true, Activation::gelu_tanh}, {true, false, Activation::silu},       {false, true, Activation::silu},
};

Case make(DType dtype, std::int64_t m, std::int64_t k, std::int64_t n, const Epilogue& epilogue) {
  const Value x = input("x", dtype, {1, m, k}), weight = parameter("w", dtype, {n, k});
  ProductOptions options;
  options.activation = epilogue.activation;
  if (epilogue.bias) options.bias = parameter("b", dtype, {n});
  if (epilogue.residual) options.residual = input("r", dtype, {1, m, n});
  Case result{linear(x, weight, options), {}, dtype};
  unsigned seed = 1;
  for (const Value& operand : result.result.node().inputs)
    result.operands.push_back(
        random_values({dtype, operand.shape()}, seed++, operand == weight ? 1.0 / std::sqrt(static_cast<double>(k)) : 1.0));
  return result;
}

bool is_cublaslt(const Kernel& kernel) { return kernel.implementation().starts_with("cublasLt"); }

TEST(Cublaslt, TakesWhatItRoundsOnce) {
  for (const Epilogue& epilogue : kEpilogues)
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Case c = make(dtype, 4, 8, 16, epilogue);
      const bool none = epilogue.activation == Activation::none;
      const bool gelu = epilogue.activation == Activation::gelu_tanh && !epilogue.residual && dtype == DType::bf16;
      EXPECT_EQ(static_cast<bool>(cuda::cublaslt_takes(c.result.node())), none || gelu) << signature(c.result.node());
    }
}

// The answer to the compiler is what make_kernel does.
TEST(CublasltOnCuda, EveryEpilogueAgreesWithReference) {
  ZOE_SKIP_WITHOUT_CUDA();
  for (const auto& [m, k, n] : {std::array<std::int64_t, 3>{160, 256, 320}, {1, 512, 96}, {60, 88, 72}})
    for (const Epilogue& epilogue : kEpilogues)
      for (const DType dtype : {DType::f32, DType::bf16}) {
        const Case c = make(dtype, m, k, n, epilogue);
        const auto kernel = cuda()->make_kernel(c.result.node());
        EXPECT_EQ(is_cublaslt(*kernel), Selection("cuda", cuda()->implementations()).takes_epilogue(c.result.node()))
            << kernel->implementation();
        EXPECT_LE(relative_rms(run_kernel(*cuda(), c, 0), run_reference(c)), tolerance(dtype))
            << kernel->implementation() << " for " << signature(c.result.node());
      }
}

// Widths that are no multiple of 8 leave the library only algorithms that round twice, and odd addresses none that is fast.
TEST(CublasltOnCuda, RoundsOnceAtEveryWidthAndAddress) {
  ZOE_SKIP_WITHOUT_CUDA();
  for (const auto& [m, k, n] : {std::array<std::int64_t, 3>{133, 100, 37}, {200, 33, 17}, {64, 2, 8}, {5, 1, 1}, {256, 64, 64}})
    for (const Epilogue& epilogue : kEpilogues)
      for (const std::size_t shift : {0, 1})
        for (const DType dtype : {DType::f32, DType::bf16}) {
          const Case c = make(dtype, m, k, n, epilogue);
          EXPECT_LE(relative_rms(run_kernel(*cuda(), c, shift), run_reference(c)), tolerance(dtype))
              << cuda()->make_kernel(c.result.node())->implementation() << " for " << signature(c.result.node()) << ", " << shift
              << " elements behind an aligned address";
        }
}

// In the residual's place the library would round twice.
TEST(CublasltOnCuda, NothingIsOverwritten) {
  ZOE_SKIP_WITHOUT_CUDA();
  const Case c = make(DType::bf16, 64, 64, 64, {true, true, Activation::none});
  const auto kernel = cuda()->make_kernel(c.result.node());
  ASSERT_TRUE(is_cublaslt(*kernel));
  for (int input = 0; input < 4; ++input) EXPECT_FALSE(kernel->can_overwrite(input, 0));
}

// The second platform, as a second process would, finds what the first one measured.
TEST(CublasltOnCuda, MeasuresOnce) {
  ZOE_SKIP_WITHOUT_CUDA();
  const TemporaryFolder folder;
  std::string messages;
  const LogScope log_scope([&](LogLevel, std::string_view text) { messages += std::string(text) + "\n"; });
  const Case c = make(DType::bf16, 4096, 1536, 1536, {true, false, Activation::none});
  std::string implementations[2];
  for (std::string& implementation : implementations) {
    messages.clear();
    implementation = open_platform("cuda", {.cache_dir = folder.path()})->make_kernel(c.result.node())->implementation();
    const bool measured = messages.find("cuBLASLt: bf16 4096x1536x1536 bias takes number") != std::string::npos;
    EXPECT_EQ(measured, &implementation == &implementations[0]) << messages;
  }
  EXPECT_EQ(implementations[0], implementations[1]);
}

}  // namespace
}  // namespace zoe::testing
