// A session: a model on a platform, kept from request to request.
//
//   Session session(read_model("Wan2.2-T2V-A14B-Diffusers"), open_platform("auto"));
//   Job job = session.prepare(request);       // checks everything, compiles, states the memory; nothing runs yet
//   session.run(job, callbacks);              // frames of each video, in order
//
// What outlives a request stays here: open files, tokenizer, packed weights, compiled plans, tensors, captured graphs. A second
// request of the same size reads no weight and compiles nothing, whatever its prompt. Calls may come from several threads:
// prepare() and run() take turns, in the order they came. After an error, or a cancelled request, the session is as good as before.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/dtype.h"
#include "compiler/options.h"
#include "pipeline/callbacks.h"
#include "pipeline/request.h"
#include "pipeline/statement.h"

namespace zoe {

class Platform;
class Recipe;
struct ModelConfig;

struct SessionOptions {
  std::optional<DType> dtype = {};  // of weights and activations: f32 or bf16; else bf16 where the device is faster in it
  CompileOptions compile = {};
  // For one request: what is not needed again is freed as soon as that is so. Else weights, tensors and plans stay where they fit.
  bool single_request = false;
  Spelling spelling = Spelling::key;  // how errors spell a field: num_frames, --num-frames
  std::size_t most_plans = 256;       // that are kept; the ones used longest ago go
  Offload offload = Offload::automatic;
  Parallel parallel = Parallel::automatic;  // on a platform of several devices
  // Of packed weights in this process's memory, beside those on a device; not said: two thirds of what is free.
  std::optional<std::uint64_t> host_memory_limit_bytes = {};
};

class Session;

// A prepared request. Belongs to its session, may run several times, and must not outlive it.
class Job {
 public:
  Job(Job&&) noexcept;
  Job& operator=(Job&&) noexcept;
  ~Job();
  const Settled& settled() const;
  const MemoryStatement& memory() const;
  const std::string& refusal() const;  // why it cannot run, and what would; empty: it can

 private:
  friend class Session;
  friend struct SessionAccess;
  struct State;
  explicit Job(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

class Session {
 public:
  // Opens and checks everything a request will need: weights are mapped and matched, the tokenizer is read.
  Session(ModelConfig model, std::shared_ptr<Platform> platform, SessionOptions options = {});
  // With another recipe than that of the model's configuration.
  Session(ModelConfig model, std::shared_ptr<Platform> platform, SessionOptions options, std::unique_ptr<Recipe> recipe);
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;
  ~Session();

  // invalid_argument for a request that makes no sense, out_of_memory if it does not fit what is free. `caller_bytes` is asked once
  // the sizes are settled: memory that the caller needs while frames are decoded (a video encoder). It may throw to refuse them.
  Job prepare(const Request& request, const std::function<std::size_t(const Settled&)>& caller_bytes = {});
  // The same, but what does not fit is no error: such a job tells its sizes and its memory, and cannot run.
  Job plan(const Request& request, const std::function<std::size_t(const Settled&)>& caller_bytes = {});
  // An Error of kind cancelled when the callbacks' flag is set.
  Timings run(Job& job, const Callbacks& callbacks);

  const ModelConfig& model() const;
  Platform& platform() const;
  DType dtype() const;
  std::string_view recipe() const;  // "text to video"

  struct Counts {  // since the session began
    std::size_t plans_compiled = 0, plans_kept = 0, tensors_made = 0;
    std::uint64_t weight_bytes_loaded = 0;
  };
  Counts counts() const;

 private:
  friend struct SessionAccess;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace zoe
