#include "server/http_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <microhttpd.h>
#include <netdb.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <random>
#include <set>
#include <system_error>
#include <thread>

#include "base/error.h"
#include "base/nearest.h"
#include "server/errors.h"

namespace zoe::server {

namespace fs = std::filesystem;

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMostParts = 64;              // of a form
constexpr std::size_t kHeaderBytes = 32 << 10;      // of a request's head
constexpr std::size_t kMostPendingBytes = 4 << 20;  // of a stream whose client does not read
constexpr double kBodyBytesPerSecond = 16 << 10;    // the least, behind body_seconds
constexpr unsigned kIdleSeconds = 60;               // a connection on which nothing moves

std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return result;
}

// What is known of a socket, for the thread that watches the time.
struct Link {
  enum class Phase : std::uint8_t { head, body, busy };
  int socket = -1;
  std::atomic<Phase> phase{Phase::head};
  std::atomic<Clock::time_point> since{Clock::now()};  // of the phase
  std::atomic<std::uint64_t> received{0};              // bytes of the body
  std::atomic<bool> gone{false};                       // its client has left
  bool was_half_open = false;                          // when it was last looked at: nothing more can come

  void enter(Phase next) {
    received = 0;
    since = Clock::now();
    phase = next;
  }
};

class Stream;

}  // namespace

struct Exchange;

struct HttpServer::State {
  HttpOptions options;
  HttpHandlers handlers;
  int listening = -1;  // until the daemon has it
  MHD_Daemon* daemon = nullptr;
  int port = 0;
  std::atomic<std::uint64_t> waiting_bytes{0}, uploads{0};
  std::string upload_prefix;

  std::mutex links_mutex;
  std::set<std::shared_ptr<Link>> links;
  std::mutex exchanges_mutex;
  std::set<std::shared_ptr<Exchange>> exchanges;
  std::atomic<bool> stopping{false};
  std::thread watch;

  void watch_links();
};

// One request and its answer.
struct Exchange : std::enable_shared_from_this<Exchange> {
  HttpServer::State& server;
  MHD_Connection* const connection;
  std::shared_ptr<Link> link;
  std::shared_ptr<HttpRequest> request = std::make_shared<HttpRequest>();
  MHD_PostProcessor* form = nullptr;
  std::uint64_t received = 0, counted = 0;  // of the body; of waiting_bytes
  std::optional<HttpResponse> refusal;      // found while the body came
  int upload = -1;                          // the file of the last part
  std::uint64_t part_bytes = 0;             // of it so far

  std::mutex mutex;  // of what follows
  bool is_handed_over = false, is_suspended = false, is_over = false;
  std::optional<HttpResponse> answer;
  std::shared_ptr<EventStream> stream;

  Exchange(HttpServer::State& s, MHD_Connection* c) : server(s), connection(c) {}
  ~Exchange() {
    if (form) MHD_destroy_post_processor(form);
    close_upload();
    server.waiting_bytes -= counted;
  }

  void close_upload() {
    if (upload >= 0) ::close(upload);
    upload = -1;
  }
  void refuse(int status, std::string_view code, std::string_view message) {
    if (!refusal) refusal = error_response(status, code, message);
  }
  // Of the bytes that are kept in memory.
  bool count(std::size_t bytes) {
    counted += bytes;
    if ((server.waiting_bytes += bytes) <= server.options.max_waiting_bytes) return true;
    refuse(503, "busy", "[request] too many requests are arriving at once. Send it again later.");
    return false;
  }

  void take(const char* data, std::size_t size);
  void take_part(const char* name, const char* file_name, const char* data, std::uint64_t offset, std::size_t size);
  void give(HttpResponse response);
  MHD_Result send(HttpResponse response);
};

namespace {

// Bytes wait in memory until the client's socket takes them; meanwhile, and while there are none, the connection is suspended.
class Stream : public EventStream {
 public:
  explicit Stream(MHD_Connection* connection) : connection_(connection) {}

  void send(std::string_view text) override {
    const std::lock_guard lock(mutex_);
    if (ended_ || closed_) return;
    if (pending_.size() - sent_ + text.size() > kMostPendingBytes) ended_ = true;
    else pending_.append(text);
    wake();
  }
  void end() override {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    wake();
  }
  bool is_closed() const override {
    const std::lock_guard lock(mutex_);
    return ended_ || closed_;
  }

