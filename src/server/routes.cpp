#include "server/routes.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/nearest.h"
#include "base/sha256.h"
#include "server/errors.h"
#include "server/objects.h"
#include "server/page_files.h"
#include "server/range.h"
#include "server/submission.h"

namespace zoe::server {

namespace fs = std::filesystem;

namespace {

HttpResponse json_response(std::string body, int status = 200) {
  return {.status = status, .headers = {{"Content-Type", "application/json"}}, .body = std::move(body)};
}

std::string new_id() {
  std::array<unsigned char, 12> bytes{};
  check(::getrandom(bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()), ErrorKind::io, "serve",
        "the system gives no random bytes.");
  std::string id = "video_";
  for (const unsigned char byte : bytes) id += fmt::format("{:02x}", byte);
  return id;
}

bool is_id(std::string_view text) {
  constexpr std::string_view kBegin = "video_";
  return text.starts_with(kBegin) && text.size() <= 64 && text.find_first_not_of("0123456789abcdef", kBegin.size()) == text.npos;
}

[[noreturn]] void not_found(std::string_view id) {
  throw Refusal(404, "not_found", fmt::format("[id] there is no video {}. GET /v1/videos lists them.", in_quotes(id)));
}

constexpr std::string_view kElsewhere = "docs/serve.md lists the routes";
// What OpenAI's servers have and this one has not, by the begin of the path.
std::string reason_of(std::string_view path) {
  constexpr std::pair<std::string_view, std::string_view> kReasons[] = {
      {"/v1/videos/edits", "videos are not edited here; a model that starts from a video takes it as input_reference"},
      {"/v1/videos/extensions", "videos are not extended here; the last frame of one may be the input_reference of the next"},
      {"/v1/videos/characters", "there are no characters here; VACE models take reference_image"},
      {"/v1/videos/generations", "it is POST /v1/videos here"},
      {"/v1/chat", "this server makes videos, no text"},
      {"/v1/completions", "this server makes videos, no text"},
      {"/v1/responses", "this server makes videos, no text"},
      {"/v1/embeddings", "this server makes videos, no embeddings"},
      {"/v1/moderations", "this server makes videos, no text"},
      {"/v1/images", "this server makes videos; one of num_frames 1 is a picture"},
      {"/v1/audio", "this server makes videos, without sound"},
      {"/v1/files", "files come with the request that uses them"},
      {"/v1/batches", "requests wait in the queue; send them one by one"}};
  for (const auto& [begin, reason] : kReasons)
    if (path.starts_with(begin)) return std::string(reason);
  return std::string(path == "/" ? "this program was built without its page" : kElsewhere);
}

std::int64_t integer_argument(const HttpRequest& http, std::string_view name, std::int64_t min, std::int64_t max,
                              std::int64_t otherwise) {
  const std::optional<std::string> text = http.argument(name);
  if (!text) return otherwise;
  std::int64_t value = 0;
  const auto [end, status] = std::from_chars(text->data(), text->data() + text->size(), value);
  check(status == std::errc() && end == text->data() + text->size() && value >= min && value <= max, ErrorKind::invalid_argument,
        name, "got {}, expected a whole number from {} to {}.", in_quotes(*text), min, max);
  return value;
}

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return result;
}

// "localhost" of "localhost:8080", "::1" of "[::1]:8080".
std::string host_of(std::string_view authority) {
  if (authority.starts_with('[')) return lower(authority.substr(1, authority.find(']') - 1));
  return lower(authority.substr(0, authority.find(':')));
}

// A file as an answer, or the part of it that is asked for.
HttpResponse file_response(const HttpRequest& http, const fs::path& path, std::string_view type, std::string_view file_name) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (file < 0) throw Refusal(404, "not_found", fmt::format("[content] {} is not there any more.", file_name));
  const std::shared_ptr<const int> descriptor(new int(file), [](const int* owned) {
    ::close(*owned);
    delete owned;
  });
  struct stat about {};
  check(::fstat(file, &about) == 0, ErrorKind::io, "content", "cannot read {}.", file_name);
  const auto size = static_cast<std::uint64_t>(about.st_size);
  const std::string tag = fmt::format("\"{:x}-{:x}-{:x}\"", size, about.st_mtim.tv_sec, about.st_mtim.tv_nsec);
  HttpResponse response{.headers = {{"Content-Type", std::string(type)},
                                    {"Accept-Ranges", "bytes"},
                                    {"ETag", tag},
                                    {"Cache-Control", "private, no-cache"},
                                    {"Content-Disposition", fmt::format("inline; filename=\"{}\"", file_name)}}};
  if (http.header("if-none-match").find(tag) != std::string_view::npos) {
    response.status = 304;
    return response;
  }
  ByteRange range{ByteRange::Kind::whole, 0, size};
  const std::string_view condition = http.header("if-range");
  if (const std::string_view said = http.header("range"); !said.empty() && (condition.empty() || condition == tag))
    range = parse_range(said, size);
  if (range.kind == ByteRange::Kind::none) {
    HttpResponse refused = error_response(
        416, "invalid_range",
        fmt::format("[Range] got {}, expected bytes of the {} that there are.", in_quotes(http.header("range")), size));
    refused.headers.emplace_back("Content-Range", fmt::format("bytes */{}", size));
    return refused;
  }
  if (range.kind == ByteRange::Kind::part) {
    response.status = 206;
    response.headers.emplace_back("Content-Range", fmt::format("bytes {}-{}/{}", range.begin, range.begin + range.bytes - 1, size));
  }
  response.file = FilePart{descriptor, range.begin, range.bytes};
  return response;
}

}  // namespace

