// oneDNN at the platform's edge: its engine, its errors as ours, and the kernel that linear and conv share.
// Included by files of this folder only.
#pragma once

#include <dnnl.hpp>

#include <functional>
#include <string>
#include <utility>

#include "base/error.h"
#include "platform/platform.h"

namespace zoe::cpu {

const dnnl::engine& onednn_engine();

// Sizes of pieces of scratch and packed weights: every piece starts on a cache line, and fits the widest vector.
constexpr std::size_t aligned(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

// Runs `body`; a failure of oneDNN becomes an Error that names `what`: unsupported, out_of_memory or device.
[[noreturn]] void fail_onednn(const dnnl::error& error, std::string_view what);
template <class Body>
auto with_onednn_errors(std::string_view what, const Body& body) {
  try {
    return body();
  } catch (const dnnl::error& error) {
    fail_onednn(error, what);
  }
}

// A product as oneDNN sees it. Its weight axes are `row_axis` and the others in order, where the node's weight is
// row-major with the rows first.
struct ProductGeometry {
  dnnl::memory::dims src, weights, bias, dst;
  dnnl::memory::format_tag activations;  // dense layout of src and dst
  int row_axis;
  // Builds the primitive for operands src, weights (layout open), bias (zero if absent) and dst.
  using Operands = std::array<dnnl::memory::desc, 4>;
  std::function<std::pair<dnnl::primitive_desc_base, dnnl::primitive>(const Operands&, const dnnl::primitive_attr&)> build;
};

// A kernel for a linear or conv node: bias, activation and residual run inside the primitive, on its f32 accumulators.
//
// bf16 nodes use bf16 products if the device has them (and oneDNN a fast kernel for the shape). Otherwise operands are
// widened to f32 in scratch memory, the weight is packed as f32, and the result is rounded once: the same numbers up to
// the order of the sums.
std::unique_ptr<Kernel> make_product(const Node& node, const DeviceInfo& device, const ProductGeometry& geometry);

}  // namespace zoe::cpu