  static ssize_t read(void* self, std::uint64_t, char* buffer, std::size_t most) {
    return static_cast<std::shared_ptr<Stream>*>(self)->get()->read(buffer, most);
  }
  static void free(void* self) {
    auto* const owner = static_cast<std::shared_ptr<Stream>*>(self);
    {
      const std::lock_guard lock((*owner)->mutex_);
      (*owner)->closed_ = true;
    }
    delete owner;
  }

 private:
  void wake() {
    if (std::exchange(suspended_, false)) MHD_resume_connection(connection_);
  }
  ssize_t read(char* buffer, std::size_t most) {
    const std::lock_guard lock(mutex_);
    const std::size_t count = std::min(most, pending_.size() - sent_);
    if (count == 0) {
      if (ended_) return MHD_CONTENT_READER_END_OF_STREAM;
      suspended_ = true;
      MHD_suspend_connection(connection_);
      return 0;
    }
    std::memcpy(buffer, pending_.data() + sent_, count);
    sent_ += count;
    if (sent_ == pending_.size()) {
      pending_.clear();
      sent_ = 0;
    }
    return static_cast<ssize_t>(count);
  }

  MHD_Connection* const connection_;
  mutable std::mutex mutex_;
  std::string pending_;
  std::size_t sent_ = 0;
  bool suspended_ = false, ended_ = false, closed_ = false;
};

MHD_Result add_pair(void* pairs, MHD_ValueKind kind, const char* key, std::size_t key_size, const char* value,
                    std::size_t value_size) {
  std::string name(key, key_size);
  if (kind == MHD_HEADER_KIND) name = lower(name);
  static_cast<Pairs*>(pairs)->emplace_back(std::move(name), value ? std::string(value, value_size) : std::string());
  return MHD_YES;
}

MHD_Result on_part(void* exchange, MHD_ValueKind, const char* name, const char* file_name, const char*, const char*,
                   const char* data, std::uint64_t offset, std::size_t size) {
  static_cast<Exchange*>(exchange)->take_part(name ? name : "", file_name, data, offset, size);
  return MHD_YES;
}

std::shared_ptr<Link> link_of(MHD_Connection* connection) {
  const MHD_ConnectionInfo* const info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
  return *static_cast<std::shared_ptr<Link>*>(info->socket_context);
}

void on_connection(void* self, MHD_Connection* connection, void** context, MHD_ConnectionNotificationCode code) {
  auto& server = *static_cast<HttpServer::State*>(self);
  const std::lock_guard lock(server.links_mutex);
  if (code == MHD_CONNECTION_NOTIFY_STARTED) {
    auto link = std::make_shared<Link>();
    link->socket = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    server.links.insert(link);
    *context = new std::shared_ptr<Link>(link);
  } else {
    auto* const link = static_cast<std::shared_ptr<Link>*>(*context);
    server.links.erase(*link);
    delete link;
  }
}

void on_completed(void* self, MHD_Connection*, void** context, MHD_RequestTerminationCode) {
  auto& server = *static_cast<HttpServer::State*>(self);
  auto* const exchange = static_cast<std::shared_ptr<Exchange>*>(*context);
  if (!exchange) return;
  {
    const std::lock_guard lock((*exchange)->mutex);
    (*exchange)->is_over = true;
  }
  (*exchange)->link->enter(Link::Phase::head);
  {
    const std::lock_guard lock(server.exchanges_mutex);
    server.exchanges.erase(*exchange);
  }
  delete exchange;
  *context = nullptr;
}

MHD_Result on_request(void* self, MHD_Connection* connection, const char* path, const char* method, const char*, const char* data,
                      std::size_t* size, void** context) {
  auto& server = *static_cast<HttpServer::State*>(self);
  if (!*context) {
    auto exchange = std::make_shared<Exchange>(server, connection);
    exchange->link = link_of(connection);
    exchange->link->enter(Link::Phase::body);
    *context = new std::shared_ptr<Exchange>(exchange);
    {
      const std::lock_guard lock(server.exchanges_mutex);
      server.exchanges.insert(exchange);
    }
    HttpRequest& request = *exchange->request;
    request.method = method;
    request.path = path;
    MHD_get_connection_values_n(connection, MHD_GET_ARGUMENT_KIND, add_pair, &request.query);
    MHD_get_connection_values_n(connection, MHD_HEADER_KIND, add_pair, &request.headers);
    std::uint64_t length = 0;
    const std::string_view said = request.header("content-length");
    for (const char digit : said) length = std::min<std::uint64_t>(1ull << 60, length * 10 + static_cast<unsigned>(digit - '0'));
    std::optional<HttpResponse> refused = server.handlers.begin(request);
    if (!refused && length > server.options.max_body_bytes)
      refused =
          error_response(413, "too_large",
                         fmt::format("[request] the body is too large: got {} bytes, expected at most {}. Send less, or start "
                                     "the server with a larger --max-body.",
                                     length, server.options.max_body_bytes));
    if (refused) return exchange->send(std::move(*refused));
    const std::string type = lower(request.header("content-type"));
    request.is_form = type.starts_with("multipart/form-data") || type.starts_with("application/x-www-form-urlencoded");
    if (request.is_form) {
      constexpr std::size_t kPiece = 16 << 10;
      exchange->form = MHD_create_post_processor(connection, kPiece, on_part, exchange.get());
      if (!exchange->form)
        return exchange->send(error_response(400, "invalid_argument",
                                             "[request] a form without a boundary: expected multipart/form-data; boundary=..."));
    }
    return MHD_YES;
  }
  const std::shared_ptr<Exchange> exchange = *static_cast<std::shared_ptr<Exchange>*>(*context);
  if (*size > 0) {
    exchange->take(data, *size);
    *size = 0;
    // Nothing can be answered before the body has ended: one that goes on long behind the limit is cut off.
    return exchange->received > 2 * server.options.max_body_bytes ? MHD_NO : MHD_YES;
  }
  {
    std::unique_lock lock(exchange->mutex);
    if (exchange->answer) {
      HttpResponse response = std::move(*exchange->answer);
      lock.unlock();
      return exchange->send(std::move(response));
    }
    if (exchange->is_handed_over) return MHD_YES;
    exchange->is_handed_over = true;
  }
  exchange->link->enter(Link::Phase::busy);
  if (exchange->form) {
    if (MHD_destroy_post_processor(exchange->form) != MHD_YES)
      exchange->refuse(400, "invalid_argument", "[request] the form ends in the middle of a part. Send all of it.");
    exchange->form = nullptr;
    exchange->close_upload();
  }
  if (exchange->refusal) return exchange->send(std::move(*exchange->refusal));
  {
    const std::lock_guard lock(exchange->mutex);
    exchange->is_suspended = true;
    MHD_suspend_connection(connection);
  }
  server.handlers.handle(
      exchange->request, [exchange](HttpResponse response) { exchange->give(std::move(response)); },
      [link = exchange->link] { return link->gone.load(); });
  return MHD_YES;
}

}  // namespace

