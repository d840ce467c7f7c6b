// Prompt to frames: the whole road, on one platform.
//
//   Pipeline pipeline(read_model_config(folder), platform, DType::f32);
//   Job job = pipeline.prepare(request);           // checks, compiles, plans the memory; nothing runs yet
//   pipeline.run(job, callbacks);                  // frames of each video, in order
//
// Follows WanPipeline of Diffusers: the same prompt cleaning, rounding of sizes, noise, guidance and schedulers.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "compiler/options.h"
#include "pipeline/memory.h"
#include "pipeline/model_folder.h"
#include "pipeline/request.h"
#include "platform/platform.h"

namespace zoe {

class Profile;

// Sizes after defaults and rounding. The latents' may be a little more than that of the frames, which are then cropped.
struct VideoShape {
  std::int64_t height, width, num_frames;
  std::int64_t latent_height, latent_width, latent_frames;
};

struct MemoryStatement {  // bytes; phases do not overlap, so the peak is the largest of them plus what always stays
  std::size_t always, encode, denoise, decode;
  std::size_t peak() const;
};

enum class Phase : std::uint8_t { load, encode, denoise, decode };
struct Progress {
  Phase phase;
  std::size_t video;        // 0-based, as in Request::seeds; of the encoder: the prompt
  std::size_t done, total;  // steps of this phase; of `load`, bytes of weights
};

struct Callbacks {
  // 8-bit RGB, [height, width, 3], in order; `frame` counts from 0 within its video.
  std::function<void(std::size_t video, std::int64_t frame, std::span<const std::uint8_t> rgb)> frame;
  std::function<void(const Progress&)> progress;
  std::function<void(std::size_t video, std::span<const float> latents)> latents;  // the final ones, [C,T,h,w]
  std::function<void(std::size_t video)> finished;                                 // after a video's last frame
  const std::atomic<bool>* cancel = nullptr;
  Profile* profile = nullptr;  // gets every step of every plan, and the phases
};

struct Timings {  // seconds
  double load = 0, encode = 0, denoise = 0, decode = 0;
  double first_step = 0;  // from the start of the run until the first denoising step is done
};

// Everything about a run that is known before it.
struct Job {
  Job();
  Job(Job&&) noexcept;
  ~Job();
  VideoShape shape;
  int num_inference_steps;
  double fps, guidance_scale;
  SchedulerConfig scheduler;
  std::vector<double> sigmas;  // levels before the shift, if they were given
  std::vector<std::uint64_t> seeds;
  std::size_t prompt_count;
  std::size_t video_count() const { return prompt_count * seeds.size(); }
  std::int64_t batch = 1;  // texts that one forward of the transformer takes
  MemoryStatement memory;
  struct Plans;
  std::unique_ptr<Plans> plans;
};

class Pipeline {
 public:
  // dtype: f32 or bf16, of weights and activations of every part.
  Pipeline(ModelConfig model, Platform& platform, DType dtype, CompileOptions options = {});
  ~Pipeline();

  // invalid_argument for a request that makes no sense, out_of_memory if the plan does not fit what is free.
  // `sink_bytes` is asked once the sizes are rounded: memory the caller needs while frames are decoded (a video encoder).
  // It may throw to refuse the sizes before anything is planned.
  Job prepare(const Request& request, const std::function<std::size_t(const VideoShape&)>& sink_bytes = {});
  // An Error of kind cancelled when the callback's flag is set.
  Timings run(Job& job, const Callbacks& callbacks, MemoryWatch* watch = nullptr);

  const ModelConfig& model() const { return model_; }
  DType dtype() const { return dtype_; }

 private:
  ModelConfig model_;
  Platform& platform_;
  DType dtype_;
  CompileOptions options_;
};

}  // namespace zoe
