// The generated source of every op against copies in the repository, in every dialect; and the CUDA C++ through nvcc, where there
// is one. ZOE_UPDATE_SOURCES=1 rewrites the copies: read the difference before committing it.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/encoding.h"
#include "codegen/c_printer.h"
#include "codegen/chains.h"
#include "platform/cuda/kernels.h"
#include "testing/temporary_folder.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;

const Dialect* const kDialects[] = {&kCppDialect, &kCudaDialect, &kOpenclDialect, &kOpenclRowsDialect};

const std::vector<testing::NamedChain>& chains() {
  static const std::vector<testing::NamedChain> all = testing::op_chains();
  return all;
}

class Source : public ::testing::TestWithParam<std::size_t> {};

TEST_P(Source, IsTheOneInTheRepository) {
  const testing::NamedChain& named = chains()[GetParam()];
  for (const Dialect* dialect : kDialects) {
    const fs::path path = fs::path(ZOE_FIXTURES) / "codegen" / dialect->name / (named.name + ".txt");
    const std::string text = print_source(named.chain, *dialect, {.name = named.name}).text;
    if (std::getenv("ZOE_UPDATE_SOURCES")) {
      fs::create_directories(path.parent_path());
      std::ofstream(path) << text;
    }
    std::ifstream in(path);
    const std::string kept{std::istreambuf_iterator<char>(in), {}};
    EXPECT_EQ(text, kept) << path << "\n" << print(named.chain);
  }
}

TEST_P(Source, IsTheSameForAnyNumberOfRows) {
  static const std::vector<testing::NamedChain> longer = testing::op_chains(3000);
  for (const Dialect* dialect : kDialects)
    EXPECT_EQ(print_source(chains()[GetParam()].chain, *dialect, {.name = "k"}).text,
              print_source(longer[GetParam()].chain, *dialect, {.name = "k"}).text);
}

INSTANTIATE_TEST_SUITE_P(Ops, Source, ::testing::Range<std::size_t>(0, testing::op_chains().size()),
                         [](const auto& tested) { return chains()[tested.param].name; });

TEST(CudaSource, SaysHowItIsLaunched) {
  int with_wide_accesses = 0;
  const auto expect_sound = [&](const std::string& name, const Chain& chain) {
    const GeneratedSource source = print_source(chain, kCudaDialect, {.name = name});
    const bool wide = source.alignment > 1;
    with_wide_accesses += wide;
    EXPECT_EQ(source.text.find(name + "_unaligned(") != std::string::npos, wide) << name;
    for (const Grid& grid : {source.grid, wide ? source.grid_unaligned : source.grid}) {
      EXPECT_GT(grid.per_block, 0) << name;
      EXPECT_TRUE(grid.threads > 0 && grid.threads <= 256 && grid.threads % 32 == 0) << name << ": " << grid.threads;
      EXPECT_LE(grid.shared_bytes, kMostSharedBytes) << name;
    }
  };
  for (const testing::NamedChain& named : chains()) expect_sound(named.name, named.chain);
  EXPECT_GT(with_wide_accesses, 24);  // all but an odd width and a transposition
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::int64_t width : {8, 40, 96, 1000, 3072, 5120, 13824, 30000}) {
      const Value x = input("x", dtype, {1, 7, width}), gate = input("gate", DType::f32, {1, 1, width});
      const testing::NamedChain named =
          testing::fuse_whole(fmt::format("norm_{}_{}", name(dtype), width), {x, gate}, {norm_scale_shift(x, gate, gate)});
      expect_sound(named.name, named.chain);
      for (const testing::NamedChain& bytes : testing::u8_chains(dtype, 7, width)) expect_sound(bytes.name, bytes.chain);
    }
  }
}

bool has_nvcc() { return std::system("nvcc --version > /dev/null 2>&1") == 0; }

// Compiles `text` for Hopper. What nvcc said, "exit status N: ..." if it failed.
std::string compile(const std::string& text) {
  testing::TemporaryFolder folder;
  std::ofstream(folder.path() / "all.cu") << text;
  const std::string command = fmt::format(
      "cd '{}' && nvcc -std=c++17 -gencode=arch=compute_90a,code=sm_90a --fmad=false -Xptxas -warn-spills -w -cubin "
      "-o all.cubin all.cu > log 2>&1",
      folder.path().string());
  const int status = std::system(command.c_str());
  std::ifstream log(folder.path() / "log");
  std::string said{std::istreambuf_iterator<char>(log), {}};
  if (status != 0) return fmt::format("exit status {}: {}", status, said);
  EXPECT_GT(fs::file_size(folder.path() / "all.cubin"), 5000u);
  return said;
}

TEST(CudaSource, CompilesToACubin) {
  if (!has_nvcc()) GTEST_SKIP() << "no nvcc on the PATH";
  std::string text = prelude(kCudaDialect);
  for (const testing::NamedChain& named : chains()) text += print_source(named.chain, kCudaDialect, {.name = named.name}).text;
  for (const std::int64_t width : {6, 12, 40})  // vectors of two, four and eight
    for (const testing::NamedChain& named : testing::u8_chains(DType::bf16, 7, width))
      text += print_source(named.chain, kCudaDialect, {.name = named.name}).text;
  // One row alone, through shared memory: the flag of finite latents.
  for (const std::int64_t width : {60, 336}) {
    const Value row = input("row", DType::f32, {1, width});
    const testing::NamedChain named = testing::fuse_whole(fmt::format("sum_of_one_row_{}", width), {row}, {sum(row * 0.0)});
    text += print_source(named.chain, kCudaDialect, {.name = named.name}).text;
  }
  const std::string said = compile(text);
  EXPECT_EQ(said.find("exit status"), std::string::npos) << said;
}

