#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "base/error.h"
#include "base/log.h"
#include "base/nearest.h"
#include "ir/trace.h"
#include "models/umt5/model.h"
#include "models/wan_dit/model.h"
#include "pipeline/job.h"
#include "pipeline/parts.h"
#include "pipeline/rgb8.h"
#include "text/prompt.h"
#include "text/tokenizer.h"

namespace zoe {

namespace {

constexpr std::int64_t kLengthStep = 8;  // plans are made for token counts rounded up to this
constexpr std::int64_t kMaxExtent = 1 << 16, kMaxFrames = 1 << 16;
// What a process holds beside weights, workspaces, frames and the kernels' own memory: thread stacks, library state. Measured.
constexpr std::size_t kOverheadBytes = 4 << 20;

std::int64_t round_up(std::int64_t value, std::int64_t step) { return (value + step - 1) / step * step; }

double gib(std::size_t bytes) { return static_cast<double>(bytes) / (1u << 30); }

// Packed bytes of all weights of several plans of one model; equal layouts are held once.
std::size_t weight_bytes(std::initializer_list<const Plan*> plans) {
  std::map<std::pair<std::string_view, std::string_view>, std::size_t> sizes;
  for (const Plan* plan : plans)
    if (plan)
      for (const PlanWeight& weight : plan->weights) sizes[{weight.name, weight.layout}] = weight.size_bytes;
  return std::accumulate(sizes.begin(), sizes.end(), std::size_t{0},
                         [](std::size_t total, const auto& entry) { return total + entry.second; });
}

std::size_t total_bytes(std::span<const Type> types) {
  return std::accumulate(types.begin(), types.end(), std::size_t{0},
                         [](std::size_t total, const Type& type) { return total + type.size_bytes(); });
}

std::size_t argument_bytes(const std::vector<Value>& values) {
  return std::accumulate(values.begin(), values.end(), std::size_t{0},
                         [](std::size_t total, const Value& value) { return total + value.type().size_bytes(); });
}

// A value of the request or the model's default, checked.
template <class T, class D>
T chosen(const std::optional<T>& asked, D fallback, std::string_view flag, double min, double max) {
  const T value = asked.value_or(static_cast<T>(fallback));
  check(std::isfinite(static_cast<double>(value)) && static_cast<double>(value) >= min && static_cast<double>(value) <= max,
        ErrorKind::invalid_argument, flag, "out of range: got {}, expected {} to {}.", value, min, max);
  return value;
}

VideoShape video_shape(const GenerateSettings& settings, const ModelConfig& model) {
  const WanVaeConfig& vae = model.vae;
  const std::int64_t spatial = vae.scale_factor_spatial, temporal = vae.scale_factor_temporal;
  const std::int64_t height_step = spatial * model.transformer.patch_size[1],
                     width_step = spatial * model.transformer.patch_size[2];
  VideoShape shape{};
  shape.height = chosen(settings.height, model.defaults.height, "--height", 1, kMaxExtent);
  shape.width = chosen(settings.width, model.defaults.width, "--width", 1, kMaxExtent);
  shape.num_frames = chosen(settings.num_frames, model.defaults.num_frames, "--num-frames", 1, kMaxFrames);
  check(shape.height >= height_step && shape.width >= width_step, ErrorKind::invalid_argument, "--height, --width",
        "too small: got {}x{} (width x height), expected at least {}x{}.", shape.width, shape.height, width_step, height_step);
  const VideoShape asked = shape;
  shape.height -= shape.height % height_step;
  shape.width -= shape.width % width_step;
  if (shape.num_frames % temporal != 1) shape.num_frames = shape.num_frames / temporal * temporal + 1;
  if (shape.height != asked.height || shape.width != asked.width)
    log(LogLevel::notice, fmt::format("size {}x{} becomes {}x{}: width and height are multiples of {} and {}", asked.width,
                                      asked.height, shape.width, shape.height, width_step, height_step));
  if (shape.num_frames != asked.num_frames)
    log(LogLevel::notice,
        fmt::format("{} frames become {}: one more than a multiple of {}", asked.num_frames, shape.num_frames, temporal));
  shape.latent_height = shape.height / spatial;
  shape.latent_width = shape.width / spatial;
  shape.latent_frames = (shape.num_frames - 1) / temporal + 1;
  return shape;
}

// Refuses what cannot fit by any plan before time is spent on planning: a few activations of every token, and one full-size
// activation of the decoder's last stage for the frames of one latent frame.
void check_fits_at_all(const VideoShape& shape, const ModelConfig& model, const DeviceInfo& device, DType dtype) {
  const auto& patch = model.transformer.patch_size;
  const double tokens = static_cast<double>(shape.latent_frames) / static_cast<double>(patch[0]) *
                        static_cast<double>(shape.latent_height) / static_cast<double>(patch[1]) *
                        static_cast<double>(shape.latent_width) / static_cast<double>(patch[2]);
  const double element = static_cast<double>(size_of(dtype));
  const double denoise = tokens * static_cast<double>(model.transformer.dim()) * element * 4;
  const double decode =
      static_cast<double>(shape.height) * static_cast<double>(shape.width) * static_cast<double>(model.vae.base_dim) * element * 4;
  const double needed = std::max(denoise, decode), total = static_cast<double>(device.memory_bytes);
  check(
      needed < total, ErrorKind::out_of_memory, "memory",
      "{}x{}x{} does not fit: needs more than {:.1f} GiB, the {} platform has {:.1f} GiB. Lower --width, --height or --num-frames.",
      shape.width, shape.height, shape.num_frames, needed / (1u << 30), device.platform, total / (1u << 30));
}

// What follows the transformer in a step: classifier-free guidance, u + g (c - u), where there is any, and the scheduler.
Graph trace_update(const Scheduler& scheduler, const Type& latents, bool guided) {
  const Value sample = input("latents", latents.dtype, latents.shape),
              predicted = input("prediction", latents.dtype, latents.shape);
  std::vector<Value> inputs{sample, predicted};
  const auto own = static_cast<std::int64_t>(scheduler.coefficient_count());
  const Value coefficients = input("coefficients", DType::f32, {Job::Plans::update_row(scheduler)});
  Value prediction = predicted;
  if (guided) {
    const Value unconditional = input("unconditional", latents.dtype, latents.shape);
    inputs.push_back(unconditional);
    prediction = unconditional + slice(coefficients, 0, own, own + 1) * (predicted - unconditional);
  }
  inputs.push_back(coefficients);
  std::vector<Value> kept;
  for (std::size_t i = 0; i < scheduler.reads(0).size(); ++i)
    kept.push_back(input(fmt::format("kept_{}", i), latents.dtype, latents.shape));
  inputs.insert(inputs.end(), kept.begin(), kept.end());
  return make_graph("update", std::move(inputs), scheduler.trace_step(sample, prediction, coefficients, kept));
}

// The transformer numbers its tokens along each axis up to rope_max_seq_len.
void check_positions(const VideoShape& shape, const ModelConfig& model) {
  const auto& patch = model.transformer.patch_size;
  const std::int64_t most = model.transformer.rope_max_seq_len, spatial = model.vae.scale_factor_spatial;
  const std::int64_t height = most * patch[1] * spatial, width = most * patch[2] * spatial;
  const std::int64_t frames = (most * patch[0] - 1) * model.vae.scale_factor_temporal + 1;
  check(shape.width <= width && shape.height <= height && shape.num_frames <= frames, ErrorKind::invalid_argument,
        "--height, --width, --num-frames",
        "too large for the model: got {}x{}, {} frames, expected at most {}x{} and {} frames. Lower them.", shape.width,
        shape.height, shape.num_frames, width, height, frames);
}

// The decoder with 8-bit frames in place of its f32 ones.
WanVaeGraph trace_decoder(const WanVaeConfig& config, DType dtype, std::int64_t frames, const VideoShape& shape, bool first) {
  WanVaeGraph traced = trace_wan_vae_decode(config, dtype, frames, shape.latent_height, shape.latent_width, first);
  std::vector<Value> outputs = traced.graph.outputs;
  outputs[0] = to_rgb8(outputs[0]);  // u8 [T,H,W,3]
  traced.graph = make_graph(traced.graph.name, traced.graph.inputs, std::move(outputs));
  return traced;
}

// New states are written over old ones, which takes half the memory of swapping two sets: every old one must have been read.
void check_in_place(const WanVaeGraph& graph, const Plan& plan) {
  for (std::size_t out = 0; out < graph.writes.size(); ++out)
    for (std::size_t in = 0; in < graph.reads.size(); ++in)
      if (graph.reads[in] == graph.writes[out]) ZOE_INTERNAL_CHECK(plan.can_update_in_place(in + 1, out + graph.results));
}

// `sink`: bytes that the caller needs while frames are decoded; `kept`: tensors of the scheduler.
// `kernels`: what the kernels keep themselves (Platform::kernel_memory_bytes).
MemoryStatement state_memory(const Job& job, std::size_t sink, int kept, std::size_t kernels) {
  const Job::Plans& plans = *job.plans;
  const std::size_t latent_bytes = plans.step.graph.outputs[0].type().size_bytes();
  const std::size_t predictions = plans.tokens.size() > job.prompt_count ? 2 : 1, batch = plans.step.graph.outputs.size();
  // A batch of two has the keys and values of both texts; two forwards have a set each.
  const std::size_t contexts = argument_bytes(plans.context.graph.outputs) * predictions / batch;
  const std::size_t frames = plans.group_frames ? argument_bytes({plans.decode_group.graph.outputs[0]})
                                                : argument_bytes({plans.decode_first.graph.outputs[0]});
  const std::size_t text_values = plans.tokens.size() * plans.text.graph.outputs[0].type().size_bytes();
  // Tensors of the update: predictions, next latents and what the scheduler keeps; one more while the results are copied out.
  const std::size_t update = latent_bytes * (2 + predictions + static_cast<std::size_t>(kept));
  const std::size_t transformer =
      weight_bytes({&plans.context, &plans.step}) + contexts + update + argument_bytes(plans.step.graph.inputs) +
      std::max({plans.context.workspace_bytes, plans.step.workspace_bytes, plans.update.workspace_bytes});
  const std::size_t vae_weights = weight_bytes({&plans.decode_first, &plans.decode_group});
  const std::size_t vae = vae_weights + total_bytes(plans.first_graph.states) + frames * 2 + latent_bytes +
                          std::max(plans.decode_first.workspace_bytes, plans.decode_group.workspace_bytes);
  MemoryStatement memory{};
  memory.always = kOverheadBytes + kernels + text_values + latent_bytes;
  memory.encode = (plans.stream_text ? plans.text.streamed_weight_bytes() : plans.text.weight_bytes()) +
                  plans.text.workspace_bytes + argument_bytes(plans.text.graph.inputs);
  memory.denoise = transformer + (plans.keep_resident ? vae_weights : 0);
  memory.decode = vae + sink + (plans.keep_resident ? weight_bytes({&plans.context, &plans.step}) : 0);
  return memory;
}

}  // namespace

GuidanceBatch parse_guidance_batch(std::string_view text, std::string_view where) {
  if (text == "auto") return GuidanceBatch::automatic;
  if (text == "on") return GuidanceBatch::on;
  if (text == "off") return GuidanceBatch::off;
  fail(ErrorKind::invalid_argument, where, "got {}, expected auto, on or off.", in_quotes(text));
}

// The scheduler's coefficients, then the guidance scale; whole rows of a cache line, so that each step's row is aligned.
std::int64_t Job::Plans::update_row(const Scheduler& scheduler) {
  return round_up(static_cast<std::int64_t>(scheduler.coefficient_count()) + 1, 16);
}

std::size_t MemoryStatement::peak() const { return always + std::max({encode, denoise, decode}); }

Job::Job() = default;
Job::Job(Job&&) noexcept = default;
Job::~Job() = default;

Job Pipeline::prepare(const GenerateSettings& settings, const std::function<std::size_t(const VideoShape&)>& sink_bytes) {
  check(!settings.prompts.empty(), ErrorKind::invalid_argument, "--prompt", "no prompt given. Say what to show.");
  Job job;
  job.plans = std::make_unique<Job::Plans>();
  Job::Plans& plans = *job.plans;
  job.shape = video_shape(settings, model_);
  job.num_inference_steps =
      chosen(settings.num_inference_steps, model_.defaults.num_inference_steps, "--num-inference-steps", 1, 1000);
  job.fps = chosen(settings.fps, model_.defaults.fps, "--fps", 0.1, 240);
  job.guidance_scale = chosen(settings.guidance_scale, model_.defaults.guidance_scale, "--guidance-scale", 0, 1000);
  job.scheduler = model_.scheduler;
  job.scheduler.kind = settings.scheduler.value_or(job.scheduler.kind);
  job.scheduler.flow_shift = chosen(settings.flow_shift, job.scheduler.flow_shift, "--flow-shift", 1e-3, 1000);
  job.seed = settings.seed;
  job.prompt_count = settings.prompts.size();
  const auto scheduler = make_scheduler(job.scheduler, job.num_inference_steps);
  check_fits_at_all(job.shape, model_, platform_.info(), dtype_);
  check_positions(job.shape, model_);
  const std::size_t sink = sink_bytes ? sink_bytes(job.shape) : 0;

  // Weights are read part by part, when their turn comes. Whether each part has all of them is known before any work.
  open_text_encoder(model_);
  open_transformer(model_);
  open_vae(model_);

  // Text: tokens, and how many keys the longest prompt needs.
  const Tokenizer tokenizer(model_.path / "tokenizer");
  check(tokenizer.vocab_size() <= model_.text_encoder.vocab_size, ErrorKind::invalid_argument, "tokenizer",
        "has {} pieces, expected at most the encoder's vocabulary of {}. The parts are of different models.",
        tokenizer.vocab_size(), model_.text_encoder.vocab_size);
  std::vector<std::string> texts = settings.prompts;
  const bool guided = job.guidance_scale > 1.0;
  if (guided) texts.push_back(settings.negative_prompt);
  std::int64_t longest = 0;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    std::size_t total = 0;
    plans.tokens.push_back(tokenizer.encode(prompt_clean(texts[i]), kMaxTokens, &total));
    if (total > static_cast<std::size_t>(kMaxTokens))
      log(LogLevel::notice,
          fmt::format("{} has {} tokens: the last {} are cut off", i < job.prompt_count ? "the prompt" : "the negative prompt",
                      total, total - static_cast<std::size_t>(kMaxTokens)));
    longest = std::max(longest, static_cast<std::int64_t>(plans.tokens.back().size()));
  }
  const std::int64_t text_tokens = std::min(kMaxTokens, round_up(longest, kLengthStep));
  plans.text_rows = std::min(kMaxTokens, round_up(longest + 1, kLengthStep));

