#include "server/server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <thread>

#include "base/error.h"
#include "server/api_keys.h"
#include "server/device.h"
#include "server/errors.h"
#include "server/folders.h"
#include "server/http_server.h"
#include "server/job_store.h"
#include "server/jobs.h"
#include "server/metrics.h"
#include "server/models.h"
#include "server/objects.h"
#include "server/pace.h"
#include "server/routes.h"
#include "server/task_queue.h"

namespace zoe::server {

namespace fs = std::filesystem;

namespace {

bool is_loopback(const std::string& host) { return host == "localhost" || host == "::1" || host.starts_with("127."); }

// The data folder, ours alone as long as it lives.
class Claim {
 public:
  explicit Claim(const Folders& folders) {
    std::error_code status;
    for (const fs::path& folder : {folders.root, folders.uploads(), folders.work(), folders.videos()}) {
      fs::create_directories(folder, status);
      check(!status, ErrorKind::io, "--data-dir", "cannot make {}: {}.", folder.string(), status.message());
      ::chmod(folder.c_str(), 0700);
    }
    const fs::path lock = folders.root / "lock";
    file_ = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    check(file_ >= 0, ErrorKind::io, "--data-dir", "cannot write {}: {}.", lock.string(), std::generic_category().message(errno));
    if (::flock(file_, LOCK_EX | LOCK_NB) != 0) {
      ::close(file_);
      fail(ErrorKind::io, "--data-dir", "{} is another running server's. Choose another folder.", folders.root.string());
    }
  }
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;
  ~Claim() { ::close(file_); }

 private:
  int file_ = -1;
};

// What a process that was killed left, and no job has.
void remove_strays(const Folders& folders, const JobStore& store) {
  const std::vector<std::string> ids = store.ids();
  const std::set<std::string> known(ids.begin(), ids.end());
  std::error_code status;
  const auto entries = [&](const fs::path& folder) {
    std::vector<fs::path> all;
    for (fs::directory_iterator entry(folder, status), end; !status && entry != end; entry.increment(status))
      all.push_back(entry->path());
    return all;
  };
  for (const fs::path& path : entries(folders.uploads())) fs::remove(path, status);
  for (const fs::path& path : entries(folders.work()))
    if (!known.contains(path.filename().string())) fs::remove_all(path, status);
  for (const fs::path& path : entries(folders.videos())) {
    std::string id = path.stem().string();
    if (id.ends_with("-sheet")) id.resize(id.size() - std::string_view("-sheet").size());
    const bool is_ours = path.filename().string().starts_with("video_");
    if (!is_ours || !known.contains(id)) fs::remove_all(path, status);
  }
}

void learn_pace(Pace& pace, const JobStore& store) {
  JobStore::Page last{.owner = {}, .status = JobStatus::completed, .after = 0, .ascending = false, .limit = 200};
  std::vector<JobRecord> jobs = store.list(last);
  std::reverse(jobs.begin(), jobs.end());
  for (const JobRecord& job : jobs) {
    const nlohmann::json spent = nlohmann::json::parse(job.timings, nullptr, false);
    if (!spent.is_object() || job.steps < 1) continue;
    const auto of = [&](const char* stage) { return spent.value(stage, 0.0); };
    pace.learn(job.model, job.device, {job.width, job.height, job.num_frames},
               {.before = of("prepare") + of("load") + of("encode"),
                .step = of("denoise") / static_cast<double>(job.steps),
                .after = of("decode") + of("write")});
  }
}

}  // namespace

struct Server::State {
  const ServerOptions options;
  const Folders folders;
  const Claim claim;
  const ApiKeys keys;
  const Models models;
  JobStore store;
  Pace pace;
  Metrics metrics;
  Jobs jobs;
  std::vector<std::unique_ptr<Device>> devices;
  std::atomic<bool> stops{false};
  std::unique_ptr<Routes> routes;
  TaskQueue reads{1, 4096}, writes{3, 4096}, plans{1, 64};
  std::unique_ptr<HttpServer> http;
  std::size_t resumed = 0;

  std::mutex keeper_mutex;
  std::condition_variable keeper_wakes;
  bool keeper_ends = false;
  std::thread keeper;

  explicit State(ServerOptions o)
      : options(std::move(o)),
        folders{fs::absolute(options.data_folder)},
        claim(folders),
        keys(options.api_key_file.empty() ? ApiKeys() : ApiKeys(options.api_key_file)),
        models(options.models, options.lora_folder,
               {.max_pixels = options.max_pixels, .max_frames = options.max_frames, .max_body_bytes = options.max_body_bytes}),
        store(folders.jobs()),
        jobs(store, folders, {.most = options.max_queue, .most_of_owner = options.max_queue_per_key}) {}

  double keep_seconds() const { return options.keep_hours * 3600; }

