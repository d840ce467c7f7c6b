#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cctype>
#include <chrono>
#include <cstring>
#include <ctime>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "apps/cli/commands.h"
#include "apps/cli/timing.h"
#include "base/encoding.h"
#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "base/nearest.h"
#include "checkpoint/random_weight.h"
#include "compiler/passes/keep_stored.h"
#include "compiler/profile.h"
#include "compiler/run.h"
#include "ir/cost.h"
#include "ir/trace.h"
#include "pipeline/parts.h"
#include "pipeline/resident_memory.h"
#include "pipeline/settle.h"

namespace zoe::cli {

namespace {

struct BenchOptions {
  DeviceOptions device;
  CompileOptions compile;
  std::string part, size = "1.3b", profile, model, image, folder = "/tmp";
  std::vector<const Encoding*> stored;
  std::int64_t lora_rank = 0, height = 272, width = 480, num_frames = 17, text_tokens = 512, batch = 1, token_pieces = 1,
               group_frames = 0, steps = 4;
  int repeat = 3;
  Request request = {};  // precision, attention and exact_blocks of it
  std::int64_t videos = 2;
  bool is_exact() const {
    return request.precision.value_or(Arithmetic::exact) == Arithmetic::exact &&
           request.attention.value_or(Arithmetic::exact) == Arithmetic::exact;
  }
  // What is about one way of computing.
  bool looks_inside() const { return per_op || floors || plan || guidance || !profile.empty(); }
  std::optional<double> guidance_scale;
  bool guidance = false, streamed = false, per_op = false, floors = false, plan = false, verbose = false;
};

double seconds_between(StepClock::time_point begin, StepClock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

double mib(std::size_t bytes) { return static_cast<double>(bytes) / 1048576.0; }

// On the device's clock, until all that `queue` puts on the stream is done.
double seconds_on(Stream& stream, const std::function<void()>& queue) {
  const auto begin = stream.record_event();
  queue();
  const auto end = stream.record_event();
  end->wait();
  return end->seconds_since(*begin);
}

// Normal values without end: one block of them, repeated. Drawing them all would take longer than the runs.
class RandomValues {
 public:
  RandomValues(std::int64_t count, DType dtype, float deviation) {
    std::mt19937 generator(0);
    std::normal_distribution<float> normal(0, deviation);
    std::vector<float> block(static_cast<std::size_t>(std::min(count, kBlock)));
    for (float& value : block) value = normal(generator);
    std::vector<std::byte> narrow(block.size() * size_of(dtype));
    convert(block.data(), DType::f32, narrow.data(), dtype, block.size());
    bytes_.resize(static_cast<std::size_t>(count) * size_of(dtype));
    for (std::size_t i = 0; i < bytes_.size(); i += narrow.size())
      std::memcpy(bytes_.data() + i, narrow.data(), std::min(narrow.size(), bytes_.size() - i));
  }
  const std::byte* data() const { return bytes_.data(); }

 private:
  static constexpr std::int64_t kBlock = 999'983;  // a prime: rows of a matrix are not all the same
  std::vector<std::byte> bytes_;
};

// What is timed: plans in the order they run, each as often as its part says.
struct Case {
  std::vector<PartGraph> graphs;
  std::vector<Plan> plans;

  double operations() const {
    double total = 0;
    for (std::size_t p = 0; p < plans.size(); ++p) total += product_operations(plans[p].graph) * graphs[p].times;
    return total;
  }
};

// --size and the published member that has it.
const std::map<std::string, std::string> kSizes{
    {"1.3b", "wan2.1-t2v-1.3b"}, {"14b", "wan2.1-t2v-14b"}, {"i2v-14b", "wan2.2-i2v-a14b"}, {"5b", "wan2.2-ti2v-5b"}};

// `stored`: how matrices are stored; null: as wide as they are computed with. `rank`: of what is beside those of blocks. `exact`:
// whatever the options say of products and attention.
Case make_case(const BenchOptions& options, Platform& platform, DType dtype, const Encoding* stored = nullptr,
               std::int64_t rank = 0, bool exact = false) {
  const ModelConfig model =
      options.size == "toy" ? read_model_config(embedded_model_path()) : *published_model(kSizes.at(options.size));
  Case made;
  PartSize size{options.height, options.width, options.num_frames, options.text_tokens, options.batch};
  size.token_pieces = options.token_pieces;
  size.group_frames =
      options.group_frames ? options.group_frames : decode_group_frames(model, dtype, size, platform, platform.free_bytes());
  const std::int64_t later = (size.num_frames - 1) / model.vae.scale_factor_temporal;
  check(later % size.group_frames == 0, ErrorKind::invalid_argument, "--group-frames", "got {}, expected a divisor of {}.",
        size.group_frames, later);
  Settled arithmetic;
  if (!exact) settle_arithmetic(options.request, model, dtype, tokens_of(model, size), platform, Spelling::option, arithmetic);
  made.graphs = trace_part(model, options.part, precision_of(arithmetic, dtype), size);
  std::vector<Graph> graphs;
  for (const PartGraph& part : made.graphs) {
    graphs.push_back(part.graph);
    if (stored && options.compile.keep_stored)
      graphs.back() = keep_stored(
          part.graph, [stored](const std::string&) { return Storage{stored}; },
          [&](const Encoding& encoding) { return platform.keeps_stored(encoding); },
          [rank](const std::string& name) { return name.starts_with("blocks.") ? rank : 0; });
  }
  made.plans = compile(graphs, platform, options.compile);
  return made;
}

// Made as they are loaded.
WeightSource random_weights(const Case& measured, const Encoding* stored = nullptr) {
  std::map<std::string, Shape> shapes;
  for (const Plan& plan : measured.plans)
    for (const PlanWeight& weight : plan.weights)
      for (const auto& [name, type] : weight.parts) shapes[name] = type.shape;
  return [shapes = std::move(shapes), stored](const std::string& name) {
    const Shape& shape = shapes.at(name);
    const bool is_stored = stored && shape.rank() == 2 && shape.dim(1) % stored->block_elements == 0;
    return is_stored ? random_stored_weight(0, name, shape, *stored) : random_weight(0, name, shape);
  };
}

// The tensors that the plans read and write.
struct Arguments {
  std::vector<std::vector<Tensor>> inputs, outputs;  // of each plan
  std::size_t size_bytes = 0;

  Arguments(const Case& measured, Platform& platform, Stream& stream) {
    std::vector<Tensor> states;
    for (const PartGraph& part : measured.graphs) {
      if (states.empty())
        for (const Type& type : part.states) states.push_back(make(platform, type));
      const std::size_t given = part.graph.inputs.size() - part.reads.size(), made = part.graph.outputs.size() - part.writes.size();
      inputs.emplace_back();
      for (std::size_t i = 0; i < given; ++i) {
        const Type& type = part.graph.inputs[i].type();
        inputs.back().push_back(make(platform, type));
        if (type.dtype == DType::i32) continue;  // zeros: every index exists
        const RandomValues values(type.shape.count(), type.dtype, 0.5f);
        platform.upload(stream, values.data(), inputs.back().back().slot(), type.size_bytes());
      }
      outputs.emplace_back();
      for (std::size_t i = 0; i < made; ++i) outputs.back().push_back(make(platform, part.graph.outputs[i].type()));
      for (const std::size_t state : part.reads) inputs.back().push_back(states[state]);
      for (const std::size_t state : part.writes) outputs.back().push_back(states[state]);
    }
  }

 private:
  Tensor make(Platform& platform, const Type& type) {
    size_bytes += type.size_bytes();
    return make_tensor(platform, type, "bench");
  }
};

// Times of every step, summed over the runs that were timed.
struct StepTimes {
  std::vector<std::vector<double>> seconds;  // of each plan's steps
  int runs = 0;
};

void print_per_op(const Case& measured, const StepTimes& times) {
  struct Row {
    double seconds = 0, operations = 0, bytes = 0;
    int count = 0;
  };
  std::map<std::string, Row> rows;
  for (std::size_t p = 0; p < measured.plans.size(); ++p)
    for (std::size_t i = 0; i < measured.plans[p].steps.size(); ++i) {
      const Step& step = measured.plans[p].steps[i];
      Row& row = rows[fmt::format("{} | {} {}", step.kernel->implementation(), step.node->name, headline(*step.node))];
      row.seconds += times.seconds[p][i] / times.runs;
      row.operations += product_operations(*step.node) * measured.graphs[p].times;
      row.bytes += (bytes_read(*step.node) + bytes_written(*step.node)) * measured.graphs[p].times;
      row.count += measured.graphs[p].times;
    }
  std::vector<std::pair<std::string, Row>> sorted(rows.begin(), rows.end());
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  for (const auto& [label, row] : sorted)
    fmt::print("{:9.2f} ms {:5} x {:8.1f} GFLOP/s {:7.1f} GB/s  {}\n", row.seconds * 1e3, row.count,
               row.operations / row.seconds / 1e9, row.bytes / row.seconds / 1e9, label);
}

// What the device reaches at most, measured in the same process: a copy (bytes read and written) and a large product.
struct Ceilings {
  double bytes_per_second, operations_per_second;
};

double median_seconds_on(Stream& stream, const std::function<void()>& queue) {
  constexpr int kRuns = 5;
  seconds_on(stream, queue);  // sets up
  std::vector<double> seconds;
  for (int i = 0; i < kRuns; ++i) seconds.push_back(seconds_on(stream, queue));
  return median(seconds);
}

Ceilings measure_ceilings(Platform& platform, Stream& stream, DType dtype, const CompileOptions& options) {
  Ceilings ceilings{};
  const bool far = !platform.info().host_addressable;
  {
    const std::int64_t elements = std::int64_t{1} << (far ? 28 : 26);
    const Tensor from = make_tensor(platform, {DType::f32, {elements}}, "copy"), to = make_tensor(platform, from.type, "copy");
    const double seconds = median_seconds_on(stream, [&] { platform.copy(stream, from.slot(), to.slot(), from.size_bytes()); });
    ceilings.bytes_per_second = 2 * static_cast<double>(from.size_bytes()) / seconds;
  }
  const std::int64_t n = far ? 8192 : 2048;
  const Value x = input("x", dtype, {n, n});
  Case product;
  product.graphs.push_back({make_graph("product", {x}, {linear(x, parameter("w", dtype, {n, n}))})});
  product.plans.push_back(compile(product.graphs[0].graph, platform, options));
  WeightStore store(platform, random_weights(product));
  store.load(product.plans[0]);
  const Arguments arguments(product, platform, stream);
  const Plan* const only = &product.plans[0];
  const Tensor workspace = make_workspace(platform, {&only, 1});
  const double seconds = median_seconds_on(
      stream, [&] { run(*only, stream, store, arguments.inputs[0], arguments.outputs[0], workspace, {.wait = false}); });
  ceilings.operations_per_second = product_operations(only->graph) / seconds;
  return ceilings;
}

// Where a run's time goes and what each share could be at best: a step moves its bytes at the copy's rate or computes at the
// product's, whichever takes longer. Gaps are what the run takes beyond its kernels.
void print_floors(const Case& measured, const StepTimes& times, double run_seconds, const Ceilings& ceilings) {
  struct Row {
    double seconds = 0, floor = 0, operations = 0, bytes = 0;
    int count = 0;
  };
  const std::string_view kNames[] = {"attention", "linear products", "convolutions", "the rest"};
  std::array<Row, 4> rows;
  for (std::size_t p = 0; p < measured.plans.size(); ++p)
    for (std::size_t i = 0; i < measured.plans[p].steps.size(); ++i) {
      const Node& node = *measured.plans[p].steps[i].node;
      const double work = product_operations(node), bytes = bytes_read(node) + bytes_written(node),
                   often = measured.graphs[p].times;
      Row& row = rows[node.opcode == Opcode::attention ? 0
                      : node.opcode == Opcode::linear  ? 1
                      : node.opcode == Opcode::conv    ? 2
                                                       : 3];
      row.seconds += times.seconds[p][i] / times.runs;
      row.floor += often * std::max(work / ceilings.operations_per_second, bytes / ceilings.bytes_per_second);
      row.operations += often * work;
      row.bytes += often * bytes;
      row.count += measured.graphs[p].times;
    }
  fmt::print("ceilings: copy {:.0f} GB/s, product {:.1f} TFLOP/s\n", ceilings.bytes_per_second / 1e9,
             ceilings.operations_per_second / 1e12);
  fmt::print("| what | ms | kernels | floor, ms | above the floor, ms | TFLOP/s | GB/s |\n|---|---|---|---|---|---|---|\n");
  Row total;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Row& row = rows[i];
    if (row.count == 0) continue;
    fmt::print("| {} | {:.2f} | {} | {:.2f} | {:.2f} | {:.1f} | {:.0f} |\n", kNames[i], row.seconds * 1e3, row.count,
               row.floor * 1e3, (row.seconds - row.floor) * 1e3, row.operations / row.seconds / 1e12,
               row.bytes / row.seconds / 1e9);
    total.seconds += row.seconds, total.floor += row.floor, total.count += row.count;
  }
  const double gaps = run_seconds - total.seconds;
  fmt::print("| launch gaps | {:.2f} ({:.2f}%) | | 0 | | | |\n", gaps * 1e3, 100 * gaps / run_seconds);
  fmt::print("| all | {:.2f} | {} | {:.2f} | {:.2f} | | |\n", run_seconds * 1e3, total.count, total.floor * 1e3,
             (run_seconds - total.floor) * 1e3);
}

std::string video_of(const BenchOptions& options) {
  return fmt::format("{}x{}x{}", options.width, options.height, options.num_frames);
}

// A step of guidance both ways, in turns: two forwards of one text each, and one of a batch of both.
void print_guidance(const BenchOptions& options, Platform& platform, DType dtype, const Case& forward, Stream& stream,
                    WeightStore& store, bool streamed) {
  BenchOptions of_both = options;
  of_both.batch = 2;
  const Case pair = make_case(of_both, platform, dtype);
  const Plan* const plans[] = {&forward.plans[0], &pair.plans[0]};
  if (streamed) store.stream({plans[0], plans[1]}, {});
  else store.load(*plans[1]);
  const Tensor workspace = make_workspace(platform, plans);
  const Arguments prompt(forward, platform, stream), negative(forward, platform, stream), both(pair, platform, stream);
  CapturedGraphs captured_graphs;
  const auto seconds_of = [&](const Plan& plan, std::initializer_list<const Arguments*> each) {
    return seconds_on(stream, [&] {
      for (const Arguments* arguments : each)
        run(plan, stream, store, arguments->inputs[0], arguments->outputs[0], workspace,
            {.captured_graphs = &captured_graphs, .wait = false});
    });
  };
  const int warm_ups = stream.can_capture() ? 2 : 1;  // as in bench(): of all three arguments
  std::vector<double> apart, together;
  for (int number = 0; number < warm_ups + options.repeat; ++number) {
    const double two = seconds_of(*plans[0], {&prompt, &negative}), one = seconds_of(*plans[1], {&both});
    if (number < warm_ups) continue;
    apart.push_back(two);
    together.push_back(one);
  }
  const auto least = [](const std::vector<double>& values) { return *std::min_element(values.begin(), values.end()); };
  const nlohmann::ordered_json line = {{"what", "guidance"},
                                       {"size", options.size},
                                       {"video", video_of(options)},
                                       {"platform", platform.info().platform},
                                       {"dtype", name(dtype)},
                                       {"two_forwards_s", median(apart)},
                                       {"batch_of_two_s", median(together)},
                                       {"two_forwards_min_s", least(apart)},
                                       {"batch_of_two_min_s", least(together)},
                                       {"batch_is_faster_by", median(apart) / median(together)},
                                       {"one_workspace_mib", mib(plans[0]->workspace_bytes)},
                                       {"batch_workspace_mib", mib(plans[1]->workspace_bytes)}};
  fmt::print("{}\n", line.dump());
}

// Forwards in turns: exact with weights as wide as they are computed with, then as the options say, or with weights stored in each
// of their ways.
void print_sides(const BenchOptions& options, Platform& platform, DType dtype, Stream& stream) {
  struct Side {
    Side(const BenchOptions& of, Platform& on, DType computed, const Encoding* stored, std::int64_t of_rank, Stream& queue,
         bool exact = false)
        : name(stored ? stored->name : zoe::name(computed)),
          is_exact(exact || of.is_exact()),
          rank(of_rank),
          measured(make_case(of, on, computed, stored, of_rank, exact)),
          store(on, random_weights(measured, stored)),
          arguments(measured, on, queue) {
      for (const Plan& plan : measured.plans) store.load(plan);
    }
    std::string_view name;
    bool is_exact;
    std::int64_t rank;
    Case measured;
    WeightStore store;
    Arguments arguments;
    CapturedGraphs captured_graphs = {};
    std::vector<double> seconds = {}, processor_seconds = {};
  };
  std::vector<std::unique_ptr<Side>> sides;
  sides.push_back(std::make_unique<Side>(options, platform, dtype, nullptr, 0, stream, true));
  if (!options.is_exact()) sides.push_back(std::make_unique<Side>(options, platform, dtype, nullptr, 0, stream));
  for (const Encoding* stored : options.stored) {
    sides.push_back(std::make_unique<Side>(options, platform, dtype, stored, 0, stream));
    if (options.lora_rank > 0) sides.push_back(std::make_unique<Side>(options, platform, dtype, stored, options.lora_rank, stream));
  }
  std::vector<const Plan*> plans;
  for (const auto& side : sides)
    for (const Plan& plan : side->measured.plans) plans.push_back(&plan);
  const Tensor workspace = make_workspace(platform, plans);
  const int warm_ups = stream.can_capture() ? 2 : 1;
  for (int number = 0; number < warm_ups + options.repeat; ++number)
    for (const auto& side : sides) {
      const std::clock_t before = std::clock();
      const double seconds = seconds_on(stream, [&] {
        for (std::size_t p = 0; p < side->measured.plans.size(); ++p)
          for (int time = 0; time < side->measured.graphs[p].times; ++time)
            run(side->measured.plans[p], stream, side->store, side->arguments.inputs[p], side->arguments.outputs[p], workspace,
                {.captured_graphs = &side->captured_graphs, .wait = false});
      });
      if (number < warm_ups) continue;
      side->seconds.push_back(seconds);
      side->processor_seconds.push_back(static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC);
    }
  const double plain = median(sides[0]->seconds), plain_processor = median(sides[0]->processor_seconds);
  for (const auto& side : sides) {
    std::size_t most = 0;
    for (const Plan& plan : side->measured.plans) most = std::max(most, plan.workspace_bytes);
    const auto asked = [&](const std::optional<Arithmetic>& field) {
      return !side->is_exact && field == Arithmetic::int8 ? "int8" : "exact";
    };
    const nlohmann::ordered_json line = {{"what", options.is_exact() ? "stored weights" : "arithmetic"},
                                         {"part", options.part},
                                         {"size", options.size},
                                         {"video", video_of(options)},
                                         {"platform", platform.info().platform},
                                         {"dtype", name(dtype)},
                                         {"precision", asked(options.request.precision)},
                                         {"attention", asked(options.request.attention)},
                                         {"exact_blocks", options.request.exact_blocks},
                                         {"stored", side->name},
                                         {"lora_rank", side->rank},
                                         {"weights", options.compile.keep_stored ? "keep" : "widen"},
                                         {"median_s", median(side->seconds)},
                                         {"min_s", *std::min_element(side->seconds.begin(), side->seconds.end())},
                                         {"times_as_long", median(side->seconds) / plain},
                                         {"times_as_fast", plain / median(side->seconds)},
                                         // Of one thread beside other work on the machine, the steadier figure.
                                         {"processor_s", median(side->processor_seconds)},
                                         {"times_as_long_processor", median(side->processor_seconds) / plain_processor},
                                         {"weights_mib", mib(side->store.size_bytes())},
                                         {"workspace_mib", mib(most)}};
    fmt::print("{}\n", line.dump());
  }
}

// Forwards with all weights on the device and with every block coming and going, in turns.
void print_streamed(const BenchOptions& options, Platform& platform, DType dtype, Stream& stream, const Encoding* stored) {
  const Case measured = make_case(options, platform, dtype, stored, options.lora_rank);
  std::vector<const Plan*> plans;
  for (const Plan& plan : measured.plans) plans.push_back(&plan);
  struct Side {
    WeightStore store;
    CapturedGraphs captured_graphs = {};
    std::vector<double> seconds = {};
  };
  const WeightSource weights = random_weights(measured, stored);
  Side resident{WeightStore(platform, weights)}, streamed{WeightStore(platform, weights)};
  for (const Plan* plan : plans) resident.store.load(*plan);
  streamed.store.stream(plans, {.host_bytes = plans[0]->weight_bytes() * 2});
  const Arguments arguments(measured, platform, stream);
  const Tensor workspace = make_workspace(platform, plans);
  const int warm_ups = stream.can_capture() ? 2 : 1;
  for (int number = 0; number < warm_ups + options.repeat; ++number)
    for (Side* side : {&resident, &streamed}) {
      const double seconds = seconds_on(stream, [&] {
        for (std::size_t p = 0; p < plans.size(); ++p)
          for (int time = 0; time < measured.graphs[p].times; ++time)
            run(*plans[p], stream, side->store, arguments.inputs[p], arguments.outputs[p], workspace,
                {.captured_graphs = &side->captured_graphs, .wait = false});
      });
      if (number >= warm_ups) side->seconds.push_back(seconds);
    }
  const nlohmann::ordered_json line = {{"what", "blocks that come and go"},
                                       {"part", options.part},
                                       {"size", options.size},
                                       {"video", video_of(options)},
                                       {"batch", options.batch},
                                       {"platform", platform.info().platform},
                                       {"device", platform.info().name},
                                       {"dtype", name(dtype)},
                                       {"stored", stored ? stored->name : name(dtype)},
                                       {"lora_rank", options.lora_rank},
                                       {"resident_s", median(resident.seconds)},
                                       {"streamed_s", median(streamed.seconds)},
                                       {"times_as_long", median(streamed.seconds) / median(resident.seconds)},
                                       {"resident_weights_mib", mib(resident.store.size_bytes())},
                                       {"streamed_weights_mib", mib(streamed.store.size_bytes())},
                                       {"workspace_mib", mib(workspace.size_bytes())},
                                       {"token_pieces", options.token_pieces},
                                       {"host_mib", mib(streamed.store.host_bytes())},
                                       {"captured_blocks", streamed.captured_graphs.captured()}};
  fmt::print("{}\n", line.dump());
}

// Options that would change nothing of what is timed.
void check_uses(const CLI::App& app, const BenchOptions& options) {
  struct Use {
    const char* option;
    std::vector<std::string_view> parts;  // that know it
  };
  const std::vector<Use> kUses = {{"--model-path", {"session", "quality", "devices"}},
                                  {"--image", {"session"}},
                                  {"--guidance-scale", {"session"}},
                                  {"--num-inference-steps", {"session", "quality", "devices"}},
                                  {"--videos", {"quality"}},
                                  {"--folder", {"load"}},
                                  {"--stored", {"transformer", "text-keys", "text-encoder", "load"}},
                                  {"--lora-rank", {"transformer"}},
                                  {"--precision", {"transformer"}},
                                  {"--attention", {"transformer"}},
                                  {"--exact-blocks", {"transformer"}},
                                  {"--streamed", {"transformer", "text-keys", "text-encoder", "vae-decode", "vae-encode"}}};
  const auto is_given = [&](const char* option) { return app.get_option(option)->count() > 0; };
  for (const Use& use : kUses)
    check(!is_given(use.option) || std::find(use.parts.begin(), use.parts.end(), options.part) != use.parts.end(),
          ErrorKind::invalid_argument, use.option, "got it for {}, expected {}. Leave it out.", options.part,
          fmt::join(use.parts, ", "));
  const std::string_view way = options.part == "session" || options.part == "devices" || options.part == "load"
                                   ? std::string_view(options.part)
                               : options.streamed        ? "--streamed"
                               : !options.stored.empty() ? "--stored"
                                                         : "";
  for (const char* option : {"--guidance", "--per-op", "--floors", "--plan", "--profile"})
    check(!is_given(option) || way.empty(), ErrorKind::invalid_argument, option,
          "got it with {}, which prints times of its own, expected one of the two. Leave the other out.", way);
  check(options.lora_rank == 0 || (!options.stored.empty() && options.compile.keep_stored), ErrorKind::invalid_argument,
        "--lora-rank", "got it {}, expected --stored and weights that stay so: that is what it lies beside.",
        options.stored.empty() ? "without --stored" : "with --weights widen");
}

int bench(const BenchOptions& options) {
  check(
      !options.guidance || (options.part == "transformer" && options.batch == 1), ErrorKind::invalid_argument, "--guidance",
      "times the transformer's forwards, of one text and of two: got part {} and --batch {}, expected transformer and no --batch.",
      in_quotes(options.part), options.batch);
  const LogScope log_scope([&](LogLevel, std::string_view text) {
    if (options.verbose) fmt::print(stderr, "{}\n", text);
  });
  if (options.part == "session" || options.part == "devices") {
    const SessionBench requests{options.device, options.compile,    options.model, options.image,  options.height,
                                options.width,  options.num_frames, options.steps, options.repeat, options.guidance_scale};
    return options.part == "session" ? bench_session(requests) : bench_devices(requests);
  }
  if (options.part == "load")
    return bench_load({options.device, options.compile, options.size == "toy" ? "" : kSizes.at(options.size), options.folder,
                       options.stored, options.repeat});
  Profile profile;
  std::optional<PendingOutput> profile_file;
  if (!options.profile.empty()) profile_file.emplace(options.profile, PendingOutput::Kind::file, "--profile");
  const auto platform = open(options.device);
  const DType dtype = chosen_dtype(options.device, *platform);
  if (options.streamed) {
    std::vector<const Encoding*> forms = options.stored;
    if (forms.empty()) forms.push_back(nullptr);
    for (const Encoding* const stored : forms) print_streamed(options, *platform, dtype, *platform->make_stream(), stored);
    return 0;
  }
  if (!options.stored.empty() || (!options.is_exact() && !options.looks_inside())) {
    print_sides(options, *platform, dtype, *platform->make_stream());
    return 0;
  }
  MemoryWatch watch;
  auto start = StepClock::now();
  const Case measured = make_case(options, *platform, dtype);
  const double prepare_seconds = seconds_since(start);

  std::size_t workspace_bytes = 0;
  std::vector<const Plan*> plans;
  for (const Plan& plan : measured.plans) {
    workspace_bytes = std::max(workspace_bytes, plan.workspace_bytes);
    plans.push_back(&plan);
  }
  // As in a pipeline: weights that would fill the memory come and go block by block, and their packing is part of the time.
  const bool streamed = plans[0]->weight_bytes() > platform->free_bytes() / (platform->info().unified_memory ? 2 : 1);
  WeightStore store(*platform, random_weights(measured));
  start = StepClock::now();
  if (streamed) store.stream(plans, {});
  else
    for (const Plan* plan : plans) store.load(*plan);
  const double load_seconds = seconds_since(start);
  const auto stream = platform->make_stream();
  const Tensor workspace = make_workspace(*platform, plans);
  const Arguments arguments(measured, *platform, *stream);

  CapturedGraphs captured_graphs;
  const auto run_all = [&](const RunOptions& run_options) {
    for (std::size_t p = 0; p < plans.size(); ++p)
      for (int time = 0; time < measured.graphs[p].times; ++time)
        zoe::run(*plans[p], *stream, store, arguments.inputs[p], arguments.outputs[p], workspace, run_options);
  };
  // The first run sets up libraries, the second is captured where a stream can; the others count.
  const int warm_ups = stream->can_capture() ? 2 : 1;
  double first_seconds = 0, second_seconds = 0;
  std::vector<double> seconds, seconds_beside;  // of runs whose steps are not timed, beside those whose steps are
  const auto time_run = [&] { return seconds_on(*stream, [&] { run_all({.captured_graphs = &captured_graphs, .wait = false}); }); };
  for (int number = 0; number < warm_ups + options.repeat; ++number) {
    const auto host_begin = StepClock::now();
    const double run_seconds = time_run();
    watch.sample();
    if (number >= warm_ups) seconds.push_back(run_seconds);
    else (number == 0 ? first_seconds : second_seconds) = seconds_since(host_begin);
    if (number >= warm_ups && profile_file)
      profile.phase(fmt::format("run {}", number - warm_ups + 1), host_begin, StepClock::now());
  }
  stream->synchronize();
  StepTimes times;
  if (options.per_op || options.floors || profile_file) {
    for (const Plan* plan : plans) times.seconds.emplace_back(plan->steps.size());
    const StepTimer timer = [&](const StepTime& time) {
      times.seconds[static_cast<std::size_t>(&time.plan - measured.plans.data())][time.step] +=
          seconds_between(time.begin, time.end);
      if (profile_file) profile.step(time);
    };
    constexpr int kTimedRuns = 2;
    // In turns with whole runs, as a device that gets warm gets slower.
    for (; times.runs < kTimedRuns; ++times.runs) {
      if (options.floors) seconds_beside.push_back(time_run());
      const auto begin = StepClock::now();
      run_all({.time = &timer});
      if (profile_file) profile.phase(fmt::format("timed run {}", times.runs + 1), begin, StepClock::now());
    }
    if (options.floors) seconds_beside.push_back(time_run());
  }
  std::sort(seconds.begin(), seconds.end());
  const double middle = median(seconds), operations = measured.operations();
  nlohmann::ordered_json line = {
      {"what", options.part},
      {"size", options.part == "transformer" || options.size == "toy" || options.size == "5b" ? options.size : "published"},
      {"video", video_of(options)},
      {"batch", options.batch},
      {"precision", options.request.precision == Arithmetic::int8 ? "int8" : "exact"},
      {"attention", options.request.attention == Arithmetic::int8 ? "int8" : "exact"},
      {"platform", platform->info().platform},
      {"device", platform->info().name},
      {"dtype", name(dtype)},
      {"threads", platform->info().threads},
      {"median_s", middle},
      {"min_s", seconds.front()},
      {"max_s", seconds.back()},
      {"prepare_s", prepare_seconds},
      {"load_s", load_seconds},
      {"first_s", first_seconds},
      {"second_s", second_seconds},
      // What the first call costs beyond a steady one, as a user meets it: tracing and compiling are part of it.
      {"first_less_steady_s", prepare_seconds + first_seconds - middle},
      {"captured_blocks", captured_graphs.captured()},
      {"gflop", operations / 1e9},
      {"gflop_per_s", operations / middle / 1e9},
      {"weights_mib", mib(store.size_bytes())},
      {"streamed", streamed},
      {"workspace_mib", mib(workspace_bytes)},
      {"beyond_weights_mib", mib(workspace_bytes + arguments.size_bytes)},
      {"peak_mib", mib(watch.peak_bytes())}};  // of this process's own memory
  for (const LibraryInfo& library : platform->libraries()) line["libraries"][library.name] = library.version;
  fmt::print("{}\n", line.dump());
  if (options.plan)
    for (const Plan* plan : plans) fmt::print("{}", describe(*plan));
  if (profile_file) {
    profile.write(profile_file->path());
    profile_file->commit();
  }
  if (options.guidance) print_guidance(options, *platform, dtype, measured, *stream, store, streamed);
  if (options.floors)
    print_floors(measured, times, median(seconds_beside), measure_ceilings(*platform, *stream, dtype, options.compile));
  if (options.per_op) print_per_op(measured, times);
  return 0;
}

}  // namespace

Command add_bench(CLI::App& app) {
  auto options = std::make_shared<BenchOptions>();
  app.add_option("PART", options->part,
                 "transformer (one forward), text-keys, text-encoder, vae-decode or vae-encode; session: requests one after the "
                 "other; devices: a request on the devices of --platform cuda:0,1, shared in each way, beside one of them; load: a "
                 "transformer's file to the device, in bf16 and as --stored says, beside a copy of as many bytes; quality: how far "
                 "8 bits are "
                 "from exact (docs/quality.md)")
      ->required();
  app.add_option("-m,--model-path", options->model,
                 "session, devices, quality: a model folder or random:MEMBER (default: the embedded toy model)")
      ->type_name("MODEL");
  app.add_option_function<std::string>(
         "--num-inference-steps",
         [o = options.get()](const std::string& text) { o->steps = parse_integer("--num-inference-steps", text, 3, 1000); },
         "session, devices: steps of each request (default 4); quality: of its request (default: the model's)")
      ->type_name("N");
  app.add_option("--image", options->image, "session: the picture that each request begins with, of a model that takes one")
      ->type_name("FILE");
  app.add_option_function<std::string>(
         "--guidance-scale",
         [o = options.get()](const std::string& text) { o->guidance_scale = parse_number("--guidance-scale", text, 1, 100); },
         "session: of each request (default: the model's)")
      ->type_name("N");
  app.add_option("--size", options->size,
                 "1.3b, 14b, i2v-14b (an expert of Wan 2.2), 5b (Wan 2.2 TI2V and its VAE) or toy; the VAE and the text encoder of "
                 "all but 5b and toy are one")
      ->check(CLI::IsMember({"1.3b", "14b", "i2v-14b", "5b", "toy"}))
      ->capture_default_str();
  const auto integer = [&app](const char* flag, std::int64_t& target, std::int64_t min, std::int64_t max, const char* text) {
    app.add_option_function<std::string>(
           flag, [&target, flag, min, max](const std::string& value) { target = parse_integer(flag, value, min, max); }, text)
        ->type_name("N");
  };
  integer("--height", options->height, 16, 8192, "Pixels (default 272)");
  integer("--width", options->width, 16, 8192, "Pixels (default 480)");
  integer("--num-frames", options->num_frames, 1, 1025, "Frames (default 17)");
  integer("--text-tokens", options->text_tokens, 1, 512, "Rows of the prompt (default 512)");
  integer("--batch", options->batch, 1, 8, "Texts that the transformer takes at once (default 1)");
  integer("--token-pieces", options->token_pieces, 1, 64, "Pieces in which the transformer takes tokens (default 1)");
  integer("--videos", options->videos, 0, 100, "quality: whole videos, each made in every way (default 2)");
  integer("--group-frames", options->group_frames, 0, 64, "Latent frames the VAE takes at once (default 0: as suits the device)");
  app.add_option_function<std::string>(
         "--repeat",
         [o = options.get()](const std::string& text) { o->repeat = static_cast<int>(parse_integer("--repeat", text, 1, 1000)); },
         "Counted runs after the first, and after the second where it is captured (default 3)")
      ->type_name("N");
  app.add_option_function<std::vector<std::string>>(
         "--stored",
         [o = options.get()](const std::vector<std::string>& names) {
           for (std::string text : names) {
             std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::toupper(c); });
             const Encoding* const encoding = find_encoding(text);
             check(encoding && may_stay_stored(*encoding) && encoding->name != "I8", ErrorKind::invalid_argument, "--stored",
                   "got {}, expected an encoding narrower than bf16, such as Q8_0, Q4_K or F8_E4M3.", in_quotes(text));
             o->stored.push_back(encoding);
           }
         },
         "Instead: forwards with matrices stored so beside ones of full width, in turns (Q8_0, Q4_K, F8_E4M3, ...)")
      ->delimiter(',')
      ->type_name("ENCODING");
  app.add_option_function<std::string>(
         "--lora-rank",
         [o = options.get()](const std::string& text) {
           o->lora_rank = (parse_integer("--lora-rank", text, 1, 4096) + kRankStep - 1) / kRankStep * kRankStep;
         },
         "With --stored: also with a LoRA of this rank beside all matrices of blocks; with --streamed only so")
      ->type_name("N");
  for (const char* field : {"precision", "attention", "exact_blocks"})
    add_request_field(app, options->request, field,
                      "exact; else forwards of both in turns, or of it alone where they are looked into");
  app.add_option("--folder", options->folder, "load: where the files are made, and gone again (default /tmp)")->type_name("FOLDER");
  app.add_flag("--guidance", options->guidance,
               "Also a step of guidance both ways, in turns: two forwards, and one of a batch of two");
  app.add_flag("--streamed", options->streamed,
               "Instead: forwards with all weights on the device and with every block coming and going, in turns");
  app.add_flag("--per-op", options->per_op, "Also where the time goes, by operation and shape");
  app.add_flag("--floors", options->floors,
               "Also attention, products, the rest and launch gaps, each beside what this device's copies and products allow");
  app.add_flag("--plan", options->plan, "Also the plan: every step with its op and its implementation");
  app.add_flag("-v,--verbose", options->verbose, "Also what is compiled, measured and found in the cache, on stderr");
  add_device_options(app, options->device);
  add_compile_options(app, options->compile);
  app.add_option("--profile", options->profile, "A trace for Perfetto: the counted runs, then timed ones with every step")
      ->type_name("FILE");
  return [options, &app] {
    check_uses(app, *options);
    if (options->part != "quality") return bench(*options);
    const auto said = [&](const char* name, std::int64_t value) {
      return app.get_option(name)->count() > 0 ? std::optional(value) : std::nullopt;
    };
    QualityBench quality{options->device, options->model, {}, static_cast<int>(options->videos)};
    Request& request = quality.request;
    request.prompts = {"a small red circle moving right on a white background"};
    request.height = said("--height", options->height), request.width = said("--width", options->width);
    request.num_frames = said("--num-frames", options->num_frames);
    if (const auto steps = said("--num-inference-steps", options->steps)) request.num_inference_steps = static_cast<int>(*steps);
    request.scheduler = SchedulerKind::euler;
    return bench_quality(quality);
  };
}

}  // namespace zoe::cli
