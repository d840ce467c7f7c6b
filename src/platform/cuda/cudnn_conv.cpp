// Convolutions by cuDNN, on channels-last pictures as they are.
//
// Two things are done around it. bf16 engines take channels by eights, so a picture of three gets five channels of zeros, and a
// result of three is cut out of eight. And a 3x3 convolution of a picture made twice as high and wide is one of the small picture:
// each pixel of the result sees only four different pixels, by sums of the nine taps (see cpu/upsampled_conv.cpp), so the four
// parities of row and column are four times the channels of a 2x2 convolution, which are then put side by side.

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
constexpr std::int64_t kChannelsTogether = 8;  // bf16
constexpr std::size_t kScratchAlignment = 256;

std::size_t aligned(std::size_t bytes) { return (bytes + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment; }

std::int64_t rounded_up(std::int64_t channels, DType dtype) {
  return dtype == DType::bf16 ? (channels + kChannelsTogether - 1) / kChannelsTogether * kChannelsTogether : channels;
}

bool all(std::span<const int> values, int value) {
  return std::all_of(values.begin(), values.end(), [=](int i) { return i == value; });
}

// What cuDNN is asked for, and what stands around it.
struct Geometry {
  explicit Geometry(const Node& node)
      : dtype(node.types[0].dtype),
        attributes(node.as<ProductAttributes>()),
        x(node.inputs[0].shape()),
        weight(node.inputs[1].shape()),
        result(node.types[0].shape),
        phases(attributes.upsample == 2 ? 4 : 1),
        in_channels(rounded_up(x.dim(3), dtype)),
        out_channels(rounded_up(weight.dim(0), dtype)) {
    for (int axis = 0; axis < 3; ++axis) {
      const auto a = static_cast<std::size_t>(axis);
      kernel[a] = phases == 4 && axis > 0 ? 2 : weight.dim(2 + axis);
      inner[a] = phases == 4 && axis > 0 ? x.dim(axis) + 1 : result.dim(axis);
    }
  }

  bool pads_input() const { return in_channels != x.dim(3); }
  bool cuts_output() const { return out_channels != weight.dim(0); }
  bool has_own_result() const { return phases == 4 || cuts_output(); }
  std::size_t element() const { return size_of(dtype); }
  std::size_t padded_input_bytes() const {
    return pads_input() ? aligned(static_cast<std::size_t>(x.count(0, 3) * in_channels) * element()) : 0;
  }
  std::size_t own_result_bytes() const {
    return has_own_result() ? aligned(static_cast<std::size_t>(inner[0] * inner[1] * inner[2] * phases * out_channels) * element())
                            : 0;
  }

  const DType dtype;
  const ProductAttributes attributes;
  const Shape x, weight, result;
  const std::int64_t phases, in_channels, out_channels;
  std::array<std::int64_t, 3> kernel{}, inner{};  // cuDNN's kernel and result, axes T H W
};

// Channels-last: [batch, channels, axes...] by cuDNN's names of axes.
CudnnTensor pictures(std::int64_t batch, std::int64_t channels, const std::vector<std::int64_t>& axes, int type) {
  CudnnTensor tensor{{batch, channels}, {}, type};
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

// `with_epilogue`: bias, activation and residual are part of it.
CudnnGraph conv_graph(const Geometry& g, bool with_epilogue) {
  using List = std::vector<std::int64_t>;
  const int type = g.dtype == DType::bf16 ? cudnn::kBf16 : cudnn::kFloat;
  const auto &pad_begin = g.attributes.pad_begin, &pad_end = g.attributes.pad_end, &stride = g.attributes.stride;
  List x{g.x.dim(0), g.x.dim(1), g.x.dim(2)}, kernel(g.kernel.begin(), g.kernel.end()), y(g.inner.begin(), g.inner.end());
  List strides(stride.begin(), stride.end()), begin(pad_begin.begin(), pad_begin.end()), end(pad_end.begin(), pad_end.end());
  std::int64_t batch = 1;
  const auto drop_first = [](List& list) { list.erase(list.begin()); };
  const auto join_last = [](List& list) {
    list[1] *= list[2];
    list.pop_back();
  };
  // Kernels of one frame, and of one pixel through time, are convolutions over two axes: cuDNN has more engines for those.
  if (kernel[0] == 1 && strides[0] == 1 && begin[0] == 0 && end[0] == 0) {
    batch = x[0];
    for (List* list : {&x, &kernel, &y, &strides, &begin, &end}) drop_first(*list);
  } else if (kernel[1] == 1 && kernel[2] == 1 && g.phases == 1 && all(std::span(stride).subspan(1), 1) &&
             all(std::span(pad_begin).subspan(1), 0) && all(std::span(pad_end).subspan(1), 0)) {
    for (List* list : {&x, &kernel, &y, &strides}) join_last(*list);
    for (List* list : {&begin, &end}) list->pop_back();
  }
  const std::int64_t out = g.phases * g.out_channels;
  CudnnGraph graph;
  const CudnnTensor result = pictures(batch, out, y, type);
  CudnnTensor between = result;
  between.type = cudnn::kFloat;
  between.where = CudnnTensor::Where::nowhere;
  std::vector<int> operands{graph.tensor(pictures(batch, g.in_channels, x, type)),
                            graph.tensor(pictures(out, g.in_channels, kernel, type))};
  const ProductAttributes& attributes = g.attributes;
  const bool has_bias = with_epilogue && attributes.has_bias, has_residual = with_epilogue && attributes.has_residual;
  const bool has_activation = with_epilogue && attributes.activation != Activation::none;
  const int bias = has_bias ? graph.tensor(pictures(1, out, List(y.size(), 1), type)) : 0;
  const int residual = has_residual ? graph.tensor(result) : 0;
  const int product = graph.tensor(has_bias || has_residual || has_activation ? between : result);
  graph.operations.push_back({.kind = cudnn::kConvolutionForward,
                              .inputs = operands,
                              .output = product,
                              .stride = strides,
                              .pad_begin = begin,
                              .pad_end = end});
  int last = product;
  // Without an activation between them the order is free, and engines that are there already know this one.
  const bool residual_first = has_residual && has_bias && !has_activation;
  if (residual_first) last = graph.pointwise(cudnn::kAdd, {last, residual}, between);
  if (has_bias)
    last = graph.pointwise(cudnn::kAdd, {last, bias}, has_activation || (has_residual && !residual_first) ? between : result);
  if (has_activation)
    last = graph.pointwise(attributes.activation == Activation::silu ? cudnn::kSwish : cudnn::kGeluTanh, {last},
                           has_residual ? between : result);
  if (has_residual && !residual_first) graph.pointwise(cudnn::kAdd, {last, residual}, result);
  return graph;
}

class CudnnConvKernel : public Kernel {
 public:
  CudnnConvKernel(const Geometry& geometry, std::shared_ptr<CudnnPlan> plan, bool with_epilogue, const Cudnn& cudnn)
      : g_(geometry), plan_(std::move(plan)), with_epilogue_(with_epilogue) {
    implementation_ = fmt::format("cudnn {} conv, {}{}{}", cudnn.version, plan_->engine(), g_.phases == 4 ? ", 4 of 2x2" : "",
                                  with_epilogue_ ? "" : ", then the epilogue");
    layout_ = fmt::format("cudnn {}{}x{} channels", g_.phases == 4 ? "2x2 sums, " : "", g_.out_channels, g_.in_channels);
    const auto function = [&](const char* name, const char* type) {
      return cudnn.device->function(fmt::format("typedef {} T;\n", type) + kConvLayoutSource, name, name);
    };
    const char* const element = g_.dtype == DType::bf16 ? "unsigned short" : "unsigned";
    whole_ = g_.out_channels * static_cast<std::int64_t>(g_.element()) % 16 == 0 ? 16 / static_cast<std::int64_t>(g_.element()) : 1;
    if (g_.pads_input() || (g_.cuts_output() && g_.phases == 1)) copy_channels_ = function("copy_channels", element);
    if (g_.phases == 4) interleave_ = function("interleave_phases", whole_ > 1 ? "uint4" : element);
    if (!with_epilogue_) add_epilogue_ = function("add_epilogue", element);
  }

  std::string_view implementation() const override { return implementation_; }
  std::size_t scratch_bytes() const override { return g_.padded_input_bytes() + g_.own_result_bytes() + plan_->workspace_bytes(); }

  std::string weight_layout(int input) const override {
    return input == 1 ? layout_ : fmt::format("dense {} to {}, {} times", name(g_.dtype), g_.out_channels, g_.phases);
  }
  std::size_t packed_bytes(int input, const Type& type) const override {
    if (input == 1) return static_cast<std::size_t>(g_.phases * g_.out_channels * g_.in_channels * taps()) * g_.element();
    if (input == 2 && g_.attributes.has_bias) return static_cast<std::size_t>(g_.phases * g_.out_channels) * g_.element();
    return Kernel::packed_bytes(input, type);
  }

  // [O,I,kt,kh,kw] to [phase,O,kt,kh,kw,I]; a bias once a phase.
  void pack_weight(int input, const Type& type, const HostTensor& source, std::byte* packed) const override {
    if (input != 1 && !(input == 2 && g_.attributes.has_bias)) return Kernel::pack_weight(input, type, source, packed);
    std::memset(packed, 0, packed_bytes(input, type));
    const std::size_t element = g_.element(), row = static_cast<std::size_t>(source.shape.count(1, source.shape.rank()));
    if (input == 2) {
      for (std::int64_t phase = 0; phase < g_.phases; ++phase)
        Kernel::pack_weight(input, type, source, packed + static_cast<std::size_t>(phase * g_.out_channels) * element);
      return;
    }
    const std::int64_t given = g_.weight.count(2, 5), channels = g_.weight.dim(1);
#pragma omp parallel for schedule(static) if (source.shape.count() > (1 << 16))
    for (std::int64_t out = 0; out < g_.weight.dim(0); ++out) {
      std::vector<std::byte> whole(row * size_of(source.dtype));  // aligned
      std::memcpy(whole.data(), source.data + static_cast<std::size_t>(out) * whole.size(), whole.size());
      std::vector<float> taps_given(row), values(static_cast<std::size_t>(g_.in_channels * taps()));
      convert(whole.data(), source.dtype, taps_given.data(), DType::f32, row);
      for (std::int64_t phase = 0; phase < g_.phases; ++phase) {
        std::fill(values.begin(), values.end(), 0.0f);
        for (std::int64_t channel = 0; channel < channels; ++channel)
          for (std::int64_t tap = 0; tap < given; ++tap)
            values[static_cast<std::size_t>(place_of(tap, phase) * g_.in_channels + channel)] +=
                taps_given[static_cast<std::size_t>(channel * given + tap)];
        convert(values.data(), DType::f32,
                packed + static_cast<std::size_t>(phase * g_.out_channels + out) * values.size() * element, g_.dtype,
                values.size());
      }
    }
  }

  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    const Slot padded = scratch, own{scratch.buffer, scratch.offset + g_.padded_input_bytes()},
               workspace{scratch.buffer, own.offset + g_.own_result_bytes()};
    if (g_.pads_input()) copy_channels(stream, inputs[0], padded, g_.x.dim(3), g_.in_channels, g_.x.count(0, 3) * g_.in_channels);
    const Slot product = g_.has_own_result() ? own : outputs[0];
    std::vector<void*> operands{(g_.pads_input() ? padded : inputs[0]).data(), inputs[1].data()};
    if (with_epilogue_)
      for (std::size_t i = 2; i < inputs.size(); ++i) operands.push_back(inputs[i].data());
    operands.push_back(product.data());
    plan_->run(handle_of(stream), operands, plan_->workspace_bytes() ? address_of(workspace) : 0);
    if (!with_epilogue_) {
      const std::int64_t channels = g_.phases * g_.out_channels, count = g_.inner[0] * g_.inner[1] * g_.inner[2] * channels;
      Launch launch(add_epilogue_, stream);
      launch.place(product);
      std::size_t next = 2;
      for (const bool present : {g_.attributes.has_bias, g_.attributes.has_residual}) {
        if (present) launch.place(inputs[next++]);
        else launch.nowhere();
      }
      launch.integer(channels).large(count).run({(count + kThreads - 1) / kThreads}, {kThreads});
    }
    if (g_.phases == 4) {
      const std::int64_t count = g_.result.count() / whole_;
      Launch(interleave_, stream)
          .place(product)
          .place(outputs[0])
          .integer(g_.x.dim(1))
          .integer(g_.x.dim(2))
          .integer(g_.out_channels / whole_)
          .large(count)
          .run({(count + kThreads - 1) / kThreads}, {kThreads});
    } else if (g_.cuts_output()) {
      copy_channels(stream, product, outputs[0], g_.out_channels, g_.weight.dim(0), g_.result.count());
    }
  }

 private:
  std::int64_t taps() const { return g_.kernel[0] * g_.kernel[1] * g_.kernel[2]; }

  // Which tap of cuDNN's kernel a tap of the given one is, or is summed into.
  std::int64_t place_of(std::int64_t tap, std::int64_t phase) const {
    if (g_.phases == 1) return tap;
    // Of an even row's taps the first falls on the pixel above and two on its own, of an odd row's two on its own and the last
    // below.
    const auto half = [](std::int64_t i, std::int64_t parity) { return i > parity ? 1 : 0; };
    return tap / 9 * 4 + half(tap % 9 / 3, phase / 2) * 2 + half(tap % 3, phase % 2);
  }

  void copy_channels(Stream& stream, const Slot& source, const Slot& result, std::int64_t from, std::int64_t to,
                     std::int64_t count) const {
    Launch(copy_channels_, stream)
        .place(source)
        .place(result)
        .integer(from)
        .integer(to)
        .large(count)
        .run({(count + kThreads - 1) / kThreads}, {kThreads});
  }

  const Geometry g_;
  const std::shared_ptr<CudnnPlan> plan_;
  const bool with_epilogue_;
  Function copy_channels_, interleave_, add_epilogue_;
  std::int64_t whole_ = 1;  // elements that interleaving moves at once
  std::string implementation_, layout_;
};

}  // namespace

