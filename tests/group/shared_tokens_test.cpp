// A transformer whose tokens several devices share, on groups of CPU devices, against one device and against the interpreter of
// each device's graph.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "compiler/compile.h"
#include "compiler/run.h"
#include "group/late_platform.h"
#include "ir/interpreter.h"
#include "models/wan_dit/model.h"
#include "pipeline/device_threads.h"
#include "platform/group.h"
#include "testing/compare.h"

namespace zoe {
namespace {

using testing::late_group;
using testing::relative_rms_within;

constexpr std::int64_t kTextRows = 5;

WanDitConfig small_config() {
  WanDitConfig config = parse_wan_dit_config(parse_json_object("{}", "config.json"));
  config.patch_size = {1, 2, 2};
  config.num_heads = 24, config.head_dim = 8, config.in_channels = config.out_channels = 4;
  config.text_dim = 16, config.freq_dim = 32, config.ffn_dim = 64, config.num_layers = 2;
  return config;
}

// Of 45 tokens: no multiple of 2, 4 and 8.
WanDitSizes sizes_for(std::int64_t texts, std::int64_t devices = 1, std::int64_t device = 0) {
  return {.frames = 3, .height = 6, .width = 10, .text_rows = kTextRows, .batch = texts, .devices = devices, .device = device};
}

// Numbers that follow from a name.
std::vector<float> numbers(const std::string& name, std::int64_t count, float scale) {
  std::uint64_t state = std::hash<std::string>()(name) | 1;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    value = scale * (static_cast<float>(state >> 40) / static_cast<float>(1 << 23) - 1);
  }
  return values;
}

std::vector<float> weight(const std::string& name, const Shape& shape) {
  return numbers(name, shape.count(), 2.0f / std::sqrt(static_cast<float>(shape.dim(-1))));
}

std::vector<float> argument(const Value& input) {
  if (input.node().name == "text_bias") return std::vector<float>(static_cast<std::size_t>(input.shape().count()), 0.0f);
  return numbers(input.node().name, input.shape().count(), 1);
}

// The results of a forward on each of a group's devices, or on one.
std::vector<std::vector<std::vector<float>>> run_on(
    Platform& platform, std::int64_t texts, DType dtype, bool compiled = true,
    const std::function<void(Plan&)>& change = [](Plan&) {}) {
  std::vector<Platform*> devices{&platform};
  if (platform.group()) devices.assign(platform.group()->devices().begin(), platform.group()->devices().end());
  std::vector<Plan> plans;
  for (std::size_t d = 0; d < devices.size(); ++d)
    plans.push_back(
        compile(trace_wan_dit(small_config(), dtype,
                              sizes_for(texts, static_cast<std::int64_t>(devices.size()), static_cast<std::int64_t>(d))),
                *devices[d], {.compile = compiled}));
  for (Plan& plan : plans) change(plan);
  std::vector<std::vector<std::vector<float>>> results(devices.size());
  // A device that fails lets go of nothing that others may still pull from, until all have ended.
  struct Held {
    std::vector<Tensor> inputs, outputs;
    Tensor workspace;
  };
  std::vector<Held> held(devices.size());
  DeviceThreads threads(devices);
  threads.all(devices.size(), [&](std::size_t d) {
    const Plan& plan = plans[d];
    Platform& device = *devices[d];
    std::map<std::string, std::vector<float>> values;
    std::map<std::string, Shape> shapes;
    for (const PlanWeight& each : plan.weights)
      for (const PlanWeight::Part& part : each.parts) shapes[part.name] = part.type.shape;
    for (const auto& [name, shape] : shapes) values[name] = weight(name, shape);
    WeightStore store(device,
                      [&](const std::string& name) { return dense_weight(DType::f32, shapes.at(name), values.at(name).data()); });
    store.load(plan);
    const auto stream = device.make_stream();
    auto& [inputs, outputs, workspace] = held[d];
    for (const Value& input : plan.graph.inputs) {
      inputs.push_back(make_tensor(device, input.type(), input.node().name));
      upload(device, *stream, argument(input), inputs.back());
    }
    for (const Value& output : plan.graph.outputs) outputs.push_back(make_tensor(device, output.type(), "output"));
    const Plan* const one = &plan;
    workspace = make_workspace(device, {&one, 1});
    for (int again = 0; again < 2; ++again) run(plan, *stream, store, inputs, outputs, workspace);
    for (const Tensor& output : outputs) {
      results[d].emplace_back(static_cast<std::size_t>(output.type.shape.count()));
      download(device, *stream, output, results[d].back());
    }
  });
  return results;
}

std::string group_of(int devices) {
  std::string name = "cpu:0";
  for (int i = 1; i < devices; ++i) name += "," + std::to_string(i);
  return name;
}

class SharedTokens : public ::testing::TestWithParam<int> {};

// Every product, norm and attention of a token has one order of sums whatever the other rows are.
TEST_P(SharedTokens, GiveTheBitsOfOneDevice) {
  const auto alone = open_platform("cpu", {.threads = 1}), group = open_platform(group_of(GetParam()), {.threads = 1});
  ASSERT_EQ(group->group()->size(), static_cast<std::size_t>(GetParam()));
  for (const std::int64_t texts : {1, 2})
    for (const bool compiled : {true, false}) {
      const auto expected = run_on(*alone, texts, DType::f32, compiled)[0];
      const auto got = run_on(*group, texts, DType::f32, compiled);
      for (std::size_t device = 0; device < got.size(); ++device)
        for (std::size_t text = 0; text < expected.size(); ++text)
          EXPECT_TRUE(testing::same_sums(got[device][text], expected[text]))
              << "device " << device << ", text " << text << ", compiled " << compiled;
    }
}

TEST_P(SharedTokens, GiveThemHoweverLateTheirPiecesCome) {
  const auto alone = open_platform("cpu", {.threads = 1});
  for (const std::int64_t texts : {1, 2})
    for (const bool at_any_moment : {false, true}) {
      const auto expected = run_on(*alone, texts, DType::f32)[0];
      const auto group = late_group(GetParam(), at_any_moment);
      const auto got = run_on(*group, texts, DType::f32);
      for (std::size_t device = 0; device < got.size(); ++device) {
        ASSERT_EQ(got[device].size(), expected.size());
        for (std::size_t text = 0; text < expected.size(); ++text)
          EXPECT_TRUE(testing::same_sums(got[device][text], expected[text]))
              << "device " << device << ", text " << text << " of " << texts << ", at any moment " << at_any_moment;
      }
    }
}

// While exchanges are on their way: the failure is told, nobody waits, and the group is as good as before.
TEST_P(SharedTokens, AreLeftInOrderByADeviceThatIsLost) {
  const auto alone = open_platform("cpu", {.threads = 1}), group = late_group(GetParam(), false);
  const auto expected = run_on(*alone, 1, DType::f32)[0];
  for (const int good : {0, 3, 8, 13}) {
    const std::size_t lost = static_cast<std::size_t>(good) % group->group()->size();
    auto& device = static_cast<testing::LatePlatform&>(*group->group()->devices()[lost]);
    device.good_pulls = good;
    try {
      run_on(*group, 1, DType::f32);
      ADD_FAILURE() << "was not lost";
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()), fmt::format("[late] device {} is lost.", lost));
    }
    device.good_pulls = std::numeric_limits<int>::max();
    const auto got = run_on(*group, 1, DType::f32)[0];
    ASSERT_EQ(got.size(), expected.size());
    EXPECT_TRUE(testing::same_sums(got[0], expected[0]));
  }
}

