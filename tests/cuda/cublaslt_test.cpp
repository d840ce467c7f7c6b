// Which algorithm a product gets, with a cuBLASLt of the test's own over the memory of the fake driver. It reads matrices as
// the library does, by column and from what the calls describe, so what is asked of the library is checked, too.
#include "platform/cuda/cublaslt.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "cuda/fake.h"
#include "testing/temporary_folder.h"

namespace zoe::testing {
namespace {

using namespace cuda;

constexpr Status kRefused = 15;

struct Product {
  int transpose_a = 0;
  std::uint32_t epilogue = kLtPlain;
  Address bias = 0;
};
struct Matrix {
  int type;
  std::int64_t rows, columns, column_stride;
};

// One algorithm of the library.
struct Behaviour {
  double ms = 1;  // hundredths of one: a device is warmed up for long products
  bool rounds_twice = false, fails = false;
  std::size_t workspace_bytes = 0;
};

struct Library {
  std::vector<Behaviour> offered;
  int asked = 0, checked = 0, multiplied = 0;
  bool refuses_checked = false;
  std::uint32_t reductions = 7;
  std::uint64_t workspace_limit = 0;
} library;

Product& product_of(LtProduct handle) { return *reinterpret_cast<Product*>(handle); }
Matrix& matrix_of(LtLayout handle) { return *reinterpret_cast<Matrix*>(handle); }

float element(const Matrix& matrix, Address place, std::int64_t row, std::int64_t column) {
  const std::int64_t index = column * matrix.column_stride + row;
  if (matrix.type == kLtF32) return reinterpret_cast<const float*>(place)[index];
  return bf16_to_f32(reinterpret_cast<const std::uint16_t*>(place)[index]);
}

Status multiply(LtHandle, LtProduct product, const void* alpha, Address a, LtLayout a_layout, Address b, LtLayout b_layout,
                const void* beta, Address c, LtLayout c_layout, Address d, LtLayout d_layout, const LtAlgorithm* algorithm, Address,
                std::size_t workspace_bytes, StreamHandle) {
  ++library.multiplied;
  const Behaviour& behaviour = library.offered.at(algorithm->words[0]);
  fake_of(kCuda).pass(behaviour.ms / 100);
  if (behaviour.fails || workspace_bytes < behaviour.workspace_bytes) return kRefused;
  const Product& what = product_of(product);
  const Matrix &weight = matrix_of(a_layout), &x = matrix_of(b_layout), &from = matrix_of(c_layout), &result = matrix_of(d_layout);
  if (what.transpose_a != kLtTransposed || weight.rows != x.rows || weight.columns != result.rows || x.columns != result.columns ||
      from.rows != result.rows || *static_cast<const float*>(alpha) != 1)
    return kRefused;
  const auto rounded = [&](double value) {
    return behaviour.rounds_twice ? static_cast<double>(bf16_to_f32(f32_to_bf16(static_cast<float>(value)))) : value;
  };
  for (std::int64_t column = 0; column < result.columns; ++column)
    for (std::int64_t row = 0; row < result.rows; ++row) {
      double sum = 0;
      for (std::int64_t k = 0; k < x.rows; ++k)
        sum += static_cast<double>(element(weight, a, k, row)) * static_cast<double>(element(x, b, k, column));
      sum = rounded(sum);
      if (*static_cast<const float*>(beta) == 1) sum += static_cast<double>(element(from, c, row, column));
      if (what.epilogue & kLtBias) sum += static_cast<double>(element(Matrix{result.type, result.rows, 1, 0}, what.bias, row, 0));
      if (what.epilogue & kLtGelu) sum = 0.5 * sum * (1 + std::tanh(0.7978845608028654 * (sum + 0.044715 * sum * sum * sum)));
      const std::int64_t index = column * result.column_stride + row;
      if (result.type == kLtF32) reinterpret_cast<float*>(d)[index] = static_cast<float>(sum);
      else reinterpret_cast<std::uint16_t*>(d)[index] = f32_to_bf16(static_cast<float>(sum));
    }
  return kSuccess;
}

template <class Object, class Handle>
Status destroy(Handle handle) {
  delete reinterpret_cast<Object*>(handle);
  return kSuccess;
}

CublasltApi fake_api() {
  CublasltApi api{};
  api.version = []() -> std::size_t { return 130100; };
  api.status_text = [](Status status) { return status == kSuccess ? "success" : "not supported"; };
  api.create = [](LtHandle* handle) {
    *handle = nullptr;
    return kSuccess;
  };
  api.destroy = [](LtHandle) { return kSuccess; };
  api.product_create = [](LtProduct* product, int compute, int scale) {
    *product = reinterpret_cast<LtProduct>(new Product);
    return compute == kLtComputeF32 && scale == kLtF32 ? kSuccess : kRefused;
  };
  api.product_destroy = destroy<Product, LtProduct>;
  api.product_set = [](LtProduct product, LtProductAttribute attribute, const void* value, std::size_t bytes) {
    Product& what = product_of(product);
    void* const to = attribute == LtProductAttribute::transpose_a ? static_cast<void*>(&what.transpose_a)
                     : attribute == LtProductAttribute::epilogue  ? static_cast<void*>(&what.epilogue)
                                                                  : &what.bias;
    if (bytes != (attribute == LtProductAttribute::bias ? 8u : 4u)) return kRefused;
    std::memcpy(to, value, bytes);
    return kSuccess;
  };
  api.layout_create = [](LtLayout* layout, int type, std::uint64_t rows, std::uint64_t columns, std::int64_t stride) {
    *layout =
        reinterpret_cast<LtLayout>(new Matrix{type, static_cast<std::int64_t>(rows), static_cast<std::int64_t>(columns), stride});
    return kSuccess;
  };
  api.layout_destroy = destroy<Matrix, LtLayout>;
  api.preference_create = [](LtPreference* preference) {
    *preference = nullptr;
    return kSuccess;
  };
  api.preference_destroy = [](LtPreference) { return kSuccess; };
  api.preference_set = [](LtPreference, LtPreferenceAttribute attribute, const void* value, std::size_t bytes) {
    if (attribute == LtPreferenceAttribute::reductions) std::memcpy(&library.reductions, value, bytes);
    if (attribute == LtPreferenceAttribute::workspace_bytes) std::memcpy(&library.workspace_limit, value, bytes);
    return kSuccess;
  };
  api.candidates = [](LtHandle, LtProduct, LtLayout, LtLayout, LtLayout, LtLayout, LtPreference, int most, LtCandidate* found,
                      int* count) {
    ++library.asked;
    *count = 0;
    for (std::size_t i = 0; i < library.offered.size() && *count < most; ++i)
      found[(*count)++] = {{{i}}, library.offered[i].workspace_bytes, kSuccess, 1, {}};
    return library.offered.empty() ? kRefused : kSuccess;
  };
  api.check = [](LtHandle, LtProduct, LtLayout, LtLayout, LtLayout, LtLayout, const LtAlgorithm* algorithm, LtCandidate* result) {
    ++library.checked;
    if (library.refuses_checked || algorithm->words[0] >= library.offered.size()) return kRefused;
    *result = {*algorithm, library.offered[algorithm->words[0]].workspace_bytes, kSuccess, 1, {}};
    return kSuccess;
  };
  api.algorithm_get = [](const LtAlgorithm* algorithm, LtAlgorithmAttribute, void* value, std::size_t bytes, std::size_t* written) {
    std::memset(value, 0, bytes);
    *static_cast<unsigned char*>(value) = static_cast<unsigned char>(algorithm->words[0]);
    *written = bytes;
    return kSuccess;
  };
  api.multiply = multiply;
  return api;
}

const CublasltApi kApi = fake_api();

class CublasltChoice : public ::testing::Test {
 protected:
  void SetUp() override {
    fake_of(kCuda).order("");
    library = {};
  }
  void TearDown() override {
    EXPECT_STREQ(fake_of(kCuda).problems(), "");
    EXPECT_STREQ(fake_of(kCuda).alive(), "");
  }

