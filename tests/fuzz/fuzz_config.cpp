// Any text as the config of each part: either refused with an Error, or a model whose tensors can be listed and whose graphs, if
// they are small, can be traced.
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "models/umt5/model.h"
#include "models/wan_dit/model.h"
#include "models/wan_vae/model.h"
#include "schedulers/scheduler.h"

namespace {

constexpr std::int64_t kFewLayers = 3;  // tracing more tells nothing new

template <class Body>
void allow_error(Body&& body) {
  try {
    body();
  } catch (const zoe::Error& error) {
    if (error.kind() == zoe::ErrorKind::internal || std::string_view(error.what()).find('\n') != std::string_view::npos) throw;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  allow_error([&] {
    const zoe::Umt5Config config = zoe::parse_umt5_config(zoe::parse_json_object(text, "fuzz", 10'000));
    zoe::relative_position_buckets(config, 40);
    if (config.num_layers > kFewLayers) return;
    zoe::umt5_tensors(config);
    zoe::trace_umt5(config, zoe::DType::bf16, 8);
  });
  allow_error([&] {
    const zoe::WanDitConfig config = zoe::parse_wan_dit_config(zoe::parse_json_object(text, "fuzz", 10'000));
    zoe::timestep_sinusoid(config, 500.0f);
    if (config.num_layers > kFewLayers) return;
    zoe::wan_dit_tensors(config);
    zoe::trace_wan_context(config, zoe::DType::f32, 8);
    zoe::trace_wan_dit(config, zoe::DType::f32, {2 * config.patch_size[0], config.patch_size[1], 3 * config.patch_size[2], 8});
    zoe::rotary_tables(config, 2 * config.patch_size[0], config.patch_size[1], 3 * config.patch_size[2]);
  });
  allow_error([&] {
    const zoe::WanVaeConfig config = zoe::parse_wan_vae_config(zoe::parse_json_object(text, "fuzz", 10'000));
    if (config.num_res_blocks > kFewLayers) return;
    zoe::wan_vae_tensors(config);
    zoe::trace_wan_vae_decode(config, zoe::DType::f32, 1, 2, 3, true);
    zoe::trace_wan_vae_decode(config, zoe::DType::f32, 1, 2, 3, false);
  });
  allow_error([&] {
    const zoe::SchedulerConfig config = zoe::parse_scheduler_config(text, "fuzz");
    for (const int steps : {1, 2, 7}) zoe::make_scheduler(config, steps);
  });
  return 0;
}
