#include "pipeline/generate.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>

#include "base/error.h"
#include "checkpoint/component_weights.h"
#include "compiler/profile.h"
#include "compiler/run.h"
#include "models/umt5/model.h"
#include "models/wan_dit/model.h"
#include "pipeline/job.h"
#include "schedulers/noise.h"

namespace zoe {

namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

WeightSource source_of(const Checkpoint& checkpoint) {
  return [&checkpoint](const std::string& name) {
    const TensorEntry* entry = checkpoint.find(name);
    check(entry != nullptr, ErrorKind::internal, checkpoint.where(), "no tensor {}.", name);
    return weight_of(*entry, checkpoint.where());
  };
}

std::vector<Tensor> make_tensors(Platform& platform, const std::vector<Value>& values, std::string_view what) {
  std::vector<Tensor> tensors;
  for (const Value& value : values) tensors.push_back(make_tensor(platform, value.type(), what));
  return tensors;
}

std::vector<float> embedded_rows(const WeightReader& table, std::span<const std::int32_t> ids, std::int64_t padded_rows) {
  std::vector<float> rows = gather_rows(table, ids);
  rows.resize(static_cast<std::size_t>(padded_rows * table.shape().dim(1)));  // rows beyond the prompt stay zero and are masked
  return rows;
}

// One run of a job: what its phases hand to one another.
class Run {
 public:
  Run(const ModelConfig& model, Platform& platform, Job& job, const Callbacks& callbacks, MemoryWatch* watch)
      : model_(model),
        platform_(platform),
        job_(job),
        plans_(*job.plans),
        callbacks_(callbacks),
        watch_(watch),
        stream_(platform.make_stream()),
        downloads_(platform.make_stream()) {
    if (callbacks.profile) timer_ = callbacks.profile->timer();
  }

