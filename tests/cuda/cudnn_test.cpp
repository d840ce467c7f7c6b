// What is asked of cuDNN and kept of its answers, with a library of the test's own that proposes one engine for everything, on the
// fake driver.
#include "platform/cuda/cudnn_plan.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "base/log.h"
#include "cuda/fake.h"
#include "testing/temporary_folder.h"

namespace zoe::testing {
namespace {

namespace fs = std::filesystem;
using namespace cuda;

struct FakeDescriptor {
  int kind;
  std::string json;
};
struct Library {
  int proposals = 0, from_json = 0, alive = 0;
} library;

CudnnApi fake_api() {
  CudnnApi api{};
  api.version = []() -> std::size_t { return 91900; };
  api.error_text = [](CudnnStatus) { return "refused"; };
  api.last_error = [](char* text, std::size_t) { *text = 0; };
  api.create = [](CudnnHandle* handle) {
    *handle = reinterpret_cast<CudnnHandle>(&library);
    return 0;
  };
  api.destroy = [](CudnnHandle) { return 0; };
  api.set_stream = [](CudnnHandle, StreamHandle) { return 0; };
  api.descriptor_create = [](int kind, CudnnDescriptor* descriptor) {
    ++library.alive;
    *descriptor = new FakeDescriptor{kind, ""};
    return 0;
  };
  api.descriptor_destroy = [](CudnnDescriptor descriptor) {
    --library.alive;
    delete static_cast<FakeDescriptor*>(descriptor);
    return 0;
  };
  api.descriptor_finalize = [](CudnnDescriptor descriptor) {
    const auto& made = *static_cast<FakeDescriptor*>(descriptor);
    library.from_json += !made.json.empty();
    return made.json.empty() || made.json == "{\"engine\": 7}" ? 0 : 1;
  };
  api.descriptor_set = [](CudnnDescriptor descriptor, int name, int, std::int64_t count, const void* values) {
    if (name == cudnn::kPlanJson)
      static_cast<FakeDescriptor*>(descriptor)->json.assign(static_cast<const char*>(values), static_cast<std::size_t>(count));
    return 0;
  };
  api.descriptor_get = [](CudnnDescriptor, int name, int, std::int64_t room, std::int64_t* count, void* values) {
    *count = 0;
    if (name == cudnn::kHeuristicsResults) ++library.proposals, *count = 1;
    if (name == cudnn::kEngineIndex) *count = 1, *static_cast<std::int64_t*>(values) = 7;
    if (name == cudnn::kPlanWorkspace) *count = 1, *static_cast<std::int64_t*>(values) = 0;
    if (name == cudnn::kPlanJson) {
      constexpr std::string_view kJson = "{\"engine\": 7}";
      *count = static_cast<std::int64_t>(kJson.size());
      if (values && room >= *count) std::memcpy(values, kJson.data(), kJson.size());
    }
    return 0;
  };
  api.execute = [](CudnnHandle, CudnnDescriptor, CudnnDescriptor) { return 0; };
  return api;
}

const CudnnApi kApi = fake_api();

class CudnnPlans : public ::testing::Test {
 protected:
  void SetUp() override {
    fake_of(kCuda).order("");
    library = {};
  }
  void TearDown() override {
    EXPECT_EQ(library.alive, 0);
    EXPECT_STREQ(fake_of(kCuda).problems(), "");
    EXPECT_STREQ(fake_of(kCuda).alive(), "");
  }
  // As a new process would.
  std::string engine(const fs::path& cache, float size = 8) {
    const auto device = std::make_shared<Device>(kCuda, 0, fake_of(kCuda).options(cache));
    std::string why;
    const auto opened = Cudnn::open(kApi, device, why);
    CudnnGraph graph;
    const int x = graph.tensor({.dims = {static_cast<std::int64_t>(size), 4}, .strides = {4, 1}});
    graph.pointwise(cudnn::kExp, {x}, graph.tensors[0]);
    const auto plan = opened->plan(graph, why);
    return plan ? plan->engine() : why;
  }
  const TemporaryFolder folder_;
  std::string notices_;
  const LogScope log_scope_{[this](LogLevel level, std::string_view text) {
    if (level == LogLevel::notice) notices_ += std::string(text) + "\n";
  }};
};

TEST_F(CudnnPlans, AreKeptForTheNextProcess) {
  EXPECT_EQ(engine(folder_.path() / "cache"), "engine 7");
  EXPECT_EQ(library.proposals, 1);
  EXPECT_EQ(engine(folder_.path() / "cache"), "engine 7");
  EXPECT_EQ(library.proposals, 1);
  EXPECT_EQ(library.from_json, 1);
  EXPECT_EQ(engine(folder_.path() / "cache", 9), "engine 7");
  EXPECT_EQ(library.proposals, 2);
  EXPECT_EQ(notices_, "");
}

// Whatever keeps the cache from being written, nothing is written anywhere else.
TEST_F(CudnnPlans, TouchNothingInTheCurrentFolder) {
  // Names in the cache's folder for work do not fit below it any more.
  fs::path deep = folder_.path();
  while (deep.string().size() + 201 < 4060) deep /= std::string(200, 'd');
  deep /= std::string(4075 - deep.string().size() - 1, 'd');
  fs::create_directories(folder_.path() / "here");
  const fs::path before = fs::current_path(), mine = folder_.path() / "here" / "plan.json";
  std::ofstream(mine) << "of the user";
  fs::current_path(folder_.path() / "here");
  EXPECT_EQ(engine(deep), "engine 7");
  fs::current_path(before);
  std::string text;
  std::getline(std::ifstream(mine), text);
  EXPECT_EQ(text, "of the user");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path() / "here"), {}), 1);
  EXPECT_NE(notices_.find("cannot create a folder in "), std::string::npos) << notices_;
}

}  // namespace
}  // namespace zoe::testing