TEST_P(SharedTokens, DoNotWhereNothingWaitsForThem) {
  const auto alone = open_platform("cpu", {.threads = 1}), group = late_group(GetParam(), false);
  const auto expected = run_on(*alone, 1, DType::f32)[0];
  const auto got = run_on(*group, 1, DType::f32, true, [](Plan& plan) {
    for (Step& step : plan.steps) step.waits_for.clear();
  });
  EXPECT_NE(got[0], expected);
}

bool overlap(const Place& a, std::size_t a_bytes, const Place& b, std::size_t b_bytes) {
  return a.kind == b.kind && a.index == b.index && a.offset < b.offset + b_bytes && b.offset < a.offset + a_bytes;
}

// A product goes on beside each exchange but the last of q's and the first of those back; nothing is written meanwhile where pieces
// come from or go to.
TEST_P(SharedTokens, ExchangeBesideProducts) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const auto group = open_platform(group_of(GetParam()), {.threads = 1});
    const Plan plan = compile(trace_wan_dit(small_config(), dtype, sizes_for(1, GetParam(), 1)), *group);
    std::vector<int> products;  // beside each exchange of a block
    for (std::size_t i = 0; i < plan.steps.size(); ++i) {
      const Step& exchange = plan.steps[i];
      if (exchange.node->opcode != Opcode::all_to_all) continue;
      std::size_t reader = i + 1;
      while (reader < plan.steps.size() && !std::ranges::count(plan.steps[reader].waits_for, static_cast<int>(i))) ++reader;
      ASSERT_LT(reader, plan.steps.size());
      int beside = 0;
      for (std::size_t k = i + 1; k < reader; ++k) {
        const Step& other = plan.steps[k];
        beside += other.node->opcode == Opcode::linear;
        for (std::size_t o = 0; o < other.outputs.size(); ++o)
          for (const auto& [place, type] : {std::pair(exchange.inputs[0], exchange.node->inputs[0].type()),
                                            std::pair(exchange.outputs[0], exchange.node->types[0])})
            EXPECT_FALSE(overlap(other.outputs[o], other.node->types[o].size_bytes(), place, type.size_bytes()))
                << describe(plan) << i << " and " << k;
      }
      products.push_back(beside);
    }
    // v beside k's and q's products, k beside both of q's, q's first part beside its second; the way back.
    EXPECT_EQ(products, (std::vector<int>{3, 2, 1, 0, 0, 1, 3, 2, 1, 0, 0, 1})) << describe(plan);
  }
}