  Timings go() {
    encode();
    for (std::size_t prompt = 0; prompt < job_.prompt_count; ++prompt) {
      std::vector<float> latents = denoise(prompt);
      if (callbacks_.latents) callbacks_.latents(prompt, latents);
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

  RunOptions options() const { return {.cancel = callbacks_.cancel, .time = timer_ ? &timer_ : nullptr}; }

  void phase(std::string name, StepClock::time_point start) const {
    if (callbacks_.profile) callbacks_.profile->phase(std::move(name), start, StepClock::now());
  }

  void report(Phase phase, std::size_t prompt, std::size_t done, std::size_t total) {
    if (watch_) watch_->sample();
    if (callbacks_.progress) callbacks_.progress({phase, prompt, static_cast<int>(done), static_cast<int>(total)});
  }

  void encode() {
    auto start = std::chrono::steady_clock::now();
    Part part(platform_, open_text_encoder(model_));
    if (!plans_.stream_text) part.store.load(plans_.text);
    const ComponentWeights weights(part.checkpoint, umt5_tensors(model_.text_encoder), umt5_aliases(model_.text_encoder));
    timings_.load += seconds_since(start);
    phase("load text encoder", start);

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
      upload(platform_, *stream_, embedded_rows(*weights(kUmt5Embedding), tokens, padded), inputs[0]);
      upload(platform_, *stream_, mask, inputs[2]);
      const std::vector<Tensor> outputs = make_tensors(platform_, graph.outputs, "text");
      plans_.run(plans_.text, *stream_, part.store, inputs, outputs, workspace, run_options);
      std::vector<float> states(static_cast<std::size_t>(graph.outputs[0].shape().count()));
      download(platform_, *stream_, outputs[0], states);
      states.resize(tokens.size() * static_cast<std::size_t>(model_.text_encoder.d_model));
      text_states_.push_back(std::move(states));
      report(Phase::encode, std::min(i, job_.prompt_count - 1), i + 1, plans_.tokens.size());
    }
    timings_.encode += seconds_since(start);
    phase("encode", start);
  }

  // What one forward knows of its texts, one or two: their keys and values for every block, and the logarithm of how often each
  // key row counts: all padding rows of a text are the same row, so they are one key with log(count) on its logit.
  struct Context {
    std::vector<Tensor> keys_values;
    Tensor bias;
    std::vector<Tensor> predictions;  // of each text
  };

  Context make_context(std::span<const std::vector<float>* const> texts, WeightStore& store, const Tensor& workspace) {
    const Graph& graph = plans_.context.graph;
    const Shape& padded = graph.inputs[0].shape();  // [B,R,text_dim]
    std::vector<float> states, bias;
    std::size_t done = 0;
    for (const std::vector<float>* text : texts) {
      states.insert(states.end(), text->begin(), text->end());
      const std::size_t count = text->size() / static_cast<std::size_t>(padded.dim(2));
      bias.insert(bias.end(), count, 0.0f);
      if (count < static_cast<std::size_t>(kMaxTokens))
        bias.push_back(static_cast<float>(std::log(static_cast<double>(kMaxTokens) - static_cast<double>(count))));
      ++done;
      states.resize(done * static_cast<std::size_t>(padded.count(1, 3)));
      bias.resize(done * static_cast<std::size_t>(padded.dim(1)), -INFINITY);
    }
    const std::vector<Tensor> inputs = make_tensors(platform_, graph.inputs, "text rows");
    upload(platform_, *stream_, states, inputs[0]);
    Context context{make_tensors(platform_, graph.outputs, "text keys and values"),
                    make_tensor(platform_, plans_.step.graph.inputs[4].type(), "text bias"),
                    make_tensors(platform_, plans_.step.graph.outputs, "noise prediction")};
    plans_.run(plans_.context, *stream_, store, inputs, context.keys_values, workspace, options());
    upload(platform_, *stream_, bias, context.bias);
    return context;
  }

  // A table with a row a step, so that nothing is uploaded between steps. Row i is part(table, i).
  Tensor make_table(const std::vector<std::vector<float>>& rows, std::string_view what) {
    const auto width = static_cast<std::int64_t>(rows[0].size());
    const Tensor table = make_tensor(platform_, {DType::f32, {static_cast<std::int64_t>(rows.size()), width}}, what);
    std::vector<float> values;
    for (const std::vector<float>& row : rows) values.insert(values.end(), row.begin(), row.end());
    upload(platform_, *stream_, values, table);
    return table;
  }

  static Tensor part(const Tensor& table, int row, const Type& type) {
    return {type, table.buffer, table.offset + static_cast<std::size_t>(row) * type.size_bytes()};
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
    phase("load transformer", start);

    start = std::chrono::steady_clock::now();
    const Plan* const all[] = {&plans_.context, &plans_.step, &plans_.update};
    const Tensor workspace = make_workspace(platform_, all);
    std::vector<const std::vector<float>*> texts{&text_states_[prompt]};
    if (plans_.tokens.size() > job_.prompt_count) texts.push_back(&text_states_.back());  // the negative prompt
    const auto batch = static_cast<std::size_t>(job_.batch);
    std::vector<Context> contexts;  // a forward each
    for (std::size_t first = 0; first < texts.size(); first += batch)
      contexts.push_back(make_context(std::span(texts).subspan(first, batch), transformer_->store, workspace));
    phase("text keys and values", start);

    // All that steps read is on the device before the first of them. Arguments: latents, timestep, cos, sin, text bias, then keys
    // and values. Latents and timestep stay in one place, so that all steps run the same recordings.
    const VideoShape& shape = job_.shape;
    const Graph& graph = plans_.step.graph;
    const std::vector<Tensor> common = make_tensors(platform_, {graph.inputs.begin(), graph.inputs.begin() + 4}, "step");
    const RotaryTables rotary = rotary_tables(model_.transformer, shape.latent_frames, shape.latent_height, shape.latent_width);
    upload(platform_, *stream_, rotary.cos_full, common[2]);
    upload(platform_, *stream_, rotary.sin_signed, common[3]);
    std::vector<float> latents(static_cast<std::size_t>(graph.inputs[0].shape().count()));
    standard_normal(job_.seed, latents);
    upload(platform_, *stream_, latents, common[0]);

    const auto scheduler = make_scheduler(job_.scheduler, job_.num_inference_steps);
    std::vector<std::vector<float>> timesteps, coefficients;
    for (int i = 0; i < scheduler->steps(); ++i) {
      timesteps.push_back(timestep_sinusoid(model_.transformer, scheduler->timesteps()[static_cast<std::size_t>(i)]));
      coefficients.push_back(scheduler->coefficients(i));
      coefficients.back().push_back(static_cast<float>(job_.guidance_scale));
      coefficients.back().resize(static_cast<std::size_t>(Job::Plans::update_row(*scheduler)));
    }
    const Tensor timestep_table = make_table(timesteps, "timesteps"), coefficient_table = make_table(coefficients, "coefficients");
    const Type latent_type = common[0].type;
    const Tensor next = make_tensor(platform_, latent_type, "latents");
    std::vector<Tensor> kept;
    for (int i = 0; i < scheduler->kept_count(); ++i) kept.push_back(make_tensor(platform_, latent_type, "scheduler"));

    RunOptions queued = options();
    queued.recordings = &recordings_;
    queued.wait = false;
    const auto update = [&](int i) {
      std::vector<Tensor> inputs{common[0]}, outputs{next};
      for (const Context& context : contexts) inputs.insert(inputs.end(), context.predictions.begin(), context.predictions.end());
      inputs.push_back(part(coefficient_table, i, plans_.update.graph.inputs[inputs.size()].type()));
      for (const int read : scheduler->reads(i)) inputs.push_back(kept[static_cast<std::size_t>(read)]);
      for (const int write : scheduler->writes(i)) outputs.push_back(kept[static_cast<std::size_t>(write)]);
      RunOptions plain = queued;
      plain.recordings = nullptr;  // its arguments change from step to step, and it is one or two kernels
      plans_.run(plans_.update, *stream_, transformer_->store, inputs, outputs, workspace, plain);
      platform_.copy(*stream_, next.slot(), common[0].slot(), latent_type.size_bytes());
    };

    // The host queues a step while the device is at the one before, and reports what the device has passed.
    constexpr std::size_t kStepsAhead = 1;
    std::deque<std::unique_ptr<Mark>> ahead;
    std::size_t done = 0;
    const auto total = static_cast<std::size_t>(scheduler->steps());
    const auto report_done = [&](std::size_t most_ahead) {
      for (; !ahead.empty() && (ahead.size() > most_ahead || ahead.front()->reached()); ahead.pop_front()) {
        ahead.front()->wait();
        if (++done == 1 && prompt == 0) timings_.first_step = seconds_since(run_start_);
        report(Phase::denoise, prompt, done, total);
      }
    };
    report(Phase::denoise, prompt, 0, total);
    for (int i = 0; i < scheduler->steps(); ++i) {
      const auto step_start = StepClock::now();
      platform_.copy(*stream_, part(timestep_table, i, common[1].type).slot(), common[1].slot(), common[1].size_bytes());
      for (const Context& context : contexts) {
        std::vector<Tensor> inputs = common;
        inputs.push_back(context.bias);
        inputs.insert(inputs.end(), context.keys_values.begin(), context.keys_values.end());
        plans_.run(plans_.step, *stream_, transformer_->store, inputs, context.predictions, workspace, queued);
      }
      update(i);
      ahead.push_back(stream_->mark());
      report_done(kStepsAhead);
      phase(fmt::format("step {}", i + 1), step_start);
    }
    report_done(0);
    download(platform_, *stream_, common[0], latents);
    recordings_ = {};  // of these tensors
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
    phase("load vae", start);

    start = std::chrono::steady_clock::now();
    const Plan* const both[] = {&plans_.decode_first, &plans_.decode_group};
    const Tensor workspace = make_workspace(platform_, both);
    std::vector<Tensor> states;
    for (const Type& type : plans_.first_graph.states) states.push_back(make_tensor(platform_, type, "decoder state"));
    const auto total = static_cast<std::size_t>(job_.shape.latent_frames);
    const Tensor all = upload_latents(latents);
    // While the device decodes a group, the one before is copied out and written. Where work is done as it is queued, each group is
    // written at once.
    constexpr std::size_t kGroupsAhead = 1;
    std::deque<Decoded> ahead;
    std::vector<Tensor> free_frames;
    std::int64_t frame_number = 0;
    std::size_t done = 0;
    const auto write_done = [&](std::size_t most_ahead) {
      for (; !ahead.empty() && (ahead.size() > most_ahead || ahead.front().mark->reached()); ahead.pop_front()) {
        downloads_->wait_for(*ahead.front().mark);
        emit(prompt, ahead.front(), &frame_number);
        done += ahead.front().latent_frames;
        report(Phase::decode, prompt, done, total);
        free_frames.push_back(ahead.front().frames);
      }
    };
    const Tensor first_latent = make_tensor(platform_, plans_.decode_first.graph.inputs[0].type(), "latents");
    Tensor group_latent;
    if (plans_.group_frames) group_latent = make_tensor(platform_, plans_.decode_group.graph.inputs[0].type(), "latents");
    for (std::size_t begin = 0; begin < total;) {
      const bool is_first = begin == 0;
      const auto group_start = StepClock::now();
      const Plan& plan = is_first ? plans_.decode_first : plans_.decode_group;
      const WanVaeGraph& graph = is_first ? plans_.first_graph : plans_.group_graph;
      const Tensor& latent = is_first ? first_latent : group_latent;
      const std::size_t offset = all.offset + begin * latent.size_bytes() / static_cast<std::size_t>(latent.type.shape.dim(0));
      platform_.copy(*stream_, {all.buffer.get(), offset}, latent.slot(), latent.size_bytes());
      const Tensor frames = take(free_frames, plan.graph.outputs[0].type());
      std::vector<Tensor> inputs{latent}, outputs{frames};
      for (const std::size_t state : graph.reads) inputs.push_back(states[state]);
      for (const std::size_t state : graph.writes) outputs.push_back(states[state]);
      RunOptions queued = options();
      queued.recordings = &recordings_;
      queued.wait = false;
      plans_.run(plan, *stream_, vae_->store, inputs, outputs, workspace, queued);
      const std::size_t count = is_first ? 1 : static_cast<std::size_t>(plans_.group_frames);
      ahead.push_back({frames, stream_->mark(), count});
      begin += count;
      phase(fmt::format("decode {}", begin), group_start);
      write_done(kGroupsAhead);
    }
    write_done(0);
    stream_->synchronize();
    recordings_ = {};
    if (!plans_.keep_resident) vae_.reset();
    timings_.decode += seconds_since(start);
  }

  struct Decoded {  // a group of frames that the device has or will have made
    Tensor frames;
    std::unique_ptr<Mark> mark;
    std::size_t latent_frames;
  };

  // A tensor of that type, which nothing uses any more, or a new one.
  Tensor take(std::vector<Tensor>& free, const Type& type) {
    const auto found = std::find_if(free.begin(), free.end(), [&](const Tensor& tensor) { return tensor.type == type; });
    if (found == free.end()) {
      free.clear();  // those of the first frame
      return make_tensor(platform_, type, "frames");
    }
    Tensor taken = *found;
    free.erase(found);
    return taken;
  }

  // [C,T,h,w] to [T,h,w,C], undoing the normalisation with the division Diffusers uses (by 1/std), for the same bits.
  Tensor upload_latents(const std::vector<float>& latents) {
    const VideoShape& shape = job_.shape;
    const std::int64_t channels = model_.vae.z_dim, area = shape.latent_height * shape.latent_width;
    std::vector<float> values(latents.size());
    for (std::int64_t c = 0; c < channels; ++c) {
      const auto mean = static_cast<float>(model_.vae.latents_mean[static_cast<std::size_t>(c)]);
      const float inverse_std = 1.0f / static_cast<float>(model_.vae.latents_std[static_cast<std::size_t>(c)]);
      const float* src = latents.data() + c * shape.latent_frames * area;
      for (std::int64_t i = 0; i < shape.latent_frames * area; ++i)
        values[static_cast<std::size_t>(i * channels + c)] = src[i] / inverse_std + mean;
    }
    const Tensor all =
        make_tensor(platform_, {DType::f32, {shape.latent_frames, shape.latent_height, shape.latent_width, channels}}, "latents");
    upload(platform_, *stream_, values, all);
    return all;
  }

  void emit(std::size_t prompt, const Decoded& group, std::int64_t* frame_number) {
    std::vector<std::uint8_t> rgb(group.frames.size_bytes());
    platform_.download(*downloads_, group.frames.slot(), rgb.data(), rgb.size());
    downloads_->synchronize();
    const auto frame_size = static_cast<std::size_t>(group.frames.type.shape.count(1, 4));
    for (std::size_t begin = 0; begin < rgb.size(); begin += frame_size)
      if (callbacks_.frame) callbacks_.frame(prompt, (*frame_number)++, {rgb.data() + begin, frame_size});
  }

  const ModelConfig& model_;
  Platform& platform_;
  Job& job_;
  const Job::Plans& plans_;
  const Callbacks& callbacks_;
  MemoryWatch* watch_;
  std::unique_ptr<Stream> stream_, downloads_;
  StepTimer timer_;
  Recordings recordings_;
  const StepClock::time_point run_start_ = StepClock::now();
  Timings timings_;
  std::vector<std::vector<float>> text_states_;  // [tokens, d_model] of each prompt, then of the negative prompt
  std::unique_ptr<Part> transformer_, vae_;
};

}  // namespace

Pipeline::Pipeline(ModelConfig model, Platform& platform, DType dtype, CompileOptions options)
    : model_(std::move(model)), platform_(platform), dtype_(dtype), options_(std::move(options)) {}
Pipeline::~Pipeline() = default;

Timings Pipeline::run(Job& job, const Callbacks& callbacks, MemoryWatch* watch) {
  return Run(model_, platform_, job, callbacks, watch).go();
}

}  // namespace zoe
