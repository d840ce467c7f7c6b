// Rates of the fused ops on the CPU at Wan's widths and row counts, beside the copies of the same moment.
//
//   bench_ops [OP...] [--width N]... [--rows N]... [--dtype f32|bf16] [--threads N] [--seconds S] [--processor-time] [--quick]
//   [--list] [--serve]
//
// Every case is checked before it is timed: the compiled plan's bytes equal the uncompiled plan's and those of the row-blocked
// interpreter, and rows from all over the result agree with the reference interpreter in f64. Then, in turn: both copies, the
// compiled plan, the row-blocked interpreter, the uncompiled plan. One JSON line a case: least, median and largest time of each;
// GB/s, from the median, of the bytes there are at least (every operand and result once); and the fraction of the better copy's
// GB/s (read and written bytes). Working sets that do not fit half the last cache take turns, so that none is found in it.
// `--serve` reads cases ("OP WIDTH ROWS DTYPE") from standard input and answers each with its line: compare_ops.py alternates with
// PyTorch in that way.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <omp.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/nearest.h"
#include "compiler/run.h"
#include "ir/interpreter.h"
#include "ops/channel_norm.h"
#include "ops/mul_add.h"
#include "ops/norm_scale_shift.h"
#include "ops/norm_tanh_mul_add.h"
#include "ops/norm_tanh_mul_add_norm_scale.h"
#include "ops/rms_norm.h"
#include "ops/rotary_interleaved.h"
#include "ops/rotary_split.h"
#include "ops/scale_residual_norm_scale_shift.h"
#include "ops/scale_shift.h"

namespace zoe {
namespace {

// Seconds of the clock on the wall, or of processor time: then other work on the cores counts less, and with more than one thread
// the spinning of those that wait counts too.
struct Clock {
  static inline bool processor = false;
  static double now() {
    timespec time{};
    clock_gettime(processor ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  }
};
double seconds_since(double start) { return Clock::now() - start; }

// ---- The ops -----------------------------------------------------------------------------------------------------------------

// Collects a case's operands: those with a row a token, and those that all rows share.
struct Operands {
  std::int64_t rows, width;
  DType dtype;
  std::vector<Value> inputs = {};
  std::vector<bool> per_row = {};

