#include "pipeline/generate.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>

#include "base/error.h"
#include "base/log.h"
#include "compiler/run.h"
#include "media/pixels.h"
#include "models/umt5/model.h"
#include "models/wan_dit/model.h"
#include "models/wan_vae/model.h"
#include "schedulers/noise.h"
#include "text/prompt.h"
#include "text/tokenizer.h"

namespace zoe {

namespace {

constexpr std::int64_t kMaxTokens = 512;  // of the pipeline, whatever the tokenizer allows
constexpr std::int64_t kLengthStep = 8;   // plans are made for token counts rounded up to this
constexpr std::int64_t kMaxExtent = 1 << 16, kMaxFrames = 1 << 16;
// What a process holds beside weights, workspaces and frames: thread stacks, library state, generated code. Measured.
constexpr std::size_t kOverheadBytes = 7 << 20;

std::int64_t round_up(std::int64_t value, std::int64_t step) { return (value + step - 1) / step * step; }

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double gib(std::size_t bytes) { return static_cast<double>(bytes) / (1u << 30); }

WeightSource source_of(const Checkpoint& checkpoint) {
  return [&checkpoint](const std::string& name) {
    const TensorEntry* entry = checkpoint.find(name);
    check(entry != nullptr, ErrorKind::internal, checkpoint.where(), "no tensor {}.", name);
    return HostTensor{weight_dtype(*entry, checkpoint.where()), entry->shape, entry->bytes.data()};
  };
}

// Packed bytes of all weights of several plans of one model; equal layouts are held once.
std::size_t weight_bytes(std::initializer_list<const Plan*> plans) {
  std::map<std::pair<std::string_view, std::string_view>, std::size_t> sizes;
  for (const Plan* plan : plans)
    if (plan)
      for (const PlanWeight& weight : plan->weights) sizes[{weight.name, weight.layout}] = weight.size_bytes;
  return std::accumulate(sizes.begin(), sizes.end(), std::size_t{0}, [](std::size_t total, const auto& entry) { return total + entry.second; });
}

std::size_t total_bytes(std::span<const Type> types) {
  return std::accumulate(types.begin(), types.end(), std::size_t{0}, [](std::size_t total, const Type& type) { return total + type.size_bytes(); });
}

std::size_t argument_bytes(const std::vector<Value>& values) {
  return std::accumulate(values.begin(), values.end(), std::size_t{0},
                         [](std::size_t total, const Value& value) { return total + value.type().size_bytes(); });
}

std::vector<Tensor> make_tensors(Platform& platform, const std::vector<Value>& values, std::string_view what) {
  std::vector<Tensor> tensors;
  for (const Value& value : values) tensors.push_back(make_tensor(platform, value.type(), what));
  return tensors;
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
  const std::int64_t height_step = spatial * model.transformer.patch_size[1], width_step = spatial * model.transformer.patch_size[2];
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
    log(LogLevel::notice, fmt::format("size {}x{} becomes {}x{}: width and height are multiples of {} and {}", asked.width, asked.height,
                                      shape.width, shape.height, width_step, height_step));
  if (shape.num_frames != asked.num_frames)
    log(LogLevel::notice, fmt::format("{} frames become {}: one more than a multiple of {}", asked.num_frames, shape.num_frames, temporal));
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
  const double decode = static_cast<double>(shape.height) * static_cast<double>(shape.width) * static_cast<double>(model.vae.base_dim) * element * 4;
  const double needed = std::max(denoise, decode), total = static_cast<double>(device.memory_bytes);
  check(needed < total, ErrorKind::out_of_memory, "memory",
        "{}x{}x{} does not fit: needs more than {:.1f} GiB, the {} platform has {:.1f} GiB. Lower --width, --height or --num-frames.",
        shape.width, shape.height, shape.num_frames, needed / (1u << 30), device.platform, total / (1u << 30));
}

// The transformer numbers its tokens along each axis up to rope_max_seq_len.
void check_positions(const VideoShape& shape, const ModelConfig& model) {
  const auto& patch = model.transformer.patch_size;
  const std::int64_t most = model.transformer.rope_max_seq_len, spatial = model.vae.scale_factor_spatial;
  const std::int64_t height = most * patch[1] * spatial, width = most * patch[2] * spatial;
  const std::int64_t frames = (most * patch[0] - 1) * model.vae.scale_factor_temporal + 1;
  check(shape.width <= width && shape.height <= height && shape.num_frames <= frames, ErrorKind::invalid_argument, "--height, --width, --num-frames",
        "too large for the model: got {}x{}, {} frames, expected at most {}x{} and {} frames. Lower them.", shape.width, shape.height,
        shape.num_frames, width, height, frames);
}

// New states are written over old ones, which takes half the memory of swapping two sets: every old one must have been read.
void check_in_place(const WanVaeGraph& graph, const Plan& plan) {
  for (std::size_t out = 0; out < graph.writes.size(); ++out)
    for (std::size_t in = 0; in < graph.reads.size(); ++in)
      if (graph.reads[in] == graph.writes[out]) ZOE_INTERNAL_CHECK(plan.can_update_in_place(in + 1, out + graph.results));
}

std::vector<float> gather_rows(const TensorEntry& table, std::span<const std::int32_t> ids, std::int64_t padded_rows) {
  const std::int64_t width = table.shape.dim(1);
  std::vector<float> rows(static_cast<std::size_t>(padded_rows * width));  // rows beyond the prompt stay zero and are masked
  for (std::size_t i = 0; i < ids.size(); ++i)
    read_elements(table, ids[i] * width, width, DType::f32, rows.data() + static_cast<std::int64_t>(i) * width);
  return rows;
}

}  // namespace

std::size_t MemoryStatement::peak() const { return always + std::max({encode, denoise, decode}); }

struct Job::Plans {
  std::vector<std::vector<std::int32_t>> tokens;  // of each prompt, then of the negative prompt where guidance needs it
  std::int64_t text_rows = 0;                     // keys of the cross-attention
  Plan text, context, step;
  WanVaeGraph first_graph, group_graph;
  Plan decode_first, decode_group;  // the latter empty for one latent frame
  std::int64_t group_frames = 0;    // latent frames a group
  bool stream_text = false;         // the encoder's weights come and go block by block
  bool keep_resident = false;       // more than one prompt: transformer and VAE stay
};

Job::Job() = default;
Job::Job(Job&&) noexcept = default;
Job::~Job() = default;

Pipeline::Pipeline(ModelConfig model, Platform& platform, DType dtype) : model_(std::move(model)), platform_(platform), dtype_(dtype) {}
Pipeline::~Pipeline() = default;

Job Pipeline::prepare(const GenerateSettings& settings, const std::function<std::size_t(const VideoShape&)>& sink_bytes) {
  check(!settings.prompts.empty(), ErrorKind::invalid_argument, "--prompt", "no prompt given. Say what to show.");
  Job job;
  job.plans = std::make_unique<Job::Plans>();
  Job::Plans& plans = *job.plans;
  job.shape = video_shape(settings, model_);
  job.num_inference_steps = chosen(settings.num_inference_steps, model_.defaults.num_inference_steps, "--num-inference-steps", 1, 1000);
  job.fps = chosen(settings.fps, model_.defaults.fps, "--fps", 0.1, 240);
  job.guidance_scale = chosen(settings.guidance_scale, model_.defaults.guidance_scale, "--guidance-scale", 0, 1000);
  job.scheduler = model_.scheduler;
  job.scheduler.kind = settings.scheduler.value_or(job.scheduler.kind);
  job.scheduler.flow_shift = chosen(settings.flow_shift, job.scheduler.flow_shift, "--flow-shift", 1e-3, 1000);
  job.seed = settings.seed;
  job.prompt_count = settings.prompts.size();
  make_scheduler(job.scheduler, job.num_inference_steps);  // throws what it would throw later
  check_fits_at_all(job.shape, model_, platform_.info(), dtype_);
  check_positions(job.shape, model_);
  const std::size_t sink = sink_bytes ? sink_bytes(job.shape) : 0;

  // Weights are read part by part, when their turn comes. Whether each part has all of them is known before any work.
  open_text_encoder(model_);
  open_transformer(model_);
  open_vae(model_);

  // Text: tokens, and how many keys the longest prompt needs.
  const Tokenizer tokenizer(model_.path / "tokenizer" / "spiece.model");
  check(tokenizer.vocab_size() <= model_.text_encoder.vocab_size, ErrorKind::invalid_argument, "tokenizer",
        "has {} pieces, expected at most the encoder's vocabulary of {}. The parts are of different models.", tokenizer.vocab_size(),
        model_.text_encoder.vocab_size);
  std::vector<std::string> texts = settings.prompts;
  const bool guided = job.guidance_scale > 1.0;
  if (guided) texts.push_back(settings.negative_prompt);
  std::int64_t longest = 0;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    std::size_t total = 0;
    plans.tokens.push_back(tokenizer.encode(prompt_clean(texts[i]), kMaxTokens, &total));
    if (total > static_cast<std::size_t>(kMaxTokens))
      log(LogLevel::notice, fmt::format("{} has {} tokens: the last {} are cut off", i < job.prompt_count ? "the prompt" : "the negative prompt",
                                        total, total - static_cast<std::size_t>(kMaxTokens)));
    longest = std::max(longest, static_cast<std::int64_t>(plans.tokens.back().size()));
  }
  const std::int64_t text_tokens = std::min(kMaxTokens, round_up(longest, kLengthStep));
  plans.text_rows = std::min(kMaxTokens, round_up(longest + 1, kLengthStep));

