#include "pipeline/video_recipe.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <map>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "compiler/passes/split_rows.h"
#include "ir/trace.h"
#include "models/umt5/model.h"
#include "models/wan_dit/model.h"
#include "models/wan_vae/model.h"
#include "pipeline/control_condition.h"
#include "pipeline/image_condition.h"
#include "pipeline/presets.h"
#include "pipeline/settle.h"
#include "pipeline/stage_run.h"
#include "pipeline/start_video.h"
#include "pipeline/text_prompts.h"
#include "pipeline/video_decode.h"
#include "platform/group.h"
#include "schedulers/noise.h"

namespace zoe {

namespace {

// Pieces of fewer tokens do not fill a device. More pieces than four save little more, and a 14B plan of eight takes 9 s to make.
constexpr std::int64_t kFewestTokens = 256, kMostTokenPieces = 4;

// A run of steps that one transformer takes.
struct Expert {
  std::string component, stage;
  double guidance_scale;
  int begin, end;  // steps
};

std::vector<Expert> experts_of(const Settled& settled, const Scheduler& scheduler, std::int64_t train_timesteps) {
  const int steps = scheduler.steps();
  if (!settled.boundary_ratio) return {{"transformer", "denoise", settled.guidance_scale, 0, steps}};
  const double boundary = *settled.boundary_ratio * static_cast<double>(train_timesteps);
  const auto& timesteps = scheduler.timesteps();  // they fall
  const int high = static_cast<int>(
      std::count_if(timesteps.begin(), timesteps.end(), [&](float timestep) { return static_cast<double>(timestep) >= boundary; }));
  std::vector<Expert> experts;
  if (high > 0) experts.push_back({"transformer", "denoise, high noise", settled.guidance_scale, 0, high});
  if (high < steps)
    experts.push_back(
        {"transformer_2", "denoise, low noise", settled.guidance_scale_2.value_or(settled.guidance_scale), high, steps});
  return experts;
}

// The scheduler's coefficients, then the guidance scale; whole rows of a cache line, so that each step's row is aligned.
std::int64_t update_row(const Scheduler& scheduler) {
  return round_up(static_cast<std::int64_t>(scheduler.coefficient_count()) + 1, 16);
}

// What follows the transformer in a step: classifier-free guidance, u + g (c - u), where there is any, and the scheduler.
// Inputs latents, prediction, unconditional where guided, coefficients, kept_0, ...; results next, written_0, ...
NamedGraph trace_update(const Scheduler& scheduler, const Type& latents, bool guided) {
  const Value sample = input("latents", latents.dtype, latents.shape),
              predicted = input("prediction", latents.dtype, latents.shape);
  std::vector<Value> inputs{sample, predicted};
  const auto own = static_cast<std::int64_t>(scheduler.coefficient_count());
  const Value coefficients = input("coefficients", DType::f32, {update_row(scheduler)});
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
  NamedGraph named{make_graph("update", std::move(inputs), scheduler.trace_step(sample, prediction, coefficients, kept)), {"next"}};
  for (std::size_t i = 0; i < scheduler.writes(0).size(); ++i) named.outputs.push_back(fmt::format("written_{}", i));
  return named;
}

class VideoWork : public Work {
 public:
  VideoWork(const Request& request, const RecipeContext& context, const VideoKind& kind, bool two_experts);

  Program program() const override;
  std::vector<ProgramPlan> companions() const override;
  void run(std::size_t stage, std::size_t video, StageRun& run) override;
  bool takes_weights(std::size_t stage, std::size_t video, const Callbacks& callbacks) const override;
  std::string need_less(const MemoryStatement& memory) override;
  std::string advice() const override;

 private:
  bool guided() const { return settled_.guidance_scale > 1.0; }
  // Latent frames of a step: those of reference images stand in front of the video's.
  std::int64_t references() const { return control_ ? control_->references() : 0; }
  std::int64_t step_frames() const { return references() + settled_.latent_frames; }
  Type latent_type() const {
    return {DType::f32, {model_.vae.z_dim, step_frames(), settled_.latent_height, settled_.latent_width}};
  }
  WanDitSizes sizes(std::int64_t text_rows, int device = 0) const {
    return {.frames = step_frames(),
            .height = settled_.latent_height,
            .width = settled_.latent_width,
            .text_rows = text_rows,
            .batch = texts(),
            .image_rows = model_.image_rows(),
            .first_frame = first_frame(),
            .negative_keys = has_nag(),
            .devices = settled_.sequence_devices,
            .device = device % settled_.sequence_devices};
  }
  bool has_nag() const { return !nag_.empty(); }
  // The transformer sees the texts of all predictions in one forward. With normalized attention guidance one has two texts.
  std::int64_t texts() const { return apart() || !(guided() || has_nag()) ? 1 : 2; }
  // The devices of a group that step: the first ones have the prompt, or both texts, those behind them the negative prompt.
  int devices() const { return settled_.guidance_devices * settled_.sequence_devices; }
  bool apart() const { return settled_.guidance_devices == 2; }
  bool is_negative(int device) const { return apart() && device >= settled_.sequence_devices; }
  void share_among(const RecipeContext& context, bool batch_is_asked);
  std::size_t exchanged_bytes() const;
  std::int64_t tokens() const;
  RowSplit row_split() const;
  // A picture stands in the place of the first latent frame.
  bool first_frame() const { return image_ && model_.expand_timesteps; }
  std::int64_t timesteps() const { return first_frame() ? 2 : 1; }  // of a step

