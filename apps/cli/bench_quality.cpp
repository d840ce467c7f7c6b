// `zoe bench quality`: how far 8-bit products and attention are from exact ones, beside how far exact ones are from each other.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "apps/cli/commands.h"
#include "apps/cli/structured_data.h"
#include "base/error.h"
#include "compiler/passes/rebuild.h"
#include "compiler/run.h"
#include "ir/interpreter.h"
#include "ir/trace.h"
#include "pipeline/component.h"
#include "pipeline/model.h"
#include "pipeline/session.h"
#include "pipeline/session_access.h"

namespace zoe::cli {

namespace {

using Json = nlohmann::ordered_json;
using Numbers = std::vector<double>;

Json to_json(const Distance& d) { return {{"relative", d.relative}, {"cosine", d.cosine}, {"largest", d.largest}}; }

Numbers download(Platform& platform, Stream& stream, const Tensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.type.shape.count()));
  zoe::download(platform, stream, tensor, values);
  return {values.begin(), values.end()};
}

std::vector<Numbers> run_alone(Platform& platform, const Graph& graph, const std::vector<std::vector<float>>& inputs,
                               const std::map<std::string, std::vector<float>>& weights) {
  const Plan plan = compile(graph, platform, {.compile = false});
  const auto stream = platform.make_stream();
  WeightStore store(platform, [&](const std::string& name) {
    const std::vector<float>& values = weights.at(name);
    const Shape& shape =
        (*std::find_if(graph.nodes.begin(), graph.nodes.end(), [&](const NodePtr& node) { return node->name == name; }))
            ->types[0]
            .shape;
    return dense_weight(DType::f32, shape, values.data());
  });
  store.load(plan);
  std::vector<Tensor> given, made;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    given.push_back(make_tensor(platform, graph.inputs[i].type(), "bench"));
    upload(platform, *stream, std::span<const float>(inputs[i]), given.back());
  }
  for (const Value& output : graph.outputs) made.push_back(make_tensor(platform, output.type(), "bench"));
  const Plan* const only = &plan;
  zoe::run(plan, *stream, store, given, made, make_workspace(platform, {&only, 1}));
  std::vector<Numbers> results;
  for (const Tensor& tensor : made) results.push_back(download(platform, *stream, tensor));
  return results;
}

// --- Products and attention alone, on structured data

// Beside each mode the noise floor, exact against exact: of the same operands whose sums run the other way round, and of other
// operands of the same kind (another seed), which is what a difference in everything looks like.

// Rows of so many numbers, each the other way round.
std::vector<float> reversed(std::vector<float> values, std::size_t depth) {
  for (auto row = values.begin(); row != values.end(); row += static_cast<std::ptrdiff_t>(depth))
    std::reverse(row, row + static_cast<std::ptrdiff_t>(depth));
  return values;
}
// [tokens, ...], the last token first.
std::vector<float> last_first(const std::vector<float>& values, std::size_t tokens) {
  std::vector<float> turned = reversed(values, values.size());
  return reversed(std::move(turned), values.size() / tokens);
}

Json measure_products(Platform& platform, DType dtype) {
  constexpr std::int64_t kRows = 96, kColumns = 192;
  Json rows = Json::array();
  for (const std::int64_t depth : {1536, 5120, 8960, 13824}) {
    const Value x = input("x", dtype, {1, kRows, depth}), weight = parameter("weight", dtype, {kColumns, depth});
    const Value coded = linear(x, weight, {.codes = Codes::i8});
    const Support support = platform.takes(coded.node());
    for (const std::string& kind : product_kinds()) {
      const std::vector<float> values = product_rows(kind, kRows, depth, 1), w = product_rows("normal", kColumns, depth, 2);
      const Numbers expected = exact_product(values, w, depth);
      Json row{{"depth", depth}, {"data", kind}};
      const auto results = run_alone(
          platform, make_graph("products", {x}, support ? std::vector{linear(x, weight), coded} : std::vector{linear(x, weight)}),
          {values}, {{"weight", w}});
      row["exact"] = to_json(distance(results[0], expected));
      const Graph exact = make_graph("products", {x}, {linear(x, weight)});
      const auto columns = static_cast<std::size_t>(depth);
      row["exact_other_order"] = to_json(
          distance(run_alone(platform, exact, {reversed(values, columns)}, {{"weight", reversed(w, columns)}})[0], results[0]));
      row["exact_other_seed"] =
          to_json(distance(run_alone(platform, exact, {product_rows(kind, kRows, depth, 4)}, {{"weight", w}})[0], results[0]));
      if (support) {
        row["int8"] = to_json(distance(results[1], expected));
        // The same integers as plain loops give: then results differ in no bit.
        const std::vector<float> plain = product_of_codes(values, w, depth);
        std::size_t different = 0;
        for (std::size_t i = 0; i < plain.size(); ++i) {
          const float rounded = dtype == DType::bf16 ? bf16_to_f32(f32_to_bf16(plain[i])) : plain[i];
          different += static_cast<float>(results[1][i]) != rounded;
        }
        row["int8_differs_from_plain_loops"] = different;
      } else {
        row["int8_missing"] = support.reason();
      }
      row["int8_not_rotated"] = to_json(distance(product_of_plain_codes(values, w, depth), expected));
      row["e4m3"] = to_json(distance(product_of_e4m3(values, w, depth), expected));
      rows.push_back(std::move(row));
    }
  }
  return rows;
}