  Value add(std::string name, DType type, Shape shape, bool has_rows) {
    inputs.push_back(input(std::move(name), type, std::move(shape)));
    per_row.push_back(has_rows);
    return inputs.back();
  }
  Value tokens(std::string name) { return add(std::move(name), dtype, {1, rows, width}, true); }
  // As Wan's are: f32, one for all tokens.
  Value modulation(std::string name) { return add(std::move(name), DType::f32, {1, 1, width}, false); }
  Value weight(std::string name) { return add(std::move(name), dtype, {width}, false); }
  Value table(std::string name) { return add(std::move(name), DType::f32, {rows, 1, kHeadWidth}, true); }
  Value heads(const Value& x) const { return reshape(x, {1, rows, width / kHeadWidth, kHeadWidth}); }
  static constexpr std::int64_t kHeadWidth = 128;
};

struct Op {
  std::string_view name;
  bool of_channels;  // of the VAE: widths and rows are channels and pixels
  std::function<std::vector<Value>(Operands&)> build;
};

NormOptions norm_of(Norm kind) { return {.kind = kind}; }

std::vector<Op> make_ops() {
  std::vector<Op> ops;
  const auto add = [&](std::string_view name, std::function<std::vector<Value>(Operands&)> build) {
    ops.push_back({name, false, std::move(build)});
  };
  add("mul_add", [](Operands& o) {
    const Value a = o.tokens("a"), gate = o.modulation("gate"), c = o.tokens("c");
    return std::vector{mul_add(a, gate, c)};
  });
  add("scale_shift", [](Operands& o) {
    const Value x = o.tokens("x"), scale = o.modulation("scale"), shift = o.modulation("shift");
    return std::vector{scale_shift(x, scale, shift)};
  });
  for (const Norm kind : {Norm::layer, Norm::rms}) {
    const bool layer = kind == Norm::layer;
    add(layer ? "norm_scale_shift_layer" : "norm_scale_shift_rms", [kind](Operands& o) {
      const Value x = o.tokens("x"), scale = o.modulation("scale"), shift = o.modulation("shift");
      return std::vector{norm_scale_shift(x, scale, shift, norm_of(kind))};
    });
    add(layer ? "scale_residual_norm_scale_shift_layer" : "scale_residual_norm_scale_shift_rms", [kind](Operands& o) {
      const Value residual = o.tokens("residual"), x = o.tokens("x"), gate = o.modulation("gate"), scale = o.modulation("scale"),
                  shift = o.modulation("shift");
      const NormedResidual both = scale_residual_norm_scale_shift(residual, x, gate, scale, shift, norm_of(kind));
      return std::vector{both.y, both.residual};
    });
  }
  add("norm_tanh_mul_add", [](Operands& o) {
    const Value x = o.tokens("x"), scale = o.modulation("scale"), residual = o.tokens("residual");
    return std::vector{norm_tanh_mul_add(x, scale, residual, norm_of(Norm::rms))};
  });
  add("norm_tanh_mul_add_tokens", [](Operands& o) {  // a scale of each token's own: as many tanh as elements
    const Value x = o.tokens("x"), scale = o.tokens("scale"), residual = o.tokens("residual");
    return std::vector{norm_tanh_mul_add(x, scale, residual, norm_of(Norm::rms))};
  });
  add("norm_tanh_mul_add_norm_scale", [](Operands& o) {
    const Value x = o.tokens("x"), scale = o.modulation("scale"), residual = o.tokens("residual"), scale2 = o.modulation("scale2");
    const NormedTwice both = norm_tanh_mul_add_norm_scale(x, scale, residual, scale2, norm_of(Norm::rms));
    return std::vector{both.y, both.y2};
  });
  add("rms_norm", [](Operands& o) {
    const Value x = o.tokens("x"), weight = o.weight("weight");
    return std::vector{rms_norm(x, weight, 1e-6)};
  });
  add("rms_norm_rotary_interleaved", [](Operands& o) {  // q and k of a Wan block
    const Value x = o.tokens("x"), weight = o.weight("weight"), cos = o.table("cos"), sin = o.table("sin");
    return std::vector{rotary_interleaved(o.heads(rms_norm(x, weight, 1e-6)), cos, sin)};
  });
  add("rotary_split", [](Operands& o) {
    const Value x = o.tokens("x"), cos = o.table("cos"), sin = o.table("sin");
    return std::vector{rotary_split(o.heads(x), cos, sin)};
  });
  add("block_boundary", [](Operands& o) {  // a block's closing mul_add and the next one's opening norm
    const Value a = o.tokens("a"), gate = o.modulation("gate"), c = o.tokens("c"), scale = o.modulation("scale"),
                shift = o.modulation("shift");
    const Value stream = mul_add(a, gate, c);
    return std::vector{norm_scale_shift(stream, scale, shift), stream};
  });
  add("gelu_tanh_product", [](Operands& o) {  // of a gated feed-forward, as umT5's
    const Value a = o.tokens("a"), b = o.tokens("b");
    return std::vector{cast(gelu_tanh(cast(a, DType::f32)) * cast(b, DType::f32), o.dtype)};
  });
  ops.push_back({"channel_norm_silu", true, [](Operands& o) {
                   const Value x = o.tokens("x"), gamma = o.weight("gamma");
                   return std::vector{cast(silu(cast(channel_norm(x, gamma), DType::f32)), o.dtype)};
                 }});
  return ops;
}

const std::vector<std::int64_t> kWidths = {1536, 3072, 5120}, kRows = {512, 2550, 8192, 32760};
// Channels of the full-size VAE's levels; frames of 128x128 and 256x256 pixels, and six of those.
const std::vector<std::int64_t> kChannels = {96, 192, 384}, kPixels = {16384, 65536, 393216};

struct Options {
  std::vector<std::string> ops = {}, dtypes = {"f32", "bf16"};
  std::vector<std::int64_t> widths = {}, rows = {};
  int threads = 2, most_runs = 15;
  double seconds = 0.4, memory_gib = 12;
  bool quick = false, list = false, serve = false;
};

struct Case {
  const Op* op;
  std::int64_t width, rows;
  DType dtype;
  friend bool operator==(const Case&, const Case&) = default;
};

// ---- Copies --------------------------------------------------------------------------------------------------------------------

#if defined(__x86_64__)
// Whole blocks of 64 bytes from and to such addresses, past the caches.
__attribute__((target("avx512f"))) void stream_avx512(const std::byte* src, std::byte* dst, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; i += 64)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(dst + i), _mm512_load_si512(reinterpret_cast<const __m512i*>(src + i)));
  _mm_sfence();
}
__attribute__((target("avx"))) void stream_avx(const std::byte* src, std::byte* dst, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; i += 32)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(dst + i), _mm256_load_si256(reinterpret_cast<const __m256i*>(src + i)));
  _mm_sfence();
}
#endif

