// Any bytes as what a client sends: heads, queries, forms. The server answers or closes, and goes on.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>

#include "server/http_server.h"

namespace {

namespace fs = std::filesystem;
using namespace zoe::server;

fs::path upload_folder() {
  std::string name = (fs::temp_directory_path() / "zoe-fuzz-http-XXXXXX").string();
  if (!::mkdtemp(name.data())) std::abort();
  return name;
}

HttpServer* started() {
  auto* const server = new HttpServer(
      {.host = "127.0.0.1", .port = 0, .upload_folder = upload_folder(), .max_body_bytes = 1 << 16, .max_waiting_bytes = 1 << 20},
      {.begin = [](const HttpRequest&) { return std::optional<HttpResponse>(); },
       .handle =
           [](const std::shared_ptr<HttpRequest>& request, const Answer& answer, const std::function<bool()>&) {
             std::size_t bytes = request->body.size();
             for (const FormPart& part : request->parts) bytes += part.file ? fs::file_size(part.file->path()) : part.text.size();
             if (bytes > 1 << 16) std::abort();  // more than the limit of a body
             for (const auto& [name, value] : request->query) bytes += name.size() + value.size();
             answer({.body = std::to_string(bytes)});
           }});
  server->start();
  return server;
}

HttpServer& server() {
  static HttpServer* const one = started();
  return *one;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(server().port()));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int client = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const linger at_once{1, 0};  // no port waits behind a test
  ::setsockopt(client, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  // Half a request has no answer: the server would wait a second for the rest.
  const timeval soon{0, 5'000};
  ::setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon);
  if (::connect(client, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) std::abort();
  while (size > 0) {
    const ssize_t sent = ::send(client, data, size, MSG_NOSIGNAL);
    if (sent <= 0) break;
    data += sent;
    size -= static_cast<std::size_t>(sent);
  }
  ::shutdown(client, SHUT_WR);
  char answer[4096];
  while (::recv(client, answer, sizeof answer, 0) > 0) {
  }
  ::close(client);
  return 0;
}
