// Rates of copies between host and device, beside the bus: page-locked memory copied by the driver alone.
//
//   bench_copies [--platform cuda] [--cuda-path FOLDER] [--mib N] [--runs N]
//
// One JSON line a case: what, threads (each with a stream of its own, as weights are loaded), MiB, best and median GB/s. "file" is
// an upload from a mapped file that lies in the system's cache.
#include <CLI/CLI.hpp>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "platform/cuda/api.h"
#include "platform/platform.h"

namespace zoe {
namespace {

struct Options {
  std::string platform = "cuda", cuda_path;
  std::size_t mib = 1024;
  int runs = 5;
};

void report(const std::string& what, int threads, const Options& options, const std::function<void()>& body) {
  std::vector<double> rates;
  body();
  for (int i = 0; i < options.runs; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    body();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    rates.push_back(static_cast<double>(options.mib << 20) / elapsed.count() * 1e-9);
  }
  std::sort(rates.begin(), rates.end());
  fmt::print("{{\"what\": \"{}\", \"threads\": {}, \"mib\": {}, \"best_gb_s\": {:.1f}, \"median_gb_s\": {:.1f}}}\n", what, threads,
             options.mib, rates.back(), rates[rates.size() / 2]);
}

// What the driver does alone, from and to one page-locked piece of 64 MiB.
void bus(const Options& options, Platform& platform, const Buffer& buffer) {
  const cuda::Vendor* const vendors[] = {&cuda::kCuda, &cuda::kMusa, &cuda::kRocm};
  const auto vendor = std::find_if(std::begin(vendors), std::end(vendors),
                                   [&](const auto* one) { return one->platform == platform.info().platform; });
  if (vendor == std::end(vendors)) return;
  const cuda::DriverApi& api = cuda::load_driver(**vendor, options.cuda_path);
  constexpr std::size_t kPiece = std::size_t{64} << 20;
  void* locked = nullptr;
  cuda::StreamHandle stream = nullptr;
  const auto ok = [&](cuda::Status status) { cuda::check_driver(api, **vendor, status, "a copy"); };
  ok(api.host_allocate(&locked, kPiece, 0));
  ok(api.stream_create(&stream, cuda::kStreamNonBlocking));
  const auto address = reinterpret_cast<cuda::Address>(buffer.data);
  const std::size_t bytes = options.mib << 20;
  const auto all = [&](const auto& copy) {
    for (std::size_t at = 0; at < bytes; at += kPiece) ok(copy(address + at, std::min(kPiece, bytes - at)));
    ok(api.stream_synchronize(stream));
  };
  report("bus to device", 1, options,
         [&] { all([&](cuda::Address to, std::size_t n) { return api.copy_to_device_async(to, locked, n, stream); }); });
  report("bus to host", 1, options,
         [&] { all([&](cuda::Address from, std::size_t n) { return api.copy_to_host_async(locked, from, n, stream); }); });
  api.stream_destroy(stream);
  api.host_free(locked);
}

int run(const Options& options) {
  const auto platform = open_platform(options.platform, {.cuda_path = options.cuda_path});
  const std::size_t bytes = options.mib << 20;
  std::vector<std::byte> host(bytes, std::byte{1});
  const auto buffer = platform->allocate(bytes, "copies");
  bus(options, *platform, *buffer);
  const std::filesystem::path path = std::filesystem::temp_directory_path() / "zoetrope-bench-copies";
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(host.data()), static_cast<std::streamsize>(bytes));
  const MappedFile file(path);
  std::filesystem::remove(path);
  for (const int threads : {1, 2, 4, 8}) {
    const auto side_by_side = [&](const std::function<void(Stream&, std::size_t, std::size_t)>& copy) {
      std::vector<std::unique_ptr<Stream>> streams;
      for (int t = 0; t < threads; ++t) streams.push_back(platform->make_stream());
      return [&, copy, threads, streams = std::make_shared<std::vector<std::unique_ptr<Stream>>>(std::move(streams))] {
        std::vector<std::thread> workers;
        const std::size_t share = bytes / static_cast<std::size_t>(threads);
        for (std::size_t t = 0; t < static_cast<std::size_t>(threads); ++t)
          workers.emplace_back([&, t] {
            copy(*(*streams)[t], t * share, share);
            (*streams)[t]->synchronize();
          });
        for (std::thread& worker : workers) worker.join();
      };
    };
    report("upload", threads, options, side_by_side([&](Stream& stream, std::size_t at, std::size_t n) {
             platform->upload(stream, host.data() + at, {buffer.get(), at}, n);
           }));
    report("upload of a file", threads, options, side_by_side([&](Stream& stream, std::size_t at, std::size_t n) {
             platform->upload(stream, file.bytes().data() + at, {buffer.get(), at}, n);
           }));
    report("download", threads, options, side_by_side([&](Stream& stream, std::size_t at, std::size_t n) {
             platform->download(stream, {buffer.get(), at}, host.data() + at, n);
           }));
  }
  return 0;
}

}  // namespace
}  // namespace zoe

int main(int argc, char** argv) {
  zoe::Options options;
  CLI::App app{"Rates of copies between host and device"};
  app.add_option("--platform", options.platform);
  app.add_option("--cuda-path", options.cuda_path);
  app.add_option("--mib", options.mib);
  app.add_option("--runs", options.runs);
  CLI11_PARSE(app, argc, argv);
  try {
    return zoe::run(options);
  } catch (const zoe::Error& error) {
    fmt::print(stderr, "bench_copies: {}\n", error.what());
    return 1;
  }
}
