// `zoe bench load`: a transformer's single file to packed weights on the device, beside a plain copy of as many bytes.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
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

// The tensors of a transformer: matrices in an encoding, as a GGUF file, or all in bf16, as safetensors. Bytes are a piece of
// made-up ones over and over, as making all would take longer than loading them.
void write_file(const std::filesystem::path& path, const std::vector<ExpectedTensor>& tensors, const Encoding* stored) {
  constexpr std::int64_t kPiece = std::int64_t{1} << 24;
  const auto piece_of = [](const WeightReader& made, const Encoding& encoding) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(encoding.size_bytes(made.count())));
    if (encoding.dtype) made.read(0, made.count(), *encoding.dtype, bytes.data());
    else made.read_blocks(0, made.count(), bytes.data());
    return bytes;
  };
  const Encoding &f32 = *find_encoding("F32"), &bf16 = *find_encoding("BF16");
  const auto encoding_of = [&](const ExpectedTensor& tensor) -> const Encoding& {
    const bool is_matrix = tensor.shape.rank() == 2;
    if (!stored) return bf16;
    return is_matrix && tensor.shape.dim(1) % stored->block_elements == 0 ? *stored : f32;
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
      path, stored ? TensorFile::Format::gguf : TensorFile::Format::safetensors, list,
      stored ? std::map<std::string, std::string>{{"general.architecture", "wan"}} : std::map<std::string, std::string>{});
  for (const ExpectedTensor& tensor : tensors) {
    const Encoding& encoding = encoding_of(tensor);
    const std::span<const std::byte> piece = pieces.at(&encoding);
    auto left = static_cast<std::size_t>(encoding.size_bytes(tensor.shape.count()));
    for (std::size_t now; left > 0; left -= now) file.write(piece.first(now = std::min(left, piece.size())));
  }
  file.close();
}

// A file's bytes from the system's cache to buffers that are there already, by as many threads as load weights.
double copy_seconds(Platform& platform, const MappedFile& file, const std::vector<std::shared_ptr<Buffer>>& buffers,
                    std::size_t piece, unsigned threads) {
  const auto begin = Clock::now();
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    const auto stream = platform.make_stream();
    constexpr std::size_t kAtOnce = std::size_t{4} << 20;
    for (std::size_t i; (i = next++) < buffers.size();)
      for (std::size_t at = 0; at < buffers[i]->size_bytes; at += kAtOnce) {
        const std::size_t from = i * piece + at;
        if (from >= file.bytes().size()) break;
        const std::size_t now = std::min({kAtOnce, buffers[i]->size_bytes - at, file.bytes().size() - from});
        platform.upload(*stream, file.bytes().data() + from, {buffers[i].get(), at}, now);
      }
    stream->synchronize();
  };
  std::vector<std::future<void>> others;  // whose errors come here
  while (others.size() + 1 < threads) others.push_back(std::async(std::launch::async, work));
  work();
  for (std::future<void>& other : others) other.get();
  return seconds_since(begin);
}

}  // namespace

int bench_load(const LoadBench& bench) {
  const auto platform = open(bench.device);
  const DType dtype = chosen_dtype(bench.device, *platform);
  check(!bench.member.empty(), ErrorKind::invalid_argument, "--size",
        "got toy, expected a published size: the toy's file is small.");
  ModelConfig model = *published_model(bench.member);
  model.random_seed.reset();
  std::vector<const Encoding*> forms{nullptr};
  forms.insert(forms.end(), bench.stored.begin(), bench.stored.end());
  const unsigned threads = std::min(8u, std::max(1u, std::thread::hardware_concurrency()));
  for (const Encoding* const stored : forms) {
    const std::string name(stored ? stored->name : "BF16");
    const PendingOutput output(
        std::filesystem::path(bench.folder) / fmt::format("zoe-bench-load-{}{}", name, stored ? ".gguf" : ".safetensors"),
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
    std::vector<double> load, copy;
    const MappedFile file(output.path());
    const std::size_t bytes = file.bytes().size(), piece = std::size_t{256} << 20;
    std::size_t packed = 0;
    for (std::int64_t run = 0; run <= bench.repeat; ++run) {  // the first sets up
      {
        WeightStore store(*platform, [&](const std::string& tensor) { return weights(tensor); });
        begin = Clock::now();
        for (const Plan& plan : plans) store.load(plan);
        if (run > 0) load.push_back(seconds_since(begin));
        packed = store.size_bytes();
      }
      std::vector<std::shared_ptr<Buffer>> buffers;
      for (std::size_t at = 0; at < bytes; at += piece) buffers.push_back(platform->allocate(std::min(piece, bytes - at), "copy"));
      const double first = copy_seconds(*platform, file, buffers, piece, threads);  // pages of this process come with it
      const double seconds = std::min(first, copy_seconds(*platform, file, buffers, piece, threads));
      if (run > 0) copy.push_back(seconds);
    }
    const auto rate = [&](double seconds) { return static_cast<double>(bytes) / seconds * 1e-9; };
    const nlohmann::ordered_json line = {{"what", "load"},
                                         {"model", bench.member},
                                         {"stored", name},
                                         {"platform", platform->info().platform},
                                         {"device", platform->info().name},
                                         {"dtype", zoe::name(dtype)},
                                         {"threads", threads},
                                         {"file_mib", static_cast<double>(bytes) / 1048576.0},
                                         {"weights_mib", static_cast<double>(packed) / 1048576.0},
                                         {"write_s", write_seconds},
                                         {"open_s", open_seconds},
                                         {"load_s", median(load)},
                                         {"copy_s", median(copy)},
                                         {"load_gb_per_s", rate(median(load))},
                                         {"copy_gb_per_s", rate(median(copy))},
                                         {"share_of_copy", median(copy) / median(load)}};
    fmt::print("{}\n", line.dump());
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace zoe::cli
