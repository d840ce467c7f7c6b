// What one request says, and the one table of its fields that every front end is made from: the command's `--a-b`, `a_b` elsewhere
// and in a file's metadata, help and docs (docs/requests.md).
//
//   Request request;
//   set_field(request, "num_frames", "33");                        // or "frames", an alias; errors name the field
//   set_field(request, "steps", "x", Spelling::option);            // [--num-inference-steps] got "x", expected a whole number ...
//   Request again = request_from_json(to_json(request), "here");   // the same
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "schedulers/scheduler_kind.h"

namespace zoe {

// With guidance each step asks the transformer about prompt and negative prompt: in one forward of a batch of two, or in two.
enum class GuidanceBatch : std::uint8_t { automatic, on, off };

// How a picture of another shape becomes one of the video's: what sticks out is cut off on both sides, it is stretched, or the rest
// is black on both sides.
enum class Fit : std::uint8_t { crop, stretch, pad };

// A file of changes to a transformer's weights (docs/loras.md), and how much of them: 1 as they are, negative the other way.
struct LoraChoice {
  std::string path;
  double strength = 1;
  bool operator==(const LoraChoice&) const = default;
};

// What becomes of a LoRA's low-rank changes: added to the weights as these are read, or kept beside them and added where they are
// used. automatic: beside weights that stay as they are stored.
enum class LoraMode : std::uint8_t { automatic, merge, beside };

// What the transformer's products and its attention are computed from: operands as they are, or 8-bit codes of them.
enum class Arithmetic : std::uint8_t { exact, int8 };

// Which of these a request takes that names none: high and fast are the combinations of docs/quality.md, as far as the device has
// them.
enum class Quality : std::uint8_t { exact, high, fast };

// Settings of distilled models (presets.h).
enum class Preset : std::uint8_t { none, lightx2v_4step, dmd_3step, rcm_4step, rcm_4step_i2v };

// Where an optional is empty, the model decides.
struct Request {
  std::vector<std::string> prompts;  // UTF-8
  std::string negative_prompt;
  bool emphasis = false;                    // parentheses in prompts are weights (text/emphasis.h)
  std::filesystem::path image, last_image;  // the first and the last frame, as files; empty: none
  std::filesystem::path video, mask;        // files, or folders of pictures
  std::vector<std::filesystem::path> reference_images;
  Fit fit = Fit::crop;
  std::optional<std::int64_t> height, width, num_frames;
  std::optional<double> fps;
  std::optional<int> num_inference_steps;
  std::vector<double> sigmas;  // noise levels before the shift, falling, without the 0 at the end; empty: the scheduler's own
  std::optional<SchedulerKind> scheduler;
  Preset preset = Preset::none;  // of what is left open
  std::optional<double> flow_shift, guidance_scale, guidance_scale_2, boundary_ratio;
  std::optional<double> strength, conditioning_scale;
  // Normalized attention guidance: the negative prompt where there is no other guidance. Without a scale there is none.
  std::optional<double> nag_scale, nag_tau, nag_alpha;
  GuidanceBatch guidance_batch = GuidanceBatch::automatic;  // automatic: on where that fits the memory
  // In how many pieces the transformer takes a video's tokens, and the VAE a picture; empty: in as few as fit the memory.
  std::optional<int> token_pieces, vae_tiles;
  // Every prompt is shown once with each: video p * seeds.size() + s is prompt p with seed s.
  std::vector<std::uint64_t> seeds{0};
  std::optional<int> crf;                                // of the file's encoder; empty: the format's (media/video_writer.h)
  std::vector<LoraChoice> loras, loras_high, loras_low;  // for every transformer; for that of high noise and of low noise alone
  LoraMode lora_mode = LoraMode::automatic;
  Quality quality = Quality::exact;
  std::optional<Arithmetic> precision, attention;  // none: quality's
  std::string exact_blocks, exact_steps;           // of the transformer, in spite of both: "0,1,38-39", "-1" the last
  bool lora_allow_unused = false;                  // keys of LoRAs that mean nothing in the model: a notice; else an error
  bool exact_size = false;  // sizes that the model cannot make: the next larger one it can, cropped; else the next smaller one

