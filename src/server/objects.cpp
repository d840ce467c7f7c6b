#include "server/objects.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "server/errors.h"

namespace zoe::server {

using Json = nlohmann::ordered_json;

namespace {

std::string text(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

Json or_null(double seconds) { return seconds > 0 ? Json(static_cast<std::int64_t>(seconds)) : Json(); }
Json or_null(const std::string& value) { return value.empty() ? Json() : Json(value); }
template <class T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json();
}

Json parsed(const std::string& json, Json otherwise) { return Json::accept(json) ? Json::parse(json) : std::move(otherwise); }

// A whole number without a point.
Json number(double value) {
  return value == std::floor(value) && std::abs(value) < 1e15 ? Json(static_cast<std::int64_t>(value)) : Json(value);
}

// The request as a client may see it: no path of the server.
Json shown_request(Json request) {
  for (const RequestField& field : request_fields())
    if (const auto found = request.find(std::string(field.name)); field.is_file() && found != request.end()) {
      if (found->is_array())
        for (Json& each : *found) each = "(upload)";
      else *found = "(upload)";
    }
  return request;
}

Json video(const JobView& view, double keep_seconds) {
  const JobRecord& job = view.record;
  const bool is_done = job.status == JobStatus::completed || job.status == JobStatus::failed;
  const Json request = parsed(job.request, Json::object());
  const auto& prompt = request.value("prompt", Json());
  const bool is_cancelled = job.cancelled;
  Json error;
  if (job.status == JobStatus::failed)
    error = {{"code", job.error_code}, {"message", job.error_message}, {"type", type_of(job.error_code)}};
  const std::int64_t step = job.status == JobStatus::completed ? job.steps : view.progress ? view.progress->step : 0;
  return {{"id", job.id},
          {"object", "video"},
          {"model", job.model},
          {"status", name(job.status)},
          {"progress", job.status == JobStatus::completed ? 100
                       : view.progress                    ? view.progress->percent
                                                          : 0},
          {"created_at", static_cast<std::int64_t>(job.created_at)},
          {"completed_at", or_null(job.completed_at)},
          {"expires_at", is_done ? Json(static_cast<std::int64_t>(job.completed_at + keep_seconds)) : Json()},
          {"prompt", prompt.is_array() && !prompt.empty() ? prompt[0] : prompt},
          {"seconds", job.seconds},
          {"size", fmt::format("{}x{}", job.width, job.height)},
          {"remixed_from_video_id", or_null(job.remixed_from)},
          {"error", std::move(error)},
          {"cancelled", is_cancelled},
          {"queue_position", or_null(view.queue_position)},
          {"phase", view.progress ? Json(view.progress->phase) : Json()},
          {"step", step},
          {"steps", job.steps},
          {"seconds_left", view.progress ? or_null(view.progress->seconds_left) : Json()},
          {"started_at", or_null(job.started_at)},
          {"width", job.width},
          {"height", job.height},
          {"num_frames", job.num_frames},
          {"fps", number(job.fps)},
          {"seed", request.value("seed", Json(0))},
          {"device", or_null(job.device)},
          {"request", shown_request(request)},
          {"notes", parsed(job.notes, Json::array())},
          {"timings", job.timings.empty() ? Json() : parsed(job.timings, Json())},
          {"bytes", job.status == JobStatus::completed ? Json(job.bytes) : Json()},
          {"media_type", "video/mp4"},
          {"has_preview", view.progress && view.progress->preview_step > 0}};
}

Json field_object(const RequestField& field) {
  Json object{{"name", field.name}, {"type", field.type()},       {"unit", field.unit},       {"default", field.fallback},
              {"help", field.help}, {"choices", field.choices()}, {"aliases", field.aliases}, {"is_list", field.is_list()}};
  const bool has_range = field.type().find("number") != std::string_view::npos;
  object["min"] = has_range ? number(field.min) : Json();
  object["max"] = has_range ? number(field.max) : Json();
  return object;
}

Json model_json(const LoadedModel& loaded, double created_at) {
  const ServedModel& model = *loaded.model;
  Json fields = Json::array(), files = Json::array();
  for (const RequestField& field : request_fields()) {
    if (!model.takes(field)) continue;
    fields.push_back(field.name);
    if (field.is_file()) files.push_back(field.name);
  }
  const GenerationDefaults& defaults = model.config.defaults;
  const std::string reference(model.reference_field());
  return {{"id", model.name},
          {"object", "model"},
          {"created", static_cast<std::int64_t>(created_at)},
          {"owned_by", "zoetrope"},
          {"member", member_names(model.recipe->member())},
          {"recipe", model.recipe->name()},
          {"loaded", loaded.devices},
          {"fields", std::move(fields)},
          {"files", std::move(files)},
          {"input_reference", or_null(reference)},
          {"has_preview", model.has_preview},
          {"defaults",
           {{"width", defaults.width},
            {"height", defaults.height},
            {"num_frames", defaults.num_frames},
            {"fps", number(defaults.fps)},
            {"num_inference_steps", defaults.num_inference_steps},
            {"guidance_scale", number(defaults.guidance_scale)}}}};
}

}  // namespace

std::string seconds_text(std::int64_t num_frames, double fps) {
  return fmt::format("{:.6g}", static_cast<double>(std::max<std::int64_t>(0, num_frames - 1)) / fps);
}

std::string video_object(const JobView& view, double keep_seconds) { return text(video(view, keep_seconds)); }

std::string list_object(const std::vector<JobView>& videos, bool has_more, double keep_seconds) {
  Json data = Json::array();
  for (const JobView& each : videos) data.push_back(video(each, keep_seconds));
  const Json first = videos.empty() ? Json() : Json(videos.front().record.id);
  const Json last = videos.empty() ? Json() : Json(videos.back().record.id);
  return text({{"object", "list"}, {"data", std::move(data)}, {"first_id", first}, {"last_id", last}, {"has_more", has_more}});
}

std::string model_object(const LoadedModel& model, double created_at) { return text(model_json(model, created_at)); }

std::string models_object(const std::vector<LoadedModel>& all, const RequestLimits& limits, double created_at) {
  Json data = Json::array(), fields = Json::array();
  for (const LoadedModel& each : all) data.push_back(model_json(each, created_at));
  for (const RequestField& field : request_fields()) fields.push_back(field_object(field));
  return text(
      {{"object", "list"},
       {"data", std::move(data)},
       {"request_fields", std::move(fields)},
       {"limits",
        {{"max_pixels", limits.max_pixels}, {"max_frames", limits.max_frames}, {"max_body_bytes", limits.max_body_bytes}}}});
}

std::string plan_object(const PlanAnswer& plan) {
  const Settled& settled = plan.settled;
  return text({{"object", "video.plan"},
               {"model", plan.model},
               {"size", fmt::format("{}x{}", settled.width, settled.height)},
               {"width", settled.width},
               {"height", settled.height},
               {"num_frames", settled.num_frames},
               {"fps", number(settled.fps)},
               {"seconds", plan.seconds},
               {"steps", settled.num_inference_steps},
               {"guidance_scale", number(settled.guidance_scale)},
               {"scheduler", settled.scheduler},
               {"fits", plan.refusal.empty()},
               {"refusal", or_null(plan.refusal)},
               {"memory_bytes", {{"planned", plan.memory.peak()}, {"free", plan.memory.free}}},
               {"offload", zoe::name(plan.memory.offload)},
               {"estimate",
                {{"seconds", or_null(plan.estimate)},
                 {"of", !plan.estimate   ? "nothing"
                        : plan.same_size ? "runs of this size"
                                         : "runs of other sizes"}}},
               {"queue_length", plan.queue_length},
               {"queue_seconds", or_null(plan.queue_seconds)},
               {"device", plan.device},
               {"notes", plan.notes}});
}

}  // namespace zoe::server
