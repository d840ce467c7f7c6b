#include "server/models.h"

#include <algorithm>
#include <functional>

#include "base/error.h"
#include "base/log.h"
#include "base/nearest.h"
#include "pipeline/preview.h"
#include "server/errors.h"

namespace zoe::server {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kLoraSuffix = ".safetensors";

}  // namespace

std::string_view ServedModel::reference_field() const {
  for (const std::string_view field : {"image", "video", "reference_image"})
    if (takes(*find_field(field))) return field;
  return {};
}

Models::Models(std::vector<std::pair<std::string, ModelConfig>> models, fs::path lora_folder, RequestLimits limits)
    : lora_folder_(std::move(lora_folder)), limits_(limits) {
  for (auto& [name, config] : models) {
    zoe::check(!find(name), ErrorKind::invalid_argument, "serve", "got two models of the name {}. Name one of them: NAME=MODEL.",
               in_quotes(name));
    auto served = std::make_unique<ServedModel>();
    served->name = name;
    served->config = std::move(config);
    served->recipe = make_recipe(served->config);
    served->tokenizer = std::make_unique<Tokenizer>(open_tokenizer(served->config));
    served->has_preview = !latent_rgb(served->config).empty();
    models_.push_back(std::move(served));
  }
  zoe::check(!models_.empty(), ErrorKind::invalid_argument, "serve", "got no model, expected one or more.");
}

const ServedModel* Models::find(std::string_view name) const {
  const auto found = std::find_if(models_.begin(), models_.end(), [&](const auto& each) { return each->name == name; });
  return found == models_.end() ? nullptr : found->get();
}

const ServedModel& Models::get(std::string_view name) const {
  if (name.empty()) return *models_.front();
  if (const ServedModel* const found = find(name)) return *found;
  std::vector<std::string> known;
  for (const auto& each : models_) known.push_back(each->name);
  throw Refusal(
      404, "model_not_found",
      fmt::format("[model] got {}, expected one of {}. GET /v1/models lists them.", in_quotes(name), fmt::join(known, ", ")));
}

std::vector<Models::Lora> Models::loras() const {
  std::vector<Lora> all;
  if (lora_folder_.empty()) return all;
  std::error_code status;
  for (fs::recursive_directory_iterator entry(lora_folder_, status), end; !status && entry != end; entry.increment(status))
    if (entry->is_regular_file(status) && entry->path().extension() == kLoraSuffix) {
      std::string name = entry->path().lexically_relative(lora_folder_).string();
      name.resize(name.size() - kLoraSuffix.size());
      all.push_back({std::move(name), entry->path(), entry->file_size(status)});
    }
  std::sort(all.begin(), all.end(), [](const Lora& a, const Lora& b) { return a.name < b.name; });
  return all;
}

fs::path Models::lora_path(std::string_view name) const {
  std::vector<std::string> known;
  for (const Lora& each : loras()) {
    if (each.name == name || each.name + std::string(kLoraSuffix) == name) return each.path;
    known.push_back(each.name);
  }
  const std::string near = nearest(std::string(name), known);
  fail(ErrorKind::invalid_argument, "lora", "got {}, expected the name of a LoRA of this server.{} GET /v1/loras lists them.",
       in_quotes(name), near.empty() ? "" : fmt::format(" Did you mean {}?", near));
}

Request Models::with_files(Request request, const fs::path& folder) const {
  for (fs::path* path : {&request.image, &request.last_image, &request.video, &request.mask})
    if (!path->empty()) *path = folder / *path;
  for (fs::path& path : request.reference_images) path = folder / path;
  for (std::vector<LoraChoice>* loras : {&request.loras, &request.loras_high, &request.loras_low})
    for (LoraChoice& each : *loras) each.path = lora_path(each.path).string();
  return request;
}

Models::Checked Models::check(const ServedModel& model, const Request& request, Platform& platform, DType dtype) const {
  Checked checked;
  const LogScope notes([&](LogLevel level, std::string_view text) {
    if (level == LogLevel::notice) checked.notes.emplace_back(text);
  });
  const auto within = [&](const Settled& settled) -> std::size_t {
    zoe::check(settled.width * settled.height <= limits_.max_pixels, ErrorKind::invalid_argument, "size",
               "too large for this server: got {}x{}, expected at most {} pixels. Lower it, or start the server with a larger "
               "--max-pixels.",
               settled.width, settled.height, limits_.max_pixels);
    zoe::check(settled.num_frames <= limits_.max_frames, ErrorKind::invalid_argument, "num_frames",
               "too many for this server: got {}, expected at most {}. Lower it, or start the server with a larger --max-frames.",
               settled.num_frames, limits_.max_frames);
    return 0;
  };
  const std::function<std::size_t(const Settled&)> limit = within;
  std::unique_lock reading(reading_, std::defer_lock);
  for (const RequestField& field : request_fields())
    if (field.is_file() && !get_field(request, field).empty() && !reading.owns_lock()) reading.lock();
  const std::unique_ptr<Work> work = model.recipe->plan(
      request,
      {model.config, *model.tokenizer, dtype, platform, static_cast<std::size_t>(platform.free_bytes()), limit, Spelling::key});
  checked.settled = work->settled();
  Request said = request;
  said.sigmas = checked.settled.sigmas;  // also a preset's
  for (std::string& notice : request_notices(said, checked.settled.num_inference_steps, checked.settled.guidance_scale,
                                             parse_scheduler_kind(checked.settled.scheduler, "scheduler"),
                                             model.config.defaults.num_frames, Spelling::key))
    checked.notes.push_back(std::move(notice));
  return checked;
}

}  // namespace zoe::server
