#include "pipeline/request.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>
#include <type_traits>

#include "base/error.h"
#include "base/json.h"
#include "base/nearest.h"
#include "text/prompt.h"

namespace zoe {

namespace {

constexpr double kMaxExtent = 1 << 16;
constexpr std::size_t kMaxVideos = 9999;

template <class T>
struct Choice {
  std::string_view text;
  T value;
};
// The first text of a value is its name; the others are what other programs call it.
constexpr Choice<SchedulerKind> kSchedulers[] = {{"unipc", SchedulerKind::unipc},
                                                 {"euler", SchedulerKind::euler},
                                                 {"lcm", SchedulerKind::lcm},
                                                 {"dpm++", SchedulerKind::dpmpp},
                                                 {"rcm", SchedulerKind::rcm},
                                                 {"uni_pc", SchedulerKind::unipc},
                                                 {"UniPCMultistepScheduler", SchedulerKind::unipc},
                                                 {"FlowMatchEulerDiscreteScheduler", SchedulerKind::euler},
                                                 {"FlowMatchLCMScheduler", SchedulerKind::lcm},
                                                 {"dpmpp_2m", SchedulerKind::dpmpp},
                                                 {"DPMSolverMultistepScheduler", SchedulerKind::dpmpp}};
constexpr Choice<GuidanceBatch> kGuidanceBatches[] = {
    {"auto", GuidanceBatch::automatic}, {"on", GuidanceBatch::on}, {"off", GuidanceBatch::off}};

constexpr Choice<Fit> kFits[] = {{"crop", Fit::crop}, {"stretch", Fit::stretch}, {"pad", Fit::pad}};
constexpr Choice<Preset> kPresets[] = {{"none", Preset::none},
                                       {"lightx2v-4step", Preset::lightx2v_4step},
                                       {"dmd-3step", Preset::dmd_3step},
                                       {"lightning-4step", Preset::lightx2v_4step},
                                       {"causvid-3step", Preset::dmd_3step},
                                       {"fastwan-3step", Preset::dmd_3step},
                                       {"rcm-4step", Preset::rcm_4step},
                                       {"rcm-4step-i2v", Preset::rcm_4step_i2v},
                                       {"turbo-4step", Preset::rcm_4step},
                                       {"turbo-4step-i2v", Preset::rcm_4step_i2v}};

constexpr Choice<LoraMode> kLoraModes[] = {{"auto", LoraMode::automatic},
                                           {"merge", LoraMode::merge},
                                           {"beside", LoraMode::beside},
                                           {"immediately", LoraMode::merge},
                                           {"at_runtime", LoraMode::beside}};

template <class T>
constexpr auto& choices_of() {
  if constexpr (std::is_same_v<T, SchedulerKind>) return kSchedulers;
  else if constexpr (std::is_same_v<T, Fit>) return kFits;
  else if constexpr (std::is_same_v<T, Preset>) return kPresets;
  else if constexpr (std::is_same_v<T, LoraMode>) return kLoraModes;
  else return kGuidanceBatches;
}

template <class T>
std::vector<std::string_view> names_of() {
  std::vector<std::string_view> names;
  std::vector<T> seen;
  for (const Choice<T>& choice : choices_of<T>())
    if (std::find(seen.begin(), seen.end(), choice.value) == seen.end()) {
      names.push_back(choice.text);
      seen.push_back(choice.value);
    }
  return names;
}

template <class T>
std::string_view name_of(T value) {
  const auto& choices = choices_of<T>();
  return std::find_if(std::begin(choices), std::end(choices), [&](const Choice<T>& choice) { return choice.value == value; })->text;
}

std::string or_list(const std::vector<std::string_view>& names) {
  return fmt::format("{} or {}", fmt::join(names.begin(), names.end() - 1, ", "), names.back());
}

template <class... T>
struct Overloaded : T... {
  using T::operator()...;
};
template <class... T>
Overloaded(T...) -> Overloaded<T...>;

// --- The table
// ---------------------------------------------------------------------------------------------------------------------

constexpr std::string_view kModels = "the model's";
constexpr Members kOfControl = members::vace | members::vace_a14b;
constexpr Members kTwoExperts = members::t2v_a14b | members::i2v_a14b | members::vace_a14b;
constexpr Members kOfStartVideos = members::t2v | members::t2v_a14b | members::ti2v_5b, kOfVideos = kOfStartVideos | kOfControl;
constexpr Members kOfLastImages = members::i2v | members::i2v_a14b | members::flf2v, kOfImages = kOfLastImages | members::ti2v_5b;
constexpr double kMaxPathBytes = 4095;  // the system's own limit
constexpr std::string_view kPictureSuffixes[] = {".png", ".jpg", ".jpeg", ".webp", ".PNG", ".JPG", ".JPEG", ".WEBP"};

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
       .help = "A picture or video of another shape than is made: crop what sticks out, stretch (as Diffusers does), pad with black",
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
       .hints = {"quality", "bitrate"}},
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
       .help = "Prompt and negative prompt as a batch (on: faster, more memory) or one behind the other (off); auto: on where that fits",
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

std::string snake(std::string_view name) {
  std::string text(name.substr(std::min(name.find_first_not_of('-'), name.size())));
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}

// --- Values as text
// ----------------------------------------------------------------------------------------------------------------

struct Parser {
  const RequestField& field;
  std::string where;