void streaming_copy(const std::byte* src, std::byte* dst, std::size_t bytes) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return stream_avx512(src, dst, bytes);
  if (__builtin_cpu_supports("avx")) return stream_avx(src, dst, bytes);
#endif
  std::memcpy(dst, src, bytes);
}

// Both copies of the same memory, each thread its own half.
class Copies {
 public:
  Copies(Platform& platform, int threads) : threads_(threads) {
    src_ = platform.allocate(kBytes, "copy");
    dst_ = platform.allocate(kBytes, "copy");
    std::memset(src_->data, 1, kBytes);  // else all its pages are one page of zeros
    with_memcpy();
    with_streams();
  }
  static constexpr std::size_t kBytes = std::size_t{256} << 20;
  static constexpr double kMoved = 2.0 * kBytes;  // read and written

  double with_memcpy() {
    return timed([](const std::byte* s, std::byte* d, std::size_t n) { std::memcpy(d, s, n); });
  }
  double with_streams() { return timed(streaming_copy); }

 private:
  template <class Copy>
  double timed(const Copy& copy) {
    const double start = Clock::now();
#pragma omp parallel num_threads(threads_)
    {
      const auto team = static_cast<std::size_t>(omp_get_num_threads()), me = static_cast<std::size_t>(omp_get_thread_num());
      const std::size_t begin = kBytes / 64 * me / team * 64, end = kBytes / 64 * (me + 1) / team * 64;
      copy(static_cast<const std::byte*>(src_->data) + begin, static_cast<std::byte*>(dst_->data) + begin, end - begin);
    }
    return seconds_since(start);
  }

  int threads_;
  std::shared_ptr<Buffer> src_, dst_;
};

// ---- Cases ---------------------------------------------------------------------------------------------------------------------

std::string commit() {
  std::string text;
  if (FILE* pipe = popen("git describe --always --dirty --abbrev=12 --exclude '*' 2>/dev/null", "r")) {
    for (int c = std::fgetc(pipe); c != EOF && c != '\n'; c = std::fgetc(pipe)) text += static_cast<char>(c);
    pclose(pipe);
  }
  return text.empty() ? "unknown" : text;
}

