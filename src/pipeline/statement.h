// What is known of a request before it runs: its sizes and settings, and the memory it takes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace zoe {

std::string_view version();  // of the engine: "0.1.0"

enum class Phase : std::uint8_t { load, encode, denoise, decode };
std::string_view name(Phase phase);

// A request after defaults and rounding.
struct Settled {
  // Of the frames as they are made, in pixels; as they are handed out (cropped on all sides, with Request::exact_size); of the latents.
  std::int64_t made_height = 0, made_width = 0;
  std::int64_t height = 0, width = 0, num_frames = 0;
  std::int64_t latent_height = 0, latent_width = 0, latent_frames = 0;
  int num_inference_steps = 0;
  double fps = 0, guidance_scale = 0, flow_shift = 0;
  std::optional<double> guidance_scale_2, boundary_ratio;  // of a model with two experts
  std::string scheduler;
  std::vector<double> sigmas;         // levels before the shift, if they were given
  std::vector<double> noise_levels;   // of the scheduler: one more than steps, falling
  std::vector<std::string> prompts;  // of each video
  std::vector<std::uint64_t> seeds;  // of each video
  std::string negative_prompt;
  std::int64_t batch = 1;  // texts that one forward of the transformer takes
};

// Bytes, as planned. Stages do not overlap.
struct StageMemory {
  std::string stage;
  Phase phase;
  std::size_t weights = 0;    // of its own plans, packed; streamed: the most of them at a time
  std::size_t resident = 0;   // weights of other stages that stay
  std::size_t tensors = 0;    // all that live in it
  std::size_t workspace = 0;  // of its largest plan
  std::size_t caller = 0;
  bool streamed = false;
  std::size_t total() const { return weights + resident + tensors + workspace + caller; }
};

struct MemoryStatement {
  std::size_t always = 0;  // what a process holds beside
  std::vector<StageMemory> stages;
  std::size_t peak() const;
  std::size_t of(Phase phase) const;  // the most of its stages, without `always`
};

}  // namespace zoe
