// `zoe bench load`: a transformer's single file to packed weights on the device, beside a plain copy of as many bytes.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <future>
#include <map>
#include <nlohmann/json.hpp>
#include <span>

#include "apps/cli/commands.h"
#include "apps/cli/timing.h"
#include "base/error.h"
#include "base/files.h"
#include "checkpoint/random_weight.h"
#include "checkpoint/tensor_file.h"
#include "compiler/passes/keep_stored.h"
#include "compiler/weights.h"
#include "pipeline/component.h"
#include "pipeline/parts.h"

namespace zoe::cli {

namespace {

using Clock = std::chrono::steady_clock;

using Format = TensorFile::Format;

// The kind of file that has matrices in an encoding, or all in bf16 (null).
Format format_of(const Encoding* stored) {
  return stored && TensorFile::has_type(Format::gguf, stored->name) ? Format::gguf : Format::safetensors;
}

// The tensors of a transformer. Bytes are a piece of made-up ones over and over, as making all would take longer than loading them.
void write_file(const std::filesystem::path& path, const std::vector<ExpectedTensor>& tensors, const Encoding* stored) {
  constexpr std::int64_t kPiece = std::int64_t{1} << 24;
  const auto piece_of = [](const WeightReader& made, const Encoding& encoding) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(encoding.size_bytes(made.count())));
    if (encoding.dtype) made.read(0, made.count(), *encoding.dtype, bytes.data());
    else made.read_blocks(0, made.count(), bytes.data());
    return bytes;
  };
  const Encoding &f32 = *find_encoding("F32"), &bf16 = *find_encoding("BF16");
  const bool is_gguf = format_of(stored) == Format::gguf;
  const auto encoding_of = [&](const ExpectedTensor& tensor) -> const Encoding& {
    const bool is_matrix = tensor.shape.rank() == 2;
    return stored && is_matrix && tensor.shape.dim(1) % stored->block_elements == 0 ? *stored : is_gguf ? f32 : bf16;
  };
  std::map<const Encoding*, std::vector<std::byte>> pieces;
  std::vector<TensorToStore> list;
  for (const ExpectedTensor& tensor : tensors) {
    const Encoding& encoding = encoding_of(tensor);
    list.push_back({tensor.name, std::string(encoding.name), tensor.shape,
                    static_cast<std::size_t>(encoding.size_bytes(tensor.shape.count()))});
    std::vector<std::byte>& piece = pieces[&encoding];
    if (piece.empty())
      piece = piece_of(encoding.dtype ? *random_weight(0, "a.weight", {kPiece / 4096, 4096})
                                      : *random_stored_weight(0, "a.weight", {kPiece / 4096, 4096}, encoding),
                       encoding);
  }
  TensorFile file(
      path, format_of(stored), list,
      is_gguf ? std::map<std::string, std::string>{{"general.architecture", "wan"}} : std::map<std::string, std::string>{});
  for (const ExpectedTensor& tensor : tensors) {
    const Encoding& encoding = encoding_of(tensor);
    const std::span<const std::byte> piece = pieces.at(&encoding);
    auto left = static_cast<std::size_t>(encoding.size_bytes(tensor.shape.count()));
    for (std::size_t now; left > 0; left -= now) file.write(piece.first(now = std::min(left, piece.size())));
  }
  file.close();
}

constexpr std::size_t kAtOnce = std::size_t{4} << 20;  // as a load does

double seconds_by_threads(std::size_t threads, const std::function<void()>& work) {
  const auto begin = Clock::now();
  std::vector<std::future<void>> others;  // whose errors come here
  while (others.size() + 1 < threads) others.push_back(std::async(std::launch::async, work));
  work();
  for (std::future<void>& other : others) other.get();
  return seconds_since(begin);
}

// A file's bytes from the system's cache to buffers that are there already, by as many threads as load weights.
double copy_seconds(Platform& platform, const MappedFile& file, const std::vector<std::shared_ptr<Buffer>>& buffers,
                    std::size_t piece, std::size_t threads) {
  std::atomic<std::size_t> next{0};
  return seconds_by_threads(threads, [&] {
    const auto stream = platform.make_stream();
    for (std::size_t from; (from = kAtOnce * next++) < file.bytes().size();)
      platform.upload(*stream, file.bytes().data() + from, {buffers[from / piece].get(), from % piece},
                      std::min(kAtOnce, file.bytes().size() - from));
    stream->synchronize();
  });
}

// The two halves of that apart: to memory of this process that stays in its caches, and from page-locked memory to the device.
double read_seconds(const MappedFile& file, std::size_t threads) {
  std::atomic<std::size_t> next{0};
  return seconds_by_threads(threads, [&] {
    std::vector<std::byte> to(kAtOnce);
    for (std::size_t from; (from = kAtOnce * next++) < file.bytes().size();)
      std::memcpy(to.data(), file.bytes().data() + from, std::min(kAtOnce, file.bytes().size() - from));
  });
}
double bus_seconds(Platform& platform, const HostBuffer& from, const std::vector<std::shared_ptr<Buffer>>& buffers,
                   std::size_t bytes, std::size_t piece, std::size_t threads) {
  std::atomic<std::size_t> next{0};
  return seconds_by_threads(threads, [&] {
    const auto stream = platform.make_stream();
    for (std::size_t to; (to = kAtOnce * next++) < bytes;)
      platform.upload_later(*stream, from, 0, {buffers[to / piece].get(), to % piece}, std::min(kAtOnce, bytes - to));
    stream->synchronize();
  });
}

}  // namespace