  // As a new process would; -1: none.
  int choose(const LtProblem& problem) {
    const auto device = std::make_shared<Device>(kCuda, 0, fake_of(kCuda).options(cache_.path()));
    Cublaslt products(device, kApi);
    const auto choice = products.choose(problem);
    const auto again = products.choose(problem);  // remembered
    EXPECT_EQ(choice.has_value(), again.has_value());
    return choice ? static_cast<int>(choice->algorithm.words[0]) : -1;
  }

  const TemporaryFolder cache_;
  std::string messages_;
  const LogScope log_scope_{[this](LogLevel, std::string_view text) { messages_ += std::string(text) + "\n"; }};
};

constexpr LtProblem kPlain{DType::bf16, 16, 24, 8, false, false, false};
constexpr LtProblem kBias{DType::bf16, 16, 24, 8, true, false, false};
constexpr LtProblem kResidual{DType::bf16, 16, 24, 8, true, false, true};
constexpr LtProblem kGelu{DType::bf16, 16, 24, 8, false, true, false};

TEST_F(CublasltChoice, TheFastestIsTakenAndFoundAgain) {
  library.offered = {{.ms = 3}, {.ms = 2.5}, {.ms = 1}, {.ms = 1.005}, {.ms = 2}};
  EXPECT_EQ(choose(kBias), 2);
  EXPECT_NE(messages_.find("cuBLASLt: bf16 16x24x8 bias takes number 3 of 5"), std::string::npos) << messages_;
  EXPECT_EQ(library.reductions, kLtReduceInComputeType);
  EXPECT_EQ(library.asked, 1);
  const int multiplied = library.multiplied;
  EXPECT_EQ(choose(kBias), 2);
  EXPECT_EQ(library.asked, 1) << "nothing is measured again";
  EXPECT_EQ(library.multiplied, multiplied);
  EXPECT_EQ(choose(kGelu), 2);
  EXPECT_EQ(library.asked, 2) << "another product is another question";
}

// Within a hundredth the library's order decides, so that noise does not.
TEST_F(CublasltChoice, OfEqualsTheFirst) {
  library.offered = {{.ms = 2}, {.ms = 1.005}, {.ms = 1}};
  EXPECT_EQ(choose(kBias), 1);
}

TEST_F(CublasltChoice, WhatRoundsTwiceOrFailsIsPassedOver) {
  library.offered = {{.ms = 1, .rounds_twice = true}, {.ms = 1, .fails = true}, {.ms = 3}, {.ms = 2}};
  for (const LtProblem& problem : {kBias, kResidual, kGelu}) EXPECT_EQ(choose(problem), 3) << problem.text();
  EXPECT_EQ(choose(kPlain), 0) << "without anything to add there is one rounding";
  library.offered = {{.rounds_twice = true}, {.fails = true}};
  LtProblem wider = kBias;
  wider.rows = 32;
  EXPECT_EQ(choose(wider), -1);
  EXPECT_EQ(choose({DType::f32, 16, 24, 8, true, false, true}), 0) << "f32 sums are not rounded before";
  wider.inner = 2;
  EXPECT_EQ(choose(wider), -1) << "too short to look";
}

TEST_F(CublasltChoice, NoAlgorithmIsNoError) { EXPECT_EQ(choose(kBias), -1); }

TEST_F(CublasltChoice, WithoutRoomTheFirstIsTakenAndNotKept) {
  library.offered = {{.ms = 2}, {.ms = 1}};
  fake_of(kCuda).order("memory 1000000");
  EXPECT_EQ(choose(kBias), 0);
  EXPECT_NE(messages_.find("no room to measure"), std::string::npos) << messages_;
  fake_of(kCuda).order("");
  EXPECT_EQ(choose(kBias), 1);
}

// A failure on the way says nothing about the product: it is asked for again, and not taken for one without an algorithm.
TEST_F(CublasltChoice, AfterAnErrorItIsAskedAgain) {
  library.offered = {{.ms = 2}, {.ms = 1}};
  const auto device = std::make_shared<Device>(kCuda, 0, fake_of(kCuda).options("/proc/no cache"));
  Cublaslt products(device, kApi);
  fake_of(kCuda).order("fail memory_allocate_async 1 1");
  EXPECT_THROW(products.choose(kBias), Error);
  fake_of(kCuda).order("");
  const auto choice = products.choose(kBias);
  ASSERT_TRUE(choice);
  EXPECT_EQ(choice->algorithm.words[0], 1u);
}

TEST_F(CublasltChoice, AKeptOneThatTheLibraryRefusesIsMeasuredAgain) {
  library.offered = {{.ms = 2}, {.ms = 1}};
  EXPECT_EQ(choose(kBias), 1);
  library.refuses_checked = true;
  messages_.clear();
  EXPECT_EQ(choose(kBias), 1);
  EXPECT_EQ(library.asked, 2);
  EXPECT_NE(messages_.find("cuBLASLt does not take it"), std::string::npos) << messages_;
  library.refuses_checked = false;
  EXPECT_EQ(choose(kBias), 1);
  EXPECT_EQ(library.asked, 2) << "it was stored anew";
}

// What the library is told computes activation(x weight^T + bias) + residual.
TEST_F(CublasltChoice, OperandsAreDescribedAsTheyLie) {
  library.offered = {{.workspace_bytes = 100}};
  const auto device = std::make_shared<Device>(kCuda, 0, fake_of(kCuda).options(cache_.path()));
  Cublaslt products(device, kApi);
  DeviceStream stream(device);
  for (const auto& [bias, gelu, residual] :
       {std::tuple(false, false, false), {true, false, false}, {false, false, true}, {true, false, true}, {true, true, false}}) {
    const LtProblem problem{DType::f32, 3, 5, 4, bias, gelu, residual};
    const auto choice = products.choose(problem);
    ASSERT_TRUE(choice);
    EXPECT_EQ(choice->workspace_bytes, 100u);
    const auto values = [&](std::int64_t count, float scale) {
      const auto buffer = device->allocate(static_cast<std::size_t>(count) * 4, "values");
      for (std::int64_t i = 0; i < count; ++i) static_cast<float*>(buffer->data)[i] = scale * static_cast<float>(i * 7 % 11 - 5);
      return buffer;
    };
    const auto x = values(12, 0.5f), weight = values(20, 0.25f), added = values(5, 1), rest = values(15, 2), result = values(15, 0),
               workspace = values(64, 0);
    const auto place = [](const std::shared_ptr<Buffer>& buffer) { return reinterpret_cast<Address>(buffer->data); };
    products.multiply(problem, *choice,
                      {place(x), place(weight), bias ? place(added) : 0, residual ? place(rest) : 0, place(result)},
                      place(workspace), stream.handle());
    const auto at = [](const std::shared_ptr<Buffer>& buffer, int i) { return static_cast<const float*>(buffer->data)[i]; };
    for (int row = 0; row < 3; ++row)
      for (int column = 0; column < 5; ++column) {
        float sum = bias ? at(added, column) : 0.0f;
        for (int k = 0; k < 4; ++k) sum += at(x, row * 4 + k) * at(weight, column * 4 + k);
        if (gelu) sum = 0.5f * sum * (1 + std::tanh(0.7978845608f * (sum + 0.044715f * sum * sum * sum)));
        if (residual) sum += at(rest, row * 5 + column);
        EXPECT_NEAR(at(result, row * 5 + column), sum, 1e-5) << problem.text() << " at " << row << ", " << column;
      }
  }
}

}  // namespace
}  // namespace zoe::testing