  // Jobs that are too old, or the oldest of too many bytes.
  void remove_old() {
    const std::vector<JobStore::Done> done = store.done();
    std::int64_t bytes = 0;
    for (const JobStore::Done& each : done) bytes += each.bytes;
    const double now = unix_seconds();
    for (const JobStore::Done& each : done) {
      const bool is_old = each.completed_at + keep_seconds() < now;
      if (!is_old && bytes <= static_cast<std::int64_t>(options.keep_bytes)) continue;
      if (!is_old && each.bytes == 0) continue;
      jobs.remove(each.id);
      bytes -= each.bytes;
    }
  }

  void keep() {
    constexpr auto kPeriod = std::chrono::seconds(10);
    std::unique_lock lock(keeper_mutex);
    while (!keeper_ends) {
      lock.unlock();
      try {
        remove_old();
      } catch (const Error&) {
        // The next time.
      }
      lock.lock();
      keeper_wakes.wait_for(lock, kPeriod, [&] { return keeper_ends; });
    }
  }
};

Server::Server(ServerOptions options) {
  check(
      is_loopback(options.host) || !options.api_key_file.empty() || options.needs_no_keys, ErrorKind::invalid_argument, "--host",
      "{} is not of this machine alone: expected --api-key-file FILE beside it. Make a key with --new-key NAME, or say --no-keys.",
      options.host);
  check(!options.devices.empty(), ErrorKind::invalid_argument, "serve", "got no device, expected one or more.");
  state_ = std::make_unique<State>(std::move(options));
  State& state = *state_;
  remove_strays(state.folders, state.store);
  learn_pace(state.pace, state.store);
  state.resumed = static_cast<std::size_t>(state.jobs.queue_length());
  state.jobs.describe = [keep = state.keep_seconds()](const JobView& view) { return video_object(view, keep); };
  const Shared shared{state.models, state.folders, state.store, state.jobs, state.pace, state.metrics};
  SessionOptions session = state.options.session;
  session.single_request = false;
  session.spelling = Spelling::key;
  std::set<std::string> names;
  for (const ServerOptions::Device& each : state.options.devices) {
    std::string name = each.name;
    for (int i = 2; !names.insert(name).second; ++i) name = fmt::format("{}#{}", each.name, i);
    session.dtype = each.dtype;
    state.devices.push_back(
        std::make_unique<Device>(DeviceSetup{name, each.platform, each.dtype, session, state.options.save_seconds}, shared));
  }
  std::vector<std::string> hosts;
  if (is_loopback(state.options.host)) {
    hosts = {"localhost", "127.0.0.1", "::1", state.options.host};
    hosts.insert(hosts.end(), state.options.allowed_hosts.begin(), state.options.allowed_hosts.end());
  }
  state.routes = std::make_unique<Routes>(Site{shared, state.keys, state.devices, state.keep_seconds(), unix_seconds(),
                                               std::move(hosts), state.stops, [&state] { return state.http->connections(); }});
  HttpHandlers handlers;
  handlers.begin = [&state](const HttpRequest& request) { return state.routes->refuse(request); };
  handlers.handle = [&state](std::shared_ptr<HttpRequest> request, Answer answer, std::function<bool()> is_gone) {
    const Lane lane = state.routes->lane(*request);
    TaskQueue& queue = lane == Lane::read ? state.reads : lane == Lane::write ? state.writes : state.plans;
    const bool taken = queue.add([&state, request = std::move(request), answer, is_gone = std::move(is_gone)] {
      state.routes->answer(request, answer, is_gone);
    });
    if (!taken) answer(error_response(503, "busy", "[serve] too many requests are waiting for an answer. Send it again later."));
  };
  state.http = std::make_unique<HttpServer>(
      HttpOptions{.host = state.options.host,
                  .port = state.options.port,
                  .upload_folder = state.folders.uploads(),
                  .max_body_bytes = state.options.max_body_bytes,
                  .max_waiting_bytes = std::max<std::uint64_t>(256ull << 20, 2 * state.options.max_body_bytes),
                  .max_connections = state.options.max_connections},
      std::move(handlers));
  state.http->start();  // by now handlers find it where they look
  for (const auto& device : state.devices) device->start();
  state.keeper = std::thread([&state] { state.keep(); });
}

Server::~Server() { stop(); }

int Server::port() const { return state_->http->port(); }

std::size_t Server::resumed_jobs() const { return state_->resumed; }

void Server::stop() {
  State& state = *state_;
  if (state.stops.exchange(true)) return;
  state.jobs.stop_taking();
  if (!state.jobs.wait_idle(std::chrono::milliseconds(static_cast<std::int64_t>(1000 * state.options.stop_seconds)))) {
    // At their next step they are saved; one that is not at its steps has as long to end.
    constexpr auto kToSave = std::chrono::seconds(10);
    state.jobs.stop_running(false);
    if (!state.jobs.wait_idle(kToSave)) state.jobs.stop_running(true);
  }
  {
    const std::lock_guard lock(state.keeper_mutex);
    state.keeper_ends = true;
  }
  state.keeper_wakes.notify_all();
  state.keeper.join();
  state.jobs.end_streams();
  state.http->stop();
  for (TaskQueue* queue : {&state.reads, &state.writes, &state.plans}) queue->stop();
  state.devices.clear();  // waits for their threads
}

}  // namespace zoe::server
