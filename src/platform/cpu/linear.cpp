#include "ir/graph.h"
#include "platform/cpu/kernels.h"
#include "platform/cpu/onednn.h"
#include "platform/cpu/tiles.h"

namespace zoe::cpu {

// Two cores of Granite Rapids, GFLOP/s of oneDNN and of our tiles (bench_products --only linear --dtype bf16):
//
//   rows x K -> N            512           2,550          9,000         (2,550 are no multiple of a tile's rows)
//   1536 -> 1536             2,241 2,016   761 1,854      1,466 1,577
//   1536 -> 8960, gelu       1,694 1,358   645 1,423      1,243 1,083
//   8960 -> 1536, residual   1,081 1,659   418 1,423      980 1,577
//   576 rows                 256 -> 256: 1,590 1,237; 256 -> 1024, gelu: 879 564; 1024 -> 256: 2,079 2,275
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