  // Plans.
  const VideoShape& shape = job.shape;
  const auto trace_transformer = [&] {
    return std::vector{trace_wan_context(model_.transformer, dtype_, plans.text_rows, job.batch),
                       trace_wan_dit(model_.transformer, dtype_,
                                     {shape.latent_frames, shape.latent_height, shape.latent_width, plans.text_rows, job.batch})};
  };
  // Where the other way was measured, it was never faster (docs/performance.md): only memory speaks against a batch.
  job.batch = guided && settings.guidance_batch != GuidanceBatch::off ? 2 : 1;
  plans.first_graph = trace_decoder(model_.vae, dtype_, 1, shape, true);
  std::vector<Graph> graphs = trace_transformer();
  graphs.insert(graphs.begin(), trace_umt5(model_.text_encoder, dtype_, text_tokens));
  graphs.push_back(plans.first_graph.graph);
  graphs.push_back(trace_update(*scheduler, graphs[2].outputs[0].type(), guided));
  if (shape.latent_frames > 1) {
    plans.group_frames = decode_group_frames(model_, dtype_, {shape.height, shape.width, shape.num_frames, text_tokens}, platform_);
    plans.group_graph = trace_decoder(model_.vae, dtype_, plans.group_frames, shape, false);
    graphs.push_back(plans.group_graph.graph);
  }
  std::vector<Plan> compiled = compile(graphs, platform_, options_);
  plans.text = std::move(compiled[0]);
  plans.context = std::move(compiled[1]);
  plans.step = std::move(compiled[2]);
  plans.decode_first = std::move(compiled[3]);
  plans.update = std::move(compiled[4]);
  if (plans.group_frames) {
    plans.decode_group = std::move(compiled[5]);
    check_in_place(plans.group_graph, plans.decode_group);
  }
  check_in_place(plans.first_graph, plans.decode_first);