struct Times {
  std::vector<double> seconds = {};
  double least() const { return *std::min_element(seconds.begin(), seconds.end()); }
  double largest() const { return *std::max_element(seconds.begin(), seconds.end()); }
  double median() const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
};

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options),
        platform_(open_platform("cpu", {.threads = options.threads})),
        interpreting_(open_platform("cpu", {.threads = options.threads, .compiler = "none"})),
        stream_(platform_->make_stream()),
        weights_(*platform_,
                 [](const std::string& name) -> WeightPtr { fail(ErrorKind::internal, "bench_ops", "no weight {}.", name); }),
        copies_(*platform_, options.threads),
        commit_(commit()) {
    std::mt19937 generator(1);
    std::normal_distribution<float> normal;
    pool_.resize(kPool);
    for (float& value : pool_) value = normal(generator);
    narrow_pool_.resize(kPool);
    convert(pool_.data(), DType::f32, narrow_pool_.data(), DType::bf16, kPool);
  }

  // The case's line.
  std::string measure(const Case& wanted) {
    if (!case_ || !(*case_ == wanted)) {
      case_.reset();
      if (const std::string reason = prepare(wanted); !reason.empty())
        return fmt::format(R"({{{}, "skipped": "{}"}})", head(wanted), reason);
      check_results(wanted);
      case_ = wanted;
    }
    time_all();
    return line(wanted);
  }

 private:
  enum Way { compiled, row_blocks, uncompiled, ways };
  static constexpr std::size_t kPool = 1000003;  // elements: rows of different sets and operands begin at different ones

  // Operands of round sizes one behind the other would meet in the same sets of the caches, which those of a model do not.
  static std::size_t aligned(std::size_t bytes) { return (bytes + 4095) / 4096 * 4096 + 65 * 64; }

  std::string head(const Case& c) const {
    return fmt::format(R"("commit": "{}", "cpu": "{}", "cores": {}, "op": "{}", "width": {}, "rows": {}, "dtype": "{}")", commit_,
                       platform_->info().name, options_.threads, c.op->name, c.width, c.rows, name(c.dtype));
  }

  // Compiles the three plans and fills the operands; why not, if they do not fit.
  std::string prepare(const Case& c) {
    operands_ = Operands{c.rows, c.width, c.dtype};
    const std::vector<Value> results = c.op->build(operands_);
    const Graph graph = make_graph(std::string(c.op->name), operands_.inputs, results);
    plans_.clear();
    plans_.push_back(compile(graph, *platform_));
    plans_.push_back(compile(graph, *interpreting_));
    plans_.push_back(compile(graph, *platform_, {.compile = false}));
    bytes_ = 0;
    for (const Value& value : graph.inputs) bytes_ += value.type().size_bytes();
    for (const Value& value : graph.outputs) bytes_ += value.type().size_bytes();
    const std::size_t cache = platform_->info().cache_bytes;
    sets_ = bytes_ * 2 <= cache ? 1 : std::clamp<std::size_t>((4 * cache + bytes_ - 1) / bytes_, 2, 16);
    // Of one large set, a second result is enough: to compare by.
    std::size_t workspace = 0, each_inputs = 0, each_outputs = 0;
    for (const Plan& plan : plans_) workspace = std::max(workspace, plan.workspace_bytes);
    for (const Value& value : graph.inputs) each_inputs += aligned(value.type().size_bytes());
    for (const Value& value : graph.outputs) each_outputs += aligned(value.type().size_bytes());
    const std::size_t output_sets = std::max<std::size_t>(sets_, 2);
    if (bytes_ > kLarge) sets_ = 1;
    const std::size_t total = sets_ * each_inputs + output_sets * each_outputs + aligned(workspace + 4);
    const auto limit = static_cast<std::size_t>(options_.memory_gib * 1073741824.0);
    const std::size_t free = platform_->free_bytes() + (arena_ ? arena_->size_bytes : 0);
    if (total > std::min(limit, free / 10 * 9))
      return fmt::format("needs {:.1f} GiB, of {:.1f} allowed and {:.1f} free", static_cast<double>(total) / 1073741824.0,
                         options_.memory_gib, static_cast<double>(free) / 1073741824.0);
    if (!arena_ || arena_->size_bytes < total) {
      arena_.reset();
      arena_ = platform_->allocate(total, "operands");
    }
    std::size_t at = 0;
    const auto take = [&](const Type& type) {
      Tensor tensor{type, arena_, at};
      at += aligned(type.size_bytes());
      return tensor;
    };
    workspace_ = take({DType::f32, {static_cast<std::int64_t>(workspace / 4 + 1)}});
    inputs_.assign(sets_, {});
    outputs_.assign(output_sets, {});
    std::size_t start = 0;
    for (auto& set : inputs_)
      for (const Value& value : graph.inputs) fill(set.emplace_back(take(value.type())), start += 7919);
    for (auto& set : outputs_)
      for (const Value& value : graph.outputs) set.push_back(take(value.type()));
    return {};
  }
  static constexpr std::size_t kLarge = std::size_t{192} << 20;  // a set of so many bytes is in no cache when its turn comes again

  void fill(const Tensor& tensor, std::size_t start) {
    const std::size_t size = size_of(tensor.type.dtype);
    const std::byte* pool =
        size == 4 ? reinterpret_cast<const std::byte*>(pool_.data()) : reinterpret_cast<const std::byte*>(narrow_pool_.data());
    std::byte* to = tensor.slot().data();
    for (std::size_t done = 0, count = static_cast<std::size_t>(tensor.type.shape.count()); done < count;) {
      const std::size_t from = (start + done) % kPool, n = std::min(kPool - from, count - done);
      std::memcpy(to + done * size, pool + from * size, n * size);
      done += n;
    }
  }

  double run_once(Way way, std::size_t set) {
    const double start = Clock::now();
    run(plans_[way], *stream_, weights_, inputs_[set % sets_], outputs_[set % outputs_.size()], workspace_);
    return seconds_since(start);
  }

  double value_at(const Tensor& tensor, std::int64_t element) const {
    float value = 0;
    const std::byte* at = tensor.slot().data() + static_cast<std::size_t>(element) * size_of(tensor.type.dtype);
    convert(at, tensor.type.dtype, &value, DType::f32, 1);
    return value;
  }

  void check_results(const Case& c) {
    const auto where = fmt::format("{} {}x{} {}", c.op->name, c.rows, c.width, name(c.dtype));
    for (auto& set : outputs_)
      for (const Tensor& tensor : set) std::memset(tensor.slot().data(), 0xff, tensor.size_bytes());  // NaN
    const auto into = [&](Way way, std::size_t set) {
      run(plans_[way], *stream_, weights_, inputs_[0], outputs_[set], workspace_);
      stream_->synchronize();
    };
    const auto same = [&](std::string_view way) {
      for (std::size_t i = 0; i < outputs_[0].size(); ++i)
        check(std::memcmp(outputs_[0][i].slot().data(), outputs_[1][i].slot().data(), outputs_[0][i].size_bytes()) == 0,
              ErrorKind::internal, where, "result {} of the {} run differs from the uncompiled run's.", i, way);
    };
    into(uncompiled, 0);
    into(row_blocks, 1);
    same("row-blocked");
    into(compiled, 1);
    same("compiled");
    // The same op over some of the rows, by the interpreter.
    std::vector<std::int64_t> rows = {0, 1, c.rows / 2 - 1, c.rows / 2, c.rows - 2, c.rows - 1};
    for (std::int64_t row = 37; row < c.rows; row += c.rows / 5) rows.push_back(row);
    Operands few{static_cast<std::int64_t>(rows.size()), c.width, c.dtype};
    const std::vector<Value> results = c.op->build(few);
    const auto gathered = [&](const Tensor& tensor, Shape shape, bool per_row) {
      ReferenceTensor reference{std::move(shape), {}};
      const std::int64_t n = tensor.type.shape.count() / (per_row ? c.rows : 1);
      for (std::size_t r = 0; r < (per_row ? rows.size() : 1); ++r)
        for (std::int64_t i = 0; i < n; ++i) reference.values.push_back(value_at(tensor, (per_row ? rows[r] * n : 0) + i));
      return reference;
    };
    std::vector<ReferenceTensor> inputs;
    for (std::size_t i = 0; i < few.inputs.size(); ++i)
      inputs.push_back(gathered(inputs_[0][i], few.inputs[i].shape(), few.per_row[i]));
    const std::vector<ReferenceTensor> expected =
        interpret(make_graph("rows", few.inputs, results), inputs, [](const Node&) { return ReferenceTensor{}; });
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const ReferenceTensor got = gathered(outputs_[1][i], expected[i].shape, true);
      double largest = 0;
      for (const double value : expected[i].values) largest = std::max(largest, std::abs(value));
      check(largest > 0, ErrorKind::internal, where, "all of result {} is zero.", i);
      // f32: what roundings add up to. bf16: also two units in the last place, the stored value's and that of what it is made of.
      const double units = c.dtype == DType::bf16 ? 2 * 0x1p-8 : 0;
      for (std::size_t e = 0; e < got.values.size(); ++e)
        check(std::abs(got.values[e] - expected[i].values[e]) <=
                  4e-6 * largest + units * std::max(std::abs(expected[i].values[e]), 0x1p-4 * largest),
              ErrorKind::internal, where, "element {} of result {} in the rows looked at: got {}, expected {}.", e, i,
              got.values[e], expected[i].values[e]);
    }
  }

  void time_all() {
    for (Times& times : times_) times.seconds.clear();
    memcpy_.seconds.clear(), streams_.seconds.clear();
    std::size_t set = 0;
    for (int way = 0; way < ways; ++way) run_once(static_cast<Way>(way), set++);
    const double start = Clock::now();
    const int least_runs = options_.quick ? 1 : 3;
    for (int turn = 0; turn < least_runs || (turn < options_.most_runs && seconds_since(start) < options_.seconds); ++turn) {
      if (turn < 5) {
        memcpy_.seconds.push_back(copies_.with_memcpy());
        streams_.seconds.push_back(copies_.with_streams());
        if (sets_ == 1) run_once(compiled, set);  // back into the caches, where a small case has its operands
      }
      for (int again = 0; again < 2; ++again) times_[compiled].seconds.push_back(run_once(compiled, set++));
      times_[row_blocks].seconds.push_back(run_once(row_blocks, set++));
      if (turn < 2) times_[uncompiled].seconds.push_back(run_once(uncompiled, set++));
    }
  }

  static std::string milliseconds(const Times& times) {
    std::string all;
    for (const double seconds : times.seconds) all += fmt::format("{}{:.4f}", all.empty() ? "" : ", ", seconds * 1e3);
    return fmt::format(R"("median_ms": {:.4f}, "min_ms": {:.4f}, "max_ms": {:.4f}, "ms": [{}])", times.median() * 1e3,
                       times.least() * 1e3, times.largest() * 1e3, all);
  }

  std::string line(const Case& c) const {
    const double copy = Copies::kMoved / std::min(memcpy_.median(), streams_.median());
    std::string text = fmt::format(R"({{{}, "bytes": {}, "sets": {}, "kernels": {}, "copy_bytes": {}, "copy_gbs": {:.2f})", head(c),
                                   bytes_, sets_, plans_[compiled].steps.size(), 2 * Copies::kBytes, copy * 1e-9);
    text += fmt::format(R"(, "copy_memcpy": {{{}}}, "copy_streaming": {{{}}})", milliseconds(memcpy_), milliseconds(streams_));
    constexpr std::array<std::string_view, ways> kNames = {"compiled", "row_blocks", "uncompiled"};
    for (int way = 0; way < ways; ++way) {
      const Times& times = times_[static_cast<std::size_t>(way)];
      const double rate = static_cast<double>(bytes_) / times.median();
      text += fmt::format(R"(, "{}": {{{}, "gbs": {:.2f}, "of_copy": {:.3f}}})", kNames[static_cast<std::size_t>(way)],
                          milliseconds(times), rate * 1e-9, rate / copy);
    }
    return text + "}";
  }

  Options options_;
  std::unique_ptr<Platform> platform_, interpreting_;
  std::unique_ptr<Stream> stream_;
  WeightStore weights_;
  Copies copies_;
  std::string commit_;
  std::vector<float> pool_;
  std::vector<std::uint16_t> narrow_pool_;
  // The case prepared last.
  std::optional<Case> case_;
  Operands operands_{};
  std::vector<Plan> plans_;
  std::size_t bytes_ = 0, sets_ = 1;
  std::shared_ptr<Buffer> arena_;
  Tensor workspace_;
  std::vector<std::vector<Tensor>> inputs_, outputs_;
  std::array<Times, ways> times_;
  Times memcpy_, streams_;
};