Json measure_attention(Platform& platform, DType dtype) {
  constexpr std::int64_t kFrames = 4, kHeight = 16, kWidth = 24, kTokens = kFrames * kHeight * kWidth, kHeads = 2, kChannels = 128;
  const Shape shape{1, kTokens, kHeads, kChannels};
  const Value q = input("q", dtype, shape), k = input("k", dtype, shape), v = input("v", dtype, shape);
  const double scale = 1 / std::sqrt(static_cast<double>(kChannels));
  const Value exact = attention(q, k, v, scale), coded = attention(q, k, v, scale, {}, Codes::i8);
  const Support support = platform.takes(coded.node());
  Json rows = Json::array();
  for (const std::string& kind : attention_kinds()) {
    const AttentionOperands operands = attention_operands(kind, kFrames, kHeight, kWidth, kHeads, kChannels, 3);
    const Numbers expected = exact_attention(operands, kTokens, kHeads, kChannels);
    const auto results =
        run_alone(platform, make_graph("attention", {q, k, v}, support ? std::vector{exact, coded} : std::vector{exact}),
                  {operands.q, operands.k, operands.v}, {});
    const Graph alone = make_graph("attention", {q, k, v}, {exact});
    const AttentionOperands others = attention_operands(kind, kFrames, kHeight, kWidth, kHeads, kChannels, 5);
    const Numbers other_order = run_alone(platform, alone,
                                          {operands.q, last_first(operands.k, kTokens), last_first(operands.v, kTokens)}, {})[0],
                  other_seed = run_alone(platform, alone, {others.q, others.k, others.v}, {})[0];
    Json row{{"tokens", kTokens},
             {"data", kind},
             {"exact", to_json(distance(results[0], expected))},
             {"exact_other_order", to_json(distance(other_order, results[0]))},
             {"exact_other_seed", to_json(distance(other_seed, results[0]))}};
    if (support) row["int8"] = to_json(distance(results[1], expected));
    else row["int8_missing"] = support.reason();
    const auto reference = [](const std::vector<float>& values) { return Numbers(values.begin(), values.end()); };
    const auto defined =
        interpret(make_graph("attention", {q, k, v}, {coded}),
                  {{shape, reference(operands.q)}, {shape, reference(operands.k)}, {shape, reference(operands.v)}}, {});
    row["int8_as_defined"] = to_json(distance(defined[0].values, expected));
    rows.push_back(std::move(row));
  }
  return rows;
}

// --- Forwards of a model on its own latents

// The linears of blocks that --precision is about, as tracing chooses them: all that read tokens of the video.
bool is_of_block(const Node& node) {
  if (node.opcode != Opcode::linear) return false;
  const std::string& name = node.inputs[1].node().name;
  return name.starts_with("blocks.") && node.inputs[0].node().opcode != Opcode::input;
}
bool is_among_tokens(const Node& node) {
  return node.opcode == Opcode::attention && !node.as<AttentionAttributes>().has_bias &&
         node.inputs[0].dim(1) == node.inputs[1].dim(1);
}