void Exchange::take(const char* data, std::size_t size) {
  received += size;
  link->received += size;
  if (received > server.options.max_body_bytes)
    refuse(413, "too_large",
           fmt::format("[request] the body is too large: expected at most {} bytes. Send less, or start the server with a larger "
                       "--max-body.",
                       server.options.max_body_bytes));
  if (refusal) {
    request->body = {};
    request->parts.clear();
    return;
  }
  if (!form) {
    if (count(size)) request->body.append(data, size);
  } else if (MHD_post_process(form, data, size) != MHD_YES) {
    refuse(400, "invalid_argument", "[request] the form cannot be read: expected parts as RFC 7578 has them.");
  }
}

void Exchange::take_part(const char* name, const char* file_name, const char* data, std::uint64_t offset, std::size_t size) {
  if (refusal) return;
  std::vector<FormPart>& parts = request->parts;
  // Where a part's head came without its text the library begins it twice, the first time with nothing.
  const bool is_begun = !parts.empty() && part_bytes == 0 && parts.back().name == name && !file_name == !parts.back().file;
  part_bytes = offset + size;
  if (offset == 0 && !is_begun) {
    close_upload();
    if (parts.size() == kMostParts)
      return refuse(400, "invalid_argument", fmt::format("[request] got more than {} parts of a form. Send fewer.", kMostParts));
    parts.push_back({.name = name, .text = {}, .file = nullptr});
    if (file_name) {
      const fs::path path = server.options.upload_folder / fmt::format("{}-{}", server.upload_prefix, server.uploads.fetch_add(1));
      upload = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
      if (upload < 0) return refuse(500, "io", fmt::format("[uploads] cannot write: {}.", std::generic_category().message(errno)));
      parts.back().file = std::make_shared<TemporaryFile>(path);
    }
  }
  if (parts.empty()) return refuse(400, "invalid_argument", "[request] the form cannot be read: a part without a begin.");
  if (!parts.back().file) {
    if (count(size)) parts.back().text.append(data, size);
    return;
  }
  while (size > 0) {
    const ssize_t wrote = ::write(upload, data, size);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) return refuse(500, "io", fmt::format("[uploads] cannot write: {}.", std::generic_category().message(errno)));
    data += wrote;
    size -= static_cast<std::size_t>(wrote);
  }
}