  // Plans.
  const VideoShape& shape = job.shape;
  plans.text = compile(trace_umt5(model_.text_encoder, dtype_, text_tokens), platform_);
  plans.context = compile(trace_wan_context(model_.transformer, dtype_, plans.text_rows), platform_);
  plans.step = compile(
      trace_wan_dit(model_.transformer, dtype_, {shape.latent_frames, shape.latent_height, shape.latent_width, plans.text_rows}), platform_);
  plans.first_graph = trace_wan_vae_decode(model_.vae, dtype_, 1, shape.latent_height, shape.latent_width, true);
  plans.decode_first = compile(plans.first_graph.graph, platform_);
  if (shape.latent_frames > 1) {
    plans.group_frames = 1;
    plans.group_graph = trace_wan_vae_decode(model_.vae, dtype_, plans.group_frames, shape.latent_height, shape.latent_width, false);
    plans.decode_group = compile(plans.group_graph.graph, platform_);
    check_in_place(plans.group_graph, plans.decode_group);
  }
  check_in_place(plans.first_graph, plans.decode_first);

  // Memory.
  const std::size_t free_bytes = platform_.info().free_bytes;
  plans.stream_text = plans.text.weight_bytes() > free_bytes / 2;
  plans.keep_resident = job.prompt_count > 1;
  const std::size_t contexts = argument_bytes(plans.context.graph.outputs) * (guided ? 2 : 1);
  const std::size_t latent_bytes = plans.step.graph.outputs[0].type().size_bytes();
  const std::size_t frames = plans.group_frames ? argument_bytes({plans.decode_group.graph.outputs[0]}) : argument_bytes({plans.decode_first.graph.outputs[0]});
  const std::size_t text_values = plans.tokens.size() * plans.text.graph.outputs[0].type().size_bytes();
  const std::size_t transformer = weight_bytes({&plans.context, &plans.step}) + contexts + latent_bytes * 6 +
                                  argument_bytes(plans.step.graph.inputs) + std::max(plans.context.workspace_bytes, plans.step.workspace_bytes);
  const std::size_t vae_weights = weight_bytes({&plans.decode_first, &plans.decode_group});
  const std::size_t vae = vae_weights + total_bytes(plans.first_graph.states) + frames * 2 +
                          std::max(plans.decode_first.workspace_bytes, plans.decode_group.workspace_bytes);
  job.memory.always = kOverheadBytes + text_values + latent_bytes;
  job.memory.encode = (plans.stream_text ? 2 * plans.text.largest_segment_bytes() : plans.text.weight_bytes()) + plans.text.workspace_bytes +
                      argument_bytes(plans.text.graph.inputs);
  job.memory.denoise = transformer + (plans.keep_resident ? vae_weights : 0);
  job.memory.decode = vae + sink + (plans.keep_resident ? weight_bytes({&plans.context, &plans.step}) : 0);
  check(job.memory.peak() <= free_bytes, ErrorKind::out_of_memory, "memory",
        "{}x{}x{} in {} does not fit: needs {:.1f} GiB ({:.1f} to encode, {:.1f} to denoise, {:.1f} to decode), {:.1f} GiB are free. Lower --width, "
        "--height or --num-frames{}.",
        shape.width, shape.height, shape.num_frames, name(dtype_), gib(job.memory.peak()), gib(job.memory.encode), gib(job.memory.denoise),
        gib(job.memory.decode), gib(free_bytes), dtype_ == DType::f32 ? ", or try --dtype bf16" : "");
  return job;
}

