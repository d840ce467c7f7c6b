// HTTP/1.1 on one address, on libmicrohttpd: one thread and epoll for all connections, so that a client that is slow, idle or reads
// a stream costs a socket and a little memory, and no thread.
//
//   HttpServer http(options, {.begin = check_headers, .handle = answer_later});
//   http.port();
//   http.start();                    // handlers are called from here on
//   http.stop();                     // ends streams; answers that are still owed are lost
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "server/http.h"

namespace zoe::server {

struct HttpOptions {
  std::string host = "127.0.0.1";
  int port = 8080;
  std::filesystem::path upload_folder;             // where files of forms are kept while they arrive
  std::uint64_t max_body_bytes = 32 << 20;         // of one request
  std::uint64_t max_waiting_bytes = 256ull << 20;  // of all bodies that are in memory at a time
  unsigned max_connections = 2000;
  double header_seconds = 30;  // that a client has for a request's head, and between two requests
  double body_seconds = 30;    // and for its body, beside a second for every 16 KiB
};

struct HttpHandlers {
  // When the head of a request is there, on the thread of all connections: an answer refuses it before its body is read.
  std::function<std::optional<HttpResponse>(const HttpRequest&)> begin;
  // When all of it is there, on the same thread: must not wait. `answer` may be called later; `is_gone` of the request's client is
  // asked by who waits long.
  std::function<void(std::shared_ptr<HttpRequest>, Answer answer, std::function<bool()> is_gone)> handle;
};

class HttpServer {
 public:
  // Clients may connect, and wait for start(). io: the address cannot be had.
  HttpServer(HttpOptions options, HttpHandlers handlers);
  ~HttpServer();
  void start();
  int port() const;
  std::size_t connections() const;
  void stop();

  struct State;  // of http_server.cpp alone

 private:
  std::unique_ptr<State> state_;
};

}  // namespace zoe::server