const std::vector<Routes::Route>& Routes::routes() {
  static const std::vector<Route> all = {
      {"POST", "/v1/videos", Lane::write, false, &Routes::create},
      {"POST", "/v1/videos/sync", Lane::write, false, nullptr, &Routes::create_sync},
      {"POST", "/v1/videos/plan", Lane::plan, false, &Routes::plan},
      {"GET", "/v1/videos", Lane::read, false, &Routes::list},
      {"GET", "/v1/videos/{id}", Lane::read, false, &Routes::get},
      {"GET", "/v1/videos/{id}/content", Lane::read, false, &Routes::content},
      {"GET", "/v1/videos/{id}/events", Lane::read, false, &Routes::events},
      {"DELETE", "/v1/videos/{id}", Lane::write, false, &Routes::remove},
      {"POST", "/v1/videos/{id}/cancel", Lane::write, false, &Routes::cancel},
      {"POST", "/v1/videos/{id}/remix", Lane::write, false, &Routes::remix},
      {"GET", "/v1/models", Lane::read, false, &Routes::models},
      {"GET", "/v1/models/{id}", Lane::read, false, &Routes::model},
      {"GET", "/v1/loras", Lane::read, false, &Routes::loras},
      {"GET", "/health", Lane::read, true, &Routes::health},
      {"GET", "/ready", Lane::read, true, &Routes::ready},
      {"GET", "/metrics", Lane::read, false, &Routes::metrics},
  };
  return all;
}

