#include "models/wan_vae/config.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace zoe {

namespace {

// Of the published Wan 2.1 VAE: what a configuration without them means.
const std::vector<double> kLatentsMean{-0.7571, -0.7089, -0.9113, 0.1075,  -0.1745, 0.9653,  -0.1517, 1.5508,
                                       0.4134,  -0.0715, 0.5517,  -0.3632, -0.1922, -0.9497, 0.2503,  -0.2921};
const std::vector<double> kLatentsStd{2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
                                      3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160};

}  // namespace

WanVaeConfig parse_wan_vae_config(const JsonObject& json) {
  const auto reject = [&](bool is_plain, std::string_view key, std::string_view expected) {
    check(is_plain, ErrorKind::unsupported, json.where(), "{} is not supported: expected {}. Use the VAE of Wan 2.1.", key,
          expected);
  };
  reject(!json.boolean("is_residual", false), "is_residual (the VAE of Wan 2.2)", "false");
  reject(!json.has("patch_size"), "patch_size", "null");
  reject(!json.has("attn_scales") || json.numbers("attn_scales", -1e6, 1e6, 0, 64).empty(), "attn_scales", "[]");
  reject(json.integer("in_channels", 1, 1 << 16, 3) == 3 && json.integer("out_channels", 1, 1 << 16, 3) == 3,
         "in_channels or out_channels", "3");

  WanVaeConfig config;
  config.base_dim = json.integer("base_dim", 1, 4096, 96);
  reject(json.integer("decoder_base_dim", 1, 4096, config.base_dim) == config.base_dim, "decoder_base_dim", "null or base_dim");
  config.z_dim = json.integer("z_dim", 1, 1024, 16);
  config.dim_mult = json.has("dim_mult") ? json.integers("dim_mult", 1, 64, 2, 8) : std::vector<std::int64_t>{1, 2, 4, 4};
  config.num_res_blocks = json.integer("num_res_blocks", 1, 64, 2);
  const std::size_t halvings = config.dim_mult.size() - 1;
  // Diffusers spells it so; a list of more elements than levels is legal there and the rest unused, here it is a mistake.
  config.temporal_downsample = json.has("temperal_downsample") ? json.booleans("temperal_downsample", halvings, halvings)
                                                               : std::vector<bool>{false, true, true};
  check(config.temporal_downsample.size() == halvings, ErrorKind::invalid_argument, json.where(),
        "bad temperal_downsample: got {} values, expected {}, one less than dim_mult has. Check the file.",
        config.temporal_downsample.size(), halvings);
  for (const std::int64_t mult : config.dim_mult)
    check(config.base_dim * mult <= 1 << 16, ErrorKind::invalid_argument, json.where(),
          "base_dim x dim_mult is too large: got {} x {}, expected at most {}. Check the file.", config.base_dim, mult, 1 << 16);
  // The decoder's levels take half the channels of the level before, which its up-sampling leaves.
  for (std::size_t level = 1; level < config.dim_mult.size(); ++level)
    check(config.base_dim * config.dim_mult[level] % 2 == 0, ErrorKind::invalid_argument, json.where(),
          "bad dim_mult: got {} x {} channels, expected an even number. Check the file.", config.base_dim, config.dim_mult[level]);

  const auto z_count = static_cast<std::size_t>(config.z_dim);
  const auto latents = [&](const char* key, double min, const std::vector<double>& fallback) {
    if (json.has(key) || fallback.size() != z_count) return json.numbers(key, min, 1e6, z_count, z_count);
    return fallback;
  };
  config.latents_mean = latents("latents_mean", -1e6, kLatentsMean);
  config.latents_std = latents("latents_std", 1e-6, kLatentsStd);

  config.scale_factor_spatial = std::int64_t{1} << halvings;
  config.scale_factor_temporal = std::int64_t{1}
                                 << std::count(config.temporal_downsample.begin(), config.temporal_downsample.end(), true);
  reject(config.scale_factor_temporal == 4, "temperal_downsample", "two true values: chunks are of four frames");
  for (const auto& [key, expected] :
       {std::pair{"scale_factor_spatial", config.scale_factor_spatial}, {"scale_factor_temporal", config.scale_factor_temporal}}) {
    const std::int64_t got = json.integer(key, 1, 1 << 16, expected);
    check(got == expected, ErrorKind::invalid_argument, json.where(),
          "bad {}: got {}, expected {} by dim_mult and temperal_downsample. Check the file.", key, got, expected);
  }
  return config;
}

}  // namespace zoe
