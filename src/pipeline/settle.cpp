#include "pipeline/settle.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "base/nearest.h"
#include "base/split.h"
#include "ir/trace.h"
#include "pipeline/request_choices.h"

namespace zoe {

namespace {

constexpr std::int64_t kMaxExtent = 1 << 16, kMaxFrames = 1 << 16;

// A value of the request or the model's default, checked.
template <class T, class D>
T chosen(const std::optional<T>& asked, D fallback, const std::string& flag, double min, double max) {
  const T value = asked.value_or(static_cast<T>(fallback));
  check(std::isfinite(static_cast<double>(value)) && static_cast<double>(value) >= min && static_cast<double>(value) <= max,
        ErrorKind::invalid_argument, flag, "out of range: got {}, expected {} to {}.", value, min, max);
  return value;
}

std::int64_t round_down(std::int64_t value, std::int64_t step) { return value - value % step; }

// "0,1,38-39" as ranges [first, last] of `count` blocks or steps; -1 is the last of them, -2 the one before it.
std::vector<std::pair<int, int>> parse_ranges(std::string_view text, std::int64_t count, std::string_view what,
                                              const std::string& where) {
  std::vector<std::pair<int, int>> ranges;
  const auto refuse = [&] {
    fail(ErrorKind::invalid_argument, where, "got {}, expected {} from 0 to {} and ranges of them, as 0,1,{}-{}; -1 is the last.",
         in_quotes(text), what, count - 1, std::max<std::int64_t>(count - 2, 0), count - 1);
  };
  // Takes a number from the beginning of `rest`.
  const auto number = [&](std::string_view& rest) {
    const bool is_from_end = rest.starts_with('-');
    if (is_from_end) rest.remove_prefix(1);
    int value = 0;
    const auto [end, status] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
    if (status != std::errc() || rest.starts_with('-') || value > count) refuse();
    rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
    if (is_from_end) value = static_cast<int>(count) - value;
    if (value < 0 || value >= count) refuse();
    return value;
  };
  if (text.empty()) return ranges;
  for (std::string_view part : split(text, ',')) {
    const int first = number(part);
    int last = first;
    if (part.starts_with('-')) {
      part.remove_prefix(1);
      last = number(part);
    }
    if (!part.empty() || last < first) refuse();
    ranges.emplace_back(first, last);
  }
  return ranges;
}

std::string ranges_text(std::string_view what, const std::vector<std::pair<int, int>>& ranges) {
  std::string text;
  for (const auto& [first, last] : ranges)
    text += first == last ? fmt::format(", {} {} exact", what, first) : fmt::format(", {}s {}-{} exact", what, first, last);
  return text;
}

}  // namespace

std::int64_t round_up(std::int64_t value, std::int64_t step) { return (value + step - 1) / step * step; }

void settle_arithmetic(const Request& request, const ModelConfig& model, DType dtype, std::int64_t tokens, const Platform& platform,
                       Spelling spelling, Settled& settled) {
  const WanDitConfig& transformer = model.transformer;
  const Value x = input("x", dtype, {1, tokens, transformer.dim()}),
              heads = input("x", dtype, {1, tokens, transformer.num_heads, transformer.head_dim});
  const Value product = linear(x, parameter("weight", dtype, {transformer.dim(), transformer.dim()}), {.codes = Codes::i8}),
              attended = attention(heads, heads, heads, 1, {}, Codes::i8);
  const auto settle = [&](std::string_view field, const std::optional<Arithmetic>& asked, Arithmetic wanted, const Value& node) {
    if (wanted == Arithmetic::exact) return wanted;
    const Support support = platform.takes(node.node());
    if (support) return Arithmetic::int8;
    check(!asked, ErrorKind::unsupported, spelled(field, spelling),
          "got int8, which {} cannot do here: {}. Leave it out, or say exact.", platform.info().platform, support.reason());
    log(LogLevel::notice,
        fmt::format("{} stays exact in this quality: {} cannot do it in 8 bits here ({})",
                    field == "precision" ? "precision" : "attention", platform.info().platform, support.reason()));
    return Arithmetic::exact;
  };
  const auto of_quality = [&](bool in_codes) { return in_codes ? Arithmetic::int8 : Arithmetic::exact; };
  settled.precision =
      settle("precision", request.precision, request.precision.value_or(of_quality(request.quality != Quality::exact)), product);
  settled.attention =
      settle("attention", request.attention, request.attention.value_or(of_quality(request.quality == Quality::fast)), attended);
  settled.exact_blocks = parse_ranges(request.exact_blocks, transformer.num_layers, "blocks", spelled("exact_blocks", spelling));
}

void settle_exact_steps(const Request& request, int steps, Spelling spelling, Settled& settled) {
  settled.exact_steps = parse_ranges(request.exact_steps, steps, "steps", spelled("exact_steps", spelling));
  for (int step = 0; step < steps; ++step)
    if (!settled.is_exact(step)) return;
  settled.precision = settled.attention = Arithmetic::exact;
}

ComponentPrecision precision_of(const Settled& settled, DType dtype, bool exact_step) {
  if (exact_step) return dtype;
  const auto codes = [](Arithmetic arithmetic) { return arithmetic == Arithmetic::int8 ? Codes::i8 : Codes::none; };
  const Precision all{dtype, dtype, dtype, codes(settled.precision), codes(settled.attention)};
  std::vector<ComponentPrecision::Blocks> exact;
  for (const auto& [first, last] : settled.exact_blocks) exact.push_back({first, last + 1, all.without_codes()});
  return {all, std::move(exact)};
}

std::string step_arithmetic_text(const Settled& settled) {
  if (settled.precision == Arithmetic::exact && settled.attention == Arithmetic::exact) return {};
  return fmt::format("{} products, {} attention{}", name_of(settled.precision), name_of(settled.attention),
                     ranges_text("block", settled.exact_blocks));
}

std::string arithmetic_text(const Settled& settled) {
  const std::string of_step = step_arithmetic_text(settled);
  return of_step.empty() ? of_step : of_step + ranges_text("step", settled.exact_steps);
}

void settle_size(const Request& request, const ModelConfig& model, Spelling spelling, Settled& settled) {
  const auto flag = [&](std::string_view name) { return spelled(name, spelling); };
  const std::int64_t spatial = model.vae.scale_factor_spatial, temporal = model.vae.scale_factor_temporal;
  const std::int64_t height_step = spatial * model.transformer.patch_size[1],
                     width_step = spatial * model.transformer.patch_size[2];
  const std::int64_t height = chosen(request.height, model.defaults.height, flag("height"), 1, kMaxExtent);
  const std::int64_t width = chosen(request.width, model.defaults.width, flag("width"), 1, kMaxExtent);
  const std::int64_t frames = chosen(request.num_frames, model.defaults.num_frames, flag("num_frames"), 1, kMaxFrames);
  check(request.exact_size || (height >= height_step && width >= width_step), ErrorKind::invalid_argument,
        flag("height") + ", " + flag("width"), "too small: got {}x{} (width x height), expected at least {}x{}.", width, height,
        width_step, height_step);
  settled.made_height = request.exact_size ? round_up(height, height_step) : round_down(height, height_step);
  settled.made_width = request.exact_size ? round_up(width, width_step) : round_down(width, width_step);
  settled.height = request.exact_size ? height : settled.made_height;
  settled.width = request.exact_size ? width : settled.made_width;
  settled.num_frames = frames % temporal == 1 ? frames : frames / temporal * temporal + 1;
  if (settled.height != height || settled.width != width)
    log(LogLevel::notice, fmt::format("size {}x{} becomes {}x{}: width and height are multiples of {} and {}; --exact-size makes "
                                      "the next larger one and crops it",
                                      width, height, settled.width, settled.height, width_step, height_step));
  else if (settled.made_height != height || settled.made_width != width)
    log(LogLevel::notice,
        fmt::format("size {}x{} is made as {}x{} and cropped", width, height, settled.made_width, settled.made_height));
  if (settled.num_frames != frames)
    log(LogLevel::notice, fmt::format("{} frames become {}: one more than a multiple of {}", frames, settled.num_frames, temporal));
  settled.latent_height = settled.made_height / spatial;
  settled.latent_width = settled.made_width / spatial;
  settled.latent_frames = (settled.num_frames - 1) / temporal + 1;
}

void settle_sampling(const Request& request, const ModelConfig& model, Spelling spelling, Settled& settled,
                     SchedulerConfig& scheduler) {
  const auto flag = [&](std::string_view name) { return spelled(name, spelling); };
  check(!request.prompts.empty(), ErrorKind::invalid_argument, flag("prompt"), "no prompt given. Say what to show.");
  check(!request.seeds.empty() && request.prompts.size() <= kMaxVideos / request.seeds.size(), ErrorKind::invalid_argument,
        flag("seed"), "got {} prompts with {} seeds each, expected 1 to {} videos.", request.prompts.size(), request.seeds.size(),
        kMaxVideos);
  for (const std::string& prompt : request.prompts)
    for (const std::uint64_t seed : request.seeds) {
      settled.prompts.push_back(prompt);
      settled.seeds.push_back(seed);
    }
  settled.negative_prompt = request.negative_prompt;
  settled.sigmas = scheduler.sigmas = request.sigmas;
  settled.num_inference_steps = !request.sigmas.empty() ? static_cast<int>(request.sigmas.size())
                                                        : chosen(request.num_inference_steps, model.defaults.num_inference_steps,
                                                                 flag("num_inference_steps"), 1, 1000);
  settled.fps = chosen(request.fps, model.defaults.fps, flag("fps"), 0.1, 240);
  settled.guidance_scale = chosen(request.guidance_scale, model.defaults.guidance_scale, flag("guidance_scale"), 0, 1000);
  scheduler.kind = request.scheduler.value_or(scheduler.kind);
  scheduler.flow_shift = chosen(request.flow_shift, scheduler.flow_shift, flag("flow_shift"), 1e-3, 1000);
  settled.flow_shift = scheduler.flow_shift;
  settled.scheduler = name(scheduler.kind);
}

void check_fits_at_all(const Settled& settled, const ModelConfig& model, const DeviceInfo& device, DType dtype) {
  const auto& patch = model.transformer.patch_size;
  const double tokens = static_cast<double>(settled.latent_frames) / static_cast<double>(patch[0]) *
                        static_cast<double>(settled.latent_height) / static_cast<double>(patch[1]) *
                        static_cast<double>(settled.latent_width) / static_cast<double>(patch[2]);
  const double element = static_cast<double>(size_of(dtype));
  const double denoise = tokens * static_cast<double>(model.transformer.dim()) * element * 4;
  const double decode = static_cast<double>(settled.made_height) * static_cast<double>(settled.made_width) *
                        static_cast<double>(model.vae.base_dim) * element * 4;
  const double needed = std::max(denoise, decode), total = static_cast<double>(device.memory_bytes);
  const auto [more_than, has] = bytes_apart(static_cast<std::size_t>(needed), device.memory_bytes);
  check(needed < total, ErrorKind::out_of_memory, "memory",
        "{}x{}x{} does not fit: needs more than {}, the {} platform has {}. Lower --width, --height or --num-frames.",
        settled.made_width, settled.made_height, settled.num_frames, more_than, device.platform, has);
}

void check_positions(const Settled& settled, const ModelConfig& model, Spelling spelling) {
  const auto& patch = model.transformer.patch_size;
  const std::int64_t most = model.transformer.rope_max_seq_len, spatial = model.vae.scale_factor_spatial;
  const std::int64_t height = most * patch[1] * spatial, width = most * patch[2] * spatial;
  const std::int64_t frames = (most * patch[0] - 1) * model.vae.scale_factor_temporal + 1;
  check(settled.made_width <= width && settled.made_height <= height && settled.num_frames <= frames, ErrorKind::invalid_argument,
        fmt::format("{}, {}, {}", spelled("height", spelling), spelled("width", spelling), spelled("num_frames", spelling)),
        "too large for the model: got {}x{}, {} frames, expected at most {}x{} and {} frames. Lower them.", settled.made_width,
        settled.made_height, settled.num_frames, width, height, frames);
}

Value finite_flag(const Value& values) {
  const Shape& shape = values.shape();
  const std::int64_t columns = shape.dim(-1) * (shape.rank() > 1 ? shape.dim(-2) : 1), rows = shape.count() / columns;
  const Value zeros = cast(reshape(values, {rows, columns}), DType::f32) * 0.0;  // NaN where a value is not finite
  return reshape(sum(reshape(sum(zeros), {1, rows})), {1});
}

NamedGraph trace_finite(const Type& values) {
  const Value x = input("values", values.dtype, values.shape);
  return {make_graph("finite", {x}, {finite_flag(x)}), {"finite"}};
}

}  // namespace zoe