Routes::Found Routes::find(std::string_view method, std::string_view path) {
  static const Route page{"GET", "/", Lane::read, true, &Routes::page};
  if (method == "HEAD") method = "GET";
  Found found;
  const auto consider = [&](const Route& route, std::string id) {
    found.allowed += fmt::format("{}{}", found.allowed.empty() ? "" : ", ", route.method);
    if (route.method == "GET") found.allowed += ", HEAD";
    if (route.method == method) {
      found.route = &route;
      found.id = std::move(id);
    }
  };
  bool is_whole = false;  // a path without {id} goes before one with it
  for (const Route& route : routes())
    if (route.path == path) {
      consider(route, {});
      is_whole = true;
    }
  // What looks like an id may be a part of OpenAI's that is not here.
  if (!is_whole && path.starts_with("/v1/") && reason_of(path) != kElsewhere) return {};
  if (!is_whole)
    for (const Route& route : routes()) {
      const std::size_t at = route.path.find("{id}");
      if (at == route.path.npos) continue;
      const std::string_view before = route.path.substr(0, at), after = route.path.substr(at + 4);
      if (path.size() <= before.size() + after.size() || !path.starts_with(before) || !path.ends_with(after)) continue;
      const std::string_view id = path.substr(before.size(), path.size() - before.size() - after.size());
      if (id.find('/') == id.npos) consider(route, std::string(id));
    }
  if (found.allowed.empty())
    for (const PageFile& file : page_files())
      if (file.path == path) consider(page, {});
  return found;
}

std::optional<std::string> Routes::owner_of(const HttpRequest& request) const {
  if (site_.keys.empty()) return "";
  constexpr std::string_view kBearer = "bearer ";
  const std::string_view said = request.header("authorization");
  if (said.size() <= kBearer.size() || lower(said.substr(0, kBearer.size())) != kBearer) return {};
  return site_.keys.owner(said.substr(kBearer.size()));
}

std::optional<HttpResponse> Routes::refuse(const HttpRequest& request) const {
  // A page of elsewhere may make a browser send requests here: by its own name for this address, or from its own origin.
  const std::string host = host_of(request.header("host"));
  if (!site_.hosts.empty() && std::find(site_.hosts.begin(), site_.hosts.end(), host) == site_.hosts.end())
    return error_response(403, "forbidden_origin",
                          fmt::format("[Host] got {}, expected {}. Start the server with --allow-host to let it in.",
                                      in_quotes(host), fmt::join(site_.hosts, " or ")));
  if (const std::string_view origin = request.header("origin"); !origin.empty()) {
    const std::size_t slashes = origin.find("://");
    const std::string_view authority = slashes == origin.npos ? std::string_view() : origin.substr(slashes + 3);
    if (lower(authority) != lower(request.header("host")))
      return error_response(403, "forbidden_origin",
                            fmt::format("[Origin] got {}, expected a page of this server.", in_quotes(origin)));
  }
  const Found found = find(request.method, request.path);
  if (!found.route && found.allowed.empty())
    return error_response(
        404, "unknown_url",
        fmt::format("[{} {}] there is no such route: {}.", request.method, request.path.substr(0, 200), reason_of(request.path)));
  if (!(found.route && found.route->is_open) && !owner_of(request)) {
    HttpResponse refused = error_response(401, "invalid_api_key",
                                          request.header("authorization").empty()
                                              ? "[Authorization] no key was sent: expected Authorization: Bearer KEY."
                                              : "[Authorization] the key is unknown: expected one that --api-key-file has.");
    refused.headers.emplace_back("WWW-Authenticate", "Bearer");
    return refused;
  }
  if (!found.route) {
    HttpResponse refused =
        error_response(405, "method_not_allowed",
                       fmt::format("[{} {}] this route takes {}.", request.method, request.path.substr(0, 200), found.allowed));
    refused.headers.emplace_back("Allow", found.allowed);
    return refused;
  }
  if (!request.header("content-encoding").empty())
    return error_response(415, "unsupported_media_type", "[Content-Encoding] bodies are taken as they are. Send it uncompressed.");
  return {};
}

Lane Routes::lane(const HttpRequest& request) const {
  const Found found = find(request.method, request.path);
  return found.route ? found.route->lane : Lane::read;
}