namespace {

// One run of a job: what its phases hand to one another.
class Run {
 public:
  Run(const ModelConfig& model, Platform& platform, Job& job, const Callbacks& callbacks, MemoryWatch* watch)
      : model_(model), platform_(platform), job_(job), plans_(*job.plans), callbacks_(callbacks), watch_(watch), stream_(platform.make_stream()) {}

  Timings go() {
    encode();
    for (std::size_t prompt = 0; prompt < job_.prompt_count; ++prompt) {
      std::vector<float> latents = denoise(prompt);
      if (!plans_.keep_resident) transformer_.reset();
      decode(prompt, latents);
      if (callbacks_.finished) callbacks_.finished(prompt);
    }
    return timings_;
  }

 private:
  struct Part {  // a model's weights while they are needed
    Checkpoint checkpoint;
    WeightStore store;
    Part(Platform& platform, Checkpoint opened) : checkpoint(std::move(opened)), store(platform, source_of(checkpoint)) {}
  };

  RunOptions options() const { return {.cancel = callbacks_.cancel}; }

  void report(Phase phase, std::size_t prompt, std::size_t done, std::size_t total) {
    if (watch_) watch_->sample();
    if (callbacks_.progress) callbacks_.progress({phase, prompt, static_cast<int>(done), static_cast<int>(total)});
  }

