// Several uses of one platform at once, each in a thread of its own: plans are compiled, weights loaded, kernels run, facts asked.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "compiler/compile.h"
#include "compiler/run.h"
#include "ir/trace.h"
#include "ops/norm_scale_shift.h"

namespace zoe::testing {

constexpr std::int64_t kThreadTokens = 24;

// Of every family of kernels but convolutions, whose building takes longest.
inline Graph graph_for_threads(std::int64_t width) {
  const Value table = input("table", DType::f32, {10, width}), indices = input("indices", DType::i32, {kThreadTokens});
  const Value rows = reshape(gather(table, indices), {1, kThreadTokens, width});
  const Value normed = norm_scale_shift(rows, rows, rows);
  const Value mixed = linear(normed, parameter("w", DType::f32, {width, width}), {.activation = Activation::gelu_tanh});
  const Value heads = reshape(mixed, {1, kThreadTokens, 2, width / 2});
  const Value attended = reshape(attention(heads, heads, heads, 0.125), {1, kThreadTokens, width});
  return make_graph("threads", {table, indices}, {concat({attended, rows * mixed}, 1)});
}

// The bytes of the result of one use. `bad_index`: with an index that the table has no row for.
inline std::vector<std::byte> use_once(Platform& platform, std::int64_t width, bool bad_index = false) {
  const Graph graph = graph_for_threads(width);
  const Plan plan = compile(graph, platform);
  std::vector<float> weight(static_cast<std::size_t>(width * width)), table(static_cast<std::size_t>(10 * width));
  for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<float>(i * 37 % 101) / 500 - 0.1f;
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = static_cast<float>(i * 53 % 211) / 100 - 1;
  std::vector<std::int32_t> indices(static_cast<std::size_t>(kThreadTokens));
  for (std::size_t i = 0; i < indices.size(); ++i) indices[i] = static_cast<std::int32_t>(i * 7 % 10);
  if (bad_index) indices[3] = 1000;
  WeightStore weights(platform, [&](const std::string&) { return dense_weight(DType::f32, {width, width}, weight.data()); });
  weights.load(plan);
  const auto stream = platform.make_stream();
  std::vector<Tensor> inputs, outputs;
  for (const Value& value : graph.inputs) inputs.push_back(make_tensor(platform, value.type(), "input"));
  for (const Value& value : graph.outputs) outputs.push_back(make_tensor(platform, value.type(), "output"));
  platform.upload(*stream, table.data(), inputs[0].slot(), inputs[0].size_bytes());
  platform.upload(*stream, indices.data(), inputs[1].slot(), inputs[1].size_bytes());
  const Plan* const plans[] = {&plan};
  const Tensor workspace = make_workspace(platform, plans);
  CapturedGraphs captured_graphs;
  for (int i = 0; i < 3; ++i) run(plan, *stream, weights, inputs, outputs, workspace, {.captured_graphs = &captured_graphs});
  std::vector<std::byte> bytes(outputs[0].size_bytes());
  platform.download(*stream, outputs[0].slot(), bytes.data(), bytes.size());
  return bytes;
}

// Threads of three widths, so that some ask for the same kernels at the same time and some for others. `expect_bits`: equal uses
// have equal results, in whatever thread; with a bad index only the use that has it fails.
inline void use_from_threads(Platform& platform, bool expect_bits = true, bool with_bad_index = false) {
  constexpr int kThreads = 6, kRounds = 2;
  const DeviceInfo* const info = &platform.info();
  const std::string name = info->name;
  std::mutex mutex;
  std::map<std::int64_t, std::vector<std::vector<std::byte>>> results;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < kThreads; ++t)
      threads.emplace_back([&, t] {
        std::size_t lines = 0;
        const LogScope log_scope([&](LogLevel, std::string_view) { ++lines; });
        const std::int64_t width = 32 * (1 + t % 3);
        const bool is_bad = with_bad_index && t == 1;
        for (int round = 0; round < kRounds; ++round) try {
            std::vector<std::byte> bytes = use_once(platform, width, is_bad);
            EXPECT_FALSE(is_bad) << "a bad index is an error";
            EXPECT_EQ(&platform.info(), info);
            EXPECT_EQ(platform.info().name, name);
            EXPECT_GT(platform.free_bytes(), 0u);
            const std::lock_guard lock(mutex);
            results[width].push_back(std::move(bytes));
          } catch (const Error& error) {
            EXPECT_TRUE(is_bad) << error.what();
            EXPECT_NE(std::string(error.what()).find("bad index at position 3"), std::string::npos) << error.what();
          }
      });
  }
  ASSERT_EQ(results.size(), 3u);
  if (!expect_bits) return;
  for (const auto& [width, all] : results) {
    const std::vector<std::byte> alone = use_once(platform, width);
    for (const std::vector<std::byte>& each : all) EXPECT_EQ(each, alone) << width;
  }
}

}  // namespace zoe::testing
