#include "models/wan_vae/model.h"

#include <fmt/format.h>

#include <cmath>
#include <optional>
#include <utility>

#include "base/error.h"
#include "ir/trace.h"
#include "ops/channel_norm.h"

namespace zoe {

namespace {

constexpr std::int64_t kCachedFrames = 2;                            // a kernel of three frames sees two earlier ones
constexpr std::int64_t kMaxLatentPositions = std::int64_t{1} << 26;  // of a group

// Traces one of the two halves; collects its states on the way.
class Tracer {
 public:
  Tracer(DType dtype, bool first) : dtype_(dtype), first_(first) {}

  // A convolution within one frame or one position: x [T,H,W,I] -> [T,H,W,out].
  Value pointwise(const std::string& name, const Value& x, std::int64_t out, int file_rank, const Value& residual = {}) {
    Shape file_shape{out, x.dim(3), 1, 1};
    if (file_rank == 5) file_shape = {out, x.dim(3), 1, 1, 1};
    return linear(x, weight(name + ".weight", file_shape, {out, x.dim(3)}),
                  {.bias = weight(name + ".bias", {out}, {out}), .residual = residual});
  }

  // A 3x3 convolution of each frame; the file's kernel has no time axis.
  Value spatial(const std::string& name, const Value& x, std::int64_t out, const ConvWindow& window) {
    scale_ *= window.upsample;
    reach_ = reach_ * window.upsample + window.pad_begin[1];
    // Every other pixel sees itself and its two successors: in front half as many are wrong, rounded up, behind one more.
    if (window.stride[1] == 2) reach_ = reach_ / 2 + 1;
    return conv(x, weight(name + ".weight", {out, x.dim(3), 3, 3}, {out, x.dim(3), 1, 3, 3}), window,
                {.bias = weight(name + ".bias", {out}, {out})});
  }

  // A causal convolution, 3x3x3 or 3x1x1: x goes straight behind the cached frames, and the last two of all are cached next.
  Value causal(const std::string& name, const Value& x, std::int64_t out, int extent, const Value& residual = {}) {
    const Value joined = concat({state(x, kCachedFrames), x}, 0);
    const Shape kernel{out, x.dim(3), 3, extent, extent};
    const int pad = extent / 2;
    reach_ += pad;
    const Value y = conv(joined, weight(name + ".weight", kernel, kernel), {.pad_begin = {0, pad, pad}, .pad_end = {0, pad, pad}},
                         {.bias = weight(name + ".bias", {out}, {out}), .residual = residual});
    // Traced behind its last reader, so that the joined frames' memory is free again after this.
    keep(slice(joined, 0, joined.dim(0) - kCachedFrames, joined.dim(0)));
    return y;
  }

  Value norm(const std::string& name, const Value& x, int file_rank = 4) {
    Shape file_shape{x.dim(3), 1, 1};
    if (file_rank == 4) file_shape = {x.dim(3), 1, 1, 1};
    return channel_norm(x, weight(name + ".gamma", file_shape, {x.dim(3)}));
  }

  Value residual_block(const std::string& name, const Value& x, std::int64_t out) {
    const Value shortcut = x.dim(3) == out ? x : pointwise(name + ".conv_shortcut", x, out, 5);
    const Value middle = causal(name + ".conv1", silu(norm(name + ".norm1", x)), out, 3);
    return causal(name + ".conv2", silu(norm(name + ".norm2", middle)), out, 3, shortcut);
  }

  // Single-head attention among the positions of each frame.
  Value attention_block(const std::string& name, const Value& x) {
    const std::int64_t channels = x.dim(3), positions = x.dim(1) * x.dim(2);
    const Value qkv =
        reshape(pointwise(name + ".to_qkv", norm(name + ".norm", x, 3), 3 * channels, 4), {x.dim(0), positions, 3 * channels});
    const auto part = [&](std::int64_t i) {
      return reshape(slice(qkv, 2, i * channels, (i + 1) * channels), {x.dim(0), positions, 1, channels});
    };
    const Value mixed = attention(part(0), part(1), part(2), 1.0 / std::sqrt(static_cast<double>(channels)));
    return pointwise(name + ".proj", reshape(mixed, x.shape()), channels, 4, x);
  }