void Exchange::give(HttpResponse response) {
  const std::lock_guard lock(mutex);
  if (is_over || answer) return;
  answer = std::move(response);
  if (std::exchange(is_suspended, false)) MHD_resume_connection(connection);
}

MHD_Result Exchange::send(HttpResponse response) {
  MHD_Response* made = nullptr;
  if (response.stream) {
    auto own = std::make_shared<Stream>(connection);
    constexpr std::size_t kPiece = 8 << 10;
    made =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, kPiece, Stream::read, new std::shared_ptr<Stream>(own), Stream::free);
    {
      const std::lock_guard lock(mutex);
      stream = own;
    }
    response.stream(own);
  } else if (response.file) {
    const int copy = ::fcntl(*response.file->descriptor, F_DUPFD_CLOEXEC, 0);
    made = copy < 0 ? nullptr : MHD_create_response_from_fd_at_offset64(response.file->bytes, copy, response.file->begin);
  } else {
    made = MHD_create_response_from_buffer(response.body.size(), response.body.data(), MHD_RESPMEM_MUST_COPY);
  }
  if (!made) return MHD_NO;
  for (const auto& [name, value] : response.headers) MHD_add_response_header(made, name.c_str(), value.c_str());
  const MHD_Result queued = MHD_queue_response(connection, static_cast<unsigned>(response.status), made);
  MHD_destroy_response(made);
  return queued;
}

// Closes what takes too long to arrive, and finds clients that left while they were owed an answer or a stream.
void HttpServer::State::watch_links() {
  while (!stopping) {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    const auto now = Clock::now();
    std::vector<std::shared_ptr<Link>> waiting;
    {
      const std::lock_guard lock(links_mutex);
      for (const std::shared_ptr<Link>& link : links) {
        const double seconds = std::chrono::duration<double>(now - link->since.load()).count();
        pollfd socket{link->socket, POLLRDHUP, 0};
        const bool is_half_open = ::poll(&socket, 1, 0) > 0 && (socket.revents & (POLLRDHUP | POLLHUP | POLLERR));
        const bool stays_half_open = std::exchange(link->was_half_open, is_half_open) && is_half_open;
        switch (link->phase.load()) {
          case Link::Phase::head:
            waiting.push_back(link);
            if (seconds > options.header_seconds || (stays_half_open && seconds > 1)) ::shutdown(link->socket, SHUT_RDWR);
            break;
          case Link::Phase::body:
            if ((stays_half_open && seconds > 1) ||
                seconds > options.body_seconds + static_cast<double>(link->received.load()) / kBodyBytesPerSecond)
              ::shutdown(link->socket, SHUT_RDWR);
            break;
          case Link::Phase::busy:
            if (is_half_open) link->gone = true;
        }
      }
      // Where there is room for few more, those that have waited longest with nothing to say make it.
      const std::size_t most = options.max_connections - options.max_connections / 8;
      if (links.size() > most) {
        std::sort(waiting.begin(), waiting.end(), [](const auto& a, const auto& b) { return a->since.load() < b->since.load(); });
        for (std::size_t i = 0; i < std::min(waiting.size(), links.size() - most); ++i) ::shutdown(waiting[i]->socket, SHUT_RDWR);
      }
    }
    std::vector<std::shared_ptr<EventStream>> left;
    {
      const std::lock_guard lock(exchanges_mutex);
      for (const std::shared_ptr<Exchange>& exchange : exchanges) {
        if (!exchange->link->gone) continue;
        const std::lock_guard of_it(exchange->mutex);
        if (exchange->stream) left.push_back(exchange->stream);
      }
    }
    for (const auto& stream : left) stream->end();
  }
}

