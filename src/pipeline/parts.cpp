#include "pipeline/parts.h"

#include "base/error.h"
#include "base/json.h"
#include "base/nearest.h"
#include "compiler/passes/split_rows.h"
#include "models/clip_vision/model.h"
#include "models/umt5/model.h"
#include "models/wan_dit/model.h"
#include "models/wan_vae/model.h"

namespace zoe {

namespace {

PartGraph vae_graph(WanVaeGraph traced, int times = 1) {
  return {std::move(traced.graph), times, std::move(traced.states), std::move(traced.reads), std::move(traced.writes)};
}

}  // namespace

std::vector<std::string> part_names() {
  return {"transformer", "text-keys", "text-encoder", "vae-decode", "vae-encode", "image-encoder"};
}

std::int64_t tokens_of(const ModelConfig& model, const PartSize& size) {
  const auto& patch = model.transformer.patch_size;
  return ((size.num_frames - 1) / model.vae.scale_factor_temporal + 1) / patch[0] *
         (size.height / model.vae.scale_factor_spatial / patch[1]) * (size.width / model.vae.scale_factor_spatial / patch[2]);
}

std::vector<PartGraph> trace_part(const ModelConfig& model, std::string_view part, const ComponentPrecision& precision,
                                  const PartSize& size) {
  const DType dtype = precision.stream();
  const std::int64_t spatial = model.vae.scale_factor_spatial, temporal = model.vae.scale_factor_temporal;
  const std::int64_t height_step = spatial * model.transformer.patch_size[1],
                     width_step = spatial * model.transformer.patch_size[2];
  check(size.height % height_step == 0 && size.width % width_step == 0, ErrorKind::invalid_argument, "--height, --width",
        "got {}x{} (width x height), expected multiples of {} and {}.", size.width, size.height, width_step, height_step);
  const std::int64_t frames = (size.num_frames - 1) / temporal + 1, height = size.height / spatial, width = size.width / spatial;
  const int later = static_cast<int>((frames - 1) / size.group_frames);  // groups of the VAE behind the first
  std::vector<PartGraph> graphs;
  if (part == "transformer") {
    graphs.push_back({split_rows(
        trace_wan_dit(model.transformer, precision, {frames, height, width, size.text_tokens, size.batch, model.image_rows()}),
        {tokens_of(model, size), size.token_pieces, size.token_pieces > 1})});
  } else if (part == "text-keys") {
    graphs.push_back({trace_wan_context(model.transformer, dtype, size.text_tokens, size.batch, model.image_rows())});
  } else if (part == "text-encoder") {
    graphs.push_back({trace_umt5(model.text_encoder, dtype, size.text_tokens)});
  } else if (part == "vae-decode") {
    graphs.push_back(vae_graph(trace_wan_vae_decode(model.vae, dtype, 1, height, width, true)));
    if (later) graphs.push_back(vae_graph(trace_wan_vae_decode(model.vae, dtype, size.group_frames, height, width, false), later));
  } else if (part == "vae-encode") {
    graphs.push_back(vae_graph(trace_wan_vae_encode(model.vae, dtype, 1, size.height, size.width, true)));
    const std::int64_t group = temporal * size.group_frames;
    if (later) graphs.push_back(vae_graph(trace_wan_vae_encode(model.vae, dtype, group, size.height, size.width, false), later));
  } else if (part == "image-encoder") {
    check(model.image_encoder.has_value(), ErrorKind::invalid_argument, "part", "{} has no image encoder. Choose another part.",
          model.name);
    graphs.push_back({trace_clip_vision(*model.image_encoder, dtype)});
  } else {
    const std::vector<std::string> known = part_names();
    const std::string near = nearest(part, known);
    fail(ErrorKind::invalid_argument, "part", "unknown part: got {}, expected one of {}.{}", in_quotes(part),
         fmt::join(known, ", "), near.empty() ? "" : " Did you mean " + near + "?");
  }
  return graphs;
}

std::int64_t decode_group_frames(const ModelConfig& model, DType dtype, const PartSize& size, const Platform& platform,
                                 std::size_t free_bytes) {
  const std::int64_t later = (size.num_frames - 1) / model.vae.scale_factor_temporal;
  if (platform.info().unified_memory || later % 2 != 0) return 1;
  std::size_t states = 0;
  for (const Type& type : trace_wan_vae_decode(model.vae, dtype, 1, size.height / model.vae.scale_factor_spatial,
                                               size.width / model.vae.scale_factor_spatial, true)
                              .states)
    states += type.size_bytes();
  // The states and, for two frames, one and a quarter times as much for the pictures between them.
  return 4 * states <= free_bytes ? 2 : 1;
}

}  // namespace zoe