  Value mid_block(const std::string& name, const Value& x) {
    const Value entered = residual_block(name + ".resnets.0", x, x.dim(3));
    return residual_block(name + ".resnets.1", attention_block(name + ".attentions.0", entered), x.dim(3));
  }

  // Twice the height and width, `out` channels; with `in_time` twice the frames too, but for the video's first.
  Value upsample(const std::string& name, const Value& x, std::int64_t out, bool in_time) {
    const std::int64_t channels = x.dim(3);
    Value frames = x;
    if (in_time && first_) {
      skip_state(x, kCachedFrames);  // the first frame is no part of what the next ones see: the state stays zero
    } else if (in_time) {
      const Value pairs = causal(name + ".time_conv", x, 2 * channels, 1);  // a frame's two successors, one behind the other
      const Value split = reshape(pairs, {x.dim(0), x.dim(1) * x.dim(2), 2, channels});
      frames = reshape(permute(split, {0, 2, 1, 3}), {2 * x.dim(0), x.dim(1), x.dim(2), channels});
    }
    return spatial(name + ".resample.1", frames, out, {.pad_begin = {0, 1, 1}, .pad_end = {0, 1, 1}, .upsample = 2});
  }

  // Half the height and width; with `in_time` half the frames too, but for the video's first.
  Value downsample(const std::string& name, const Value& x, bool in_time) {
    const std::int64_t channels = x.dim(3);
    const Value smaller = spatial(name + ".resample.1", x, channels, {.stride = {1, 2, 2}, .pad_end = {0, 1, 1}});
    if (!in_time) return smaller;
    if (first_) {
      skip_state(smaller, 1);
      keep(smaller, next_state_ - 1);
      return smaller;
    }
    const Value joined = concat({state(smaller, 1), smaller}, 0);
    const Shape kernel{channels, channels, 3, 1, 1};
    const Value y = conv(joined, weight(name + ".time_conv.weight", kernel, kernel), {.stride = {2, 1, 1}},
                         {.bias = weight(name + ".time_conv.bias", {channels}, {channels})});
    keep(slice(joined, 0, joined.dim(0) - 1, joined.dim(0)));
    return y;
  }

  // x, resized as `upsample` does by repetition, added to y, which it made of x's level. Of twice as many channels as y has, every
  // other one is a pixel's later row, or with `in_time` its later frame (Diffusers' DupUp3D).
  Value add_repeated(const Value& x, const Value& y, bool in_time) const {
    const std::int64_t frames = x.dim(0), height = x.dim(1), width = x.dim(2), channels = y.dim(3);
    const std::int64_t copies = in_time && !first_ ? 2 : 1;  // of a frame
    const bool halves = x.dim(3) != channels;
    Value small = x;
    if (halves) {
      small = reshape(x, {frames, height, width, channels, 2});
      if (in_time && first_) small = slice(small, 4, 1, 2);  // the first frame has no earlier half
      small = in_time ? permute(small, {0, 4, 1, 2, 3}) : permute(small, {0, 1, 4, 2, 3});
    }
    const Value repeated = reshape(small, {frames, halves ? copies : 1, height, halves && !in_time ? 2 : 1, width, 1, channels});
    return reshape(reshape(y, {frames, copies, height, 2, width, 2, channels}) + repeated, y.shape());
  }

  // x, resized as `downsample` does by means, added to y, which it made of x's level. Where y has twice as many channels, those of
  // the two frames that become one lie in turns; the video's first frame is the later one of a pair whose earlier one is black
  // (Diffusers' AvgDown3D).
  Value add_averaged(const Value& x, const Value& y, bool in_time) const {
    const std::int64_t frames = x.dim(0), height = y.dim(1), width = y.dim(2), channels = x.dim(3);
    const Value squares = reshape(x, {frames, height, 2, width, 2, channels});
    const auto corner = [&](std::int64_t row, std::int64_t column) {
      const Value corners = slice(slice(squares, 2, row, row + 1), 4, column, column + 1);
      return cast(reshape(corners, {frames, height, width, channels}), DType::f32);
    };
    Value means = cast((corner(0, 0) + corner(0, 1) + corner(1, 0) + corner(1, 1)) * 0.25, dtype_);
    if (in_time) {
      if (first_) means = concat({means * 0.0, means}, 0);
      means = reshape(means, {y.dim(0), 2, height, width, channels});
      if (y.dim(3) == channels) {
        const Value sums = cast(slice(means, 1, 0, 1), DType::f32) + cast(slice(means, 1, 1, 2), DType::f32);
        means = cast(sums * 0.5, dtype_);
      } else {
        means = permute(means, {0, 2, 3, 4, 1});
      }
    }
    return y + reshape(means, y.shape());
  }