  [[noreturn]] void refuse(std::string_view text, std::string_view expected) const {
    fail(ErrorKind::invalid_argument, where, "got {}, expected {}.", in_quotes(text), expected);
  }

  template <class T>
  std::optional<T> whole(std::string_view text) const {
    T value{};
    const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (status != std::errc() || end != text.data() + text.size()) return {};
    return value;
  }

  std::int64_t integer(std::string_view text) const {
    const auto value = whole<std::int64_t>(text);
    if (!value || static_cast<double>(*value) < field.min || static_cast<double>(*value) > field.max)
      refuse(text, fmt::format("a whole number from {} to {}", field.min, field.max));
    return *value;
  }

  double number(std::string_view text) const {
    const auto value = whole<double>(text);
    if (!value || !std::isfinite(*value) || *value < field.min || *value > field.max)
      refuse(text, fmt::format("a number from {} to {}", field.min, field.max));
    return *value;
  }

  std::uint64_t seed(std::string_view text) const {
    if (text == "-1") {
      std::random_device device;
      return std::uniform_int_distribution<std::uint32_t>()(device);
    }
    const auto value = whole<std::uint64_t>(text);
    if (!value) refuse(text, "a whole number from 0 to 18446744073709551615, or -1 for a random one");
    return *value;
  }

  std::string prompt(std::string_view text) const {
    check(text.size() <= kMaxPromptBytes, ErrorKind::invalid_argument, where,
          "too long: got {} bytes, expected at most {}. Shorten it.", text.size(), kMaxPromptBytes);
    return std::string(text);
  }

  template <class T>
  T choice(std::string_view text) const {
    for (const Choice<T>& row : choices_of<T>())
      if (row.text == text) return row.value;
    refuse(text, or_list(names_of<T>()));
  }

  std::filesystem::path path(std::string_view text) const {
    if (text.empty() || static_cast<double>(text.size()) > field.max || text.find('\0') != text.npos)
      refuse(text, fmt::format("the path of a file, of at most {} bytes", field.max));
    return text;
  }

  // Of files' metadata: a comma separates where a picture's suffix stands before it.
  std::vector<std::filesystem::path> paths(std::span<const std::string> texts) const {
    std::vector<std::filesystem::path> all;
    for (const std::string& text : texts) {
      std::size_t begin = 0;
      for (std::size_t comma = text.find(','); comma != text.npos; comma = text.find(',', comma + 1)) {
        const std::string_view before = std::string_view(text).substr(begin, comma - begin);
        if (std::none_of(std::begin(kPictureSuffixes), std::end(kPictureSuffixes),
                         [&](std::string_view suffix) { return before.ends_with(suffix); }))
          continue;
        all.push_back(path(before));
        begin = comma + 1;
      }
      all.push_back(path(std::string_view(text).substr(begin)));
    }
    return all;
  }

  bool flag(std::string_view text) const {
    if (text == "true") return true;
    if (text != "false") refuse(text, "true or false");
    return false;
  }

  void size(Request& request, std::string_view text) const {
    const std::size_t between = text.find_first_of("xX*");
    const auto part = [&](std::string_view digits) -> std::int64_t {
      const auto value = whole<std::int64_t>(digits);
      if (!value || *value < 1 || static_cast<double>(*value) > field.max)
        refuse(text, fmt::format("width and height from 1 to {}, as 832x480", field.max));
      return *value;
    };
    if (between == std::string_view::npos) part("");
    request.width = part(text.substr(0, between));
    request.height = part(text.substr(between + 1));
  }