  bool operator==(const Request&) const = default;
};

// Members of the family, as bits.
using Members = std::uint32_t;
namespace members {
inline constexpr Members t2v = 1, t2v_a14b = 2, i2v = 4, i2v_a14b = 8, ti2v_5b = 16, flf2v = 32, vace = 64, vace_a14b = 128,
                         all = 255;
}
// "t2v, t2v_a14b"; "all" for all of them.
std::string member_names(Members members);

struct SizeSlot {  // height and width at once, as WIDTHxHEIGHT
  bool operator==(const SizeSlot&) const = default;
};
using RequestSlot =
    std::variant<std::vector<std::string> Request::*, std::string Request::*, std::optional<std::int64_t> Request::*,
                 std::optional<int> Request::*, std::optional<double> Request::*, std::vector<double> Request::*,
                 std::vector<std::uint64_t> Request::*, std::optional<SchedulerKind> Request::*, GuidanceBatch Request::*,
                 std::filesystem::path Request::*, std::vector<std::filesystem::path> Request::*, Fit Request::*, Preset Request::*,
                 LoraMode Request::*, std::optional<Arithmetic> Request::*, Quality Request::*, std::vector<LoraChoice> Request::*,
                 bool Request::*, SizeSlot>;

struct RequestField {
  std::string_view name;    // a_b
  std::string_view letter;  // of the command, "" for none
  RequestSlot slot;
  double min, max;  // of a number, or of each of a list; of texts the most bytes is `max`
  std::string_view unit, fallback, help;
  std::vector<std::string_view> aliases;  // other programs' names, which work
  std::vector<std::string_view> hints;    // names whose meaning differs: the error of an unknown name leads here
  Members taken_by = members::all;

  bool is_list() const;           // of prompts, seeds, levels, LoRAs or files: may be said more than once
  bool is_flag() const;           // true or false
  bool is_file() const;           // the path of a file or folder that is read, or several
  std::string_view type() const;  // in words: "whole number"
  std::vector<std::string_view> choices() const;
  std::string range() const;  // "1 to 65536", "auto, on or off", or nothing
};

const std::vector<RequestField>& request_fields();
// By name or alias, with - or _ between words; nullptr if there is none. `hint` also looks at names that only lead to a field.
const RequestField* find_field(std::string_view name);
const RequestField* find_hint(std::string_view name);

enum class Spelling : std::uint8_t { key, option };  // a_b, --a-b
std::string spelled(std::string_view name, Spelling spelling);

// Sets a field from text; the parser of every front end. A list takes all texts (each prompt one, numbers also with commas
// between), anything else exactly one. A seed of -1 becomes a random one below 2^32. invalid_argument errors name the field as it
// is spelled, the text, and what is expected; a field that is unknown is one, too, and names the nearest.
void set_field(Request& request, std::string_view name, std::span<const std::string> texts, Spelling spelling = Spelling::key);
void set_field(Request& request, std::string_view name, std::string_view text, Spelling spelling = Spelling::key);

// What set_field takes to get there, one text an element of a list of prompts; empty where the model decides.
std::vector<std::string> get_field(const Request& request, const RequestField& field);

// What only several fields together can get wrong: levels and steps that differ in number, more videos than 9,999, a field that
// none of `taken_by` takes.
void check_request(const Request& request, Members taken_by, Spelling spelling = Spelling::key);

// Where a request is allowed but will hardly do what is meant, a line each. Steps, guidance and scheduler are those of the run,
// `model_frames` is what the model makes by default.
std::vector<std::string> request_notices(const Request& request, int num_inference_steps, double guidance_scale,
                                         SchedulerKind scheduler, std::int64_t model_frames, Spelling spelling = Spelling::key);

// One JSON object of the fields that are not left to the model: numbers, texts, true or false, lists where there are several.
std::string to_json(const Request& request);
// Values may be texts, too, as in files' metadata; null is the model's. Keys that are no field are an error, or go to `others` as
// text.
Request request_from_json(std::string_view text, std::string_view where, std::map<std::string, std::string>* others = nullptr);

}  // namespace zoe