  // What was traced so far is left out of the graph: x comes from outside. States keep their numbers.
  Value restart(const Value& x) {
    reads_.clear();
    writes_.clear();
    state_inputs_.clear();
    state_outputs_.clear();
    return input("settled", dtype_, x.shape());
  }

  // The same, of a part that others run: its states are none of this graph's.
  std::vector<Value> begin_part(const std::vector<Value>& values) {
    reads_.clear();
    writes_.clear();
    state_inputs_.clear();
    state_outputs_.clear();
    first_state_ = next_state_;
    reach_ = 0, scale_ = 1;
    noted_.clear();
    std::vector<Value> arguments;
    for (std::size_t i = 0; i < values.size(); ++i)
      arguments.push_back(input(fmt::format("features_{}", i), dtype_, values[i].shape()));
    return arguments;
  }

  // What is wrong from here on, and no further in, may be left out: finish() says how far it is from there to the end.
  void note_reach() { noted_.emplace_back(reach_, scale_); }

  WanVaeGraph finish(std::string name, std::vector<Value> inputs, std::vector<Value> results) {
    if (first_) name += "_first";
    WanVaeGraph traced{{}, states_, reads_, writes_, results.size(), first_state_, (reach_ + scale_ - 1) / scale_};
    for (const auto& [reach, scale] : noted_) {
      const std::int64_t factor = scale_ / scale, from_there = reach_ - reach * factor;
      traced.reaches.push_back((from_there + factor - 1) / factor);
    }
    inputs.insert(inputs.end(), state_inputs_.begin(), state_inputs_.end());
    results.insert(results.end(), state_outputs_.begin(), state_outputs_.end());
    traced.graph = make_graph(std::move(name), std::move(inputs), std::move(results));
    return traced;
  }

 private:
  Value weight(const std::string& name, const Shape& file_shape, Shape shape) {
    return parameter(name, dtype_, std::move(shape), 0, file_shape);
  }

  void skip_state(const Value& x, std::int64_t frames) {
    states_.push_back({dtype_, {frames, x.dim(1), x.dim(2), x.dim(3)}});
    ++next_state_;
  }

  Value state(const Value& x, std::int64_t frames) {
    skip_state(x, frames);
    reads_.push_back(next_state_ - 1);
    state_inputs_.push_back(input(fmt::format("state_{}", next_state_ - 1), dtype_, states_.back().shape));
    return state_inputs_.back();
  }

  // The new value of the state read last, or of state `number`.
  void keep(const Value& value) { keep(value, reads_.back()); }
  void keep(const Value& value, std::size_t number) {
    writes_.push_back(number);
    state_outputs_.push_back(value);
  }

