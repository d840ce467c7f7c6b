// Kernels of the CUDA platform, one factory an implementation, and what each takes. Which a node gets is the table's choice
// (implementations.cpp).
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/encoding.h"
#include "ir/value.h"
#include "platform/cuda/device.h"
#include "platform/implementation.h"

namespace zoe::cuda {

// True if bf16 products can go through mma.sync.
bool has_tensor_cores(const Device& device);
// True if the last lines of a product may move several elements as one.
bool takes_wide_epilogue(std::span<const Slot> inputs, const Slot& output, DType dtype, std::int64_t columns);
// What goes in front of the other kernels of our own.
std::string tiles_source(DType dtype, bool tensor_cores, Activation activation = Activation::none);
// Blocks that cover an extent, the last one perhaps in part.
constexpr std::int64_t blocks_of(std::int64_t extent, std::int64_t block) { return (extent + block - 1) / block; }
// Lets launches of the function ask for so many bytes of dynamic shared memory.
void allow_shared_bytes(const Device& device, Function& function, std::size_t bytes);

class Cublaslt;  // cublaslt.h
class Cudnn;     // cudnn_plan.h

// linear by cuBLASLt; nothing where the library has no algorithm that rounds once.
Support cublaslt_takes(const Node& linear);
std::unique_ptr<Kernel> make_linear(const Node& node, const DevicePtr& device, const std::shared_ptr<Cublaslt>& library);

// linear with a weight that stays as it is stored (kept_weight.h): it is widened into scratch memory in front of every product.
// `product` is the kernel of behind_widening(node).
std::unique_ptr<Kernel> make_kept_linear(const Node& node, const DevicePtr& device, std::unique_ptr<Kernel> product);
std::string widen_source(const Encoding& encoding, bool is_scaled, bool is_changed, DType dtype);

// Our own kernels (kernels/*.cu), which need nothing but the driver and the run-time compiler.
std::unique_ptr<Kernel> make_product(const Node& node, const DevicePtr& device);  // linear, conv
// conv as an implicit GEMM, by wgmma on devices of compute capability 9.0.
Support implicit_gemm_takes(const Node& node, const Device& device);
Support implicit_gemm_wins(const Node& node, const Device& device);  // against all others
std::unique_ptr<Kernel> make_implicit_gemm(const Node& node, const DevicePtr& device);
Device::Program implicit_gemm_program(const Node& node, const Device& device);  // that it loads
// What a block of it makes at a time: pixels of a frame by columns.
struct ImplicitGemmTile {
  std::int64_t columns = 0;
  std::array<std::int64_t, 2> pieces = {};  // of 8 x 8 pixels, down and across, of a warpgroup
  std::array<std::int64_t, 2> groups = {};  // of warpgroups, down and across: one that takes turns with another, or two

  constexpr std::int64_t height() const { return 8 * pieces[0] * groups[0]; }
  constexpr std::int64_t width() const { return 8 * pieces[1] * groups[1]; }
};
// By tiles of this kind; null where they do not fit.
std::unique_ptr<Kernel> make_implicit_gemm(const Node& node, const DevicePtr& device, const ImplicitGemmTile& tile);
std::string implicit_gemm_source(const std::array<std::int64_t, 3>& kernel, const ImplicitGemmTile& tile, std::int64_t x_stages,
                                 std::int64_t w_slots, Activation activation);
Support takes_attention(const Node& node, const Device& device);
std::unique_ptr<Kernel> make_attention(const Node& node, const DevicePtr& device);
// attention by wgmma on devices of compute capability 9.0.
Support flash_attention_takes(const Node& node, const Device& device);
std::unique_ptr<Kernel> make_flash_attention(const Node& node, const DevicePtr& device);
Device::Program flash_attention_program(const Node& node);  // that it loads
std::string flash_attention_source(std::int64_t channels, std::int64_t tile_keys, bool has_bias, bool stays);
// attention by wgmma over heads too wide for it.
Support wide_attention_takes(const Node& node, const Device& device);
std::unique_ptr<Kernel> make_wide_attention(const Node& node, const DevicePtr& device);
Device::Program wide_attention_program();  // that it loads, whatever the node
std::string wide_attention_source();
// linear and attention from 8-bit codes (Codes::i8), by wgmma on devices of compute capability 9.0.
Support coded_linear_takes(const Node& node, const Device& device);
std::unique_ptr<Kernel> make_coded_linear(const Node& node, const DevicePtr& device);
std::vector<Device::Program> coded_linear_programs(const Node& node);  // that it loads
std::string codes_source(std::int64_t columns);
std::string coded_linear_source(Activation activation);
Support coded_attention_takes(const Node& node, const Device& device);
std::unique_ptr<Kernel> make_coded_attention(const Node& node, const DevicePtr& device);
Device::Program coded_attention_program(const Node& node);  // that it loads
std::string coded_attention_source(std::int64_t channels);
std::unique_ptr<Kernel> make_concat(const Node& node, const DevicePtr& device);
std::unique_ptr<Kernel> make_gather(const Node& node, const DevicePtr& device);
// fused, and every opcode that a chain can hold: generated code, in one program for all of `nodes`.
std::vector<std::unique_ptr<Kernel>> make_chains(std::span<const Node* const> nodes, const DevicePtr& device);

// The vendor's libraries, where they open. Null where there is none; `why` then says why, once for people, too.
struct Libraries {
  std::function<std::shared_ptr<Cublaslt>(std::string& why)> cublaslt;
  std::function<std::shared_ptr<Cudnn>(std::string& why)> cudnn;
};
// All of these as rows.
std::vector<Implementation> implementations(const DevicePtr& device, Libraries libraries);

// What cuDNN is asked for: by its version, and for a conv that make_cudnn_conv takes.
struct CudnnGraph;  // cudnn_plan.h
CudnnGraph attention_graph(const Node& attention, std::size_t version);
CudnnGraph conv_graph(const Node& conv);

// By cuDNN. Null if it has no engine for the node; `why` then says why.
Support cudnn_takes_conv(const Node& conv);
Support cudnn_takes_attention(const Node& attention);
std::unique_ptr<Kernel> make_cudnn_conv(const Node& node, const std::shared_ptr<Cudnn>& cudnn, std::string& why);
std::unique_ptr<Kernel> make_cudnn_attention(const Node& node, const std::shared_ptr<Cudnn>& cudnn, std::string& why);

}  // namespace zoe::cuda