// Scores, sums and queries of flash attention are all in registers, of which there is not one left to spill.
TEST(CudaSource, OfFlashAttentionFitsTheRegisters) {
  if (!has_nvcc()) GTEST_SKIP() << "no nvcc on the PATH";
  struct Variant {
    std::int64_t channels, tile;
    bool has_bias, stays;
  };
  for (const Variant& variant : {Variant{128, 144, false, false}, {128, 144, true, true}, {64, 16, true, false}}) {
    const std::string said = compile(cuda::flash_attention_source(variant.channels, variant.tile, variant.has_bias, variant.stays));
    EXPECT_TRUE(said.find("exit status") == std::string::npos && said.find("pill") == std::string::npos)
        << variant.channels << " channels, " << variant.tile << " keys: " << said;
  }
}

// The sums of a warpgroup are; and products that wait for each other are said to be "serialized".
TEST(CudaSource, OfImplicitGemmFitsTheRegistersAndItsProductsRunOn) {
  if (!has_nvcc()) GTEST_SKIP() << "no nvcc on the PATH";
  struct Variant {
    std::array<std::int64_t, 3> kernel;
    cuda::ImplicitGemmTile tile;
    std::int64_t x_stages, w_slots;
    Activation activation;
  };
  for (const Variant& variant : {Variant{{3, 3, 3}, {96, {2, 2}, {1, 1}}, 2, 5, Activation::none},
                                 {{1, 2, 2}, {96, {2, 2}, {1, 1}}, 4, 8, Activation::none},
                                 {{1, 3, 3}, {96, {2, 2}, {1, 1}}, 4, 8, Activation::silu},
                                 {{3, 3, 3}, {128, {2, 1}, {1, 2}}, 2, 4, Activation::none},
                                 {{1, 2, 2}, {128, {1, 2}, {1, 2}}, 4, 8, Activation::none},
                                 {{3, 3, 3}, {160, {2, 1}, {1, 2}}, 2, 3, Activation::silu},
                                 {{3, 3, 3}, {160, {1, 2}, {1, 2}}, 2, 3, Activation::none},
                                 {{3, 3, 3}, {16, {2, 2}, {1, 1}}, 2, 8, Activation::none},
                                 {{3, 3, 3}, {8, {2, 2}, {1, 1}}, 2, 8, Activation::none}}) {
    const std::string said =
        compile(cuda::implicit_gemm_source(variant.kernel, variant.tile, variant.x_stages, variant.w_slots, variant.activation));
    EXPECT_TRUE(said.find("exit status") == std::string::npos && said.find("pill") == std::string::npos &&
                said.find("serialized") == std::string::npos)
        << variant.tile.columns << " columns, " << variant.w_slots << " slots: " << said;
  }
}

TEST(CudaSource, OfWideAttentionFitsTheRegistersAndItsProductsRunOn) {
  if (!has_nvcc()) GTEST_SKIP() << "no nvcc on the PATH";
  const std::string said = compile(cuda::wide_attention_source());
  EXPECT_TRUE(said.find("exit status") == std::string::npos && said.find("pill") == std::string::npos &&
              said.find("serialized") == std::string::npos)
      << said;
}

// Sums of 128 by 256 codes, or scores and sums of three warpgroups, are in registers; so are a row's numbers as codes are made.
TEST(CudaSource, OfCodesFitsTheRegistersAndItsProductsRunOn) {
  if (!has_nvcc()) GTEST_SKIP() << "no nvcc on the PATH";
  for (const auto& [what, text] : {std::pair{"linear", cuda::coded_linear_source(Activation::none)},
                                   {"linear with GELU", cuda::coded_linear_source(Activation::gelu_tanh)},
                                   {"rows of 5120", cuda::codes_source(5120)},
                                   {"rows of 640", cuda::codes_source(640)},
                                   {"heads of 128", cuda::coded_attention_source(128)},
                                   {"heads of 64", cuda::coded_attention_source(64)}}) {
    const std::string said = compile(text);
    EXPECT_TRUE(said.find("exit status") == std::string::npos && said.find("pill") == std::string::npos &&
                said.find("serialized") == std::string::npos)
        << what << ": " << said;
  }
}

// Sixteen numbers of a thread, and the bytes they are made of, stay in registers.
TEST(CudaSource, OfWideningNeedsNoStack) {
  if (!has_nvcc()) GTEST_SKIP() << "no nvcc on the PATH";
  struct Variant {
    const char* encoding;
    bool is_scaled, is_changed;
    DType dtype;
  };
  for (const Variant& variant : {Variant{"Q4_K", false, false, DType::bf16},
                                 {"Q8_0", false, true, DType::bf16},
                                 {"Q6_K", false, true, DType::f32},
                                 {"F8_E4M3", true, false, DType::bf16},
                                 {"BF16", false, true, DType::bf16}}) {
    const std::string said =
        compile(cuda::widen_source(*find_encoding(variant.encoding), variant.is_scaled, variant.is_changed, variant.dtype));
    EXPECT_TRUE(said.find("exit status") == std::string::npos && said.find("pill") == std::string::npos)
        << variant.encoding << ": " << said;
  }
}

}  // namespace
}  // namespace zoe
