// Kernels of the CPU platform, one factory an implementation. Each computes all geometry when it is made; running one
// allocates nothing.
//
// Threads: `device.threads` is the number every kernel uses, its own loops through parallel.h, oneDNN through
// use_team() in the thread that runs it (it is that thread's setting; libgomp keeps one pool for both).
// Arithmetic: exp and tanh are spelled once, in ir/math.inc, for every kernel that needs them; math-inl.h makes Highway code of it.
#pragma once

#include <memory>
#include <vector>

#include "codegen/chain.h"
#include "ir/value.h"
#include "platform/implementation.h"

namespace zoe::cpu {

// Unary and binary opcodes, cast, sum. Results are the same bits at every vector length and thread count; those of exp, tanh and
// their like on every instruction set that has fused multiply-adds.
std::unique_ptr<Kernel> make_elementwise(const Node& node, const DeviceInfo& device);
// Whether results go past the last cache: they would push everything else out of it, and not be found there anyway.
bool outgrows_cache(const Chain& chain, const DeviceInfo& device);
// The chain of a fused node as prebuilt operations on blocks of its rows: where no compiler can be had. The same bits as node by
// node.
std::unique_ptr<Kernel> make_row_blocks(const Chain& chain, const DeviceInfo& device);
// reshape (a copy), slice, concat, permute, swap_pairs, gather.
std::unique_ptr<Kernel> make_movement(const Node& node, const DeviceInfo& device);
// linear, or a conv by one point, on AMX tiles (for nodes that tiles_take, where why_no_tiles() is "", or emulated anywhere with
// the same bits), and by oneDNN.
std::unique_ptr<Kernel> make_tile_linear(const Node& node, const DeviceInfo& device, bool emulated = false);
bool tiles_take(const Node& linear);
std::unique_ptr<Kernel> make_onednn_linear(const Node& node, const DeviceInfo& device);
// linear with codes of i8, whose sums are the same integers on every instruction set: on AMX tiles, with AVX-512 VNNI, by products
// of 16 bits, whichever of these the cores have first.
enum class CodeProducts { best, of_16_bits, emulated_tiles };
std::unique_ptr<Kernel> make_coded_linear(const Node& node, const DeviceInfo& device, CodeProducts products = CodeProducts::best);
// A weight that stays as it is stored; `product` is the kernel of behind_widening(node).
std::unique_ptr<Kernel> make_kept_linear(const Node& node, std::unique_ptr<Kernel> product);
// conv on AMX tiles, likewise, but for those that upsample.
std::unique_ptr<Kernel> make_tile_conv(const Node& node, const DeviceInfo& device, bool emulated = false);
bool tiles_take_conv(const Node& conv);
// A conv that upsamples (by four that do not), oneDNN's direct convolution, and a 3x3 one of stride 1 with fewer products.
Support upsampled_conv_takes(const Node& node);
std::unique_ptr<Kernel> make_upsampled_conv(const Node& node, const DeviceInfo& device, Making& making);
std::unique_ptr<Kernel> make_direct_conv(const Node& node, const DeviceInfo& device);
std::unique_ptr<Kernel> make_winograd_conv(const Node& node, const DeviceInfo& device);
Support winograd_wins(const Node& node, const DeviceInfo& device);  // by measurement
// attention on AMX tiles, as for linear, and on vectors.
std::unique_ptr<Kernel> make_tile_attention(const Node& node, const DeviceInfo& device, bool emulated = false);
bool tiles_take_attention(const Node& attention);
std::unique_ptr<Kernel> make_vector_attention(const Node& node, const DeviceInfo& device);

// All of these as rows, but for what runs fused nodes. `device` outlives them.
std::vector<Implementation> implementations(const DeviceInfo& device);
// The kernel of a node by these rows.
std::unique_ptr<Kernel> make_kernel(const Node& node, const DeviceInfo& device);

}  // namespace zoe::cpu