// The graph with codes in those linears and attentions that are chosen.
Graph with_codes(const Graph& graph, const std::function<bool(const Node&)>& chosen) {
  return rebuild(graph, [&](const Node& node, std::vector<Value> inputs) {
    if (!chosen(node)) return keep(node, std::move(inputs));
    Node like{node.opcode, {}, node.attributes, node.types, {}, node.block};
    if (auto* const product = std::get_if<ProductAttributes>(&like.attributes)) product->codes = Codes::i8;
    if (auto* const attends = std::get_if<AttentionAttributes>(&like.attributes)) attends->codes = Codes::i8;
    return std::vector<Value>{with_inputs(like, std::move(inputs), node.name)};
  });
}

// The same graph whose sums run the other way round: those of blocks' linears over their operand's channels, and those of
// attention among the video's tokens over the keys. It reads the rows of these linears' weights turned round, too.
Graph in_other_order(const Graph& graph) {
  return rebuild(graph, [](const Node& node, std::vector<Value> inputs) {
    if (is_of_block(node)) inputs[0] = flip(inputs[0], inputs[0].shape().rank() - 1);
    if (is_among_tokens(node)) inputs[1] = flip(inputs[1], 1), inputs[2] = flip(inputs[2], 1);
    return keep(node, std::move(inputs));
  });
}
// A matrix with each row turned round.
class ReversedWeight : public WeightReader {
 public:
  explicit ReversedWeight(WeightPtr weight) : weight_(std::move(weight)) {}
  const Shape& shape() const override { return weight_->shape(); }
  std::size_t stored_bytes() const override { return weight_->stored_bytes(); }
  void fetch(std::int64_t begin, std::int64_t count) const override { weight_->fetch(begin, count); }
  void read(std::int64_t begin, std::int64_t count, DType dtype, void* out) const override {
    const std::int64_t depth = shape().dim(1);
    auto* to = static_cast<std::byte*>(out);
    while (count > 0) {
      const std::int64_t at = begin % depth, part = std::min(count, depth - at);
      weight_->read(begin - at + depth - at - part, part, dtype, to);
      const auto turn = [&](auto* elements) { std::reverse(elements, elements + part); };
      if (size_of(dtype) == 2) turn(reinterpret_cast<std::uint16_t*>(to));
      else turn(reinterpret_cast<std::uint32_t*>(to));
      begin += part, count -= part, to += static_cast<std::size_t>(part) * size_of(dtype);
    }
  }

 private:
  WeightPtr weight_;
};

// Predictions of a forward: of the prompt, without it, and what guidance makes of both.
struct Velocities {
  Numbers conditional, unconditional, guided;
  Velocities(std::vector<Numbers> results, double scale) : conditional(std::move(results[0])), guided(conditional) {
    if (results.size() < 2) return;
    unconditional = std::move(results[1]);
    for (std::size_t i = 0; i < guided.size(); ++i) guided[i] = unconditional[i] + scale * (conditional[i] - unconditional[i]);
  }
};

Json compared(const Velocities& got, const Velocities& expected) {
  Json json{{"conditional", to_json(distance(got.conditional, expected.conditional))}};
  if (expected.unconditional.empty()) return json;
  json["unconditional"] = to_json(distance(got.unconditional, expected.unconditional));
  json["guided"] = to_json(distance(got.guided, expected.guided));
  return json;
}

// A model's session that is stopped at single forwards of a request.
class Forwards {
 public:
  Forwards(const QualityBench& bench, const std::shared_ptr<Platform>& platform, DType dtype)
      : session_(read_model(bench.model), platform, {.dtype = dtype, .compile = {.compile = false, .keep_stored = false}}),
        request_(bench.request),
        job_(session_.prepare(request_)) {}

  const Settled& settled() const { return job_.settled(); }
  // What the run goes through, at those steps.
  std::map<int, DenoiseState> states_before(const std::set<int>& steps) {
    std::map<int, DenoiseState> states;
    Callbacks callbacks;
    std::atomic<bool> stop = false;
    callbacks.cancel = &stop;
    callbacks.step = [&](const StepDone& done) {
      if (steps.contains(done.step + 1)) states[done.step + 1] = done.state();
      if (steps.empty() || done.step + 1 >= *steps.rbegin()) stop = true;
    };
    run(callbacks);
    return states;
  }

