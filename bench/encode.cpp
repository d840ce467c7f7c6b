// Raw frames from stdin to a file of any format: for bench/compare_files.py, and for measuring what a writer takes.
//
//   build/bench_encode OUTPUT WIDTH HEIGHT FRAMES [CRF [THREADS]] < frames.rgb      prints seconds, and the memory it took
//   (RssAnon)
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <string>
#include <thread>

#include "media/video_writer.h"

namespace {

// Anonymous memory of the process, MiB.
double anonymous_mib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("RssAnon:")) return std::stod(line.substr(8)) / 1024;
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) return std::fprintf(stderr, "usage: bench_encode OUTPUT WIDTH HEIGHT FRAMES [CRF [THREADS]] < frames.rgb\n"), 2;
  try {
    zoe::VideoSettings settings{.width = std::atoi(argv[2]), .height = std::atoi(argv[3]), .frames = std::atoi(argv[4])};
    if (argc > 5 && std::atoi(argv[5]) >= 0) settings.crf = std::atoi(argv[5]);
    settings.threads = argc > 6 ? std::atoi(argv[6]) : 2;
    settings.software = "Zoetrope";
    settings.metadata = {{"prompt", "frames of bench_encode"}};
    std::vector<std::uint8_t> frame(3 * static_cast<std::size_t>(settings.width) * static_cast<std::size_t>(settings.height));
    const double before = anonymous_mib();
    std::atomic<double> peak = before;
    const auto start = std::chrono::steady_clock::now();
    const auto writer = zoe::VideoWriter::open(argv[1], settings);
    // Its highest point may lie within finish(), where what is held is encoded.
    std::jthread look([&](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        peak = std::max(peak.load(), anonymous_mib());
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
      }
    });
    for (int i = 0; i < settings.frames; ++i) {
      if (std::fread(frame.data(), 1, frame.size(), stdin) != frame.size()) throw std::runtime_error("stdin ends too early");
      writer->write(frame);
    }
    writer->finish();
    look.request_stop();
    look.join();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const double stated = static_cast<double>(zoe::encoder_bytes(zoe::video_format(argv[1]), settings)) / 1048576;
    std::printf("%.3f s, %.1f MiB (%.1f stated)\n", seconds, peak - before, stated);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_encode: %s\n", error.what());
    return 1;
  }
}
