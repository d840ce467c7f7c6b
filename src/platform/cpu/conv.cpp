#include "platform/cpu/kernels.h"
#include "platform/cpu/onednn.h"

namespace zoe::cpu {

std::unique_ptr<Kernel> make_direct_conv(const Node& node, const DeviceInfo& device) {
  const auto& attributes = node.as<ProductAttributes>();
  const Shape &x = node.inputs[0].shape(), &weight = node.inputs[1].shape(), &result = node.types[0].shape;
  const auto dims = [](const std::array<int, 3>& a) { return dnnl::memory::dims(a.begin(), a.end()); };
  // Channels-last frames of a batch of one: oneDNN names axes N C D H W whatever their order in memory.
  ProductGeometry geometry{{1, x.dim(3), x.dim(0), x.dim(1), x.dim(2)},
                           weight.dims(),
                           {weight.dim(0)},
                           {1, result.dim(3), result.dim(0), result.dim(1), result.dim(2)},
                           dnnl::memory::format_tag::ndhwc,
                           0,
                           {}};
  geometry.build = [strides = dims(attributes.stride), begin = dims(attributes.pad_begin), end = dims(attributes.pad_end)](
                       const ProductGeometry::Operands& operands, const dnnl::primitive_attr& attr) {
    const auto& [src, weights, bias, dst] = operands;
    using Conv = dnnl::convolution_forward;
    constexpr auto kind = dnnl::prop_kind::forward_inference;
    constexpr auto algorithm = dnnl::algorithm::convolution_direct;
    const Conv::desc desc = bias.is_zero() ? Conv::desc(kind, algorithm, src, weights, dst, strides, begin, end)
                                           : Conv::desc(kind, algorithm, src, weights, bias, dst, strides, begin, end);
    const Conv::primitive_desc description(desc, attr, onednn_engine());
    return std::pair<dnnl::primitive_desc_base, dnnl::primitive>(description, Conv(description));
  };
  return make_product(node, device, geometry);
}

}  // namespace zoe::cpu
