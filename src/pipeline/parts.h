// The parts of a model as graphs, for what looks at plans rather than videos: benchmarks, `zoe explain`.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "ir/graph.h"
#include "models/precision.h"
#include "pipeline/model.h"
#include "platform/platform.h"

namespace zoe {

// "transformer" (one forward), "text-keys" (keys and values of a prompt), "text-encoder", "vae-decode", "vae-encode", and
// "image-encoder" of a model that has one.
std::vector<std::string> part_names();

struct PartSize {
  std::int64_t height, width, num_frames;  // of the video, in pixels
  std::int64_t text_tokens;
  std::int64_t batch = 1;         // texts that a forward of the transformer takes
  std::int64_t group_frames = 1;  // latent frames that the VAE takes at once behind the first; divides their number
  std::int64_t token_pieces = 1;  // in which the transformer takes tokens, the texts one behind the other
};

// Of a forward of the transformer.
std::int64_t tokens_of(const ModelConfig& model, const PartSize& size);

// The group_frames that suit a device: two where the memory of kernels is not this process's and there is room for it, else one.
// Each group copies the states, and pictures of one latent frame do not fill a GPU.
std::int64_t decode_group_frames(const ModelConfig& model, DType dtype, const PartSize& size, const Platform& platform,
                                 std::size_t free_bytes);

struct PartGraph {
  Graph graph;
  int times = 1;  // how often it runs for the part
  // The VAE's states that the arguments behind the first read, and the last results write.
  std::vector<Type> states = {};
  std::vector<std::size_t> reads = {}, writes = {};
};

// The graphs of a part in the order they run. An unknown part is answered with the nearest name.
// The transformer takes all of `precision`, other parts the dtype of its stream.
std::vector<PartGraph> trace_part(const ModelConfig& model, std::string_view part, const ComponentPrecision& precision,
                                  const PartSize& size);

}  // namespace zoe
