#include "models/wan_vae/config.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace zoe {

namespace {

// Of the published VAEs of Wan 2.1 and 2.2: what a configuration without them means.
const std::vector<double> kLatentsMean{-0.7571, -0.7089, -0.9113, 0.1075,  -0.1745, 0.9653,  -0.1517, 1.5508,
                                       0.4134,  -0.0715, 0.5517,  -0.3632, -0.1922, -0.9497, 0.2503,  -0.2921};
const std::vector<double> kLatentsStd{2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
                                      3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160};
const std::vector<double> kLatentsMean22{-0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174,  0.1838,  0.1557,  -0.1382, 0.0542,
                                         0.2813,  0.0891,  0.1570,  -0.0098, 0.0375,  -0.1825, -0.2246, -0.1207, -0.0698, 0.5109,
                                         0.2665,  -0.2108, -0.2158, 0.2502,  -0.2055, -0.0322, 0.1109,  0.1567,  -0.0729, 0.0899,
                                         -0.2799, -0.1230, -0.0313, -0.1649, 0.0117,  0.0723,  -0.2839, -0.2083, -0.0520, 0.3748,
                                         0.0152,  0.1957,  0.1433,  -0.2944, 0.3573,  -0.0548, -0.1681, -0.0667};
const std::vector<double> kLatentsStd22{
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978,
    0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659, 0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093,
    0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744};

}  // namespace

WanVaeConfig parse_wan_vae_config(const JsonObject& json) {
  const auto reject = [&](bool is_plain, std::string_view key, const std::string& expected) {
    check(is_plain, ErrorKind::unsupported, json.where(), "{} is not supported: expected {}. Use the VAE of Wan 2.1 or 2.2.", key,
          expected);
  };
  reject(!json.has("attn_scales") || json.numbers("attn_scales", -1e6, 1e6, 0, 64).empty(), "attn_scales", "[]");

  WanVaeConfig config;
  config.is_residual = json.boolean("is_residual", false);
  config.patch_size = json.has("patch_size") ? json.integer("patch_size", 1, 8, 1) : 1;
  const std::int64_t channels = 3 * config.patch_size * config.patch_size;
  reject(json.integer("in_channels", 1, 1 << 16, 3) == channels && json.integer("out_channels", 1, 1 << 16, 3) == channels,
         "in_channels or out_channels",
         fmt::format("{}, three colours of {}x{} pixels", channels, config.patch_size, config.patch_size));
  config.base_dim = json.integer("base_dim", 1, 4096, 96);
  config.decoder_base_dim =
      json.has("decoder_base_dim") ? json.integer("decoder_base_dim", 1, 4096, config.base_dim) : config.base_dim;
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
  for (const std::int64_t base : {config.base_dim, config.decoder_base_dim})
    for (const std::int64_t mult : config.dim_mult)
      check(base * mult <= 1 << 16, ErrorKind::invalid_argument, json.where(),
            "base_dim x dim_mult is too large: got {} x {}, expected at most {}. Check the file.", base, mult, 1 << 16);
  // The decoder's levels take half the channels of the level before, which its up-sampling leaves.
  for (std::size_t level = 1; !config.is_residual && level < config.dim_mult.size(); ++level)
    check(config.decoder_base_dim * config.dim_mult[level] % 2 == 0, ErrorKind::invalid_argument, json.where(),
          "bad dim_mult: got {} x {} channels, expected an even number. Check the file.", config.decoder_base_dim,
          config.dim_mult[level]);
  if (config.is_residual) {
    // What is added to a level's result is its input with as many channels, or (down, frames halved) twice as many, a frame each of
    // a pair; or (up) half as many. Others would be means over other sets.
    for (std::size_t level = 0; level < config.dim_mult.size(); ++level) {
      const std::int64_t before = config.dim_mult[level > 0 ? level - 1 : 0], here = config.dim_mult[level];
      const bool in_time = level < halvings && config.temporal_downsample[level];
      reject((level > 0 || here == 1) && (here == before || (in_time && here == 2 * before)), "dim_mult",
             "1 first, then the same again, or twice that where temperal_downsample is true");
      reject(level == 0 || before == here || 2 * before == here, "dim_mult", "the same or twice that of the level before");
    }
  }

  const auto z_count = static_cast<std::size_t>(config.z_dim);
  const auto latents = [&](const char* key, double min, const std::vector<double>& fallback) {
    if (json.has(key) || fallback.size() != z_count) return json.numbers(key, min, 1e6, z_count, z_count);
    return fallback;
  };
  const bool is_22 = z_count == kLatentsMean22.size();
  config.latents_mean = latents("latents_mean", -1e6, is_22 ? kLatentsMean22 : kLatentsMean);
  config.latents_std = latents("latents_std", 1e-6, is_22 ? kLatentsStd22 : kLatentsStd);

  config.scale_factor_spatial = config.patch_size << halvings;
  config.scale_factor_temporal = std::int64_t{1}
                                 << std::count(config.temporal_downsample.begin(), config.temporal_downsample.end(), true);
  reject(config.scale_factor_temporal == 4, "temperal_downsample", "two true values: chunks are of four frames");
  for (const auto& [key, expected] :
       {std::pair{"scale_factor_spatial", config.scale_factor_spatial}, {"scale_factor_temporal", config.scale_factor_temporal}}) {
    const std::int64_t got = json.integer(key, 1, 1 << 16, expected);
    check(got == expected, ErrorKind::invalid_argument, json.where(),
          "bad {}: got {}, expected {} by dim_mult, temperal_downsample and patch_size. Check the file.", key, got, expected);
  }
  return config;
}

}  // namespace zoe