  ProgramPlan context_plan(std::int64_t text_rows, int device) const;
  ProgramPlan step_plan(std::int64_t text_rows, int device, bool exact) const;
  // Steps in codes and steps that are exact have plans of their own.
  bool is_exact(int step) const { return step_arithmetic_text(settled_).empty() || settled_.is_exact(step); }
  std::vector<bool> kinds_of(int begin, int end) const;
  static std::string forward_of(bool exact) { return exact ? "forward" : "forward in codes"; }
  Stage denoise_stage(const Expert& expert) const;

  void encode(StageRun& run);
  std::size_t denoised_from() const {
    return 1 + (image_ ? image_->stages() : 0) + (start_ || control_ ? 1 : 0);
  }  // the first expert's stage
  void begin_video(std::size_t video, const DenoiseState* saved);
  void denoise(const Expert& expert, std::size_t video, StageRun& run);
  std::vector<float> without_references(std::vector<float> latents) const;
  void finish_denoising(std::size_t video, const Callbacks& callbacks);
  // In the first latent frame's place, where it is given.
  void put_first_frame(std::vector<float>& latents) const;
  std::vector<float> clean_latents(const Expert& expert, int step, StageRun& run) const;
  void prepare_context(std::size_t video, const StageRun& run, bool is_negative) const;
  void fill_rotary(StageRun& run) const;
  void share_inputs(std::string_view use, const StageRun& run) const;
  void predict(const BoundPlan& first, std::string_view forward, const Tensor& timestep, StageRun& run) const;
  void check_finite(const Expert& expert, int from, int to, StageRun& run) const;

  const ModelConfig& model_;
  const DType dtype_;
  const GuidanceBatch asked_batch_;
  const std::optional<int> asked_pieces_, asked_tiles_;
  SchedulerConfig scheduler_config_;
  std::unique_ptr<Scheduler> scheduler_;
  std::vector<Expert> experts_;
  TextPrompts texts_;
  // What is given beside prompts; null: nothing.
  std::unique_ptr<ImageCondition> image_;
  std::unique_ptr<ControlCondition> control_;
  std::unique_ptr<StartVideo> start_;
  VideoDecode decode_;
  std::vector<float> nag_;  // scale, tau and alpha of normalized attention guidance, if there is any
  std::size_t caller_bytes_ = 0;