  void encode() {
    auto start = std::chrono::steady_clock::now();
    Part part(platform_, open_text_encoder(model_));
    if (!plans_.stream_text) part.store.load(plans_.text);
    const TensorEntry* table = nullptr;
    for (const TensorAlias& alias : umt5_aliases())
      if (!(table = part.checkpoint.find(alias.name))) table = part.checkpoint.find(alias.alias);
    timings_.load += seconds_since(start);

    start = std::chrono::steady_clock::now();
    const Graph& graph = plans_.text.graph;
    const std::int64_t padded = graph.inputs[0].dim(1);
    const std::vector<Tensor> inputs = make_tensors(platform_, graph.inputs, "text");
    upload(platform_, *stream_, relative_position_buckets(model_.text_encoder, padded), inputs[1]);
    const Plan* const plan = &plans_.text;
    const Tensor workspace = make_workspace(platform_, {&plan, 1});
    RunOptions run_options = options();
    run_options.stream_weights = plans_.stream_text;
    for (std::size_t i = 0; i < plans_.tokens.size(); ++i) {
      const std::vector<std::int32_t>& tokens = plans_.tokens[i];
      std::vector<float> mask(static_cast<std::size_t>(padded), -INFINITY);
      std::fill_n(mask.begin(), tokens.size(), 0.0f);
      upload(platform_, *stream_, gather_rows(*table, tokens, padded), inputs[0]);
      upload(platform_, *stream_, mask, inputs[2]);
      const std::vector<Tensor> outputs = make_tensors(platform_, graph.outputs, "text");
      zoe::run(plans_.text, *stream_, part.store, inputs, outputs, workspace, run_options);
      std::vector<float> states(static_cast<std::size_t>(graph.outputs[0].shape().count()));
      download(platform_, *stream_, outputs[0], states);
      states.resize(tokens.size() * static_cast<std::size_t>(model_.text_encoder.d_model));
      text_states_.push_back(std::move(states));
      report(Phase::encode, std::min(i, job_.prompt_count - 1), i + 1, plans_.tokens.size());
    }
    timings_.encode += seconds_since(start);
  }

  // Keys and values of one prompt for every block, and the logarithm of how often each key row counts: all padding rows of
  // the prompt are the same row, so they are one key with log(count) on its logit.
  struct Context {
    std::vector<Tensor> keys_values;
    std::vector<float> bias;
  };

  Context make_context(const std::vector<float>& states, WeightStore& store, const Tensor& workspace) {
    const Graph& graph = plans_.context.graph;
    const std::size_t count = states.size() / static_cast<std::size_t>(model_.text_encoder.d_model);
    std::vector<float> rows(static_cast<std::size_t>(graph.inputs[0].shape().count()));
    std::copy(states.begin(), states.end(), rows.begin());
    const std::vector<Tensor> inputs = make_tensors(platform_, graph.inputs, "text rows");
    upload(platform_, *stream_, rows, inputs[0]);
    Context context{make_tensors(platform_, graph.outputs, "text keys and values"), {}};
    zoe::run(plans_.context, *stream_, store, inputs, context.keys_values, workspace, options());
    context.bias.assign(static_cast<std::size_t>(plans_.text_rows), -INFINITY);
    std::fill_n(context.bias.begin(), count, 0.0f);
    if (count < static_cast<std::size_t>(kMaxTokens))
      context.bias[count] = static_cast<float>(std::log(static_cast<double>(kMaxTokens) - static_cast<double>(count)));
    return context;
  }