void Routes::answer(const std::shared_ptr<HttpRequest>& request, const Answer& answer, const std::function<bool()>& is_gone) {
  const auto start = std::chrono::steady_clock::now();
  const Found found = find(request->method, request->path);
  const std::string_view route = found.route ? found.route->path : "other";
  const auto done = [metrics = &site_.metrics, start, route = std::string(route), answer](HttpResponse response) {
    metrics->count("zoe_http_requests_total", fmt::format("route=\"{}\",status=\"{}\"", route, response.status));
    metrics->observe("zoe_http_request_seconds", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
                     fmt::format("route=\"{}\"", route));
    response.headers.emplace_back("X-Content-Type-Options", "nosniff");
    answer(std::move(response));
  };
  const Answer counted = done;
  try {
    const Call call{*request, owner_of(*request).value_or(""), found.id, counted, is_gone};
    if (found.route->later) (this->*found.route->later)(call);
    else counted((this->*found.route->handler)(call));
  } catch (const Refusal& refusal) {
    HttpResponse response = error_response(refusal.status(), refusal.code(), refusal.what());
    if (refusal.status() == 409) response.headers.emplace_back("x-should-retry", "false");
    counted(std::move(response));
  } catch (const Error& error) {
    const std::string_view code = code_of(error.kind());
    counted(error_response(status_of(code), code, site_.folders.without_root(error.what())));
  } catch (const std::bad_alloc&) {
    counted(error_response(503, "busy", "[memory] there is no memory for this now. Send it again later."));
  } catch (const std::exception& error) {
    counted(error_response(500, "internal", error.what()));
  }
}

JobView Routes::own_job(const Call& call) const {
  if (!is_id(call.id)) not_found(call.id.substr(0, 80));
  std::optional<JobView> found = site_.jobs.find(call.id);
  if (!found || found->record.owner != call.owner) not_found(call.id);
  return std::move(*found);
}

Routes::Accepted Routes::accept(const Call& call, Submission submission, const std::string& remixed_from) {
  JobRecord job;
  job.owner = call.owner;
  constexpr std::size_t kMostKeyBytes = 255;
  job.idempotency_key = call.http.header("idempotency-key");
  check(job.idempotency_key.size() <= kMostKeyBytes, ErrorKind::invalid_argument, "Idempotency-Key",
        "too long: got {} bytes, expected at most {}.", job.idempotency_key.size(), kMostKeyBytes);
  job.digest = submission.digest;
  const auto replay = [&](JobRecord before) -> Accepted {
    if (before.digest != job.digest)
      throw Refusal(
          422, "idempotency_mismatch",
          fmt::format("[Idempotency-Key] {} came with another body before. Choose another key.", in_quotes(job.idempotency_key)));
    return {site_.jobs.view(std::move(before)), false};
  };
  if (!job.idempotency_key.empty())
    if (std::optional<JobRecord> before = site_.store.find_by_key(job.owner, job.idempotency_key))
      return replay(std::move(*before));
  const ServedModel& model = site_.models.get(submission.model);
  const Device& device = *site_.devices.front();
  const Models::Checked checked =
      site_.models.check(model, submission.with_uploads(site_.models), *device.setup().platform, device.setup().dtype);
  const Settled& settled = checked.settled;
  job.id = new_id();
  job.model = model.name;
  job.created_at = unix_seconds();
  job.request = to_json(submission.request);
  job.seconds = submission.seconds.empty() ? seconds_text(settled.num_frames, settled.fps) : submission.seconds;
  job.width = settled.width;
  job.height = settled.height;
  job.num_frames = settled.num_frames;
  job.steps = settled.num_inference_steps;
  job.fps = settled.fps;
  job.remixed_from = remixed_from;
  job.notes = nlohmann::json(checked.notes).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  JobStore::Added added = site_.jobs.add(std::move(job), [&](const std::string& id) { submission.place(site_.folders.work(id)); });
  if (!added.is_new) {
    job.digest = submission.digest;
    job.idempotency_key = added.job.idempotency_key;
    return replay(std::move(added.job));
  }
  site_.metrics.count("zoe_jobs_accepted_total");
  return {site_.jobs.view(std::move(added.job)), true};
}

