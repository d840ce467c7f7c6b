#include "ir/graph.h"
#include "platform/cpu/kernels.h"
#include "platform/cpu/onednn.h"
#include "platform/cpu/tiles.h"

namespace zoe::cpu {

// Two cores of Granite Rapids, GFLOP/s of oneDNN and of our tiles (bench_products --only linear --dtype bf16):
//
//   rows x K -> N            512           2,550          9,000         (2,550 are no multiple of a tile's rows)
//   1536 -> 1536             951 1,752     189 815        1,990 1,837
//   1536 -> 8960, gelu       639 1,739     691 1,423      1,693 1,786
//   8960 -> 1536, residual   805 2,044     246 1,694      1,078 1,989
//   576 rows                 1024 -> 256: 2,004 1,816
//
// Rows play no part, so that plans of different row counts share packed weights: short sums are oneDNN's.
std::unique_ptr<Kernel> make_linear(const Node& node, const DeviceInfo& device) {
  constexpr std::int64_t kLeastDepth = 1024;
  if (!kept_parts(node.inputs[1].node()).empty()) return make_kept_linear(node, device);
  if (device.bf16_products && node.inputs[0].dim(-1) >= kLeastDepth && tiles_take(node) && why_no_tiles().empty())
    return make_tile_linear(node, device);
  return make_onednn_linear(node, device);
}

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
