#include "platform/cpu/kernels.h"
#include "platform/cpu/onednn.h"

namespace zoe::cpu {

// [..,K] is one matrix [M,K]. matmul packs weights for any M alike, so that plans of different row counts share them;
// inner_product has no blocked kernel with a residual.
std::unique_ptr<Kernel> make_onednn_linear(const Node& node, const DeviceInfo& device) {
  const Shape& x = node.inputs[0].shape();
  const std::int64_t k = x.dim(-1), n = node.inputs[1].dim(0), m = x.count(0, x.rank() - 1);
  ProductGeometry geometry{{m, k}, {k, n}, {1, n}, {m, n}, dnnl::memory::format_tag::ab, 1, {}};
  geometry.build = [](const ProductGeometry::Operands& operands, const dnnl::primitive_attr& attr) {
    const auto& [src, weights, bias, dst] = operands;
    const dnnl::matmul::desc desc =
        bias.is_zero() ? dnnl::matmul::desc(src, weights, dst) : dnnl::matmul::desc(src, weights, bias, dst);
    const dnnl::matmul::primitive_desc description(desc, attr, onednn_engine());
    return std::pair<dnnl::primitive_desc_base, dnnl::primitive>(description, dnnl::matmul(description));
  };
  return make_product(node, device, geometry);
}

}  // namespace zoe::cpu
