// The commands of `zoe`. Each adds its options to `app` and returns what to run when it was chosen.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/encoding.h"
#include "compiler/options.h"
#include "pipeline/model_files.h"
#include "pipeline/request.h"
#include "pipeline/session.h"
#include "platform/platform.h"

namespace CLI {
class App;
class FormatterBase;
}  // namespace CLI

namespace zoe::cli {

using Command = std::function<int()>;  // the exit code

Command add_generate(CLI::App& app);
Command add_plan(CLI::App& app);
Command add_resume(CLI::App& app);
Command add_convert(CLI::App& app);
Command add_info(CLI::App& app);
Command add_platforms(CLI::App& app);
Command add_bench(CLI::App& app);
Command add_explain(CLI::App& app);
Command add_verify(CLI::App& app);
// Made from the parser of the whole program.
Command add_completion(CLI::App& app);
Command add_man(CLI::App& app);
Command add_request_fields(CLI::App& app);  // docs/requests.md
std::shared_ptr<CLI::FormatterBase> help_formatter();

// What a command is told to run, or the embedded model if that is nothing; `where` is how the command calls the model's path. Of a
// published model that is not here it is said how to download it.
ModelConfig open_model(const ModelFiles& files, std::string_view where);

// --transformer, --vae and the others of file_options().
void add_model_files(CLI::App& app, ModelFiles& files);

// Options several commands share.
struct DeviceOptions {
  std::string platform = "auto", dtype = "auto";
  int threads = 0;
  std::string cache_dir = {};
  std::string cuda_path = {};
  std::uint64_t memory_limit_bytes = 0;  // 0: none
};
void add_cuda_path(CLI::App& app, DeviceOptions& options);
void add_device_options(CLI::App& app, DeviceOptions& options);
PlatformOptions platform_options(const DeviceOptions& options);
std::unique_ptr<Platform> open(const DeviceOptions& options);
// "auto" is bf16 where its products are faster; a notice says if the device only emulates bf16.
DType chosen_dtype(const DeviceOptions& options, const Platform& platform);

// Options of fields of a request, under all their names; help shows the first and `fallback` (where empty, the table's) as what
// they are without it. Lists may be said several times.
void add_request_field(CLI::App& app, Request& request, const RequestField& field, std::string_view fallback = {});
void add_request_field(CLI::App& app, Request& request, std::string_view name, std::string_view fallback = {});

// --offload and --host-memory-limit.
void add_memory_options(CLI::App& app, SessionOptions& options);
// What generate and plan say of a request's memory: one line.
std::string memory_line(const MemoryStatement& memory);

// --json: what docs/json.md says, in place of text.
void add_json(CLI::App& app, bool& json);

// --compile, --override and --compile-exclude.
void add_compile_options(CLI::App& app, CompileOptions& options);

// `zoe bench session`: requests of one session, one after the other, a line of JSON each.
struct SessionBench {
  DeviceOptions device;
  CompileOptions compile;
  std::string model, image;  // image: none for a model of text alone
  std::int64_t height, width, num_frames, steps, repeat;
  std::optional<double> guidance_scale;
};
// What each stage of a run took, in its order.
nlohmann::ordered_json stages_json(const Timings& timings);
int bench_session(const SessionBench& bench);
int bench_devices(const SessionBench& bench);

// `zoe bench load`: a single file of the published member's transformer, made up in `folder`, in bf16 and in each of the encodings;
// a line of JSON each.
struct LoadBench {
  DeviceOptions device;
  CompileOptions compile;
  std::string member, folder;
  std::vector<const Encoding*> stored;
  std::int64_t repeat;
};
int bench_load(const LoadBench& bench);

// `zoe bench quality`: 8-bit products and attention beside exact ones: alone, on structured data, and in forwards of a model on its
// own latents; one line of JSON, of which docs/quality.py makes the tables of docs/quality.md.
struct QualityBench {
  DeviceOptions device;
  std::string model;
  Request request;
  int videos = 2;  // whole ones, each made in every way
};
int bench_quality(const QualityBench& bench);

// Numbers from the command line; the error names the flag, the text and the range.
std::int64_t parse_integer(std::string_view flag, const std::string& text, std::int64_t min, std::int64_t max);
double parse_number(std::string_view flag, const std::string& text, double min, double max);

extern const char* const kVersion;

}  // namespace zoe::cli