std::unique_ptr<Kernel> make_cudnn_conv(const Node& node, const std::shared_ptr<Cudnn>& cudnn, std::string& why) {
  const Geometry geometry(node);
  const ProductAttributes& attributes = geometry.attributes;
  for (std::size_t i = 1; i < node.inputs.size() - (attributes.has_residual ? 1 : 0); ++i)
    if (node.inputs[i].node().opcode != Opcode::parameter) {
      why = "cuDNN's layout of a weight is made once, and this one is computed";
      return nullptr;
    }
  const auto is = [](const std::array<int, 3>& a, int value) { return a[1] == value && a[2] == value; };
  if (geometry.phases == 4 &&
      !(geometry.weight.dim(3) == 3 && geometry.weight.dim(4) == 3 && all(attributes.stride, 1) && is(attributes.pad_begin, 1) &&
        is(attributes.pad_end, 1) && !attributes.has_residual && !geometry.cuts_output())) {
    why = "a convolution that upsamples is done for 3x3 padded by 1 without a residual";
    return nullptr;
  }
  if (geometry.cuts_output() && attributes.has_residual) {
    why = "the channels of a residual are not padded";
    return nullptr;
  }
  bool with_epilogue = true;
  std::shared_ptr<CudnnPlan> plan = cudnn->plan(conv_graph(geometry, true), why);
  if (!plan && geometry.dtype == DType::f32 && attributes.activation == Activation::none) {
    with_epilogue = !(attributes.has_bias || attributes.has_residual);
    if (!with_epilogue) plan = cudnn->plan(conv_graph(geometry, false), why);
  }
  if (!plan) return nullptr;
  return std::make_unique<CudnnConvKernel>(geometry, std::move(plan), with_epilogue, *cudnn);
}

}  // namespace zoe::cuda