  // The final latents of one prompt, [C,T,h,w].
  std::vector<float> denoise(std::size_t prompt) {
    auto start = std::chrono::steady_clock::now();
    if (!transformer_) {
      transformer_ = std::make_unique<Part>(platform_, open_transformer(model_));
      transformer_->store.load(plans_.context);
      transformer_->store.load(plans_.step);
    }
    timings_.load += seconds_since(start);

    start = std::chrono::steady_clock::now();
    const Plan* const both[] = {&plans_.context, &plans_.step};
    const Tensor workspace = make_workspace(platform_, both);
    const bool guided = plans_.tokens.size() > job_.prompt_count;
    std::vector<Context> contexts;
    contexts.push_back(make_context(text_states_[prompt], transformer_->store, workspace));
    if (guided) contexts.push_back(make_context(text_states_.back(), transformer_->store, workspace));

    // Arguments of a step: latents, timestep, cos, sin, text bias, then keys and values.
    const VideoShape& shape = job_.shape;
    const Graph& graph = plans_.step.graph;
    std::vector<Tensor> inputs = make_tensors(platform_, {graph.inputs.begin(), graph.inputs.begin() + 5}, "step");
    const RotaryTables rotary = rotary_tables(model_.transformer, shape.latent_frames, shape.latent_height, shape.latent_width);
    upload(platform_, *stream_, rotary.cos_full, inputs[2]);
    upload(platform_, *stream_, rotary.sin_signed, inputs[3]);
    const std::vector<Tensor> outputs = make_tensors(platform_, graph.outputs, "noise prediction");
    std::vector<float> latents(static_cast<std::size_t>(graph.inputs[0].shape().count()));
    std::vector<float> prediction(latents.size()), unconditional(guided ? latents.size() : 0);
    standard_normal(job_.seed, latents);
    const auto scheduler = make_scheduler(job_.scheduler, job_.num_inference_steps);
    const auto guidance = static_cast<float>(job_.guidance_scale);
    const auto predict = [&](const Context& context, std::span<float> out) {
      upload(platform_, *stream_, context.bias, inputs[4]);
      inputs.resize(5);
      inputs.insert(inputs.end(), context.keys_values.begin(), context.keys_values.end());
      zoe::run(plans_.step, *stream_, transformer_->store, inputs, outputs, workspace, options());
      download(platform_, *stream_, outputs[0], out);
    };
    report(Phase::denoise, prompt, 0, static_cast<std::size_t>(scheduler->steps()));
    for (int i = 0; i < scheduler->steps(); ++i) {
      upload(platform_, *stream_, latents, inputs[0]);
      upload(platform_, *stream_, timestep_sinusoid(model_.transformer, scheduler->timesteps()[static_cast<std::size_t>(i)]), inputs[1]);
      predict(contexts[0], prediction);
      if (guided) {
        predict(contexts[1], unconditional);
        for (std::size_t j = 0; j < prediction.size(); ++j) prediction[j] = unconditional[j] + guidance * (prediction[j] - unconditional[j]);
      }
      scheduler->step(i, latents, prediction);
      report(Phase::denoise, prompt, static_cast<std::size_t>(i) + 1, static_cast<std::size_t>(scheduler->steps()));
    }
    timings_.denoise += seconds_since(start);
    return latents;
  }