  using Look = std::function<void(const Graph& graph, WeightStore& weights, Stream& stream, std::span<const Tensor> inputs)>;
  // Calls `look` in the place of the forward that follows a state (none: the first).
  void at(const std::optional<DenoiseState>& state, const Look& look) {
    PlanRunner& runner = SessionAccess::runner(session_);
    const PlanRunner before = runner;
    std::atomic<bool> stop = false;
    runner = [&](const NamedPlan& plan, Stream& stream, WeightStore& weights, std::span<const Tensor> inputs,
                 std::span<const Tensor> outputs, const Tensor& workspace, const RunOptions& options) {
      before(plan, stream, weights, inputs, outputs, workspace, options);
      if (plan.plan.graph.name != "wan_dit" || stop) return;
      stream.synchronize();
      look(plan.plan.graph, weights, stream, inputs);
      stop = true;
    };
    Callbacks callbacks;
    callbacks.cancel = &stop;
    callbacks.resume = state;
    try {
      run(callbacks);
    } catch (...) {
      runner = before;
      throw;
    }
    runner = before;
  }

  // A forward whose sums run the other way round.
  std::vector<Numbers> in_other_order(const Graph& graph, Stream& stream, std::span<const Tensor> inputs) {
    std::set<std::string> turned;
    for (const NodePtr& node : graph.nodes) {
      if (!is_of_block(*node)) continue;
      const Node& weight = node->inputs[1].node();
      const auto* const packed = std::get_if<PackedAttributes>(&weight.attributes);  // of several products that became one
      if (packed)
        for (const Value& part : packed->parts) turned.insert(part.node().name);
      else turned.insert(weight.name);
    }
    const ComponentWeights weights = open_weights(session_.model(), "transformer");
    WeightStore store(session_.platform(), [&](const std::string& wanted) -> WeightPtr {
      if (!turned.contains(wanted)) return weights(wanted);
      return std::make_shared<ReversedWeight>(weights(wanted));
    });
    return results_of(cli::in_other_order(graph), store, stream, inputs);
  }

  // A graph of the same inputs.
  std::vector<Numbers> results_of(const Graph& graph, WeightStore& weights, Stream& stream, std::span<const Tensor> inputs,
                                  const OverrideRules& overrides = {}) {
    Platform& platform = session_.platform();
    const Plan plan = compile(graph, platform, {.compile = false, .overrides = overrides});
    weights.add(plan);
    std::vector<Tensor> made;
    for (const Value& output : graph.outputs) made.push_back(make_tensor(platform, output.type(), "bench"));
    const Plan* const only = &plan;
    zoe::run(plan, stream, weights, inputs, made, make_workspace(platform, {&only, 1}));
    std::vector<Numbers> results;
    for (const Tensor& tensor : made) results.push_back(download(platform, stream, tensor));
    return results;
  }

 private:
  void run(const Callbacks& callbacks) {
    try {
      session_.run(job_, callbacks);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::cancelled) throw;
    }
  }

  Session session_;
  Request request_;
  Job job_;
};

// Each linear of a block on its own operands, exact and from codes.
Json measure_operands(Forwards& forwards, const Graph& graph, WeightStore& weights, Stream& stream,
                      std::span<const Tensor> inputs) {
  std::vector<Value> pairs;
  std::vector<std::string> names;
  rebuild(graph, [&](const Node& node, std::vector<Value> operands) {
    if (is_of_block(node)) {
      pairs.push_back(linear(operands[0], operands[1]));
      pairs.push_back(linear(operands[0], operands[1], {.codes = Codes::i8}));
      names.push_back(node.inputs[1].node().name);
    }
    return keep(node, std::move(operands));
  });
  const std::vector<Numbers> results = forwards.results_of(make_graph("operands", graph.inputs, pairs), weights, stream, inputs);
  Json rows = Json::array();
  for (std::size_t i = 0; i < names.size(); ++i)
    rows.push_back({{"weight", names[i]}, {"int8", to_json(distance(results[2 * i + 1], results[2 * i]))}});
  return rows;
}