  // FILE or FILE=STRENGTH; what is behind the last "=" and is no number belongs to the name.
  LoraChoice lora(std::string_view text) const {
    LoraChoice choice{std::string(text)};
    const std::size_t at = text.rfind('=');
    const std::string_view last = text.substr(at == std::string_view::npos ? text.size() : at + 1);
    if (whole<double>(last)) {
      choice = {std::string(text.substr(0, at)), number(last)};
    } else if (const std::string_view suffix = ".safetensors";
               at != std::string_view::npos && text.substr(0, at).ends_with(suffix)) {
      refuse(last, fmt::format("a number from {} to {} behind the file's name", field.min, field.max));
    }
    if (choice.path.empty()) refuse(text, "a file, or FILE=STRENGTH");
    return choice;
  }

  // Of files' metadata: a comma separates where a strength stands before it, as it does there.
  std::vector<LoraChoice> loras(std::span<const std::string> texts) const {
    std::vector<LoraChoice> all;
    for (const std::string& text : texts) {
      std::string_view rest = text;
      for (std::size_t from = 0; from < rest.size();) {
        const std::size_t comma = rest.find(',', from), equals = rest.substr(0, comma).rfind('=');
        if (comma == std::string_view::npos) break;
        from = comma + 1;
        if (equals == std::string_view::npos || !whole<double>(rest.substr(equals + 1, comma - equals - 1))) continue;
        all.push_back(lora(rest.substr(0, comma)));
        rest.remove_prefix(comma + 1);
        from = 0;
      }
      all.push_back(lora(rest));
    }
    return all;
  }

  // Elements with commas between; several texts follow one another.
  std::vector<std::string_view> elements(std::span<const std::string> texts) const {
    std::vector<std::string_view> list;
    for (const std::string& text : texts)
      for (std::size_t begin = 0; begin <= text.size();) {
        const std::size_t end = std::min(text.find(',', begin), text.size());
        list.push_back(std::string_view(text).substr(begin, end - begin));
        begin = end + 1;
        check(list.size() <= kMaxVideos, ErrorKind::invalid_argument, where, "got more than {} values. Give fewer.", kMaxVideos);
      }
    return list;
  }
};

void set(Request& request, const RequestField& field, std::span<const std::string> texts, Spelling spelling) {
  const Parser parser{.field = field, .where = spelled(field.name, spelling)};
  check(field.is_list() || texts.size() == 1, ErrorKind::invalid_argument, parser.where, "got {} values, expected one.",
        texts.size());
  std::visit(
      Overloaded{[&](std::vector<std::string> Request::*slot) {
                   std::vector<std::string> prompts;
                   for (const std::string& text : texts) prompts.push_back(parser.prompt(text));
                   request.*slot = std::move(prompts);
                 },
                 [&](std::string Request::*slot) { request.*slot = parser.prompt(texts[0]); },
                 [&](std::optional<std::int64_t> Request::*slot) { request.*slot = parser.integer(texts[0]); },
                 [&](std::optional<int> Request::*slot) { request.*slot = static_cast<int>(parser.integer(texts[0])); },
                 [&](std::optional<double> Request::*slot) { request.*slot = parser.number(texts[0]); },
                 [&](std::vector<double> Request::*slot) {
                   std::vector<double> levels;
                   for (const std::string_view text : parser.elements(texts)) {
                     levels.push_back(parser.number(text));
                     if (levels.size() > 1 && !(levels.back() < levels[levels.size() - 2]))
                       parser.refuse(text, fmt::format("a level below the one before, {}", levels[levels.size() - 2]));
                   }
                   request.*slot = std::move(levels);
                 },
                 [&](std::vector<std::uint64_t> Request::*slot) {
                   std::vector<std::uint64_t> seeds;
                   for (const std::string_view text : parser.elements(texts)) seeds.push_back(parser.seed(text));
                   check(!seeds.empty(), ErrorKind::invalid_argument, parser.where, "got no seed, expected one or more.");
                   request.*slot = std::move(seeds);
                 },
                 [&](std::optional<SchedulerKind> Request::*slot) { request.*slot = parser.choice<SchedulerKind>(texts[0]); },
                 [&](GuidanceBatch Request::*slot) { request.*slot = parser.choice<GuidanceBatch>(texts[0]); },
                 [&](std::filesystem::path Request::*slot) { request.*slot = parser.path(texts[0]); },
                 [&](std::vector<std::filesystem::path> Request::*slot) {
                   request.*slot = parser.paths(texts);
                 },
                 [&](Fit Request::*slot) { request.*slot = parser.choice<Fit>(texts[0]); },
                 [&](std::vector<LoraChoice> Request::*slot) { request.*slot = parser.loras(texts); },
                 [&](Preset Request::*slot) { request.*slot = parser.choice<Preset>(texts[0]); },
                 [&](LoraMode Request::*slot) { request.*slot = parser.choice<LoraMode>(texts[0]); },
                 [&](bool Request::*slot) { request.*slot = parser.flag(texts[0]); },
                 [&](SizeSlot) { parser.size(request, texts[0]); }},
      field.slot);
}

// An unknown name, with what may have been meant.
[[noreturn]] void refuse_unknown(std::string_view name, Spelling spelling, std::string_view where) {
  std::string advice;
  if (const RequestField* hint = find_hint(name)) {
    advice = fmt::format("See {}.", spelled(hint->name, spelling));
  } else {
    std::vector<std::string> known;
    for (const RequestField& field : request_fields()) {
      known.emplace_back(field.name);
      known.insert(known.end(), field.aliases.begin(), field.aliases.end());
    }
    if (const std::string near = nearest(snake(name), known, 2); !near.empty())
      advice = fmt::format("Did you mean {}?", spelled(find_field(near)->name, spelling));
    else advice = "docs/requests.md lists them.";
  }
  fail(ErrorKind::invalid_argument, where, "unknown field: got {}, expected one of a request. {}", in_quotes(name), advice);
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
                 [](Fit Request::*) -> Text { return "choice"; }, [](LoraMode Request::*) -> Text { return "choice"; }, [](Preset Request::*) -> Text { return "choice"; },
                 [](std::vector<LoraChoice> Request::*) -> Text { return "files"; }, [](bool Request::*) -> Text { return "true or false"; },
                 [](SizeSlot) -> Text { return "WIDTHxHEIGHT"; }},
      slot);
}