  // Memory.
  const std::size_t free_bytes = platform_.info().free_bytes;
  // Memory of this process also holds what is read from the disk.
  plans.stream_text = plans.text.weight_bytes() > (platform_.host_addressable() ? free_bytes / 2 : free_bytes / 8 * 7);
  plans.keep_resident = job.prompt_count > 1;
  job.memory = state_memory(job, sink, scheduler->kept_count(), platform_.kernel_memory_bytes());
  const std::size_t denoise = job.memory.always + job.memory.denoise;
  const bool batch_is_too_large = job.batch == 2 && denoise > free_bytes;
  if (batch_is_too_large && settings.guidance_batch == GuidanceBatch::automatic) {
    log(LogLevel::notice, fmt::format("guidance takes two forwards: a batch of two needs {:.1f} GiB, {:.1f} are free", gib(denoise),
                                      gib(free_bytes)));
    job.batch = 1;
    compiled = compile(trace_transformer(), platform_, options_);
    plans.context = std::move(compiled[0]);
    plans.step = std::move(compiled[1]);
    job.memory = state_memory(job, sink, scheduler->kept_count(), platform_.kernel_memory_bytes());
  }
  for (const Plan* plan : {&plans.text, &plans.context, &plans.step, &plans.update, &plans.decode_first, &plans.decode_group})
    if (!plan->steps.empty()) log(LogLevel::detail, summarize(*plan));
  check(job.memory.peak() <= free_bytes, ErrorKind::out_of_memory, "memory",
        "{}x{}x{} in {} does not fit: needs {:.1f} GiB ({:.1f} to encode, {:.1f} to denoise, {:.1f} to decode), {:.1f} GiB are "
        "free. Lower --width, "
        "--height or --num-frames{}{}.",
        shape.width, shape.height, shape.num_frames, name(dtype_), gib(job.memory.peak()), gib(job.memory.encode),
        gib(job.memory.denoise), gib(job.memory.decode), gib(free_bytes), dtype_ == DType::f32 ? ", or try --dtype bf16" : "",
        batch_is_too_large && job.batch == 2 ? ", or try --guidance-batch off" : "");
  return job;
}

}  // namespace zoe
