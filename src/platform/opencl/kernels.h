// Kernels of the OpenCL platform, one factory an implementation. Each finds its function in a program that the device has
// built once; shapes are arguments, so that few programs serve a whole model.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ir/value.h"
#include "platform/implementation.h"
#include "platform/opencl/device.h"

namespace zoe::opencl {

using DevicePtr = std::shared_ptr<Device>;

std::unique_ptr<Kernel> make_product(const Node& node, const DevicePtr& device);  // linear, conv
// linear with a weight that stays as it is stored (kept_weight.h): it is widened into scratch memory in front of every product.
// `product` is the kernel of behind_widening(node).
std::unique_ptr<Kernel> make_kept_linear(const Node& node, const DevicePtr& device, std::unique_ptr<Kernel> product);
Support takes_attention(const Node& node);
std::unique_ptr<Kernel> make_attention(const Node& node, const DevicePtr& device);
std::unique_ptr<Kernel> make_concat(const Node& node, const DevicePtr& device);
std::unique_ptr<Kernel> make_gather(const Node& node, const DevicePtr& device);
// fused, and every opcode that a chain can hold: generated code, in one program for all of `nodes`.
std::vector<std::unique_ptr<Kernel>> make_chains(std::span<const Node* const> nodes, const DevicePtr& device);

// All of these as rows.
std::vector<Implementation> implementations(const DevicePtr& device);

// How much of a product a work-item (or, with local tiles, a work-group) makes: see kernels/product.cl.
struct ProductTile {
  int vector, panel;
  int rows;  // of a work-item; 0: tiles in local memory
};
ProductTile product_tile(const Device& device);
ProductTile product_tile(const Device& device, std::int64_t columns);  // of a product with so many

// A program's text: the tile's and the storage type's names, arithmetic, then `kernels`.
std::string with_prelude(const ProductTile& tile, DType dtype, std::string_view kernels, std::string_view more_definitions = {});

}  // namespace zoe::opencl