HttpResponse Routes::create(const Call& call) {
  const Accepted accepted = accept(call, read_submission(call.http, site_.models, site_.folders), {});
  HttpResponse response = json_response(video_object(accepted.job, site_.keep_seconds));
  response.headers.emplace_back("Location", "/v1/videos/" + accepted.job.record.id);
  if (!accepted.is_new) response.headers.emplace_back("Idempotent-Replayed", "true");
  return response;
}

void Routes::create_sync(const Call& call) {
  const Accepted accepted = accept(call, read_submission(call.http, site_.models, site_.folders), {});
  const std::string id = accepted.job.record.id;
  site_.jobs.when_done(id, call.is_gone, [this, id, answer = call.answer](const std::optional<JobView>& job) {
    if (!job) return answer(error_response(409, "cancelled", "[id] it was removed before it was done."));
    const JobRecord& record = job->record;
    if (record.status != JobStatus::completed)
      return answer(error_response(status_of(record.error_code), record.error_code, record.error_message));
    try {
      HttpResponse response = file_response({}, site_.folders.video(id), "video/mp4", id + ".mp4");
      response.headers.emplace_back("X-Video-Id", id);
      answer(std::move(response));
    } catch (const Refusal& refusal) {
      answer(error_response(refusal.status(), refusal.code(), refusal.what()));
    }
  });
}

HttpResponse Routes::plan(const Call& call) {
  const Submission submission = read_submission(call.http, site_.models, site_.folders);
  const ServedModel& model = site_.models.get(submission.model);
  Device& device = *site_.devices.front();
  const Request request = submission.with_uploads(site_.models);
  Models::Checked checked = site_.models.check(model, request, *device.setup().platform, device.setup().dtype);
  Device::Plan planned = device.plan(model, request);
  PlanAnswer answer{
      .model = model.name,
      .device = device.setup().name,
      .seconds = submission.seconds.empty() ? seconds_text(planned.settled.num_frames, planned.settled.fps) : submission.seconds,
      .settled = planned.settled,
      .memory = planned.memory,
      .refusal = planned.refusal,
      .estimate = {},
      .queue_seconds = {},
      .notes = std::move(checked.notes)};
  const Settled& settled = answer.settled;
  if (const auto pace = site_.pace.guess(model.name, device.setup().name, {settled.width, settled.height, settled.num_frames})) {
    answer.estimate = pace->total(settled.num_inference_steps);
    answer.same_size = pace->same_size;
  }
  const std::vector<JobRecord> before = site_.jobs.waiting();
  answer.queue_length = site_.jobs.queue_length();
  double seconds = 0;
  bool is_known = true;
  for (const JobRecord& job : before) {
    const auto pace = site_.pace.guess(job.model, "", {job.width, job.height, job.num_frames});
    is_known = is_known && pace;
    if (pace) seconds += pace->total(job.steps);
  }
  if (is_known) answer.queue_seconds = seconds / static_cast<double>(site_.devices.size());
  return json_response(plan_object(answer));
}

HttpResponse Routes::list(const Call& call) {
  JobStore::Page page;
  page.owner = call.owner;
  constexpr std::int64_t kMost = 100, kUsual = 20;
  const std::int64_t limit = integer_argument(call.http, "limit", 1, kMost, kUsual);
  page.limit = static_cast<int>(limit) + 1;  // one more tells whether there are more
  const std::string order = call.http.argument("order").value_or("desc");
  check(order == "asc" || order == "desc", ErrorKind::invalid_argument, "order", "got {}, expected asc or desc.", in_quotes(order));
  page.ascending = order == "asc";
  if (const auto status = call.http.argument("status")) page.status = parse_status(*status);
  if (const auto after = call.http.argument("after"); after && !after->empty()) {
    const std::optional<JobRecord> job = site_.store.find(*after);
    check(job && job->owner == call.owner, ErrorKind::invalid_argument, "after", "got {}, expected the id of a video.",
          in_quotes(*after));
    page.after = job->sequence;
  }
  std::vector<JobRecord> records = site_.store.list(page);
  const bool has_more = static_cast<std::int64_t>(records.size()) > limit;
  if (has_more) records.resize(static_cast<std::size_t>(limit));
  std::vector<JobView> videos;
  for (JobRecord& record : records) videos.push_back(site_.jobs.view(std::move(record)));
  return json_response(list_object(videos, has_more, site_.keep_seconds));
}