HttpServer::HttpServer(HttpOptions options, HttpHandlers handlers) : state_(std::make_unique<State>()) {
  State& state = *state_;
  state.options = std::move(options);
  state.handlers = std::move(handlers);
  state.upload_prefix = fmt::format("{:08x}", std::random_device()());
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  const std::string where = fmt::format("{}:{}", state.options.host, state.options.port);
  if (const int failed = ::getaddrinfo(state.options.host.c_str(), std::to_string(state.options.port).c_str(), &hints, &found))
    fail(ErrorKind::invalid_argument, "--host", "{} is no address: {}.", in_quotes(state.options.host), ::gai_strerror(failed));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> freed(found, ::freeaddrinfo);
  const int socket = ::socket(found->ai_family, found->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, found->ai_protocol);
  const int on = 1;
  if (socket >= 0) ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (socket < 0 || ::bind(socket, found->ai_addr, found->ai_addrlen) != 0 || ::listen(socket, 1024) != 0) {
    const int reason = errno;
    if (socket >= 0) ::close(socket);
    fail(ErrorKind::io, "serve", "cannot listen on {}: {}. Choose another --port.", where, std::generic_category().message(reason));
  }
  sockaddr_storage bound{};
  socklen_t bound_size = sizeof bound;
  ::getsockname(socket, reinterpret_cast<sockaddr*>(&bound), &bound_size);
  state.port = ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(bound).sin6_port
                                                 : reinterpret_cast<sockaddr_in&>(bound).sin_port);
  // Files need descriptors, too.
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
    constexpr rlim_t kOthers = 200;
    if (files.rlim_cur < state.options.max_connections + kOthers)
      state.options.max_connections = static_cast<unsigned>(files.rlim_cur > 2 * kOthers ? files.rlim_cur - kOthers : kOthers);
  }
  state.listening = socket;
}

void HttpServer::start() {
  State& state = *state_;
  const int socket = std::exchange(state.listening, -1);
  state.daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC, 0, nullptr, nullptr,
                                  on_request, &state, MHD_OPTION_LISTEN_SOCKET, socket, MHD_OPTION_CONNECTION_LIMIT,
                                  state.options.max_connections, MHD_OPTION_CONNECTION_TIMEOUT, kIdleSeconds,
                                  MHD_OPTION_CONNECTION_MEMORY_LIMIT, kHeaderBytes, MHD_OPTION_NOTIFY_COMPLETED, on_completed,
                                  &state, MHD_OPTION_NOTIFY_CONNECTION, on_connection, &state, MHD_OPTION_END);
  if (!state.daemon) {
    ::close(socket);
    fail(ErrorKind::io, "serve", "cannot serve on port {}: {}.", state.port, std::generic_category().message(errno));
  }
  state.watch = std::thread([&state] { state.watch_links(); });
}

HttpServer::~HttpServer() { stop(); }

int HttpServer::port() const { return state_->port; }

std::size_t HttpServer::connections() const {
  const std::lock_guard lock(state_->links_mutex);
  return state_->links.size();
}

void HttpServer::stop() {
  State& state = *state_;
  if (state.stopping.exchange(true)) return;
  if (!state.daemon) {  // it was not started
    if (state.listening >= 0) ::close(state.listening);
    return;
  }
  state.watch.join();
  const MHD_socket listening = MHD_quiesce_daemon(state.daemon);
  if (listening != MHD_INVALID_SOCKET) ::close(listening);
  // The library wants no connection suspended when it stops.
  std::vector<std::shared_ptr<Exchange>> open;
  {
    const std::lock_guard lock(state.exchanges_mutex);
    open.assign(state.exchanges.begin(), state.exchanges.end());
  }
  for (const std::shared_ptr<Exchange>& exchange : open) {
    std::shared_ptr<EventStream> stream;
    {
      const std::lock_guard lock(exchange->mutex);
      stream = exchange->stream;
    }
    if (stream) stream->end();
    exchange->give(error_response(503, "stopping", "[serve] the server stops. Send it again when it is back."));
  }
  constexpr auto kLastWords = std::chrono::milliseconds(200);
  if (!open.empty()) std::this_thread::sleep_for(kLastWords);
  open.clear();
  MHD_stop_daemon(state.daemon);
}

}  // namespace zoe::server
