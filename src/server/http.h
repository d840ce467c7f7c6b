// What a request over HTTP is, and what answers it; no library's types. http_server.h carries them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace zoe::server {

using Pairs = std::vector<std::pair<std::string, std::string>>;

// A file that goes when its owner does.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::filesystem::path path) : path_(std::move(path)) {}
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile();
  const std::filesystem::path& path() const { return path_; }
  void add_suffix(const std::string& suffix);

 private:
  std::filesystem::path path_;
};

// A field of a form. Files are on the disk, texts are here.
struct FormPart {
  std::string name, text;
  std::shared_ptr<TemporaryFile> file;  // null: a text
};

struct HttpRequest {
  std::string method, path;  // "GET", "/v1/videos", without the query, decoded
  Pairs query, headers;      // headers' names in small letters
  std::string body;          // of anything but a form
  bool is_form = false;
  std::vector<FormPart> parts;

  std::string_view header(std::string_view name) const;              // in small letters; "" if there is none
  std::optional<std::string> argument(std::string_view name) const;  // of the query
};

// A stream of bytes that a client reads as they come. Usable from any thread; a client that does not read is left behind.
class EventStream {
 public:
  virtual ~EventStream() = default;
  virtual void send(std::string_view text) = 0;
  virtual void end() = 0;
  virtual bool is_closed() const = 0;  // by either side
};

// Part of an open file; closed when the last copy goes.
struct FilePart {
  std::shared_ptr<const int> descriptor;
  std::uint64_t begin = 0, bytes = 0;
};

struct HttpResponse {
  int status = 200;
  Pairs headers = {};
  std::string body = {};
  std::optional<FilePart> file = {};
  // Called with the stream of this answer, once, before its first byte is sent.
  std::function<void(std::shared_ptr<EventStream>)> stream = {};
};

// How an answer comes back: once, from any thread.
using Answer = std::function<void(HttpResponse)>;

}  // namespace zoe::server
