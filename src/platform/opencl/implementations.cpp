// The table of the OpenCL platform: which implementation a node gets.

#include "platform/implementation.h"

#include "codegen/chain.h"
#include "ir/change.h"
#include "platform/opencl/kernels.h"

namespace zoe::opencl {

std::vector<Implementation> implementations(const DevicePtr& device) {
  const auto made_by = [&device](std::unique_ptr<Kernel> (*make)(const Node&, const DevicePtr&)) {
    return [device, make](const Node& node, Making&) { return make(node, device); };
  };
  return {
      {.name = "kept",
       .of = one_of<Opcode::linear>,
       .make = [device](const Node& node,
                        Making& making) { return make_kept_linear(node, device, making.part(behind_widening(node))); },
       .takes_kept = true},
      {.name = "product", .of = one_of<Opcode::linear, Opcode::conv>, .make = made_by(make_product)},
      {.name = "attention", .of = one_of<Opcode::attention>, .supports = takes_attention, .make = made_by(make_attention)},
      {.name = "concat", .of = one_of<Opcode::concat>, .make = made_by(make_concat)},
      {.name = "gather", .of = one_of<Opcode::gather>, .make = made_by(make_gather)},
      {.name = "generated",
       .of = is_chain,
       .make_all = [device](std::span<const Node* const> nodes, std::string&) { return make_chains(nodes, device); }},
  };
}

}  // namespace zoe::opencl
