// bf16 convolutions by cuDNN, on channels-last pictures as they are; f32 ones are faster in our own implicit product.
//
// Three things are done around it.
// Engines take channels by eights: other counts are filled up with zeros.
// A 3x3 convolution of a picture made twice as high and wide is one of the small picture: each pixel of the result sees only four
// different pixels, by sums of the nine taps (see cpu/upsampled_conv.cpp), so the four parities of row and column are four times
// the channels of a 2x2 convolution, which are then put side by side.
// Pictures of three channels would leave the tensor cores all but idle. The taps within a frame become channels of the side that
// has few: spread over them before a convolution through time, or gathered, in f32, behind one.

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "platform/cuda/cudnn_plan.h"
#include "platform/cuda/kernels.h"
#include "platform/cuda/sources.h"

namespace zoe::cuda {
namespace {

constexpr std::int64_t kThreads = 256;
constexpr std::int64_t kChannelsTogether = 8;
constexpr std::int64_t kMostTapChannels = 32;  // narrower than a tile of the tensor cores, so more are for nothing
constexpr std::size_t kScratchAlignment = 256;

std::size_t aligned(std::size_t bytes) { return (bytes + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment; }

std::int64_t rounded_up(std::int64_t channels) {
  return (channels + kChannelsTogether - 1) / kChannelsTogether * kChannelsTogether;
}

bool all(std::span<const int> values, int value) {
  return std::all_of(values.begin(), values.end(), [=](int i) { return i == value; });
}

enum class Form {
  plain,
  phases,   // of a picture made twice as high and wide
  spread,   // the input's channels are taps
  gathered  // the result's channels are taps
};

// A node, and what cuDNN is asked for instead.
struct Geometry {
  explicit Geometry(const Node& node)
      : attributes(node.as<ProductAttributes>()),
        x(node.inputs[0].shape()),
        weight(node.inputs[1].shape()),
        result(node.types[0].shape) {
    const std::int64_t plane = weight.dim(3) * weight.dim(4), inputs = weight.dim(1), outputs = weight.dim(0);
    if (attributes.upsample == 2) form = Form::phases;
    else if (plane > 1 && inputs * plane <= kMostTapChannels) form = Form::spread;
    else if (plane > 1 && outputs * plane <= kMostTapChannels && !attributes.has_residual &&
             all(std::span(attributes.stride).subspan(1), 1))
      form = Form::gathered;
    phases = form == Form::phases ? 4 : 1;
    in_channels = rounded_up(form == Form::spread ? inputs * plane : inputs);
    out_channels = rounded_up(form == Form::gathered ? outputs * plane : outputs);
    kernel = {weight.dim(2), weight.dim(3), weight.dim(4)};
    source = {x.dim(0), x.dim(1), x.dim(2)};
    target = {result.dim(0), result.dim(1), result.dim(2)};
    for (std::size_t a = 0; a < 3; ++a) {
      stride.push_back(attributes.stride[a]);
      pad_begin.push_back(attributes.pad_begin[a]);
      pad_end.push_back(attributes.pad_end[a]);
    }
    for (std::size_t a = 1; a < 3; ++a) {
      if (form == Form::phases) {
        kernel[a] = 2;
        target[a] = source[a] + 1;
      } else if (form == Form::spread || form == Form::gathered) {
        (form == Form::spread ? source : target)[a] = (form == Form::spread ? target : source)[a];
        kernel[a] = stride[a] = 1;
        pad_begin[a] = pad_end[a] = 0;
      }
    }
  }

  bool changes_input() const { return in_channels != x.dim(3); }
  bool changes_result() const { return phases == 4 || out_channels != weight.dim(0); }
  std::int64_t source_count() const { return source[0] * source[1] * source[2] * in_channels; }
  std::int64_t target_count() const { return target[0] * target[1] * target[2] * phases * out_channels; }
  std::size_t input_bytes() const { return changes_input() ? aligned(static_cast<std::size_t>(source_count()) * 2) : 0; }
  std::size_t result_bytes() const {
    return changes_result() ? aligned(static_cast<std::size_t>(target_count()) * (form == Form::gathered ? 4 : 2)) : 0;
  }

  const ProductAttributes attributes;
  const Shape x, weight, result;
  Form form = Form::plain;
  // cuDNN's: channels, then axes T H W.
  std::int64_t phases = 1, in_channels = 0, out_channels = 0;
  std::vector<std::int64_t> source, target, kernel, stride, pad_begin, pad_end;
};

// Channels-last: [batch, channels, axes...] by cuDNN's names of axes.
CudnnTensor pictures(std::int64_t batch, std::int64_t channels, const std::vector<std::int64_t>& axes) {
  CudnnTensor tensor{{batch, channels}, {}, cudnn::kBf16};
  tensor.dims.insert(tensor.dims.end(), axes.begin(), axes.end());
  tensor.strides.assign(tensor.dims.size(), 1);
  std::int64_t stride = channels;
  for (std::size_t axis = tensor.dims.size(); axis-- > 2;) {
    tensor.strides[axis] = stride;
    stride *= tensor.dims[axis];
  }
  tensor.strides[0] = stride;
  return tensor;
}

CudnnGraph conv_graph(const Geometry& g) {
  using List = std::vector<std::int64_t>;
  List source = g.source, target = g.target, kernel = g.kernel, stride = g.stride, begin = g.pad_begin, end = g.pad_end;
  std::int64_t batch = 1;
  // Kernels of one frame, and of one pixel through time, are convolutions over two axes: cuDNN has more engines for those.
  if (kernel[0] == 1 && stride[0] == 1 && begin[0] == 0 && end[0] == 0) {
    batch = source[0];
    for (List* list : {&source, &target, &kernel, &stride, &begin, &end}) list->erase(list->begin());
  } else if (kernel[1] * kernel[2] * stride[1] * stride[2] == 1 && begin[1] + begin[2] + end[1] + end[2] == 0) {
    for (List* list : {&source, &target, &kernel, &stride}) {
      (*list)[1] *= (*list)[2];
      list->pop_back();
    }
    for (List* list : {&begin, &end}) list->pop_back();
  }
  const std::int64_t outputs = g.phases * g.out_channels;
  const ProductAttributes& attributes = g.attributes;
  CudnnGraph graph;
  CudnnTensor result = pictures(batch, outputs, target), between = result;
  between.type = cudnn::kFloat;
  between.where = CudnnTensor::Where::nowhere;
  if (g.form == Form::gathered) result.type = cudnn::kFloat;
  const bool has_bias = attributes.has_bias && g.form != Form::gathered, has_residual = attributes.has_residual;
  const std::vector<int> operands{graph.tensor(pictures(batch, g.in_channels, source)),
                                  graph.tensor(pictures(outputs, g.in_channels, kernel))};
  const int bias = has_bias ? graph.tensor(pictures(1, outputs, List(target.size(), 1))) : 0;
  const int residual = has_residual ? graph.tensor(result) : 0;
  int last = graph.tensor(has_bias ? between : result);
  graph.operations.push_back({.kind = cudnn::kConvolutionForward,
                              .inputs = operands,
                              .output = last,
                              .stride = stride,
                              .pad_begin = begin,
                              .pad_end = end});
  // In this order engines that are there already know the pattern; the other has to be generated, which takes two seconds.
  if (has_residual) last = graph.pointwise(cudnn::kAdd, {last, residual}, between);
  if (has_bias) graph.pointwise(cudnn::kAdd, {last, bias}, result);
  return graph;
}

class CudnnConvKernel : public Kernel {
 public:
  CudnnConvKernel(const Geometry& geometry, std::shared_ptr<CudnnPlan> plan, const Cudnn& cudnn)
      : g_(geometry), plan_(std::move(plan)) {
    constexpr std::string_view kForms[] = {"", ", 4 of 2x2", ", taps as inputs", ", taps as outputs"};
    const std::string_view form = kForms[static_cast<std::size_t>(g_.form)];
    implementation_ = fmt::format("cudnn {} conv, {}{}", cudnn.version, plan_->engine(), form);
    layout_ = fmt::format("taps before {} channels to {}{}", g_.in_channels, g_.out_channels, form);
    const auto function = [&](const char* name, const char* type) {
      return cudnn.device->function(fmt::format("typedef {} T;\n", type) + kConvLayoutSource, name, name);
    };
    const char* const element = "unsigned short";
    if (g_.changes_input()) before_ = function(g_.form == Form::spread ? "spread_taps" : "copy_channels", element);
    if (g_.form == Form::gathered) after_ = function("gather_taps", element);
    else if (g_.form == Form::phases) after_ = function("interleave_phases", element);
    else if (g_.changes_result()) after_ = function("copy_channels", element);
    if (g_.form == Form::phases) whole_ = function("interleave_phases", "uint4");
  }

  std::string_view implementation() const override { return implementation_; }
  std::size_t scratch_bytes() const override { return g_.input_bytes() + g_.result_bytes() + plan_->workspace_bytes(); }
  // Engines read an element of the residual just before they write the result there.
  bool can_overwrite(int input, int) const override {
    return g_.attributes.has_residual && input == (g_.attributes.has_bias ? 3 : 2);
  }

  std::string weight_layout(int input) const override {
    return input == 1              ? layout_
           : is_packed_bias(input) ? fmt::format("bf16 to {}, {} times", g_.out_channels, g_.phases)
                                   : "dense bf16";
  }
  std::size_t packed_bytes(int input, const Type& type) const override {
    if (input == 1) return static_cast<std::size_t>(g_.phases * g_.out_channels * g_.in_channels * taps()) * 2;
    return is_packed_bias(input) ? static_cast<std::size_t>(g_.phases * g_.out_channels) * 2 : Kernel::packed_bytes(input, type);
  }

  // [outputs,inputs,kt,kh,kw] to [outputs of cuDNN's, taps of cuDNN's, inputs of cuDNN's]; a bias once a phase.
  void pack_weight(int input, const Type& type, const WeightReader& source, std::byte* packed) const override {
    if (input != 1 && !is_packed_bias(input)) return Kernel::pack_weight(input, type, source, packed);
    const std::size_t size = packed_bytes(input, type);
    if (input != 1) {
      std::memset(packed, 0, size);
      for (std::int64_t phase = 0; phase < g_.phases; ++phase)
        Kernel::pack_weight(input, type, source, packed + static_cast<std::size_t>(phase * g_.out_channels) * 2);
      return;
    }
    const std::int64_t inputs = g_.weight.dim(1), given = g_.weight.count(2, 5), outputs = g_.weight.dim(0);
    const std::int64_t row = inputs * given;
    std::vector<float> sums(size / 2);
#pragma omp parallel for schedule(static) if (source.count() > (1 << 16))
    for (std::int64_t output = 0; output < outputs; ++output) {
      std::vector<float> values(static_cast<std::size_t>(row));
      source.read(output * row, row, DType::f32, values.data());
      for (std::int64_t phase = 0; phase < g_.phases; ++phase)
        for (std::int64_t channel = 0; channel < inputs; ++channel)
          for (std::int64_t tap = 0; tap < given; ++tap)
            sums[place_of(output, channel, tap, phase)] += values[static_cast<std::size_t>(channel * given + tap)];
    }
    convert(sums.data(), DType::f32, packed, DType::bf16, sums.size());
  }

  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    const Slot own{scratch.buffer, scratch.offset + g_.input_bytes()}, workspace{scratch.buffer, own.offset + g_.result_bytes()};
    if (g_.changes_input()) prepare(stream, inputs[0], scratch);
    const bool gathered = g_.form == Form::gathered;
    std::vector<void*> operands{(g_.changes_input() ? scratch : inputs[0]).data(), inputs[1].data()};
    for (std::size_t i = 2; i < inputs.size() && !gathered; ++i) operands.push_back(inputs[i].data());
    operands.push_back((g_.changes_result() ? own : outputs[0]).data());
    plan_->run(handle_of(stream), operands, plan_->workspace_bytes() ? address_of(workspace) : 0);
    if (g_.changes_result()) finish(stream, own, inputs, outputs[0]);
  }

 private:
  std::int64_t taps() const { return g_.kernel[0] * g_.kernel[1] * g_.kernel[2]; }
  bool is_packed_bias(int input) const { return input == 2 && g_.attributes.has_bias && g_.form != Form::gathered; }

  // Where a tap of the given weight stands in cuDNN's, or is added to.
  std::size_t place_of(std::int64_t output, std::int64_t channel, std::int64_t tap, std::int64_t phase) const {
    const std::int64_t plane = g_.weight.dim(3) * g_.weight.dim(4), time = tap / plane, within = tap % plane;
    std::int64_t row = output, middle = tap, last = channel;
    if (g_.form == Form::phases) {
      // Of an even row's taps the first falls on the pixel above and two on its own; of an odd row's two on its own, one below.
      const auto half = [](std::int64_t i, std::int64_t parity) { return i > parity ? 1 : 0; };
      row += phase * g_.out_channels;
      middle = time * 4 + half(within / 3, phase / 2) * 2 + half(within % 3, phase % 2);
    } else if (g_.form == Form::spread) {
      middle = time;
      last = within * g_.weight.dim(1) + channel;
    } else if (g_.form == Form::gathered) {
      row = within * g_.weight.dim(0) + output;
      middle = time;
    }
    return static_cast<std::size_t>((row * taps() + middle) * g_.in_channels + last);
  }

  // A row of pixels a block in x, its pieces in y.
  static void run_rows(Launch& launch, std::int64_t rows, std::int64_t elements) {
    launch.run({rows, (elements + kThreads - 1) / kThreads}, {kThreads});
  }
  static void run_flat(Launch& launch, std::int64_t count) {
    launch.large(count).run({(count + kThreads - 1) / kThreads}, {kThreads});
  }

  void prepare(Stream& stream, const Slot& x, const Slot& changed) const {
    Launch launch(before_, stream);
    launch.place(x).place(changed);
    if (g_.form != Form::spread) return run_flat(launch.integer(g_.x.dim(3)).integer(g_.in_channels), g_.source_count());
    launch.integer(g_.x.dim(1)).integer(g_.x.dim(2)).integer(g_.x.dim(3));
    launch.integer(g_.source[1]).integer(g_.source[2]).integer(g_.in_channels);
    launch.integer(g_.weight.dim(3)).integer(g_.weight.dim(4));
    launch.integer(g_.attributes.stride[1]).integer(g_.attributes.stride[2]);
    launch.integer(g_.attributes.pad_begin[1]).integer(g_.attributes.pad_begin[2]);
    run_rows(launch, g_.source[0] * g_.source[1], g_.source[2] * g_.in_channels);
  }

  void finish(Stream& stream, const Slot& made, std::span<const Slot> inputs, const Slot& result) const {
    const std::int64_t rows = g_.result.count(0, 2), columns = g_.result.dim(2), channels = g_.result.dim(3);
    if (g_.form == Form::phases) {
      const std::int64_t together = address_of(result) % 16 == 0 ? kChannelsTogether : 1;
      Launch launch(together > 1 ? whole_ : after_, stream);
      launch.place(made).place(result).integer(g_.x.dim(1)).integer(g_.x.dim(2)).integer(channels / together);
      return run_rows(launch, rows, columns * channels / together);
    }
    Launch launch(after_, stream);
    launch.place(made);
    if (g_.form != Form::gathered)
      return run_flat(launch.place(result).integer(g_.out_channels).integer(channels), g_.result.count());
    if (g_.attributes.has_bias) launch.place(inputs[2]);
    else launch.nowhere();
    launch.place(result).integer(g_.target[1]).integer(g_.target[2]).integer(g_.out_channels);
    launch.integer(g_.result.dim(1)).integer(columns).integer(channels);
    launch.integer(g_.weight.dim(3)).integer(g_.weight.dim(4));
    launch.integer(g_.attributes.pad_begin[1]).integer(g_.attributes.pad_begin[2]);
    run_rows(launch, rows, columns * channels);
  }

  const Geometry g_;
  const std::shared_ptr<CudnnPlan> plan_;
  Function before_, after_, whole_;  // whole_: after_ by sixteen bytes
  std::string implementation_, layout_;
};

}  // namespace

CudnnGraph conv_graph(const Node& conv) { return conv_graph(Geometry(conv)); }

Support cudnn_takes_conv(const Node& node) {
  if (node.types[0].dtype != DType::bf16) return Support::no("our own product is faster in f32");
  const auto& attributes = node.as<ProductAttributes>();
  if (attributes.activation != Activation::none || (attributes.has_residual && !attributes.has_bias))
    return Support::no("cuDNN would have to generate code for an activation, or a residual without a bias");
  for (std::size_t i = 1; i < node.inputs.size() - (attributes.has_residual ? 1 : 0); ++i)
    if (node.inputs[i].node().opcode != Opcode::parameter)
      return Support::no("cuDNN's layout of a weight is made once, and this one is computed");
  const Shape& weight = node.inputs[1].shape();
  const auto is_plane = [](const std::array<int, 3>& a, int value) { return a[1] == value && a[2] == value; };
  if (attributes.upsample == 2 &&
      !(weight.dim(3) == 3 && weight.dim(4) == 3 && all(attributes.stride, 1) && is_plane(attributes.pad_begin, 1) &&
        is_plane(attributes.pad_end, 1) && !attributes.has_residual && weight.dim(0) % kChannelsTogether == 0))
    return Support::no("a convolution that upsamples is 3x3, padded by 1, to a multiple of {} channels, without a residual",
                       kChannelsTogether);
  if (Geometry(node).changes_result() && attributes.has_residual)
    return Support::no("the channels of a residual are not filled up");
  return Support::yes();
}

std::unique_ptr<Kernel> make_cudnn_conv(const Node& node, const std::shared_ptr<Cudnn>& cudnn, std::string& why) {
  const Geometry geometry(node);
  auto plan = cudnn->plan(conv_graph(geometry), why);
  if (!plan) return nullptr;
  return std::make_unique<CudnnConvKernel>(geometry, std::move(plan), *cudnn);
}

}  // namespace zoe::cuda