Json measure_forwards(const QualityBench& bench, const std::shared_ptr<Platform>& platform, DType dtype) {
  Forwards forwards(bench, platform, dtype);
  const Settled& settled = forwards.settled();
  // The steps whose noise is nearest to these levels.
  std::map<int, double> levels;
  for (const double wanted : {0.98, 0.9, 0.6, 0.2}) {
    int best = 0;
    for (int step = 0; step < settled.num_inference_steps; ++step)
      if (std::abs(settled.noise_levels[static_cast<std::size_t>(step)] - wanted) <
          std::abs(settled.noise_levels[static_cast<std::size_t>(best)] - wanted))
        best = step;
    levels[best] = settled.noise_levels[static_cast<std::size_t>(best)];
  }
  std::set<int> later;
  for (const auto& [step, level] : levels)
    if (step > 0) later.insert(step);
  const std::map<int, DenoiseState> states = forwards.states_before(later);
  const auto state_of = [&](int step) { return step == 0 ? std::nullopt : std::optional(states.at(step)); };

  Json json{{"model", bench.model.empty() ? "toy-wan" : bench.model},
            {"video", fmt::format("{}x{}x{}", settled.width, settled.height, settled.num_frames)},
            {"steps", settled.num_inference_steps},
            {"scheduler", settled.scheduler},
            {"guidance_scale", settled.guidance_scale},
            {"dtype", name(dtype)}};
  // The noise floor: how far exact forwards are from each other. The other dtype sees the same latents; another seed has its own.
  QualityBench other_bench = bench;
  ++other_bench.request.seeds.at(0);
  std::map<int, Velocities> of_other_seed;
  {
    Forwards other(other_bench, platform, dtype);
    const std::map<int, DenoiseState> other_states = other.states_before(later);
    for (const auto& [step, level] : levels)
      other.at(step == 0 ? std::nullopt : std::optional(other_states.at(step)),
               [&, step = step](const Graph& graph, WeightStore& weights, Stream& stream, std::span<const Tensor> inputs) {
                 of_other_seed.emplace(step, Velocities(other.results_of(graph, weights, stream, inputs), settled.guidance_scale));
               });
  }
  const DType other_dtype = dtype == DType::bf16 ? DType::f32 : DType::bf16;
  std::map<int, Velocities> others;
  {
    Forwards other(bench, platform, other_dtype);
    for (const auto& [step, level] : levels)
      other.at(state_of(step),
               [&, step = step](const Graph& graph, WeightStore& weights, Stream& stream, std::span<const Tensor> inputs) {
                 others.emplace(step, Velocities(other.results_of(graph, weights, stream, inputs), settled.guidance_scale));
               });
  }
  const int middle = std::prev(levels.end(), std::min<std::ptrdiff_t>(2, std::ssize(levels)))->first;
  Json rows = Json::array();
  for (const auto& [step, level] : levels)
    forwards.at(state_of(step), [&, step = step, level = level](const Graph& graph, WeightStore& weights, Stream& stream,
                                                                std::span<const Tensor> inputs) {
      const auto velocities_of = [&](const Graph& of) {
        return Velocities(forwards.results_of(of, weights, stream, inputs), settled.guidance_scale);
      };
      const Velocities exact = velocities_of(graph);
      Json row{{"step", step}, {"noise_level", level}, {std::string(name(other_dtype)), compared(others.at(step), exact)}};
      row["other_order"] = compared(Velocities(forwards.in_other_order(graph, stream, inputs), settled.guidance_scale), exact);
      row["other_seed"] = compared(of_other_seed.at(step), exact);
      row["int8_products"] = compared(velocities_of(with_codes(graph, is_of_block)), exact);
      const Node* first = nullptr;
      for (const NodePtr& node : graph.nodes)
        if (is_among_tokens(*node)) first = node.get();
      Support attends = Support::no("the model has none");
      if (first) {
        Node coded = *first;
        std::get<AttentionAttributes>(coded.attributes).codes = Codes::i8;
        attends = platform->takes(coded);
      }
      if (attends) {
        row["int8_attention"] = compared(velocities_of(with_codes(graph, is_among_tokens)), exact);
        row["int8_both"] = compared(
            velocities_of(with_codes(graph, [](const Node& node) { return is_of_block(node) || is_among_tokens(node); })), exact);
      } else {
        row["int8_attention_missing"] = attends.reason();
      }
      rows.push_back(std::move(row));
      if (step != middle) return;
      json["operands"] = measure_operands(forwards, graph, weights, stream, inputs);
      // One at a time: what each alone does to the prediction.
      std::set<std::string> weights_of_blocks;
      for (const NodePtr& node : graph.nodes)
        if (is_of_block(*node)) weights_of_blocks.insert(node->inputs[1].node().name);
      std::vector<std::pair<double, std::string>> alone;
      for (const std::string& weight : weights_of_blocks) {
        const Graph one =
            with_codes(graph, [&](const Node& node) { return is_of_block(node) && node.inputs[1].node().name == weight; });
        alone.emplace_back(distance(velocities_of(one).conditional, exact.conditional).relative, weight);
      }
      std::sort(alone.rbegin(), alone.rend());
      for (const auto& [relative, weight] : alone) json["sensitivity"].push_back({{"weight", weight}, {"relative", relative}});
    });
  json["forwards"] = std::move(rows);
  return json;
}