HttpResponse Routes::get(const Call& call) { return json_response(video_object(own_job(call), site_.keep_seconds)); }

HttpResponse Routes::content(const Call& call) {
  const JobView job = own_job(call);
  const std::string& id = job.record.id;
  const std::string variant = call.http.argument("variant").value_or("video");
  if (variant == "preview") {
    site_.jobs.preview_fetched(id);
    if (!job.progress || job.progress->preview_step == 0)
      throw Refusal(404, "not_found", fmt::format("[variant] {} has no preview now: it is drawn while a job runs.", id));
    return file_response(call.http, site_.folders.preview(id), "image/gif", id + ".gif");
  }
  check(variant == "video" || variant == "thumbnail" || variant == "spritesheet", ErrorKind::invalid_argument, "variant",
        "got {}, expected video, thumbnail, spritesheet or preview.", in_quotes(variant));
  if (job.record.status != JobStatus::completed)
    throw Refusal(409, "not_ready",
                  job.record.status == JobStatus::failed
                      ? fmt::format("[id] {} has no content, it failed: {}", id, job.record.error_message)
                      : fmt::format("[id] {} is {}: it has its content when it is completed.", id, name(job.record.status)));
  if (variant == "thumbnail") return file_response(call.http, site_.folders.thumbnail(id), "image/png", id + ".png");
  if (variant == "spritesheet") return file_response(call.http, site_.folders.sheet(id), "image/png", id + "-sheet.png");
  return file_response(call.http, site_.folders.video(id), "video/mp4", id + ".mp4");
}

HttpResponse Routes::events(const Call& call) {
  const std::string id = own_job(call).record.id;
  HttpResponse response{.headers = {{"Content-Type", "text/event-stream"}, {"Cache-Control", "no-store"}}};
  response.stream = [jobs = &site_.jobs, id](std::shared_ptr<EventStream> stream) { jobs->listen(id, std::move(stream)); };
  return response;
}

HttpResponse Routes::remove(const Call& call) {
  const std::string id = own_job(call).record.id;
  if (!site_.jobs.remove(id)) not_found(id);
  return json_response(fmt::format(R"({{"id":"{}","object":"video.deleted","deleted":true}})", id));
}

HttpResponse Routes::cancel(const Call& call) {
  const std::string id = own_job(call).record.id;
  site_.jobs.cancel(id);
  return json_response(video_object(own_job(call), site_.keep_seconds));
}

HttpResponse Routes::remix(const Call& call) {
  const JobRecord source = own_job(call).record;
  Submission before{.model = source.model, .seconds = source.seconds, .request = {}, .uploads = {}, .digest = {}};
  before.request = request_from_json(source.request, "request");
  for (const RequestField& field : request_fields()) {
    if (!field.is_file()) continue;
    for (const std::string& name : get_field(before.request, field)) {
      const fs::path from = site_.folders.work(source.id) / name;
      const fs::path to = site_.folders.uploads() / (new_id() + fs::path(name).extension().string());
      std::error_code status;
      fs::create_hard_link(from, to, status);
      if (status) fs::copy_file(from, to, status);
      check(!status, ErrorKind::io, "remix", "the upload {} of {} is not there any more.", name, source.id);
      before.uploads.push_back({name, std::make_shared<TemporaryFile>(to)});
    }
  }
  Submission submission = read_submission(call.http, site_.models, site_.folders, before);
  const Accepted accepted = accept(call, std::move(submission), source.id);
  HttpResponse response = json_response(video_object(accepted.job, site_.keep_seconds));
  response.headers.emplace_back("Location", "/v1/videos/" + accepted.job.record.id);
  if (!accepted.is_new) response.headers.emplace_back("Idempotent-Replayed", "true");
  return response;
}

