// The generated source of every op against copies in the repository, in every dialect; and the CUDA C++ through nvcc, where there
// is one. ZOE_UPDATE_SOURCES=1 rewrites the copies: read the difference before committing it.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "codegen/c_printer.h"
#include "codegen/chains.h"
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

TEST(CudaSource, CompilesToACubin) {
  if (std::system("nvcc --version > /dev/null 2>&1") != 0) GTEST_SKIP() << "no nvcc on the PATH";
  testing::TemporaryFolder folder;
  std::string text = prelude(kCudaDialect);
  for (const testing::NamedChain& named : chains()) text += print_source(named.chain, kCudaDialect, {.name = named.name}).text;
  std::ofstream(folder.path() / "all.cu") << text;
  const std::string command = fmt::format(
      "cd '{}' && nvcc -std=c++17 -arch=sm_90 --fmad=false -w -cubin -o all.cubin all.cu > log 2>&1", folder.path().string());
  std::ifstream log(folder.path() / "log");
  ASSERT_EQ(std::system(command.c_str()), 0) << std::string{std::istreambuf_iterator<char>(log), {}};
  EXPECT_GT(fs::file_size(folder.path() / "all.cubin"), 10000u);
}

}  // namespace
}  // namespace zoe