const Op& find_op(const std::vector<Op>& ops, const std::string& wanted) {
  std::vector<std::string> names;
  for (const Op& op : ops) {
    if (op.name == wanted) return op;
    names.emplace_back(op.name);
  }
  fail(ErrorKind::invalid_argument, "bench_ops", "got op {}, expected one of {}.", wanted, fmt::join(names, ", "));
}

std::vector<Case> cases(const std::vector<Op>& ops, const Options& options) {
  std::vector<const Op*> wanted;
  for (const std::string& name : options.ops) wanted.push_back(&find_op(ops, name));
  if (wanted.empty())
    for (const Op& op : ops) wanted.push_back(&op);
  std::vector<Case> all;
  for (const Op* op : wanted)
    for (const std::string& dtype : options.dtypes)
      for (const std::int64_t width : !options.widths.empty() ? options.widths : op->of_channels ? kChannels : kWidths)
        for (const std::int64_t rows : !options.rows.empty() ? options.rows : op->of_channels ? kPixels : kRows) {
          if (options.quick && (width != (op->of_channels ? 96 : 1536) || rows != (op->of_channels ? 65536 : 2550))) continue;
          all.push_back({op, width, rows, dtype == "f32" ? DType::f32 : DType::bf16});
        }
  return all;
}

void serve(const std::vector<Op>& ops, Bench& bench) {
  for (std::string request; std::getline(std::cin, request);) {
    std::istringstream words(request);
    std::string op, dtype;
    Case wanted{};
    words >> op >> wanted.width >> wanted.rows >> dtype;
    check(static_cast<bool>(words) && (dtype == "f32" || dtype == "bf16"), ErrorKind::invalid_argument, "bench_ops",
          "got request \"{}\", expected OP WIDTH ROWS DTYPE.", request);
    wanted.op = &find_op(ops, op);
    wanted.dtype = dtype == "f32" ? DType::f32 : DType::bf16;
    fmt::print("{}\n", bench.measure(wanted));
    std::fflush(stdout);
  }
}