  void decode(std::size_t prompt, const std::vector<float>& latents) {
    auto start = std::chrono::steady_clock::now();
    if (!vae_) {
      vae_ = std::make_unique<Part>(platform_, open_vae(model_));
      vae_->store.load(plans_.decode_first);
      if (plans_.group_frames) vae_->store.load(plans_.decode_group);
    }
    timings_.load += seconds_since(start);

    start = std::chrono::steady_clock::now();
    const Plan* const both[] = {&plans_.decode_first, &plans_.decode_group};
    const Tensor workspace = make_workspace(platform_, both);
    std::vector<Tensor> states;
    for (const Type& type : plans_.first_graph.states) states.push_back(make_tensor(platform_, type, "decoder state"));
    const std::int64_t total = job_.shape.latent_frames;
    std::int64_t frame_number = 0;
    Group first = make_group(plans_.decode_first), group;
    for (std::int64_t latent_frame = 0; latent_frame < total;) {
      const bool is_first = latent_frame == 0;
      if (latent_frame == 1) {
        first = {};
        group = make_group(plans_.decode_group);
      }
      const std::int64_t count = is_first ? 1 : plans_.group_frames;
      const WanVaeGraph& graph = is_first ? plans_.first_graph : plans_.group_graph;
      decode_group(graph, is_first ? plans_.decode_first : plans_.decode_group, is_first ? first : group, latents, latent_frame, count, states, workspace);
      emit(prompt, is_first ? first : group, &frame_number);
      latent_frame += count;
      report(Phase::decode, prompt, static_cast<std::size_t>(latent_frame), static_cast<std::size_t>(total));
    }
    if (!plans_.keep_resident) vae_.reset();
    timings_.decode += seconds_since(start);
  }

  struct Group {  // buffers of one decoder plan
    Tensor latent, frames;
    std::vector<float> pixels;
  };

  Group make_group(const Plan& plan) {
    return {make_tensor(platform_, plan.graph.inputs[0].type(), "latents"), make_tensor(platform_, plan.graph.outputs[0].type(), "frames"),
            std::vector<float>(static_cast<std::size_t>(plan.graph.outputs[0].shape().count()))};
  }

  void decode_group(const WanVaeGraph& graph, const Plan& plan, Group& group, const std::vector<float>& latents, std::int64_t begin, std::int64_t count,
                    std::vector<Tensor>& states, const Tensor& workspace) {
    // [C,T,h,w] to [T,h,w,C], undoing the normalisation with the division Diffusers uses (by 1/std), for the same bits.
    const VideoShape& shape = job_.shape;
    const std::int64_t channels = model_.vae.z_dim, area = shape.latent_height * shape.latent_width;
    std::vector<float> values(static_cast<std::size_t>(count * area * channels));
    for (std::int64_t c = 0; c < channels; ++c) {
      const auto mean = static_cast<float>(model_.vae.latents_mean[static_cast<std::size_t>(c)]);
      const float inverse_std = 1.0f / static_cast<float>(model_.vae.latents_std[static_cast<std::size_t>(c)]);
      const float* src = latents.data() + (c * shape.latent_frames + begin) * area;
      for (std::int64_t i = 0; i < count * area; ++i) values[static_cast<std::size_t>(i * channels + c)] = src[i] / inverse_std + mean;
    }
    upload(platform_, *stream_, values, group.latent);
    std::vector<Tensor> inputs{group.latent}, outputs{group.frames};
    for (const std::size_t state : graph.reads) inputs.push_back(states[state]);
    for (const std::size_t state : graph.writes) outputs.push_back(states[state]);
    zoe::run(plan, *stream_, vae_->store, inputs, outputs, workspace, options());
    download(platform_, *stream_, group.frames, group.pixels);
  }

  void emit(std::size_t prompt, const Group& group, std::int64_t* frame_number) {
    const std::size_t frame_size = static_cast<std::size_t>(group.frames.type.shape.count(1, 4));
    std::vector<std::uint8_t> rgb(frame_size);
    for (std::size_t begin = 0; begin < group.pixels.size(); begin += frame_size) {
      to_rgb8({group.pixels.data() + begin, frame_size}, rgb);
      if (callbacks_.frame) callbacks_.frame(prompt, (*frame_number)++, rgb);
    }
  }

  const ModelConfig& model_;
  Platform& platform_;
  Job& job_;
  const Job::Plans& plans_;
  const Callbacks& callbacks_;
  MemoryWatch* watch_;
  std::unique_ptr<Stream> stream_;
  Timings timings_;
  std::vector<std::vector<float>> text_states_;  // [tokens, d_model] of each prompt, then of the negative prompt
  std::unique_ptr<Part> transformer_, vae_;
};

}  // namespace

Timings Pipeline::run(Job& job, const Callbacks& callbacks, MemoryWatch* watch) { return Run(model_, platform_, job, callbacks, watch).go(); }

}  // namespace zoe