int bench_load(const LoadBench& bench) {
  for (const Encoding* const stored : bench.stored)
    check(TensorFile::has_type(format_of(stored), stored->name), ErrorKind::invalid_argument, "--stored",
          "got {}, expected an encoding that files can be written in: F8_E4M3, F8_E5M2, Q8_0, Q6_K, Q5_0, Q4_K or Q4_0.",
          stored->name);
  const auto platform = open(bench.device);
  const DType dtype = chosen_dtype(bench.device, *platform);
  check(!bench.member.empty(), ErrorKind::invalid_argument, "--size",
        "got toy, expected a published size: the toy's file is small.");
  ModelConfig model = *published_model(bench.member);
  model.random_seed.reset();
  std::vector<const Encoding*> forms{nullptr};
  forms.insert(forms.end(), bench.stored.begin(), bench.stored.end());
  for (const Encoding* const stored : forms) {
    const std::string name(stored ? stored->name : "BF16");
    const PendingOutput output(
        std::filesystem::path(bench.folder) /
            fmt::format("zoe-bench-load-{}{}", name, format_of(stored) == Format::gguf ? ".gguf" : ".safetensors"),
        PendingOutput::Kind::file, "--folder");
    auto begin = Clock::now();
    write_file(output.path(), tensors_of(model, "transformer"), stored);
    const double write_seconds = seconds_since(begin);
    model.parts.insert_or_assign("transformer", output.path());
    begin = Clock::now();
    const ComponentWeights weights = open_weights(model, "transformer");
    const double open_seconds = seconds_since(begin);
    std::vector<Graph> graphs;
    for (const char* part : {"text-keys", "transformer"})
      for (const PartGraph& traced : trace_part(model, part, dtype, {64, 64, 1, 32}))
        graphs.push_back(!bench.compile.keep_stored
                             ? traced.graph
                             : keep_stored(
                                   traced.graph, [&](const std::string& tensor) { return weights(tensor)->storage(); },
                                   [&](const Encoding& encoding) { return platform->keeps_stored(encoding); }));
    const std::vector<Plan> plans = compile(graphs, *platform, bench.compile);
    std::vector<double> load, copy, read, bus;
    std::vector<LoadTimes> times;  // of each load
    double first_load = 0;
    const MappedFile file(output.path());
    // Pieces are whole portions, so that none of these goes to two buffers.
    const std::size_t bytes = file.bytes().size(), piece = 64 * kAtOnce;
    std::size_t packed = 0;
    for (std::int64_t run = 0; run <= bench.repeat; ++run) {  // the first sets up
      LoadTimes now;
      {
        WeightStore store(*platform, [&](const std::string& tensor) { return weights(tensor); });
        begin = Clock::now();
        for (const Plan& plan : plans) store.load(plan, {.times = &now});
        const double seconds = seconds_since(begin);
        if (run == 0) first_load = seconds;
        else load.push_back(seconds), times.push_back(now);
        packed = store.size_bytes();
      }
      std::vector<std::shared_ptr<Buffer>> buffers;
      for (std::size_t at = 0; at < bytes; at += piece) buffers.push_back(platform->allocate(std::min(piece, bytes - at), "copy"));
      const double first = copy_seconds(*platform, file, buffers, piece, now.threads);  // pages of this process come with it
      const double seconds = std::min(first, copy_seconds(*platform, file, buffers, piece, now.threads));
      if (run == 0) continue;
      copy.push_back(seconds);
      read.push_back(read_seconds(file, now.threads));
      if (!platform->info().host_addressable)
        bus.push_back(bus_seconds(*platform, *platform->allocate_host(kAtOnce, "copy", HostPages::locked), buffers, bytes, piece,
                                  now.threads));
    }
    const auto time_of = [&](double LoadTimes::*what) {
      std::vector<double> values;
      for (const LoadTimes& each : times) values.push_back(each.*what);
      return median(values);
    };
    const auto rate = [&](double seconds) { return static_cast<double>(bytes) / seconds * 1e-9; };
    nlohmann::ordered_json line = {{"what", "load"},
                                   {"model", bench.member},
                                   {"stored", name},
                                   {"platform", platform->info().platform},
                                   {"device", platform->info().name},
                                   {"dtype", zoe::name(dtype)},
                                   {"threads", times.front().threads},
                                   {"file_mib", static_cast<double>(bytes) / 1048576.0},
                                   {"weights_mib", static_cast<double>(packed) / 1048576.0},
                                   {"write_s", write_seconds},
                                   {"open_s", open_seconds},
                                   {"first_load_s", first_load},
                                   {"load_s", median(load)},
                                   {"copy_s", median(copy)},
                                   {"load_gb_per_s", rate(median(load))},
                                   {"copy_gb_per_s", rate(median(copy))},
                                   {"share_of_copy", median(copy) / median(load)}};
    // What a load's threads did; what they wait for each other at the end is missing in the sum.
    line["load_took_s"] = {{"allocate", time_of(&LoadTimes::allocate)}, {"set_up", time_of(&LoadTimes::set_up)},
                           {"fetch", time_of(&LoadTimes::fetch)},       {"read", time_of(&LoadTimes::read)},
                           {"upload", time_of(&LoadTimes::upload)},     {"finish", time_of(&LoadTimes::finish)}};
    line["read_gb_per_s"] = rate(median(read));
    if (!bus.empty()) line["bus_gb_per_s"] = rate(median(bus));
    fmt::print("{}\n", line.dump());
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace zoe::cli
