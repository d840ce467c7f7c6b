// Whom a running request tells, and who may stop or change it. All calls come from the thread that runs the request.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "pipeline/statement.h"

namespace zoe {

class Profile;

struct Progress {
  Phase phase;
  std::size_t video;        // 0-based
  std::size_t done, total;  // steps of the phase; of `load`, bytes of weights
};

// All that the rest of the denoising follows from, besides the request.
struct DenoiseState {
  std::size_t video = 0;                 // of the request's: those before it are whole
  int next_step = 0;                     // 0-based
  std::vector<float> latents;            // [C,T,h,w]
  std::vector<std::vector<float>> kept;  // what the scheduler keeps of earlier steps, each as the latents
};

// A step of the denoising that is done.
struct StepDone {
  std::size_t video;
  int step, total;  // 0-based
  double sigma;     // the noise level that is left, 1 to 0
  // Copied from the device when called.
  std::function<std::vector<float>()> latents;  // [C,T,h,w]
  std::function<std::vector<float>()> clean;    // [C,T,h,w]: what the step took the video for, latents without noise
  std::function<DenoiseState()> state;
};

// What a step does about the transformer: asks it, or takes the prediction of the step before. The first step always asks.
enum class StepChoice : std::uint8_t { compute, reuse };

struct Callbacks {
  // 8-bit RGB, [height, width, 3], in order; `frame` counts from 0 within its video.
  std::function<void(std::size_t video, std::int64_t frame, std::span<const std::uint8_t> rgb)> frame;
  std::function<void(const Progress&)> progress;
  std::function<void(std::size_t video, std::span<const float> latents)> latents;  // the final ones, [C,T,h,w]
  std::function<void(std::size_t video)> finished;                                 // after a video's last frame
  // Called behind every step, which then waits for the device; unset, the device is never waited for.
  std::function<void(const StepDone&)> step;
  std::function<StepChoice(std::size_t video, int step)> choose;  // before a step is queued; unset: compute
  std::optional<DenoiseState> resume;                             // go on from here: with its video, and with those behind it
  // True ends the request with an Error of kind cancelled: while weights load within a few MiB of them, on a device within two
  // blocks.
  const std::atomic<bool>* cancel = nullptr;
  Profile* profile = nullptr;  // gets every step of every plan, and the phases
};

struct StageTime {  // seconds, of all videos together
  std::string stage;
  double load = 0;  // until its weights were there
  double run = 0;
};

struct Timings {  // seconds
  double load = 0, encode = 0, denoise = 0, decode = 0;
  double first_step = 0;  // from the start of the run until the first denoising step is done
  std::vector<StageTime> stages = {};
};

}  // namespace zoe
