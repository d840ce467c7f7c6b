#include "models/tiny_decoder/model.h"

#include <fmt/format.h>

#include "ir/trace.h"

namespace zoe {

namespace {

// The layers are numbered in one row: 1 the first convolution, 3 to 8 a level (three blocks, an enlargement without weights, frames
// made of frames, a convolution), 9 to 14 and 15 to 20 the others, 22 the last convolution.
class Tracer {
 public:
  explicit Tracer(DType dtype) : dtype_(dtype) {}

  Value relu(const Value& x) const { return max(x, constant(0.0, x.dtype())); }

  // 3x3 within a frame: x [T,h,w,I] -> [T,h,w,out].
  Value spatial(const std::string& name, const Value& x, std::int64_t out, bool bias, int upsample = 1,
                const Value& residual = {}) const {
    const Value kernel = parameter(name + ".weight", dtype_, {out, x.dim(3), 1, 3, 3}, 0, {out, x.dim(3), 3, 3});
    ProductOptions options{.residual = residual};
    if (bias) options.bias = parameter(name + ".bias", dtype_, {out});
    return conv(x, kernel, {.pad_begin = {0, 1, 1}, .pad_end = {0, 1, 1}, .upsample = upsample}, options);
  }

  // Sees each frame and the one before it.
  Value memory_block(const std::string& name, const Value& x) {
    const std::int64_t frames = x.dim(0), channels = x.dim(3);
    inputs.push_back(input(fmt::format("state_{}", inputs.size()), dtype_, {1, x.dim(1), x.dim(2), channels}));
    const Value joined = concat({inputs.back(), x}, 0);
    states.push_back(slice(joined, 0, frames, frames + 1));
    const Value first = relu(spatial(name + ".conv.0", concat({x, slice(joined, 0, 0, frames)}, 3), channels, true));
    return relu(spatial(name + ".conv.4", relu(spatial(name + ".conv.2", first, channels, true)), channels, true, 1, x));
  }

  // [T,h,w,C] -> [times T,h,w,C]. In front of the enlargement, which repeats pixels: the same numbers for a quarter of the work.
  Value grow(const std::string& name, const Value& x, std::int64_t times) const {
    const std::int64_t channels = x.dim(3);
    const Value matrix =
        parameter(name + ".conv.weight", dtype_, {times * channels, channels}, 0, {times * channels, channels, 1, 1});
    const Value made = reshape(linear(x, matrix), {x.dim(0), x.dim(1) * x.dim(2), times, channels});
    return reshape(permute(made, {0, 2, 1, 3}), {x.dim(0) * times, x.dim(1), x.dim(2), channels});
  }

  std::vector<Value> inputs, states;

 private:
  DType dtype_;
};

}  // namespace

TinyDecoderGraph trace_tiny_decoder(const TinyDecoderConfig& config, DType dtype, std::int64_t latent_frames, std::int64_t height,
                                    std::int64_t width) {
  Tracer tracer(dtype);
  const Value latent = input("latent", DType::f32, {latent_frames, height, width, config.z_dim});
  const Value bounded = cast(tanh(latent * (1.0 / 3.0)) * 3.0, dtype);
  Value x = tracer.relu(tracer.spatial("decoder.1", bounded, config.channels[0], true));
  for (std::size_t level = 0; level < 3; ++level) {
    const std::size_t layer = 6 * level + 3;
    for (std::size_t block = 0; block < 3; ++block) x = tracer.memory_block(fmt::format("decoder.{}", layer + block), x);
    x = tracer.grow(fmt::format("decoder.{}", layer + 4), x, config.grows[level]);
    x = tracer.spatial(fmt::format("decoder.{}", layer + 5), x, config.channels[level + 1], false, 2);
  }
  const std::int64_t patch = config.patch_size, frames = x.dim(0), rows = x.dim(1), columns = x.dim(2);
  const Value squares = tracer.spatial("decoder.22", tracer.relu(x), 3 * patch * patch, true);
  const Value pixels = permute(reshape(squares, {frames, rows, columns, 3, patch, patch}), {0, 1, 4, 2, 5, 3});
  const Value from_0_to_1 = cast(reshape(pixels, {frames, rows * patch, columns * patch, 3}), DType::f32);

  std::vector<Value> inputs{latent}, outputs{from_0_to_1 * 2.0 - 1.0};
  inputs.insert(inputs.end(), tracer.inputs.begin(), tracer.inputs.end());
  outputs.insert(outputs.end(), tracer.states.begin(), tracer.states.end());
  return {make_graph("tiny_decoder", std::move(inputs), std::move(outputs)), tracer.states.size()};
}

std::vector<ExpectedTensor> tiny_decoder_tensors(const TinyDecoderConfig& config) {
  return parameters_of(trace_tiny_decoder(config, DType::f32, 1, 1, 1).graph);
}

}  // namespace zoe