  // Between stages.
  std::vector<float> latents_;  // of the video at hand, [C,T,h,w]
  std::optional<NormalNoise> noise_;
  int steps_drawn_ = 0;  // fresh noise of so many steps is drawn, where the scheduler wants it
};

VideoWork::VideoWork(const Request& asked, const RecipeContext& context, const VideoKind& kind, bool two_experts)
    : model_(context.model),
      dtype_(context.dtype),
      asked_batch_(asked.guidance_batch),
      asked_pieces_(asked.token_pieces),
      asked_tiles_(asked.vae_tiles),
      scheduler_config_(context.model.scheduler),
      texts_(context),
      decode_(context) {
  Request request = with_preset(asked, context.spelling);
  check_request(request, two_experts ? kind.two : kind.one, context.spelling);
  if (kind.images != VideoKind::Images::none && (kind.images != VideoKind::Images::maybe || !request.image.empty())) {
    image_ = std::make_unique<ImageCondition>(request, context, kind.images == VideoKind::Images::both);
    request = image_->with_size(std::move(request));
  }
  if (!model_.transformer.vace_layers.empty()) {
    control_ = std::make_unique<ControlCondition>(request, context);
    request = control_->settle_request(std::move(request));
  } else if (!request.video.empty()) {
    start_ = std::make_unique<StartVideo>(request, context);
    request = start_->settle_request(std::move(request));
  }
  settle_size(request, model_, context.spelling, settled_);
  settle_sampling(request, model_, context.spelling, settled_, scheduler_config_);
  if (two_experts) {
    settled_.boundary_ratio = request.boundary_ratio ? request.boundary_ratio : model_.boundary_ratio;
    settled_.guidance_scale_2 = request.guidance_scale_2
                                    ? request.guidance_scale_2
                                    : (request.guidance_scale ? request.guidance_scale : model_.defaults.guidance_scale_2);
  }
  if (start_)
    scheduler_config_.skipped =
        skipped_steps(settled_.num_inference_steps, request.strength.value_or(kDefaultStrength), context.spelling);
  scheduler_ = make_scheduler(scheduler_config_, settled_.num_inference_steps);
  settled_.noise_levels.assign(scheduler_->sigmas().begin(), scheduler_->sigmas().end());
  experts_ = experts_of(settled_, *scheduler_, scheduler_config_.num_train_timesteps);
  check_fits_at_all(settled_, model_, context.platform.info(), dtype_);
  check_positions(settled_, model_, context.spelling);
  settle_arithmetic(request, model_, dtype_, tokens(), context.platform, context.spelling, settled_);
  settle_exact_steps(request, scheduler_->steps(), context.spelling, settled_);
  if (context.caller_bytes) caller_bytes_ = context.caller_bytes(settled_);
  if (request.nag_scale) {
    check(!guided(), ErrorKind::invalid_argument, spelled("nag_scale", context.spelling),
          "is guidance beside a guidance_scale of {}: expected one of them. Say {} 1, or leave this out.", settled_.guidance_scale,
          spelled("guidance_scale", context.spelling));
    constexpr double kTau = 2.5, kAlpha = 0.25;  // ComfyUI's, for Wan
    for (const double setting : {*request.nag_scale, request.nag_tau.value_or(kTau), request.nag_alpha.value_or(kAlpha)})
      nag_.push_back(static_cast<float>(setting));
  }
  texts_.take(settled_.prompts, guided() || has_nag() ? std::optional(settled_.negative_prompt) : std::nullopt, request.emphasis,
              context.spelling);
  // Where the other way was measured, it was never faster (docs/performance.md): only memory speaks against a batch.
  // In pieces, keys and values of a batch would have to be copied together.
  settled_.token_pieces = asked_pieces_.value_or(1);
  share_among(context, asked_batch_ == GuidanceBatch::on);
  settled_.exchanged_bytes = exchanged_bytes();
  // Where devices share tokens, a batch's parts lie apart in what is exchanged, which was slower (docs/performance.md).
  const bool as_batch = asked_batch_ == GuidanceBatch::on ||
                        (asked_batch_ == GuidanceBatch::automatic && settled_.token_pieces == 1 && settled_.sequence_devices == 1);
  settled_.batch = guided() && !apart() && as_batch ? 2 : 1;
  settled_.vae_tiles = asked_tiles_.value_or(0);
  if (image_) image_->settle(settled_);
  if (start_) start_->settle(settled_);
  if (control_) control_->settle(settled_);
  decode_.settle(settled_);
  settled_.vae_tiles = decode_.tiles();
}

// What the largest stage can do about it.
std::string VideoWork::need_less(const MemoryStatement& memory) {
  const auto largest = std::max_element(memory.stages.begin(), memory.stages.end(),
                                        [](const StageMemory& a, const StageMemory& b) { return a.total() < b.total(); });
  if (largest->component == "vae" && !asked_tiles_) {
    const std::int64_t more = decode_.more_tiles();
    if (more == 0) return {};
    settled_.vae_tiles = more;
    decode_.set_tiles(more);
    if (image_) image_->set_tiles(more);
    if (start_) start_->set_tiles(more);
    if (control_) control_->set_tiles(more);
    return fmt::format("the VAE takes pictures in {} tiles", more);
  }
  if (largest->phase != Phase::denoise) return {};
  if (settled_.batch == 2 && asked_batch_ == GuidanceBatch::automatic) {
    settled_.batch = 1;
    return "prompt and negative prompt go through each block one behind the other";
  }
  if (settled_.sequence_devices > 1) return {};  // tokens are shared already
  const std::int64_t more = 2 * settled_.token_pieces;
  if (asked_pieces_ || settled_.batch > 1 || more > kMostTokenPieces || tokens() < more * kFewestTokens) return {};
  settled_.token_pieces = more;
  return fmt::format("the transformer takes tokens in {} pieces", more);
}

std::int64_t VideoWork::tokens() const {
  const auto& patch = model_.transformer.patch_size;
  return step_frames() / patch[0] * (settled_.latent_height / patch[1]) * (settled_.latent_width / patch[2]);
}

RowSplit VideoWork::row_split() const {
  // Whole tiles of a product's rows; whole frames where these are modulated apart.
  constexpr std::int64_t kMultiple = 64;
  return {tokens(), settled_.token_pieces, guided() && !apart() && settled_.batch == 1,
          first_frame() ? tokens() / step_frames() : kMultiple};
}

std::string VideoWork::advice() const {
  return fmt::format("Lower --width, --height or --num-frames{}{}", dtype_ == DType::f32 ? ", or try --dtype bf16" : "",
                     kinds_of(0, scheduler_->steps()).size() > 1          ? ", or leave out --exact-steps"
                     : settled_.batch == 2                                ? ", or try --guidance-batch off"
                     : asked_pieces_ && *asked_pieces_ < kMostTokenPieces ? ", or leave out --token-pieces"
                                                                          : "");
}

// Guidance first: its halves meet once a step, shares of tokens four times a block.
void VideoWork::share_among(const RecipeContext& context, bool batch_is_asked) {
  const DeviceGroup* const group = context.platform.group();
  const int all = group ? static_cast<int>(group->size()) : 1;
  const std::string where = spelled("parallel", context.spelling);
  const auto asks = [&](Parallel parallel) { return context.parallel == parallel; };
  if (asks(Parallel::none)) return;
  if (all == 1) {
    check(asks(Parallel::automatic), ErrorKind::invalid_argument, where,
          "got {}, expected several devices to share a step. Name them (--platform cuda:0,1), or leave this out.",
          name(context.parallel));
    return;
  }
  const Support halves = !guided() ? Support::no("without guidance there is one text: its scale is {}", settled_.guidance_scale)
                         : batch_is_asked ? Support::no("the texts are asked for as a batch on each device")
                         : all % 2 != 0   ? Support::no("{} devices are not two halves", all)
                                          : Support::yes();
  const auto shares = [&](int devices) {
    if (devices > 1 && settled_.token_pieces > 1) return Support::no("tokens in pieces stay on one device");
    return shares_tokens(model_.transformer, sizes(1), devices);
  };
  const auto take = [&](int guidance, int sequence) { settled_.guidance_devices = guidance, settled_.sequence_devices = sequence; };
  const auto refuse = [&](const Support& no) {
    fail(ErrorKind::unsupported, where, "got {} of {} devices: {}. Say auto, or name other devices.", name(context.parallel), all,
         no.reason());
  };
  switch (context.parallel) {
    case Parallel::guidance:
      if (!halves) refuse(halves);
      take(2, 1);
      break;
    case Parallel::sequence:
      if (const Support shared = shares(all); !shared) refuse(shared);
      take(1, all);
      break;
    case Parallel::both:
      if (!halves) refuse(halves);
      if (const Support shared = shares(all / 2); !shared) refuse(shared);
      take(2, all / 2);
      break;
    default:
      if (halves && shares(all / 2)) take(2, all / 2);
      else if (shares(all)) take(1, all);
      else if (halves) take(2, 1);
  }
  if (devices() == all) return;
  const Support shared = shares(halves ? all / 2 : all);
  log(LogLevel::notice, fmt::format("{} of {} devices are at work: {}", devices(), all,
                                    asks(Parallel::guidance) ? "guidance has two halves"
                                    : !shared                ? shared.reason()
                                                             : halves.reason()));
}

// The latents and a prediction; queries, keys, values and what comes of them in each block, and the patches at the end.
std::size_t VideoWork::exchanged_bytes() const {
  const std::size_t latents = apart() ? latent_type().size_bytes() : 0;
  const std::int64_t all = settled_.sequence_devices;
  if (all == 1) return latents;
  const WanDitConfig& model = model_.transformer;
  const std::int64_t share = (tokens() + all - 1) / all, of_others = texts() * share * (all - 1);
  const std::int64_t blocks = model.num_layers + static_cast<std::int64_t>(model.vace_layers.size());
  const std::int64_t elements = of_others * (4 * blocks * model.dim() / all + model.out_channels * model.patch_volume());
  return latents + static_cast<std::size_t>(elements) * size_of(dtype_);
}

ProgramPlan VideoWork::context_plan(std::int64_t text_rows, int device) const {
  return {.name = device_prefix(device) + "context",
          .key = fmt::format("context rows {} batch {}", text_rows, texts()),
          .trace =
              [this, text_rows] {
                return NamedGraph{trace_wan_context(model_.transformer, dtype_, text_rows, texts(), model_.image_rows()),
                                  wan_context_outputs(model_.transformer)};
              },
          .device = device};
}

// Whether steps [begin, end) are exact, each answer once.
std::vector<bool> VideoWork::kinds_of(int begin, int end) const {
  std::vector<bool> kinds;
  for (int step = begin; step < end; ++step)
    if (std::find(kinds.begin(), kinds.end(), is_exact(step)) == kinds.end()) kinds.push_back(is_exact(step));
  return kinds;
}

ProgramPlan VideoWork::step_plan(std::int64_t text_rows, int device, bool exact) const {
  const std::string share = settled_.sequence_devices == 1 ? "" : fmt::format(" of {}", settled_.sequence_devices);
  return {
      .name = device_prefix(device) + (exact ? "step" : "step in codes"),
      .key = fmt::format("step{}{} {}x{}x{} rows {} texts {} batch {} pieces {} {}{}", first_frame() ? " first" : "",
                         has_nag() ? " nag" : "", step_frames(), settled_.latent_height, settled_.latent_width, text_rows, texts(),
                         settled_.batch, settled_.token_pieces, exact ? std::string() : step_arithmetic_text(settled_), share),
      .trace =
          [this, text_rows, device, exact] {
            const Graph traced = trace_wan_dit(model_.transformer, precision_of(settled_, dtype_, exact), sizes(text_rows, device));
            NamedGraph named{settled_.sequence_devices == 1 ? split_rows(traced, row_split()) : traced, {"prediction"}};
            if (guided() && !apart()) named.outputs.emplace_back("unconditional");
            return named;
          },
      .device = device};
}

Stage VideoWork::denoise_stage(const Expert& expert) const {
  Stage stage{.name = expert.stage, .phase = Phase::denoise, .uses = {}, .may_stream = true};
  for (int device = 0; device < devices(); ++device) {
    const std::string here = device_prefix(device);
    stage.uses.push_back(
        {here + "context", here + "context", here + expert.component, {{"text", here + "prompts.text"}, {"*", here + "*"}}});
    for (const bool exact : kinds_of(expert.begin, expert.end))
      stage.uses.push_back({here + forward_of(exact),
                            here + (exact ? "step" : "step in codes"),
                            here + expert.component,
                            {{"latent", here + "latents"}, {"*", here + "*"}}});
  }
  // At step i the scheduler reads and writes those of its tensors that reads(i) and writes(i) say; here each has some.
  PlanUse update{"update", "update", "", {}};
  int next = 0;
  for (std::size_t i = 0; i < scheduler_->reads(0).size(); ++i)
    update.tensors[fmt::format("kept_{}", i)] = fmt::format("scheduler.{}", next++);
  for (std::size_t i = 0; i < scheduler_->writes(0).size(); ++i)
    update.tensors[fmt::format("written_{}", i)] = fmt::format("scheduler.{}", next++);
  stage.uses.push_back(std::move(update));
  stage.uses.push_back({"finite", "finite", "", {{"values", "latents"}}});

  const std::int64_t steps = scheduler_->steps();
  stage.tensors = {{"timestep_table", {DType::f32, {steps, timesteps() * model_.transformer.freq_dim}}},
                   {"coefficient_table", {DType::f32, {steps, update_row(*scheduler_)}}},
                   {"finite_table", {DType::f32, {steps, kFiniteRow}}}};
  for (int i = 0; i < scheduler_->kept_count(); ++i) stage.tensors.push_back({fmt::format("scheduler.{}", i), latent_type(), true});
  return stage;
}

Program VideoWork::program() const {
  Program program;
  const Type latents = latent_type();
  const bool guided_steps = guided();
  program.plans = {texts_.plan(),
                   {"update", fmt::format("update {} {} guided {}", latents.str(), settled_.scheduler, guided_steps),
                    [this, latents, guided_steps] { return trace_update(*scheduler_, latents, guided_steps); }},
                   {"finite", "finite " + latents.str(), [latents] { return trace_finite(latents); }}};
  for (int device = 0; device < devices(); ++device) {
    program.plans.push_back(context_plan(texts_.rows(), device));
    for (const bool exact : kinds_of(0, scheduler_->steps())) program.plans.push_back(step_plan(texts_.rows(), device, exact));
  }
  program.stages = {texts_.stage()};
  if (image_) image_->add_to(program);
  if (start_) start_->add_to(program);
  if (control_) control_->add_to(program);
  program.repeated_from = program.stages.size();
  program.repeats = settled_.prompts.size();
  for (const Expert& expert : experts_) program.stages.push_back(denoise_stage(expert));
  decode_.add_to(program, caller_bytes_);
  return program;
}

std::vector<ProgramPlan> VideoWork::companions() const {
  std::vector<ProgramPlan> plans;
  for (const std::int64_t length : TextPrompts::lengths()) {
    plans.push_back(texts_.plan(length));
    for (int device = 0; device < devices(); ++device) {
      plans.push_back(context_plan(length, device));
      for (const bool exact : kinds_of(0, scheduler_->steps())) plans.push_back(step_plan(length, device, exact));
    }
  }
  return plans;
}

void VideoWork::run(std::size_t stage, std::size_t video, StageRun& run) {
  if (stage == 0) return texts_.encode(run);
  const std::size_t images = image_ ? image_->stages() : 0;
  if (stage <= images) return image_->run(stage - 1, run);
  if (stage < denoised_from()) return start_ ? start_->run(run) : control_->run(run);
  if (stage < denoised_from() + experts_.size()) return denoise(experts_[stage - denoised_from()], video, run);
  decode_.run(latents_, video, run);
}

// Where a video goes on from; null: from its noise.
const DenoiseState* saved_of(std::size_t video, const Callbacks& callbacks) {
  return callbacks.resume && callbacks.resume->video == video ? &*callbacks.resume : nullptr;
}

bool VideoWork::takes_weights(std::size_t stage, std::size_t video, const Callbacks& callbacks) const {
  const DenoiseState* const saved = saved_of(video, callbacks);
  if (!saved || stage < denoised_from() || stage >= denoised_from() + experts_.size()) return true;
  return saved->next_step < experts_[stage - denoised_from()].end;
}

// The initial noise, which is drawn also where a saved state takes its place: fresh noise of later steps follows it.
void VideoWork::begin_video(std::size_t video, const DenoiseState* saved) {
  latents_.resize(static_cast<std::size_t>(latent_type().shape.count()));
  noise_.emplace(settled_.seeds[video]);
  noise_->draw(latents_);
  if (start_) start_->mix_into(latents_, scheduler_->sigmas()[0]);
  else
    for (float& value : latents_) value *= scheduler_->initial_scale();
  steps_drawn_ = 0;
  if (!saved) return;
  const auto kept = static_cast<std::size_t>(scheduler_->kept_count());
  check(saved->next_step >= 0 && saved->next_step <= scheduler_->steps() && saved->latents.size() == latents_.size() &&
            saved->kept.size() == kept &&
            std::all_of(saved->kept.begin(), saved->kept.end(), [&](const auto& each) { return each.size() == latents_.size(); }),
        ErrorKind::invalid_argument, "resume",
        "the saved state is not of this request: got {} latents, {} kept tensors and step {}, expected {}, {} and at most {}.",
        saved->latents.size(), saved->kept.size(), saved->next_step, latents_.size(), kept, scheduler_->steps());
}

// What a forward knows of its texts: their keys and values for every block, and the logarithm of how often each key row counts:
// all padding rows of a text are the same row, so they are one key with log(count) on its logit.
void VideoWork::prepare_context(std::size_t video, const StageRun& run, bool is_negative) const {
  const BoundPlan plan = run.bind("context");
  const Shape& padded = plan.inputs[0].type.shape;  // [B,R,text_dim]
  std::vector<float> bias;
  std::int64_t done = 0;
  run.platform().zero(run.stream(), plan.inputs[0].slot(), plan.inputs[0].size_bytes());
  while (done < texts()) {
    const std::vector<float>& text = done > 0 || is_negative ? texts_.negative_states() : texts_.states(video);
    const std::int64_t count = static_cast<std::int64_t>(text.size()) / padded.dim(2);
    run.upload(row_of(plan.inputs[0], done++, {DType::f32, {count, padded.dim(2)}}), text);
    bias.insert(bias.end(), static_cast<std::size_t>(count), 0.0f);
    if (count < kMaxTokens) bias.push_back(static_cast<float>(std::log(static_cast<double>(kMaxTokens - count))));
    bias.resize(static_cast<std::size_t>(done * padded.dim(1)), -INFINITY);
  }
  run.run(plan, false);
  run.upload(run.tensor("text_bias"), bias);
}

// The positions' tables, the same for every request of a size: a session makes them once, and both experts have one pair.
void VideoWork::fill_rotary(StageRun& run) const {
  const std::string of_size = fmt::format("rotary {}x{}x{}", step_frames(), settled_.latent_height, settled_.latent_width);
  std::optional<RotaryTables> tables;
  const auto table = [&](std::vector<float> RotaryTables::*which) {
    if (!tables) tables = rotary_tables(model_.transformer, step_frames(), settled_.latent_height, settled_.latent_width);
    return std::move((*tables).*which);
  };
  run.fill_once("cos_full", of_size, [&] { return table(&RotaryTables::cos_full); });
  run.fill_once("sin_signed", of_size, [&] { return table(&RotaryTables::sin_signed); });
}

// What other devices read, and the first one has, beside what comes with every step and what their contexts make.
void VideoWork::share_inputs(std::string_view use, const StageRun& run) const {
  if (devices() == 1) return;
  const std::vector<std::string> made = wan_context_outputs(model_.transformer);
  const auto is_own = [&](const std::string& name) {
    return name == "text" || name == "latent" || name == "timestep" || name == "text_bias" || std::ranges::count(made, name) > 0;
  };
  const std::unique_ptr<Event> ready = run.stream().record_event();
  for (int device = 1; device < devices(); ++device) {
    const StageRun other = run.on(device);
    other.stream().wait_for(*ready);
    for (const BoundProgram::Argument& argument : other.bind(use).use->inputs)
      if (!is_own(argument.name)) other.pull(run, run.tensor(argument.name), other.tensor(argument.name));
  }
}

// The forwards of all devices. What a step needs of the others' is on the first device then.
void VideoWork::predict(const BoundPlan& first, std::string_view forward, const Tensor& timestep, StageRun& run) const {
  if (devices() == 1) return run.run(first);
  std::vector<std::unique_ptr<Event>> done(static_cast<std::size_t>(devices()));
  const std::unique_ptr<Event> ready = run.stream().record_event();
  run.at_once(devices(), [&](int device, const StageRun& own) {
    if (device == 0) return own.run(first);
    own.stream().wait_for(*ready);
    own.pull(run, run.tensor("latents"), own.tensor("latents"));
    own.pull(run, timestep, own.tensor("timestep"));
    own.run(own.bind(forward));
    done[static_cast<std::size_t>(device)] = own.stream().record_event();
  });
  for (int device = 1; device < devices(); ++device) run.stream().wait_for(*done[static_cast<std::size_t>(device)]);
  if (!apart()) return;
  const StageRun negative = run.on(settled_.sequence_devices);
  run.pull(negative, negative.tensor("prediction"), run.tensor("unconditional"));
}

void VideoWork::denoise(const Expert& expert, std::size_t video, StageRun& run) {
  auto start = StepClock::now();
  const Callbacks& callbacks = run.callbacks();
  const DenoiseState* const saved = saved_of(video, callbacks);
  if (expert.begin == 0) begin_video(video, saved);
  const int begin = std::max(expert.begin, saved ? saved->next_step : 0);
  if (begin >= expert.end) {
    latents_ = saved->latents;
    if (expert.end == scheduler_->steps()) finish_denoising(video, callbacks);
    return;
  }
  share_inputs("context", run);
  run.at_once(devices(), [&](int device, const StageRun& own) { prepare_context(video, own, is_negative(device)); });
  run.phase("text keys and values", start);

  // All that steps read is on the device before the first of them. Latents and timestep stay in one place, so that all steps run
  // the same captured graphs.
  const Scheduler& scheduler = *scheduler_;
  const Tensor &latents = run.tensor("latents"), &next = run.tensor("next"), &timestep = run.tensor("timestep");
  fill_rotary(run);
  if (has_nag()) run.upload(run.tensor("nag"), nag_);
  const auto kept = [&](int i) -> const Tensor& { return run.tensor(fmt::format("scheduler.{}", i)); };
  if (saved && saved->next_step >= expert.begin) {
    run.upload(latents, saved->latents);
    for (int i = 0; i < scheduler.kept_count(); ++i) run.upload(kept(i), saved->kept[static_cast<std::size_t>(i)]);
  } else if (begin == 0) {
    run.upload(latents, latents_);
  }

  const std::vector<float> still = timestep_sinusoid(model_.transformer, 0);  // of a first frame that is given
  if (first_frame()) {
    std::vector<std::int32_t> rows(static_cast<std::size_t>(settled_.latent_frames), 1);
    rows[0] = 0;
    run.upload(run.tensor("timestep_of_frame"), rows);
  }
  std::vector<float> timesteps, coefficients;
  for (int i = 0; i < scheduler.steps(); ++i) {
    const std::vector<float> sinusoid = timestep_sinusoid(model_.transformer, scheduler.timesteps()[static_cast<std::size_t>(i)]);
    if (first_frame()) timesteps.insert(timesteps.end(), still.begin(), still.end());
    timesteps.insert(timesteps.end(), sinusoid.begin(), sinusoid.end());
    std::vector<float> row = scheduler.coefficients(i);
    row.push_back(static_cast<float>(expert.guidance_scale));
    row.resize(static_cast<std::size_t>(update_row(scheduler)));
    coefficients.insert(coefficients.end(), row.begin(), row.end());
  }
  const Tensor &timestep_table = run.tensor("timestep_table"), &coefficient_table = run.tensor("coefficient_table"),
               &finite_table = run.tensor("finite_table");
  run.upload(timestep_table, timesteps);
  run.upload(coefficient_table, coefficients);

  share_inputs(forward_of(is_exact(begin)), run);  // those of the other kind are the same tensors

  std::vector<float> noise;
  std::map<bool, BoundPlan> forwards;  // by whether they are exact
  for (const bool exact : kinds_of(begin, expert.end)) forwards.emplace(exact, run.bind(forward_of(exact)));
  BoundPlan update = run.bind("update");
  const BoundPlan finite = run.bind("finite");
  const Type row_type = run.tensor("coefficients").type, flag = finite.outputs[0].type;

  // The host queues a step while the device is at the one before, and reports what the device has passed.
  constexpr std::size_t kStepsAhead = 1;
  std::deque<std::unique_ptr<Event>> ahead;
  const auto total = static_cast<std::size_t>(scheduler.steps());
  auto done = static_cast<std::size_t>(begin);
  const auto report_done = [&](std::size_t most_ahead) {
    for (; !ahead.empty() && (ahead.size() > most_ahead || ahead.front()->reached()); ahead.pop_front()) {
      ahead.front()->wait();
      run.progress(++done, total);
    }
  };
  if (begin == 0) run.progress(0, total);
  for (int i = begin; i < expert.end; ++i) {
    const auto step_start = StepClock::now();
    check(!callbacks.cancel || !callbacks.cancel->load(std::memory_order_relaxed), ErrorKind::cancelled, expert.component,
          "stopped at step {} of {}.", i + 1, total);
    if (i == begin || !callbacks.choose || callbacks.choose(video, i) == StepChoice::compute) {
      run.copy(row_of(timestep_table, i, timestep.type), timestep);
      predict(forwards.at(is_exact(i)), forward_of(is_exact(i)), timestep, run);
    }
    if (const std::optional<int> fresh = scheduler.noise()) {
      // Also that of steps which a resumed run does not take.
      for (noise.resize(latents_.size()); steps_drawn_ <= i; ++steps_drawn_) noise_->draw(noise);
      run.upload(kept(*fresh), noise);
    }
    update.set_input("coefficients", row_of(coefficient_table, i, row_type));
    const std::vector<int> reads = scheduler.reads(i), writes = scheduler.writes(i);
    for (std::size_t r = 0; r < reads.size(); ++r) update.set_input(fmt::format("kept_{}", r), kept(reads[r]));
    for (std::size_t w = 0; w < writes.size(); ++w) update.set_output(fmt::format("written_{}", w), kept(writes[w]));
    run.run(update, false);  // its arguments change from step to step, and it is one or two kernels
    ahead.push_back(run.stream().record_event());
    report_done(kStepsAhead);
    if (callbacks.step) {
      report_done(0);
      // Until the copy below, `latents` is what the step began with.
      callbacks.step({video, i, static_cast<int>(total), static_cast<double>(scheduler.sigmas()[static_cast<std::size_t>(i) + 1]),
                      [&] { return without_references(run.download(next)); }, [&] { return clean_latents(expert, i, run); },
                      [&] {
                        DenoiseState state{video, i + 1, run.download(next), {}};
                        for (int k = 0; k < scheduler.kept_count(); ++k) state.kept.push_back(run.download(kept(k)));
                        return state;
                      }});
    }
    run.copy(next, latents);
    run.run(finite);
    run.copy(finite.outputs[0], row_of(finite_table, i, flag));
    run.phase(fmt::format("step {}", i + 1), step_start);
  }
  report_done(0);
  check_finite(expert, begin, expert.end, run);
  latents_ = run.download(latents);
  if (expert.end == scheduler.steps()) finish_denoising(video, callbacks);
}

void VideoWork::finish_denoising(std::size_t video, const Callbacks& callbacks) {
  put_first_frame(latents_);
  latents_ = without_references(std::move(latents_));
  if (callbacks.latents) callbacks.latents(video, latents_);
}

void VideoWork::put_first_frame(std::vector<float>& latents) const {
  if (!first_frame()) return;
  const std::vector<float>& given = image_->first_frame();
  const std::size_t plane = given.size() / static_cast<std::size_t>(model_.vae.z_dim);
  for (std::size_t c = 0; c * plane < given.size(); ++c)
    std::copy_n(given.begin() + static_cast<std::ptrdiff_t>(c * plane), plane,
                latents.begin() + static_cast<std::ptrdiff_t>(c * plane * static_cast<std::size_t>(settled_.latent_frames)));
}

// x0 = x - sigma v, with the v that guidance makes; before `latents` becomes the next x.
std::vector<float> VideoWork::clean_latents(const Expert& expert, int step, StageRun& run) const {
  std::vector<float> clean = run.download(run.tensor("latents"));
  const std::vector<float> predicted = run.download(run.tensor("prediction"));
  const float sigma = scheduler_->sigmas()[static_cast<std::size_t>(step)], scale = static_cast<float>(expert.guidance_scale);
  if (guided()) {
    const std::vector<float> unconditional = run.download(run.tensor("unconditional"));
    for (std::size_t i = 0; i < clean.size(); ++i)
      clean[i] -= sigma * (unconditional[i] + scale * (predicted[i] - unconditional[i]));
  } else {
    for (std::size_t i = 0; i < clean.size(); ++i) clean[i] -= sigma * predicted[i];
  }
  put_first_frame(clean);
  return without_references(std::move(clean));
}

// Latents [C,T,h,w] of a step, without the frames in front that stand for reference images.
std::vector<float> VideoWork::without_references(std::vector<float> latents) const {
  if (references() == 0) return latents;
  const auto channels = static_cast<std::size_t>(model_.vae.z_dim), row = latents.size() / channels;
  const std::size_t cut = row / static_cast<std::size_t>(step_frames()) * static_cast<std::size_t>(references());
  auto end = latents.begin();
  for (std::size_t c = 0; c < channels; ++c)
    end = std::copy_n(latents.begin() + static_cast<std::ptrdiff_t>(c * row + cut), row - cut, end);
  latents.erase(end, latents.end());
  return latents;
}

void VideoWork::check_finite(const Expert& expert, int from, int to, StageRun& run) const {
  const std::vector<float> flags = run.download(run.tensor("finite_table"));
  for (int i = from; i < to; ++i)
    check(std::isfinite(flags[static_cast<std::size_t>(i * kFiniteRow)]), ErrorKind::invalid_argument, expert.component,
          "not a number: the latents are not finite after step {} of {}. A weight of {} is damaged or does not fit {}: check its "
          "files, or try --dtype f32.",
          i + 1, scheduler_->steps(), expert.component, name(dtype_));
}

}  // namespace

VideoRecipe::VideoRecipe(const VideoKind& kind, const ModelConfig& model)
    : kind_(kind), two_experts_(model.boundary_ratio.has_value()), image_encoder_(model.image_encoder.has_value()) {}

std::vector<std::string> VideoRecipe::components() const {
  std::vector<std::string> components{"text_encoder", "transformer"};
  if (two_experts_) components.emplace_back("transformer_2");
  if (image_encoder_) components.emplace_back("image_encoder");
  components.emplace_back("vae");
  return components;
}

std::unique_ptr<Work> VideoRecipe::plan(const Request& request, const RecipeContext& context) const {
  return std::make_unique<VideoWork>(request, context, kind_, two_experts_);
}

}  // namespace zoe