std::vector<std::string_view> RequestField::choices() const {
  if (std::holds_alternative<std::optional<SchedulerKind> Request::*>(slot)) return names_of<SchedulerKind>();
  if (std::holds_alternative<GuidanceBatch Request::*>(slot)) return names_of<GuidanceBatch>();
  if (std::holds_alternative<Fit Request::*>(slot)) return names_of<Fit>();
  if (std::holds_alternative<Preset Request::*>(slot)) return names_of<Preset>();
  if (std::holds_alternative<LoraMode Request::*>(slot)) return names_of<LoraMode>();
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

const RequestField* find_field(std::string_view name) {
  const std::string wanted = snake(name);
  for (const RequestField& field : request_fields())
    if (field.name == wanted || std::find(field.aliases.begin(), field.aliases.end(), wanted) != field.aliases.end()) return &field;
  return nullptr;
}

const RequestField* find_hint(std::string_view name) {
  const std::string wanted = snake(name);
  for (const RequestField& field : request_fields())
    if (std::find(field.hints.begin(), field.hints.end(), wanted) != field.hints.end()) return &field;
  return nullptr;
}

std::string spelled(std::string_view name, Spelling spelling) {
  if (spelling == Spelling::key) return std::string(name);
  std::string text = "--" + std::string(name);
  std::replace(text.begin(), text.end(), '_', '-');
  return text;
}

void set_field(Request& request, std::string_view name, std::span<const std::string> texts, Spelling spelling) {
  const RequestField* const field = find_field(name);
  if (!field) refuse_unknown(name, spelling, "request");
  set(request, *field, texts, spelling);
}

void set_field(Request& request, std::string_view name, std::string_view text, Spelling spelling) {
  const std::string one[] = {std::string(text)};
  set_field(request, name, one, spelling);
}

std::vector<std::string> get_field(const Request& request, const RequestField& field) {
  using Texts = std::vector<std::string>;
  const auto if_set = [](const auto& value) { return value ? Texts{fmt::format("{}", *value)} : Texts{}; };
  const auto joined = [](const auto& values) {
    return values.empty() ? Texts{} : Texts{fmt::format("{}", fmt::join(values, ","))};
  };
  return std::visit(
      Overloaded{[&](std::vector<std::string> Request::*slot) { return request.*slot; },
                 [&](std::string Request::*slot) { return (request.*slot).empty() ? Texts{} : Texts{request.*slot}; },
                 [&](std::optional<std::int64_t> Request::*slot) { return if_set(request.*slot); },
                 [&](std::optional<int> Request::*slot) { return if_set(request.*slot); },
                 [&](std::optional<double> Request::*slot) { return if_set(request.*slot); },
                 [&](std::vector<double> Request::*slot) { return joined(request.*slot); },
                 [&](std::vector<std::uint64_t> Request::*slot) { return joined(request.*slot); },
                 [&](std::optional<SchedulerKind> Request::*slot) {
                   return request.*slot ? Texts{std::string(name_of(*(request.*slot)))} : Texts{};
                 },
                 [&](GuidanceBatch Request::*slot) {
                   return request.*slot == GuidanceBatch::automatic ? Texts{} : Texts{std::string(name_of(request.*slot))};
                 },
                 [&](std::filesystem::path Request::*slot) {
                   return (request.*slot).empty() ? Texts{} : Texts{(request.*slot).string()};
                 },
                 [&](std::vector<std::filesystem::path> Request::*slot) {
                   Texts texts;
                   for (const std::filesystem::path& path : request.*slot) texts.push_back(path.string());
                   return texts;
                 },
                 [&](Fit Request::*slot) {
                   return request.*slot == Fit::crop ? Texts{} : Texts{std::string(name_of(request.*slot))};
                 },
                 [&](std::vector<LoraChoice> Request::*slot) {
                   Texts texts;
                   for (const LoraChoice& each : request.*slot) texts.push_back(fmt::format("{}={}", each.path, each.strength));
                   return texts;
                 },
                 [&](Preset Request::*slot) {
                   return request.*slot == Preset::none ? Texts{} : Texts{std::string(name_of(request.*slot))};
                 },
                 [&](LoraMode Request::*slot) {
                   return request.*slot == LoraMode::automatic ? Texts{} : Texts{std::string(name_of(request.*slot))};
                 },
                 [&](bool Request::*slot) { return request.*slot ? Texts{"true"} : Texts{}; }, [&](SizeSlot) { return Texts{}; }},
      field.slot);
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

std::string to_json(const Request& request) {
  using nlohmann::json;
  const auto one_or_all = [](const auto& values) { return values.size() == 1 ? json(values[0]) : json(values); };
  nlohmann::ordered_json object = nlohmann::ordered_json::object();
  for (const RequestField& field : request_fields()) {
    const std::vector<std::string> texts = get_field(request, field);
    if (texts.empty()) continue;
    const std::string key(field.name);
    std::visit(Overloaded{[&](std::vector<std::string> Request::*slot) { object[key] = one_or_all(request.*slot); },
                          [&](std::optional<std::int64_t> Request::*slot) { object[key] = *(request.*slot); },
                          [&](std::optional<int> Request::*slot) { object[key] = *(request.*slot); },
                          [&](std::optional<double> Request::*slot) { object[key] = *(request.*slot); },
                          [&](std::vector<double> Request::*slot) { object[key] = request.*slot; },
                          [&](std::vector<std::uint64_t> Request::*slot) { object[key] = one_or_all(request.*slot); },
                          [&](std::vector<LoraChoice> Request::*) { object[key] = one_or_all(texts); },
                          [&](std::vector<std::filesystem::path> Request::*) { object[key] = one_or_all(texts); },
                          [&](bool Request::*slot) { object[key] = request.*slot; }, [&](auto) { object[key] = texts[0]; }},
               field.slot);
  }
  return object.dump(-1, ' ', false, json::error_handler_t::replace);
}

Request request_from_json(std::string_view text, std::string_view where, std::map<std::string, std::string>* others) {
  using nlohmann::json;
  parse_json_object(text, where);  // its errors have line and column
  const json object = json::parse(text);
  const auto text_of = [&](const std::string& key, const json& value) {
    check(!value.is_structured(), ErrorKind::invalid_argument, key, "got {}, expected a text, a number, true or false{}.",
          value.is_array() ? "a list in a list" : "an object", value.is_array() ? "" : ", or a list of them");
    return value.is_string() ? value.get<std::string>() : value.dump();
  };
  Request request;
  for (const auto& [key, value] : object.items()) {
    const RequestField* const field = find_field(key);
    if (!field && others) {
      (*others)[key] = value.is_string() ? value.get<std::string>() : value.dump();
      continue;
    }
    if (!field) refuse_unknown(key, Spelling::key, where);
    if (value.is_null()) continue;
    std::vector<std::string> texts;
    if (value.is_array())
      for (const json& element : value) texts.push_back(text_of(key, element));
    else texts.push_back(text_of(key, value));
    set(request, *field, texts, Spelling::key);
  }
  return request;
}

}  // namespace zoe
