#include "pipeline/request.h"

#include <algorithm>

#include "base/error.h"
#include "pipeline/request_choices.h"
#include "text/prompt.h"

namespace zoe {

namespace {

constexpr double kMaxExtent = 1 << 16;
constexpr std::string_view kModels = "the model's";
constexpr Members kOfControl = members::vace | members::vace_a14b;
constexpr Members kTwoExperts = members::t2v_a14b | members::i2v_a14b | members::vace_a14b;
constexpr Members kOfStartVideos = members::t2v | members::t2v_a14b | members::ti2v_5b, kOfVideos = kOfStartVideos | kOfControl;
constexpr Members kOfLastImages = members::i2v | members::i2v_a14b | members::flf2v, kOfImages = kOfLastImages | members::ti2v_5b;
constexpr double kMaxPathBytes = 4095;  // the system's own limit

std::vector<RequestField> make_fields() {
  return {
      {.name = "prompt",
       .letter = "p",
       .slot = &Request::prompts,
       .min = 0,
       .max = kMaxPromptBytes,
       .unit = "",
       .fallback = "",
       .help = "What to show; several make a video each",
       .aliases = {"prompts", "positive_prompt"},
       .hints = {"text", "caption"}},
      {.name = "negative_prompt",
       .letter = "n",
       .slot = &Request::negative_prompt,
       .min = 0,
       .max = kMaxPromptBytes,
       .unit = "",
       .fallback = "none",
       .help = "What not to show; of no effect without guidance, classifier-free or nag_scale",
       .aliases = {"negative", "n_prompt", "neg_prompt"},
       .hints = {}},
      {.name = "emphasis",
       .letter = "",
       .slot = &Request::emphasis,
       .min = 0,
       .max = 1,
       .unit = "",
       .fallback = "false",
       .help = "Parentheses in prompts are weights, as ComfyUI has them: (word:1.2), (word) is 1.1; \\( and \\) are plain ones",
       .aliases = {"prompt_weighting"},
       .hints = {}},
      {.name = "image",
       .letter = "i",
       .slot = &Request::image,
       .min = 1,
       .max = kMaxPathBytes,
       .unit = "",
       .fallback = "none: must be said, but of ti2v_5b",
       .help = "The picture that the video begins with: a PNG, JPEG or WebP file; without a size the video has its shape",
       .aliases = {"image_path", "init_image", "init_img", "first_image", "first_frame"},
       .hints = {"img", "input_image", "start_image"},
       .taken_by = kOfImages},
      {.name = "last_image",
       .letter = "",
       .slot = &Request::last_image,
       .min = 1,
       .max = kMaxPathBytes,
       .unit = "",
       .fallback = "none",
       .help = "The picture that the video ends with, as image",
       .aliases = {"last_image_path", "end_image", "end_img", "last_frame"},
       .hints = {},
       .taken_by = kOfLastImages},
      {.name = "video",
       .letter = "",
       .slot = &Request::video,
       .min = 1,
       .max = kMaxPathBytes,
       .unit = "",
       .fallback = "none",
       .help = "A file or a folder of pictures, frame by frame: text to video starts from it (strength), VACE is led by it",
       .aliases = {"video_path", "src_video", "input_video", "control_video"},
       .hints = {"init_video"},
       .taken_by = kOfVideos},
      {.name = "mask",
       .letter = "",
       .slot = &Request::mask,
       .min = 1,
       .max = kMaxPathBytes,
       .unit = "",
       .fallback = "none: all is made",
       .help = "What of the video is made (white) and what is kept (black): a picture for all frames, or as video, of its size",
       .aliases = {"mask_path", "src_mask", "mask_video"},
       .hints = {"mask_image"},
       .taken_by = kOfControl},
      {.name = "reference_image",
       .letter = "",
       .slot = &Request::reference_images,
       .min = 1,
       .max = kMaxPathBytes,
       .unit = "",
       .fallback = "none",
       .help = "A picture of what is to appear in the video, shown whole on white; several, one each time it is said",
       .aliases = {"reference_images", "src_ref_images", "ref_images"},
       .hints = {"ref_image"},
       .taken_by = kOfControl},
      {.name = "strength",
       .letter = "",
       .slot = &Request::strength,
       .min = 0,
       .max = 1,
       .unit = "",
       .fallback = "0.8",
       .help = "Of the steps, the share that is taken from a video on: 1 keeps little of it, 0.1 nearly all",
       .aliases = {"denoising_strength"},
       .hints = {"denoise_strength"},
       .taken_by = kOfStartVideos},
      {.name = "conditioning_scale",
       .letter = "",
       .slot = &Request::conditioning_scale,
       .min = 0,
       .max = 1000,
       .unit = "",
       .fallback = "1",
       .help = "How much video, mask and reference images lead",
       .aliases = {"vace_strength", "context_scale"},
       .hints = {"control_strength", "controlnet_conditioning_scale"},
       .taken_by = kOfControl},
      {.name = "fit",
       .letter = "",
       .slot = &Request::fit,
       .min = 0,
       .max = 0,
       .unit = "",
       .fallback = "crop",
       .help =
           "A picture or video of another shape than is made: crop what sticks out, stretch (as Diffusers does), pad with black",
       .aliases = {},
       .hints = {"resize_mode"},
       .taken_by = kOfImages | kOfVideos},
      {.name = "size",
       .letter = "",
       .slot = SizeSlot{},
       .min = 1,
       .max = kMaxExtent,
       .unit = "pixels",
       .fallback = kModels,
       .help = "Width and height at once, as 832x480; with an image or a video its shape at the model's area, if nothing is said",
       .aliases = {"resolution"},
       .hints = {"aspect_ratio"}},
      {.name = "height",
       .letter = "H",
       .slot = &Request::height,
       .min = 1,
       .max = kMaxExtent,
       .unit = "pixels",
       .fallback = kModels,
       .help = "Rounded down to what the model can make (multiples of 16 or 32), but with exact_size",
       .aliases = {},
       .hints = {}},
      {.name = "width",
       .letter = "W",
       .slot = &Request::width,
       .min = 1,
       .max = kMaxExtent,
       .unit = "pixels",
       .fallback = kModels,
       .help = "As height",
       .aliases = {},
       .hints = {}},
      {.name = "exact_size",
       .letter = "",
       .slot = &Request::exact_size,
       .min = 0,
       .max = 1,
       .unit = "",
       .fallback = "false",
       .help = "Make the next larger size that the model can and crop it to width and height",
       .aliases = {},
       .hints = {"crop"}},
      {.name = "num_frames",
       .letter = "",
       .slot = &Request::num_frames,
       .min = 1,
       .max = kMaxExtent,
       .unit = "frames",
       .fallback = kModels,
       .help = "Made one more than a multiple of 4",
       .aliases = {"frames", "length", "video_frames", "frame_num", "video_length"},
       .hints = {"duration", "seconds"}},
      {.name = "fps",
       .letter = "",
       .slot = &Request::fps,
       .min = 0.1,
       .max = 240,
       .unit = "frames a second",
       .fallback = kModels,
       .help = "Of the file; the model makes the same frames",
       .aliases = {"frame_rate"},
       .hints = {}},
      {.name = "crf",
       .letter = "",
       .slot = &Request::crf,
       .min = 0,
       .max = 63,
       .unit = "",
       .fallback = "the format's",
       .help = "Quality of .mp4, .mov, .mkv and .webm: 0 is best and largest, 51 (.webm: 63) worst",
       .aliases = {},
       .hints = {"bitrate"}},
      {.name = "num_inference_steps",
       .letter = "",
       .slot = &Request::num_inference_steps,
       .min = 1,
       .max = 1000,
       .unit = "steps",
       .fallback = kModels,
       .help = "Denoising steps",
       .aliases = {"steps", "sample_steps", "sampling_steps"},
       .hints = {"high_noise_steps"}},
      {.name = "guidance_scale",
       .letter = "",
       .slot = &Request::guidance_scale,
       .min = 0,
       .max = 1000,
       .unit = "",
       .fallback = kModels,
       .help = "Classifier-free guidance; up to 1 switches it off",
       .aliases = {"cfg_scale", "cfg", "guidance", "sample_guide_scale"},
       .hints = {"true_cfg_scale", "guidance_rescale"}},
      {.name = "guidance_scale_2",
       .letter = "",
       .slot = &Request::guidance_scale_2,
       .min = 0,
       .max = 1000,
       .unit = "",
       .fallback = "guidance_scale's",
       .help = "Guidance of the expert for low noise, below boundary_ratio",
       .aliases = {},
       .hints = {"high_noise_cfg_scale"},
       .taken_by = kTwoExperts},
      {.name = "boundary_ratio",
       .letter = "",
       .slot = &Request::boundary_ratio,
       .min = 0,
       .max = 1,
       .unit = "",
       .fallback = kModels,
       .help = "The noise level below which the second expert takes over",
       .aliases = {"boundary", "moe_boundary"},
       .hints = {},
       .taken_by = kTwoExperts},
      {.name = "nag_scale",
       .letter = "",
       .slot = &Request::nag_scale,
       .min = 1,
       .max = 100,
       .unit = "",
       .fallback = "none",
       .help = "Normalized attention guidance: the negative prompt without classifier-free guidance, for models of few steps; 11 "
               "is usual",
       .aliases = {},
       .hints = {"nag"}},
      {.name = "nag_tau",
       .letter = "",
       .slot = &Request::nag_tau,
       .min = 0,
       .max = 100,
       .unit = "",
       .fallback = "2.5",
       .help = "How much longer than without it nag_scale may make what a token sees",
       .aliases = {},
       .hints = {}},
      {.name = "nag_alpha",
       .letter = "",
       .slot = &Request::nag_alpha,
       .min = 0,
       .max = 1,
       .unit = "",
       .fallback = "0.25",
       .help = "How much of nag_scale's result is taken, the rest being the prompt's alone",
       .aliases = {},
       .hints = {}},
      {.name = "guidance_batch",
       .letter = "",
       .slot = &Request::guidance_batch,
       .min = 0,
       .max = 0,
       .unit = "",
       .fallback = "auto",
       .help = "Prompt and negative prompt as a batch (on: faster, more memory) or one behind the other (off); auto: on where that "
               "fits",
       .aliases = {},
       .hints = {}},
      {.name = "token_pieces",
       .letter = "",
       .slot = &Request::token_pieces,
       .min = 1,
       .max = 64,
       .unit = "",
       .fallback = "as few as fit",
       .help = "In how many pieces the transformer takes a video's tokens: more take less memory and a little more time",
       .aliases = {},
       .hints = {}},
      {.name = "vae_tiles",
       .letter = "",
       .slot = &Request::vae_tiles,
       .min = 1,
       .max = 64,
       .unit = "",
       .fallback = "as few as fit",
       .help = "In how many tiles the VAE takes a picture: the same frames, in less memory and more time",
       .aliases = {},
       .hints = {"vae_tiling", "enable_tiling"}},
      {.name = "scheduler",
       .letter = "",
       .slot = &Request::scheduler,
       .min = 0,
       .max = 0,
       .unit = "",
       .fallback = kModels,
       .help = "UniPC, Euler along the flow, LCM or rCM (fresh noise at every step, for models distilled so) or DPM-Solver++ 2M",
       .aliases = {"sampler", "sampler_name", "sampling_method", "sample_solver"},
       .hints = {}},
      {.name = "preset",
       .letter = "",
       .slot = &Request::preset,
       .min = 0,
       .max = 0,
       .unit = "",
       .fallback = "none",
       .help =
           "Scheduler, levels, shift and guidance that a distilled model or LoRA was made for; what is said beside it comes on top",
       .aliases = {},
       .hints = {}},
      {.name = "flow_shift",
       .letter = "",
       .slot = &Request::flow_shift,
       .min = 1e-3,
       .max = 1000,
       .unit = "",
       .fallback = kModels,
       .help = "Shift of the noise levels: s l / (1 + (s - 1) l) for a level l",
       .aliases = {"shift", "sample_shift"},
       .hints = {"mu"}},
      {.name = "sigmas",
       .letter = "",
       .slot = &Request::sigmas,
       .min = 1e-6,
       .max = 1,
       .unit = "",
       .fallback = "the scheduler's",
       .help = "Noise levels before the shift, falling, as 1,0.75,0.5,0.25: a step each, and 0 at the end",
       .aliases = {},
       .hints = {"timesteps", "denoise"}},
      {.name = "lora",
       .letter = "",
       .slot = &Request::loras,
       .min = -1000,
       .max = 1000,
       .unit = "strength",
       .fallback = "none",
       .help = "A LoRA for every transformer, as FILE or FILE=STRENGTH; several add up",
       .aliases = {"loras"},
       .hints = {"lora_path", "lora_weight", "lora_scale", "lora_strength", "adapter", "lora_model_dir"}},
      {.name = "lora_high",
       .letter = "",
       .slot = &Request::loras_high,
       .min = -1000,
       .max = 1000,
       .unit = "strength",
       .fallback = "none",
       .help = "A LoRA for the expert for high noise alone",
       .aliases = {"lora_high_noise"},
       .hints = {},
       .taken_by = kTwoExperts},
      {.name = "lora_low",
       .letter = "",
       .slot = &Request::loras_low,
       .min = -1000,
       .max = 1000,
       .unit = "strength",
       .fallback = "none",
       .help = "A LoRA for the expert for low noise alone",
       .aliases = {"lora_low_noise"},
       .hints = {},
       .taken_by = kTwoExperts},
      {.name = "lora_mode",
       .letter = "",
       .slot = &Request::lora_mode,
       .min = 0,
       .max = 0,
       .unit = "",
       .fallback = "auto",
       .help = "LoRAs' pairs: merged into weights as they are read, or kept beside them, which leaves 8-bit and block weights as "
               "small as "
               "they are; auto: beside those, merged into others",
       .aliases = {"lora_apply_mode"},
       .hints = {"fuse_lora", "merge_lora"}},
      {.name = "lora_allow_unused",
       .letter = "",
       .slot = &Request::lora_allow_unused,
       .min = 0,
       .max = 1,
       .unit = "",
       .fallback = "false",
       .help = "List keys of a LoRA that mean nothing in the model, and go on without them",
       .aliases = {},
       .hints = {}},
      {.name = "quality",
       .letter = "",
       .slot = &Request::quality,
       .min = 0,
       .max = 0,
       .unit = "",
       .fallback = "exact",
       .help =
           "What precision and attention are where they are not said: high is int8 and exact, fast int8 for both, each where the "
           "device has it (docs/quality.md)",
       .aliases = {},
       .hints = {}},
      {.name = "precision",
       .letter = "",
       .slot = &Request::precision,
       .min = 0,
       .max = 0,
       .unit = "",
       .fallback = "quality's",
       .help = "The products of the transformer's blocks: exact, or from rotated codes of 8 bits, which is faster and not the same",
       .aliases = {},
       .hints = {"quantization", "quant", "fp8", "int8"}},
      {.name = "attention",
       .letter = "",
       .slot = &Request::attention,
       .min = 0,
       .max = 0,
       .unit = "",
       .fallback = "quality's",
       .help = "The attention of the video's tokens to one another: exact, or from codes of 8 bits",
       .aliases = {},
       .hints = {"attention_backend", "attn_mode", "sageattn", "use_sage_attention"}},
      {.name = "exact_blocks",
       .letter = "",
       .slot = &Request::exact_blocks,
       .min = 0,
       .max = kMaxPromptBytes,
       .unit = "",
       .fallback = "none",
       .help = "Blocks of the transformer that stay exact whatever precision and attention are, as 0,1,38-39; -1 is the last",
       .aliases = {},
       .hints = {"skip_layers", "fp16_layers", "dense_layers", "first_layers_fp"}},
      {.name = "exact_steps",
       .letter = "",
       .slot = &Request::exact_steps,
       .min = 0,
       .max = kMaxPromptBytes,
       .unit = "",
       .fallback = "none",
       .help = "Steps that stay exact whatever precision and attention are, from 0, as 0-1,-1; -1 is the last. Weights are on the "
               "device in both layouts then",
       .aliases = {},
       .hints = {"dense_timesteps", "first_times_fp"}},
      {.name = "seed",
       .letter = "s",
       .slot = &Request::seeds,
       .min = -1,
       .max = 18446744073709551615.0,
       .unit = "",
       .fallback = "0",
       .help = "Of the initial noise, as torch.Generator(\"cpu\").manual_seed; -1 is a random one; several make a video each",
       .aliases = {"seeds", "base_seed"},
       .hints = {"num_videos_per_prompt", "batch_count", "batch_size", "generator", "noise_seed"}},
  };
}

}  // namespace

std::string member_names(Members bits) {
  if (bits == members::all) return "all";
  constexpr std::string_view names[] = {"t2v", "t2v_a14b", "i2v", "i2v_a14b", "ti2v_5b", "flf2v", "vace", "vace_a14b"};
  std::string text;
  for (std::size_t i = 0; i < std::size(names); ++i)
    if (bits >> i & 1) text += fmt::format("{}{}", text.empty() ? "" : ", ", names[i]);
  return text;
}

bool RequestField::is_list() const {
  return std::holds_alternative<std::vector<std::string> Request::*>(slot) ||
         std::holds_alternative<std::vector<double> Request::*>(slot) ||
         std::holds_alternative<std::vector<LoraChoice> Request::*>(slot) ||
         std::holds_alternative<std::vector<std::filesystem::path> Request::*>(slot) ||
         std::holds_alternative<std::vector<std::uint64_t> Request::*>(slot);
}

bool RequestField::is_flag() const { return std::holds_alternative<bool Request::*>(slot); }
bool RequestField::is_file() const {
  return std::holds_alternative<std::filesystem::path Request::*>(slot) ||
         std::holds_alternative<std::vector<std::filesystem::path> Request::*>(slot);
}

std::string_view RequestField::type() const {
  using Text = std::string_view;
  return std::visit(
      Overloaded{[](std::vector<std::string> Request::*) -> Text { return "texts"; },
                 [](std::string Request::*) -> Text { return "text"; },
                 [](std::optional<std::int64_t> Request::*) -> Text { return "whole number"; },
                 [](std::optional<int> Request::*) -> Text { return "whole number"; },
                 [](std::optional<double> Request::*) -> Text { return "number"; },
                 [](std::vector<double> Request::*) -> Text { return "numbers"; },
                 [](std::vector<std::uint64_t> Request::*) -> Text { return "whole numbers"; },
                 [](std::optional<SchedulerKind> Request::*) -> Text { return "choice"; },
                 [](GuidanceBatch Request::*) -> Text { return "choice"; },
                 [](std::filesystem::path Request::*) -> Text { return "file"; },
                 [](std::vector<std::filesystem::path> Request::*) -> Text { return "files"; },
                 [](Fit Request::*) -> Text { return "choice"; }, [](LoraMode Request::*) -> Text { return "choice"; },
                 [](std::optional<Arithmetic> Request::*) -> Text { return "choice"; },
                 [](Quality Request::*) -> Text { return "choice"; }, [](Preset Request::*) -> Text { return "choice"; },
                 [](std::vector<LoraChoice> Request::*) -> Text { return "files"; },
                 [](bool Request::*) -> Text { return "true or false"; }, [](SizeSlot) -> Text { return "WIDTHxHEIGHT"; }},
      slot);
}

std::vector<std::string_view> RequestField::choices() const {
  if (std::holds_alternative<std::optional<SchedulerKind> Request::*>(slot)) return names_of<SchedulerKind>();
  if (std::holds_alternative<GuidanceBatch Request::*>(slot)) return names_of<GuidanceBatch>();
  if (std::holds_alternative<Fit Request::*>(slot)) return names_of<Fit>();
  if (std::holds_alternative<Preset Request::*>(slot)) return names_of<Preset>();
  if (std::holds_alternative<LoraMode Request::*>(slot)) return names_of<LoraMode>();
  if (std::holds_alternative<std::optional<Arithmetic> Request::*>(slot)) return names_of<Arithmetic>();
  if (std::holds_alternative<Quality Request::*>(slot)) return names_of<Quality>();
  return {};
}

std::string RequestField::range() const {
  if (const auto names = choices(); !names.empty()) return or_list(names);
  if (is_flag()) return "";
  if (is_file()) return "a path";
  if (std::holds_alternative<std::vector<std::string> Request::*>(slot) || std::holds_alternative<std::string Request::*>(slot))
    return fmt::format("at most {} bytes of UTF-8", max);
  if (std::holds_alternative<std::vector<std::uint64_t> Request::*>(slot)) return "0 to 18446744073709551615, or -1";
  return fmt::format("{} to {}", min, max);
}

const std::vector<RequestField>& request_fields() {
  static const std::vector<RequestField> fields = make_fields();
  return fields;
}

void check_request(const Request& request, Members taken_by, Spelling spelling) {
  const auto spell = [&](std::string_view name) { return spelled(name, spelling); };
  for (const RequestField& field : request_fields())
    check((field.taken_by & taken_by) != 0 || get_field(request, field).empty(), ErrorKind::invalid_argument, spell(field.name),
          "is not taken by this model: got {}, expected nothing. It is of {}.", fmt::join(get_field(request, field), ", "),
          member_names(field.taken_by));
  check(!request.prompts.empty(), ErrorKind::invalid_argument, spell("prompt"), "no prompt given. Say what to show.");
  check(!request.strength || !request.video.empty(), ErrorKind::invalid_argument, spell("strength"),
        "is of no video: got {}, expected {} too. Leave it out, or give a video to start from.", request.strength.value_or(0),
        spell("video"));
  check(request.fit == Fit::crop || !request.image.empty() || !request.video.empty(), ErrorKind::invalid_argument, spell("fit"),
        "is of no picture: got {}, expected an image or a video beside it. Leave it out.", name_of(request.fit));
  check(request.image.empty() || request.video.empty(), ErrorKind::invalid_argument, spell("video"),
        "got a video and an image to start from, expected one. Leave out {} or {}.", spell("video"), spell("image"));
  check(request.prompts.size() * request.seeds.size() <= kMaxVideos, ErrorKind::invalid_argument, spell("prompt"),
        "too many videos: got {} prompts and {} seeds, expected at most {} videos. Give fewer.", request.prompts.size(),
        request.seeds.size(), kMaxVideos);
  check(request.nag_scale || (!request.nag_tau && !request.nag_alpha), ErrorKind::invalid_argument,
        spell(request.nag_tau ? "nag_tau" : "nag_alpha"), "has no effect without {}: got none. Say it, or leave this out.",
        spell("nag_scale"));
  check(request.sigmas.empty() || !request.num_inference_steps ||
            request.sigmas.size() == static_cast<std::size_t>(*request.num_inference_steps),
        ErrorKind::invalid_argument, spell("sigmas"), "got {} levels and {} steps, expected as many. Leave out {}.",
        request.sigmas.size(), request.num_inference_steps.value_or(0), spell("num_inference_steps"));
}

std::vector<std::string> request_notices(const Request& request, int num_inference_steps, double guidance_scale,
                                         SchedulerKind scheduler, std::int64_t model_frames, Spelling spelling) {
  constexpr int kFewSteps = 8;  // those of the recipes for distilled models
  std::vector<std::string> notices;
  if (!request.negative_prompt.empty() && guidance_scale <= 1 && !request.nag_scale)
    notices.push_back(fmt::format("the negative prompt has no effect: guidance {} is off (above 1 it is on)", guidance_scale));
  if (request.num_frames && *request.num_frames > model_frames)
    notices.push_back(fmt::format("{} frames are more than the {} of the model: the video may repeat itself or come apart",
                                  *request.num_frames, model_frames));
  if (request.sigmas.empty() && scheduler == SchedulerKind::euler && num_inference_steps <= kFewSteps && num_inference_steps > 1) {
    std::string levels;
    for (int i = num_inference_steps; i > 0; --i)
      levels += fmt::format("{}{:.6g}", levels.empty() ? "" : ",", static_cast<double>(i) / num_inference_steps);
    notices.push_back(
        fmt::format("euler's own noise levels for {} steps are not those that recipes for few steps mean: these are {} {}",
                    num_inference_steps, spelled("sigmas", spelling), levels));
  }
  return notices;
}

}  // namespace zoe