HttpResponse Routes::models(const Call&) {
  std::vector<LoadedModel> all;
  for (const auto& model : site_.models.all()) {
    LoadedModel loaded{.model = model.get(), .devices = {}};
    for (const auto& device : site_.devices)
      if (const auto names = device->loaded(); std::find(names.begin(), names.end(), model->name) != names.end())
        loaded.devices.push_back(device->setup().name);
    all.push_back(std::move(loaded));
  }
  return json_response(models_object(all, site_.models.limits(), site_.started_at));
}

HttpResponse Routes::model(const Call& call) {
  LoadedModel loaded{.model = &site_.models.get(call.id), .devices = {}};
  for (const auto& device : site_.devices)
    if (const auto names = device->loaded(); std::find(names.begin(), names.end(), call.id) != names.end())
      loaded.devices.push_back(device->setup().name);
  return json_response(model_object(loaded, site_.started_at));
}

HttpResponse Routes::loras(const Call&) {
  nlohmann::ordered_json data = nlohmann::ordered_json::array();
  for (const Models::Lora& lora : site_.models.loras())
    data.push_back({{"id", lora.name}, {"object", "lora"}, {"bytes", lora.bytes}});
  return json_response(nlohmann::ordered_json{{"object", "list"}, {"data", std::move(data)}}.dump(
      -1, ' ', false, nlohmann::json::error_handler_t::replace));
}

HttpResponse Routes::health(const Call&) {
  return json_response(fmt::format(R"({{"status":"ok","version":"{}","queue_length":{},"running":{}}})", version(),
                                   site_.jobs.queue_length(), site_.jobs.running()));
}

HttpResponse Routes::ready(const Call&) {
  const bool is_ready = !site_.stops && !site_.jobs.is_full();
  HttpResponse response = json_response(fmt::format(R"({{"status":"{}","version":"{}","queue_length":{},"running":{}}})",
                                                    site_.stops ? "stopping"
                                                    : is_ready  ? "ready"
                                                                : "full",
                                                    version(), site_.jobs.queue_length(), site_.jobs.running()),
                                        is_ready ? 200 : 503);
  return response;
}

HttpResponse Routes::metrics(const Call&) {
  std::vector<Metrics::Gauge> now{{"zoe_http_connections", {}, static_cast<double>(site_.connections())},
                                  {"zoe_queue_length", {}, static_cast<double>(site_.jobs.queue_length())},
                                  {"zoe_jobs_running", {}, static_cast<double>(site_.jobs.running())}};
  std::int64_t bytes = 0;
  for (const JobStore::Done& each : site_.store.done()) bytes += each.bytes;
  now.push_back({"zoe_data_bytes", {}, static_cast<double>(bytes)});
  for (const auto& device : site_.devices) {
    const Platform& platform = *device->setup().platform;
    const auto add = [&](std::string_view kind, std::uint64_t value) {
      now.push_back({"zoe_device_memory_bytes", fmt::format("device=\"{}\",kind=\"{}\"", device->setup().name, kind),
                     static_cast<double>(value)});
    };
    add("peak", platform.peak_bytes());
    add("free", platform.free_bytes());
    add("total", platform.info().memory_bytes);
  }
  return {.headers = {{"Content-Type", "text/plain; version=0.0.4; charset=utf-8"}}, .body = site_.metrics.text(now)};
}

HttpResponse Routes::page(const Call& call) {
  for (const PageFile& file : page_files())
    if (file.path == call.http.path)
      return {.headers =
                  {{"Content-Type", std::string(file.type)},
                   {"Cache-Control", "no-cache"},
                   {"Referrer-Policy", "no-referrer"},
                   {"Content-Security-Policy",
                    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
                    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"}},
              .body = std::string(file.text)};
  throw Refusal(404, "unknown_url", "[/] this program was built without its page.");
}

}  // namespace zoe::server
