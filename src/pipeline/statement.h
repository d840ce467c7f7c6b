// What is known of a request before it runs: its sizes and settings, and the memory it takes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pipeline/request.h"

namespace zoe {

std::string_view version();  // of the engine: "0.1.0"

enum class Phase : std::uint8_t { load, encode, denoise, decode };
std::string_view name(Phase phase);

// A request after defaults and rounding.
struct Settled {
  // Of the frames as they are made, in pixels; as they are handed out (cropped on all sides, with Request::exact_size); of the
  // latents.
  std::int64_t made_height = 0, made_width = 0;
  std::int64_t height = 0, width = 0, num_frames = 0;
  std::int64_t latent_height = 0, latent_width = 0, latent_frames = 0;
  int num_inference_steps = 0;
  double fps = 0, guidance_scale = 0, flow_shift = 0;
  std::optional<double> guidance_scale_2, boundary_ratio;  // of a model with two experts
  std::string scheduler;
  std::vector<double> sigmas;        // levels before the shift, if they were given
  std::vector<double> noise_levels;  // of the scheduler: one more than steps, falling
  std::vector<std::string> prompts;  // of each video
  std::vector<std::uint64_t> seeds;  // of each video
  std::string negative_prompt;
  Arithmetic precision = Arithmetic::exact, attention = Arithmetic::exact;
  std::vector<std::pair<int, int>> exact_blocks, exact_steps;  // ranges [first, last] that are exact in spite of both
  bool is_exact(int step) const;                               // by one of these
  std::int64_t batch = 1;         // texts that the transformer takes as a batch: 1 where guidance is off or apart
  std::int64_t token_pieces = 1;  // in which it takes a video's tokens
  std::int64_t vae_tiles = 1;     // in which the VAE takes a picture
  // Devices at work: each text of guidance has so many / 2, or all have both; of each text's tokens each of them takes a share.
  int guidance_devices = 1, sequence_devices = 1;
  std::size_t exchanged_bytes = 0;  // that a device takes from others in a step
};

// "int8 products, exact attention, blocks 0-1 exact"; "" where all is exact: of a step that is not among the exact ones; of all.
std::string step_arithmetic_text(const Settled& settled);
std::string arithmetic_text(const Settled& settled);

// Bytes, as planned. Stages do not overlap.
struct StageMemory {
  std::string stage;
  Phase phase;
  std::string component = {};   // whose weights it runs with
  std::size_t all_weights = 0;  // of its own plans, packed
  std::size_t layouts = 0;      // of these, the same weights once more in another layout: of exact steps beside those in codes
  std::size_t weights = 0;      // the most of these on the device at a time
  std::size_t resident = 0;     // weights of other stages that stay
  std::size_t tensors = 0;      // all that live in it
  std::size_t workspace = 0;    // of its largest plan
  std::size_t caller = 0;
  bool streamed = false;                        // weights come and go block by block
  std::size_t blocks = 0, coming_blocks = 0;    // where they do: all of its largest plan, and how many of these come and go
  std::size_t coming_bytes = 0;                 // of these, each time that plan runs
  std::size_t peer_blocks = 0, peer_bytes = 0;  // of what comes, from other devices of a group, on which it stays
  std::size_t alive = 0;                        // the most that is alive at once in its largest plan: no workspace is smaller
  double operations = 0;                        // of the products of the plan that has most of them
  std::size_t host = 0;                         // packed weights in this process's memory, beside the device's
  std::vector<std::string> stay = {};           // components of other stages whose weights are on the device, too
  std::string prepares = {};                    // the component whose weights are packed in this process's memory meanwhile
  std::size_t total() const { return weights + resident + tensors + workspace + caller; }
};

// What may leave the device while it is not needed, the least first: nothing; the text encoder's layers but the one at work; all
// weights but those of the transformer at work; its blocks, too. `automatic` is the least of them that fits.
enum class Offload : std::uint8_t { automatic, none, encoder, experts, blocks };
std::string_view name(Offload offload);  // "auto", "none", ...

// How a step is cut among the devices of a group: by the two texts of guidance, by a video's tokens, or both; `automatic` takes
// what uses most of them, guidance first.
enum class Parallel : std::uint8_t { automatic, none, guidance, sequence, both };
std::string_view name(Parallel parallel);  // "auto", "none", ..., "guidance+sequence"

struct MemoryStatement {
  std::size_t always = 0;  // what a process holds beside
  std::vector<StageMemory> stages;
  std::size_t free = 0;             // what the device had to give, within the limit
  Offload offload = Offload::none;  // what was chosen
  bool wants_more = false;          // with more memory more would stay, or less would be done piece by piece
  std::size_t host_limit = 0;       // of packed weights in this process's memory
  std::size_t peak() const;
  std::size_t host_peak() const;      // of StageMemory::host
  std::size_t of(Phase phase) const;  // the most of its stages, without `always`
};

}  // namespace zoe