void run_all(const Options& options) {
  const std::vector<Op> ops = make_ops();
  const std::vector<Case> wanted = cases(ops, options);
  if (options.list) {
    for (const Case& c : wanted) fmt::print("{} {} {} {}\n", c.op->name, c.width, c.rows, name(c.dtype));
    return;
  }
  Bench bench(options);
  if (options.serve) return serve(ops, bench);
  for (const Case& c : wanted) {
    fmt::print("{}\n", bench.measure(c));
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace zoe

int main(int argc, char** argv) {
  zoe::Options options;
  CLI::App app("Rates of the fused ops on the CPU, beside the copies of the same moment");
  app.add_option("op", options.ops, "default: all");
  app.add_option("--width", options.widths)->check(CLI::Range(2, 1 << 20));
  app.add_option("--rows", options.rows)->check(CLI::Range(64, 1 << 24));
  app.add_option("--dtype", options.dtypes)->check(CLI::IsMember({"f32", "bf16"}));
  app.add_option("--threads", options.threads, "default 2")->check(CLI::Range(1, 1024));
  app.add_option("--seconds", options.seconds, "a case is timed at least three times, and about so long")
      ->check(CLI::Range(0.0, 60.0));
  app.add_option("--memory", options.memory_gib, "GiB that operands may take (default 12)")->check(CLI::Range(0.1, 1024.0));
  app.add_flag("--processor-time", zoe::Clock::processor, "not the time that passes: for a machine at work; give it one thread");
  app.add_flag("--quick", options.quick, "one width and one row count, timed once");
  app.add_flag("--list", options.list, "the cases, as --serve reads them");
  app.add_flag("--serve", options.serve, "answers cases from standard input");
  CLI11_PARSE(app, argc, argv);
  if (options.quick) options.most_runs = 1;
  try {
    zoe::run_all(options);
  } catch (const zoe::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
