// Videos over HTTP (docs/serve.md): a queue on disk, devices that take from it, and the routes.
//
//   Server server(std::move(options));   // listens, and goes on with the jobs that a process before it left
//   server.port();
//   server.stop();                       // takes no job, lets running ones end or saves them
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/model.h"
#include "pipeline/session.h"
#include "platform/platform.h"

namespace zoe::server {

struct ServerOptions {
  std::string host = "127.0.0.1";
  int port = 8080;
  std::filesystem::path data_folder, api_key_file, lora_folder;  // the last two may be empty
  std::vector<std::string> allowed_hosts;                        // beside those of a loopback address
  bool needs_no_keys = false;                                    // though others than this machine may connect
  std::vector<std::pair<std::string, ModelConfig>> models;       // by name, the default first
  struct Device {
    std::string name;
    std::shared_ptr<Platform> platform;
    DType dtype;
  };
  std::vector<Device> devices;
  SessionOptions session;
  std::int64_t max_queue = 100, max_queue_per_key = 100;
  std::uint64_t max_body_bytes = 32 << 20;
  std::int64_t max_pixels = 4 << 20, max_frames = 257;
  unsigned max_connections = 2000;
  double keep_hours = 720;
  std::uint64_t keep_bytes = 20ull << 30;
  double save_seconds = 15, stop_seconds = 10;
};

class Server {
 public:
  // invalid_argument for options that make no sense; io: the data folder is another server's or cannot be written, or the address
  // cannot be had.
  explicit Server(ServerOptions options);
  ~Server();
  int port() const;
  std::size_t resumed_jobs() const;  // that a process before left waiting or running
  void stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace zoe::server