  DType dtype_;
  bool first_;
  std::size_t next_state_ = 0, first_state_ = 0;
  // How far zeros beyond a picture's edge have reached into it, in its own pixels, of which `scale_` are one of the argument's:
  // each convolution takes them half its kernel further.
  std::int64_t reach_ = 0, scale_ = 1;
  std::vector<std::pair<std::int64_t, std::int64_t>> noted_;  // reach and scale
  std::vector<Type> states_;
  std::vector<std::size_t> reads_, writes_;
  std::vector<Value> state_inputs_, state_outputs_;
};

void check_group(std::string_view where, std::int64_t frames, std::int64_t multiple, std::int64_t height, std::int64_t width,
                 std::int64_t step, bool first) {
  const bool frames_fit = first ? frames == 1 : frames > 0 && frames % multiple == 0;
  check(frames_fit && height > 0 && width > 0 && height % step == 0 && width % step == 0, ErrorKind::invalid_argument, where,
        "bad size: got {} frames of {}x{}, expected {} and a height and width that are multiples of {}.", frames, width, height,
        first ? std::string("1 frame") : fmt::format("a multiple of {} frames", multiple), step);
  // So that no product of a picture's extents, channels and bytes overflows, whatever the configuration.
  const std::int64_t most = kMaxLatentPositions * multiple * step * step;
  check(frames <= most / height / width, ErrorKind::invalid_argument, where,
        "bad size: got {} frames of {}x{}, expected at most {} positions in all.", frames, width, height, most);
}

// [T,H,W,3] to [T,H/p,W/p,3pp] and back: squares of p x p pixels as channels, the colour slowest, then the column, then the row.
Value patches_of(const Value& pixels, std::int64_t patch) {
  if (patch == 1) return pixels;
  const std::int64_t frames = pixels.dim(0), height = pixels.dim(1) / patch, width = pixels.dim(2) / patch;
  const Value squares = reshape(pixels, {frames, height, patch, width, patch, 3});
  return reshape(permute(squares, {0, 1, 3, 5, 4, 2}), {frames, height, width, 3 * patch * patch});
}

Value pixels_of(const Value& patches, std::int64_t patch) {
  if (patch == 1) return patches;
  const std::int64_t frames = patches.dim(0), height = patches.dim(1), width = patches.dim(2);
  const Value squares = reshape(patches, {frames, height, width, 3, patch, patch});
  return reshape(permute(squares, {0, 1, 5, 2, 4, 3}), {frames, height * patch, width * patch, 3});
}

// Where a graph is cut: what is near the latents, or near the image.
enum class Side { both, latent, image };

WanVaeGraph trace_decode(Tracer& tracer, const WanVaeConfig& config, DType dtype, std::int64_t latent_frames, std::int64_t height,
                         std::int64_t width, bool stage_outputs, Side side = Side::both, std::span<const PictureSize> crops = {}) {
  const Value latent = input("latent", DType::f32, {latent_frames, height, width, config.z_dim});
  std::vector<Value> arguments{latent}, stages;
  const auto stage = [&](Value x) {
    stages.push_back(x);
    return x;
  };
  const std::size_t levels = config.dim_mult.size();
  Value x = stage(tracer.pointwise("post_quant_conv", cast(latent, dtype), config.z_dim, 5));
  x = stage(tracer.causal("decoder.conv_in", x, config.decoder_base_dim * config.dim_mult.back(), 3));
  x = stage(tracer.mid_block("decoder.mid_block", x));
  for (std::size_t i = 0; i < levels; ++i) {
    const std::size_t level = levels - 1 - i;
    const std::int64_t channels = config.decoder_base_dim * config.dim_mult[level];
    const std::string name = fmt::format("decoder.up_blocks.{}.", i);
    Value entered = x;
    for (std::int64_t block = 0; block <= config.num_res_blocks; ++block)
      x = tracer.residual_block(fmt::format("{}resnets.{}", name, block), x, channels);
    if (i == 0 && side != Side::both) {
      const std::vector<Value> features = config.is_residual ? std::vector{x, entered} : std::vector{x};
      if (side == Side::latent) return tracer.finish("wan_vae_decode_latent_side", {latent}, features);
      arguments = tracer.begin_part(features);
      stages.clear();
      x = arguments.front(), entered = arguments.back();
    }
    if (level > 0 && i > 0 && side == Side::image) {
      tracer.note_reach();
      if (!crops.empty()) {
        const PictureSize& size = crops[i - 1];
        const Value numbers = input(fmt::format("crop_{}", i), DType::i32, {x.dim(0) * size.height * size.width});
        const auto cut = [&](const Value& from) {
          const Value pixels = gather(reshape(from, {from.shape().count(0, 3), from.dim(3)}), numbers);
          return reshape(pixels, {from.dim(0), size.height, size.width, from.dim(3)});
        };
        arguments.push_back(numbers);
        x = cut(x);
        if (config.is_residual) entered = cut(entered);
      }
    }
    if (level > 0) {
      const bool in_time = config.temporal_downsample[level - 1];
      x = tracer.upsample(name + (config.is_residual ? "upsampler" : "upsamplers.0"), x,
                          config.is_residual ? channels : channels / 2, in_time);
      if (config.is_residual) x = tracer.add_repeated(entered, x, in_time);
    }
    stage(x);
  }
  const std::int64_t patch = config.patch_size;
  const Value patches = stage(tracer.causal("decoder.conv_out", silu(tracer.norm("decoder.norm_out", x)), 3 * patch * patch, 3));
  const Value wide = pixels_of(cast(patches, DType::f32), patch);
  std::vector<Value> results{min(max(wide, constant(-1)), constant(1))};
  if (stage_outputs) results.insert(results.end(), stages.begin(), stages.end());
  return tracer.finish(side == Side::both ? "wan_vae_decode" : "wan_vae_decode_image_side", std::move(arguments),
                       std::move(results));
}

WanVaeGraph trace_encode(Tracer& tracer, const WanVaeConfig& config, DType dtype, std::int64_t frames, std::int64_t height,
                         std::int64_t width, std::optional<std::int64_t> from_level = {}, Side side = Side::both) {
  std::vector<Value> given;  // to the levels above from_level
  Value argument;
  const Value pixels = input("frames", DType::f32, {frames, height, width, 3});
  Value x = tracer.causal("encoder.conv_in", cast(patches_of(pixels, config.patch_size), dtype), config.base_dim, 3);
  std::size_t number = 0;  // blocks and down-samplings of all levels are one list in the files of Wan 2.1
  for (std::size_t level = 0; level < config.dim_mult.size(); ++level) {
    const bool last = level + 1 == config.dim_mult.size();
    if (from_level && level > 0 && level == static_cast<std::size_t>(*from_level)) x = argument = tracer.restart(x);
    if (from_level && level > static_cast<std::size_t>(*from_level)) given.push_back(x);
    if (last && side == Side::image) return tracer.finish("wan_vae_encode_image_side", {pixels}, {x});
    if (last && side == Side::latent) x = argument = tracer.begin_part({x}).front();
    const Value entered = x;
    const auto name = [&](std::string_view of_level) {
      return config.is_residual ? fmt::format("encoder.down_blocks.{}.{}", level, of_level)
                                : fmt::format("encoder.down_blocks.{}", number++);
    };
    for (std::int64_t block = 0; block < config.num_res_blocks; ++block)
      x = tracer.residual_block(name(fmt::format("resnets.{}", block)), x, config.base_dim * config.dim_mult[level]);
    if (!last) x = tracer.downsample(name("downsampler"), x, config.temporal_downsample[level]);
    if (config.is_residual) x = last ? x + entered : tracer.add_averaged(entered, x, config.temporal_downsample[level]);
  }
  x = tracer.mid_block("encoder.mid_block", x);
  x = tracer.causal("encoder.conv_out", silu(tracer.norm("encoder.norm_out", x)), 2 * config.z_dim, 3);
  const Value moments = cast(tracer.pointwise("quant_conv", x, 2 * config.z_dim, 5), DType::f32);
  std::vector<Value> results{slice(moments, 3, 0, config.z_dim), slice(moments, 3, config.z_dim, 2 * config.z_dim)};
  results.insert(results.end(), given.begin(), given.end());
  return tracer.finish(from_level && argument ? fmt::format("wan_vae_encode_from_{}", *from_level)
                       : side == Side::latent ? "wan_vae_encode_latent_side"
                                              : "wan_vae_encode",
                       {argument ? argument : pixels}, std::move(results));
}

}  // namespace

WanVaeGraph trace_wan_vae_decode(const WanVaeConfig& config, DType dtype, std::int64_t latent_frames, std::int64_t height,
                                 std::int64_t width, bool first, bool stage_outputs) {
  check_group("wan_vae_decode", latent_frames, 1, height, width, 1, first);
  Tracer tracer(dtype, first);
  return trace_decode(tracer, config, dtype, latent_frames, height, width, stage_outputs);
}

WanVaeGraph trace_wan_vae_decode_latent_side(const WanVaeConfig& config, DType dtype, std::int64_t latent_frames,
                                             std::int64_t height, std::int64_t width, bool first) {
  check_group("wan_vae_decode", latent_frames, 1, height, width, 1, first);
  Tracer tracer(dtype, first);
  return trace_decode(tracer, config, dtype, latent_frames, height, width, false, Side::latent);
}

WanVaeGraph trace_wan_vae_decode_image_side(const WanVaeConfig& config, DType dtype, std::int64_t latent_frames,
                                            std::int64_t height, std::int64_t width, bool first,
                                            std::span<const PictureSize> crops) {
  check_group("wan_vae_decode", latent_frames, 1, height, width, 1, first);
  Tracer tracer(dtype, first);
  return trace_decode(tracer, config, dtype, latent_frames, height, width, true, Side::image, crops);
}

WanVaeGraph trace_wan_vae_encode(const WanVaeConfig& config, DType dtype, std::int64_t frames, std::int64_t height,
                                 std::int64_t width, bool first) {
  check_group("wan_vae_encode", frames, config.scale_factor_temporal, height, width, config.scale_factor_spatial, first);
  Tracer tracer(dtype, first);
  return trace_encode(tracer, config, dtype, frames, height, width);
}

WanVaeGraph trace_wan_vae_encode_image_side(const WanVaeConfig& config, DType dtype, std::int64_t frames, std::int64_t height,
                                            std::int64_t width, bool first) {
  check_group("wan_vae_encode", frames, config.scale_factor_temporal, height, width, config.scale_factor_spatial, first);
  Tracer tracer(dtype, first);
  return trace_encode(tracer, config, dtype, frames, height, width, {}, Side::image);
}

WanVaeGraph trace_wan_vae_encode_latent_side(const WanVaeConfig& config, DType dtype, std::int64_t frames, std::int64_t height,
                                             std::int64_t width, bool first) {
  check_group("wan_vae_encode", frames, config.scale_factor_temporal, height, width, config.scale_factor_spatial, first);
  Tracer tracer(dtype, first);
  return trace_encode(tracer, config, dtype, frames, height, width, {}, Side::latent);
}

WanVaeGraph trace_wan_vae_encode_from(const WanVaeConfig& config, DType dtype, std::int64_t frames, std::int64_t height,
                                      std::int64_t width, std::int64_t from_level) {
  check_group("wan_vae_encode", frames, config.scale_factor_temporal, height, width, config.scale_factor_spatial, false);
  const auto levels = static_cast<std::int64_t>(config.dim_mult.size());
  check(from_level >= 0 && from_level < levels, ErrorKind::invalid_argument, "wan_vae_encode",
        "bad level: got {}, expected 0 to {}.", from_level, levels - 1);
  Tracer tracer(dtype, false);
  return trace_encode(tracer, config, dtype, frames, height, width, from_level);
}

std::int64_t wan_vae_frames_seen(const WanVaeConfig& config, std::int64_t level) {
  std::int64_t frames = kCachedFrames, rate = 1;  // conv_in; pixel frames a frame of the level
  for (std::int64_t below = 0; below < level; ++below) {
    frames += 2 * config.num_res_blocks * kCachedFrames * rate;
    if (!config.temporal_downsample[static_cast<std::size_t>(below)]) continue;
    frames += kCachedFrames * rate;  // the convolution that halves them sees two frames before the last
    rate *= 2;
  }
  return frames;
}

std::vector<ExpectedTensor> wan_vae_tensors(const WanVaeConfig& config) {
  const std::int64_t frames = config.scale_factor_temporal, side = config.scale_factor_spatial;
  std::vector<ExpectedTensor> tensors = parameters_of(trace_wan_vae_encode(config, DType::f32, frames, side, side, false).graph);
  for (ExpectedTensor& tensor : parameters_of(trace_wan_vae_decode(config, DType::f32, 1, 1, 1, false).graph))
    tensors.push_back(std::move(tensor));
  return tensors;
}

}  // namespace zoe