// --- Whole videos

// Final latents of a few seeds: how far each way of making them is from the exact one, when every step begins where the one before
// it ended. With a range of steps exact, too: a quarter of them at the beginning, at the end, and both.
Json measure_videos(const QualityBench& bench, const std::shared_ptr<Platform>& platform, DType dtype) {
  const ModelConfig model = read_model(bench.model);
  const auto open = [&](DType of) { return Session(model, platform, {.dtype = of}); };
  const auto latents_of = [](Session& session, const Request& request) {
    std::vector<Numbers> all;
    Job job = session.prepare(request);
    Callbacks callbacks;
    callbacks.latents = [&](std::size_t, std::span<const float> latents) { all.emplace_back(latents.begin(), latents.end()); };
    session.run(job, callbacks);
    return all;
  };
  Request request = bench.request;
  const std::uint64_t first = request.seeds.at(0);
  request.seeds.clear();
  for (int i = 0; i < bench.videos; ++i) request.seeds.push_back(first + static_cast<std::uint64_t>(i));
  Session session = open(dtype);
  const int steps = session.prepare(request).settled().num_inference_steps, quarter = std::max(1, steps / 4);
  const std::vector<Numbers> exact = latents_of(session, request);
  Json rows = Json::array();
  const auto add = [&](const std::string& way, const std::vector<Numbers>& got) {
    double squares = 0, most = 0;
    for (std::size_t i = 0; i < exact.size(); ++i) {
      const double relative = distance(got[i], exact[i]).relative;
      squares += relative * relative, most = std::max(most, relative);
    }
    rows.push_back({{"way", way}, {"relative", std::sqrt(squares / static_cast<double>(exact.size()))}, {"most", most}});
  };
  const DType other_dtype = dtype == DType::bf16 ? DType::f32 : DType::bf16;
  {
    Session other = open(other_dtype);
    add(fmt::format("exact, {}", name(other_dtype)), latents_of(other, request));
  }
  {
    Request other = request;
    for (std::uint64_t& seed : other.seeds) seed += static_cast<std::uint64_t>(bench.videos);
    add("exact, another seed", latents_of(session, other));
  }
  const std::string head = fmt::format("0-{}", quarter - 1), tail = fmt::format("-{}--1", quarter);
  for (const auto& [quality, level] : {std::pair{Quality::high, "high"}, {Quality::fast, "fast"}}) {
    Request coded = request;
    coded.quality = quality;
    if (quality == Quality::fast && session.prepare(coded).settled().attention == Arithmetic::exact) break;  // as high
    for (const std::string& steps_kept : {std::string(), head, tail, head + "," + tail}) {
      coded.exact_steps = steps_kept;
      add(steps_kept.empty() ? fmt::format("--quality {}", level) : fmt::format("--quality {} --exact-steps {}", level, steps_kept),
          latents_of(session, coded));
    }
  }
  return {{"videos", bench.videos}, {"rows", std::move(rows)}};
}

}  // namespace

int bench_quality(const QualityBench& bench) {
  const std::shared_ptr<Platform> platform = open(bench.device);
  const DType dtype = chosen_dtype(bench.device, *platform);
  Json json{{"what", "quality"},
            {"platform", platform->info().platform},
            {"device", platform->info().name},
            {"dtype", name(dtype)},
            {"products", measure_products(*platform, dtype)},
            {"attention", measure_attention(*platform, dtype)},
            {"model", measure_forwards(bench, platform, dtype)}};
  if (bench.videos > 0) json["model"]["whole"] = measure_videos(bench, platform, dtype);
  fmt::print("{}\n", json.dump());
  return 0;
}

}  // namespace zoe::cli
