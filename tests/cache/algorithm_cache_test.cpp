// Which algorithm of cuBLASLt was the fastest, on disk.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <functional>

#include "base/log.h"
#include "platform/cuda/cublaslt.h"
#include "testing/temporary_folder.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using cuda::AlgorithmCache;
using cuda::LtAlgorithm;
using cuda::LtProblem;

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write(const fs::path& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

LtAlgorithm algorithm(std::uint64_t seed) {
  LtAlgorithm made;
  for (std::uint64_t& word : made.words) word = seed++ * 0x9e3779b97f4a7c15u;
  return made;
}

const LtProblem kProblem{DType::bf16, 32760, 8960, 1536, true, true, false};

class AlgorithmCacheTest : public ::testing::Test {
 protected:
  AlgorithmCache open(const std::string& library = "cuBLASLt 130101", const std::string& device = "H100, driver 13000") const {
    return {std::make_shared<KernelCache>(KernelCache::Options{.folder = folder()}), library, device};
  }
  fs::path folder() const { return temporary_.path() / "cache"; }
  fs::path entry() const { return fs::canonical(folder() / "names" / "product_bf16_32760x8960x1536_bias_gelu"); }

  const testing::TemporaryFolder temporary_;
  std::string notices_;
  const LogScope log_scope_{[this](LogLevel level, std::string_view text) {
    if (level == LogLevel::notice) notices_ += std::string(text) + "\n";
  }};
};

TEST_F(AlgorithmCacheTest, IsFoundByTheNextProcessAndForNothingElse) {
  EXPECT_FALSE(open().find(kProblem));
  open().store(kProblem, algorithm(3));
  const auto found = open().find(kProblem);
  ASSERT_TRUE(found);
  EXPECT_EQ(std::memcmp(found->words, algorithm(3).words, sizeof found->words), 0);
  EXPECT_EQ(read(entry() / "product.txt"), "bf16 32760x8960x1536 bias gelu\n");

  EXPECT_FALSE(open("cuBLASLt 130102").find(kProblem));
  EXPECT_FALSE(open("cuBLASLt 130101", "H200, driver 13000").find(kProblem));
  const std::function<void(LtProblem&)> changes[] = {
      [](LtProblem& p) { p.dtype = DType::f32; }, [](LtProblem& p) { p.rows = 75600; }, [](LtProblem& p) { p.columns = 1536; },
      [](LtProblem& p) { p.inner = 8960; },       [](LtProblem& p) { p.bias = false; }, [](LtProblem& p) { p.gelu = false; },
      [](LtProblem& p) { p.residual = true; },
  };
  for (const auto& change : changes) {
    LtProblem other = kProblem;
    change(other);
    EXPECT_FALSE(open().find(other)) << other.text();
  }
  EXPECT_EQ(notices_, "");
}

TEST_F(AlgorithmCacheTest, ADamagedEntryIsForgottenAndStoredAgain) {
  const struct {
    const char* what;
    std::function<void(const fs::path&)> damage;
  } cases[] = {
      {"missing", [](const fs::path& e) { fs::remove(e / "kernel.algorithm"); }},
      {"truncated", [](const fs::path& e) { write(e / "kernel.algorithm", read(e / "kernel.algorithm").substr(0, 63)); }},
      {"longer", [](const fs::path& e) { write(e / "kernel.algorithm", read(e / "kernel.algorithm") + "x"); }},
      {"one bit",
       [](const fs::path& e) {
         std::string bytes = read(e / "kernel.algorithm");
         bytes[17] ^= 1;
         write(e / "kernel.algorithm", bytes);
       }},
      {"broken meta", [](const fs::path& e) { write(e / "meta.json", "{\"binary\": "); }},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.what);
    open().store(kProblem, algorithm(1));
    ASSERT_TRUE(open().find(kProblem));
    c.damage(entry());
    notices_.clear();
    EXPECT_FALSE(open().find(kProblem));
    EXPECT_NE(notices_.find("the entry of product_bf16_32760x8960x1536_bias_gelu"), std::string::npos) << notices_;
    EXPECT_FALSE(open().find(kProblem));  // it is gone
    open().store(kProblem, algorithm(2));
    const auto found = open().find(kProblem);
    ASSERT_TRUE(found);
    EXPECT_EQ(found->words[0], algorithm(2).words[0]);
    open().reject(kProblem, "the library does not take it");
    EXPECT_FALSE(open().find(kProblem));
  }
}

// An entry that is whole, but holds something else.
TEST_F(AlgorithmCacheTest, AnEntryOfAnotherSizeIsForgotten) {
  open().store(kProblem, algorithm(1));
  const std::string meta = read(entry() / "meta.json");
  const auto field = [&](const std::string& key) {
    const std::size_t begin = meta.find("\"" + key + "\": \"") + key.size() + 5;
    return meta.substr(begin, meta.find('"', begin) - begin);
  };
  KernelRecipe recipe{.name = field("name"), .dialect = field("dialect"), .source = read(entry() / "product.txt")};
  recipe.compiler = field("compiler");
  recipe.flags = field("flags");
  recipe.target = field("target");
  ASSERT_EQ(recipe.key(), entry().filename().string());
  fs::remove_all(entry());
  const fs::path other = temporary_.path() / "other.algorithm";
  for (const std::size_t size : {0, 60, 128}) {
    write(other, std::string(size, 'x'));
    KernelCache cache({.folder = folder()});
    const KernelCache::NewKernel stored{&recipe, other, recipe.name};
    cache.store({&stored, 1});
    ASSERT_TRUE(cache.find(recipe)) << size;
    notices_.clear();
    EXPECT_FALSE(open().find(kProblem)) << size;
    EXPECT_NE(notices_.find("is damaged"), std::string::npos) << notices_;
  }
}

TEST_F(AlgorithmCacheTest, WithoutAFolderNothingIsKeptAndThatIsSaidOnce) {
  write(temporary_.path() / "cache", "a file in the folder's place");
  AlgorithmCache cache = open();
  cache.store(kProblem, algorithm(1));
  cache.store(kProblem, algorithm(1));
  EXPECT_FALSE(cache.find(kProblem));
  EXPECT_EQ(std::count(notices_.begin(), notices_.end(), '\n'), 1) << notices_;
}

}  // namespace
}  // namespace zoe