TEST_P(SharedTokens, InBf16LieAsNearAsOneDevice) {
  const auto alone = open_platform("cpu", {.threads = 1}), group = open_platform(group_of(GetParam()), {.threads = 1});
  const auto expected = run_on(*alone, 1, DType::bf16)[0][0], got = run_on(*group, 1, DType::bf16)[0][0];
  EXPECT_TRUE(relative_rms_within(got, expected, Shape{static_cast<std::int64_t>(expected.size())}, 1e-6));
}

// Threads that meet and hand each other their pieces, as devices do.
class ReferenceGroup {
 public:
  explicit ReferenceGroup(std::size_t size) : posts_(size) {}
  std::vector<double> exchange(std::size_t member, const Node& node, const std::vector<double>& own) {
    meet([&] { posts_[member] = &own; });
    const bool gathers = node.opcode == Opcode::all_gather;
    const std::size_t piece = own.size() / (gathers ? 1 : posts_.size());
    std::vector<double> all;
    for (const std::vector<double>* post : posts_) {
      const auto begin = post->begin() + static_cast<std::ptrdiff_t>(gathers ? 0 : member * piece);
      all.insert(all.end(), begin, begin + static_cast<std::ptrdiff_t>(piece));
    }
    meet([] {});
    return all;
  }

 private:
  void meet(const std::function<void()>& first) {
    std::unique_lock lock(mutex_);
    first();
    if (++waiting_ == posts_.size()) {
      waiting_ = 0, ++meetings_;
      changed_.notify_all();
      return;
    }
    changed_.wait(lock, [&, before = meetings_] { return meetings_ != before; });
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<const std::vector<double>*> posts_;
  std::size_t waiting_ = 0;
  int meetings_ = 0;
};

TEST_P(SharedTokens, OfTheInterpreterGiveTheNumbersOfOneDevice) {
  const auto devices = static_cast<std::size_t>(GetParam());
  const auto interpreted = [&](std::size_t of, std::size_t device, const ReferenceExchange& exchange) {
    const Graph graph =
        trace_wan_dit(small_config(), DType::f32, sizes_for(1, static_cast<std::int64_t>(of), static_cast<std::int64_t>(device)));
    verify(graph);
    std::vector<ReferenceTensor> inputs;
    for (const Value& input : graph.inputs) {
      const std::vector<float> values = argument(input);
      inputs.push_back({input.shape(), {values.begin(), values.end()}});
    }
    const auto parameters = [](const Node& node) {
      const std::vector<float> values = weight(node.name, node.types[0].shape);
      return ReferenceTensor{node.types[0].shape, {values.begin(), values.end()}};
    };
    return interpret(graph, inputs, parameters, exchange)[0].values;
  };
  const std::vector<double> expected = interpreted(1, 0, {});
  ReferenceGroup group(devices);
  std::vector<std::vector<double>> got(devices);
  {
    std::vector<std::jthread> threads;
    for (std::size_t device = 0; device < devices; ++device)
      threads.emplace_back([&, device] {
        got[device] =
            interpreted(devices, device, [&](const Node& node, const auto& own) { return group.exchange(device, node, own); });
      });
  }
  for (const std::vector<double>& each : got) EXPECT_EQ(each, expected);
}

INSTANTIATE_TEST_SUITE_P(Groups, SharedTokens, ::testing::Values(2, 3, 4, 8),
                         [](const auto& group) { return "Of" + std::to_string(group.param); });

TEST(SharedTokensErrors, SayWhyTokensStayTogether) {
  const WanDitConfig config = small_config();
  EXPECT_TRUE(shares_tokens(config, sizes_for(1), 1));
  EXPECT_EQ(shares_tokens(config, sizes_for(1), 5).reason(),
            "24 heads are no multiple of 5 devices: each takes as many heads as the others");
  WanDitSizes sizes = sizes_for(1);
  sizes.first_frame = true;
  EXPECT_EQ(shares_tokens(config, sizes, 2).reason(),
            "the tokens of a first frame that is given are modulated apart: they stay on one device");
  sizes = sizes_for(1);
  sizes.frames = 1, sizes.height = 2, sizes.width = 4;
  EXPECT_EQ(shares_tokens(config, sizes, 3).reason(), "2 tokens are fewer than 3 devices");
}

}  // namespace
}  // namespace zoe
