// The table of the CPU platform: which implementation a node gets, best first. Choices are by measurement; the figures are where
// the implementation is, or here.

#include "platform/implementation.h"

#include <algorithm>

#include "ir/change.h"
#include "platform/cpu/kernels.h"
#include "platform/cpu/tiles.h"

namespace zoe::cpu {

namespace {

// A kernel of one point is a product of all points' channels, and oneDNN's product is the faster of the two.
bool is_pointwise(const Node& conv) {
  const auto& attributes = conv.as<ProductAttributes>();
  const auto is = [](const std::array<int, 3>& a, int value) {
    return std::all_of(a.begin(), a.end(), [=](int i) { return i == value; });
  };
  return conv.inputs[1].shape().count(2, 5) == 1 && attributes.upsample == 1 && is(attributes.stride, 1) &&
         is(attributes.pad_begin, 0) && is(attributes.pad_end, 0);
}

Support is_product(const Node& node) {
  return node.opcode == Opcode::linear || is_pointwise(node) ? Support::yes()
                                                             : Support::no("the kernel has several points, or gaps");
}

Support has_tiles(const DeviceInfo& device) {
  if (!device.bf16_products) return Support::no("the cores multiply no bf16");
  return why_no_tiles().empty() ? Support::yes() : Support::no("{}", why_no_tiles());
}

// Two cores of Emerald Rapids, GFLOP/s of oneDNN and of our tiles, while others used the other halves of the cores and while nobody
// did (bench_products --only linear --dtype bf16):
//
//   K -> N at rows                     shared            alone
//   1536 -> 1536 at 512                691     958       1,990   2,455
//   1536 -> 1536 at 2,550              174   1,104         572   2,154    (no multiple of a tile's rows)
//   1536 -> 8960 at 2,550, gelu        163     886         606   2,366
//   8960 -> 1536 at 2,550, residual    155   1,092         540   1,900
//   1536 -> 1536 at 9,000                                1,959   2,184
//   5120 -> 13824 at 512, gelu         388   1,102         986   2,148
//   768 -> 768 at 2,550                749     971       2,036   2,059
//   512 -> 512 at 512                  749     692       2,221   1,764
//   256 -> 1024 at 576, gelu           426     471         801     945
//   256 -> 256 at 2,304                579     576       1,365   1,289
//
// Rows play no part, so that plans of different row counts share packed weights: short sums are oneDNN's.
Support tiles_win(const Node& node, const DeviceInfo& device) {
  constexpr std::int64_t kLeastDepth = 768, kLeastDepthWithGelu = 256;
  if (Support product = is_product(node); !product) return product;
  if (Support tiles = has_tiles(device); !tiles) return tiles;
  if (!tiles_take(node)) return Support::no("tiles take bf16, and a parameter for the weight");
  const std::int64_t depth = node.inputs[0].dim(-1);
  const std::int64_t least = node.as<ProductAttributes>().activation == Activation::gelu_tanh ? kLeastDepthWithGelu : kLeastDepth;
  return depth >= least ? Support::yes() : Support::no("sums of {}: below {} oneDNN is faster", depth, least);
}

// The same, x -> channels of the result, 3x3x3 where nothing else is said (--only conv):
//
//                                    shared          alone                                           shared      alone
//   96 at 256x256 -> 96              955     972     2,232   2,429    16 at 128x128 -> 16            548 622     1,215 1,071
//   192 at 128x128 -> 192            618     761                      32 at 64x64 -> 32              834 889
//   384 at 64x64 -> 384              683   1,081     2,420   2,309    64 at 32x32 -> 64              799 855
//   384 at 32x32, one frame          595   1,031     1,862   2,196    16 at 128x128 -> 3             135 130
//   192 at 256x256 -> 96, 1x3x3      798   1,017                      32 at 128x128 -> 16, 1x3x3     771 704     1,525 1,162
//   384 at 64x64 -> 768, 3x1x1       505     899                      96 at 256x256 -> 3             136 190
Support tiles_win_conv(const Node& node, const DeviceInfo& device) {
  constexpr std::int64_t kLeastDepth = 320, kFewChannels = 16;
  if (Support tiles = has_tiles(device); !tiles) return tiles;
  if (!tiles_take_conv(node)) return Support::no("tiles take bf16, a parameter for the weight, and do not upsample");
  const Shape& kernel = node.inputs[1].shape();
  if (kernel.dim(0) > kFewChannels || kernel.count(1, 5) >= kLeastDepth) return Support::yes();
  return Support::no("sums of {} for {} channels: oneDNN is faster", kernel.count(1, 5), kernel.dim(0));
}

}  // namespace

std::vector<Implementation> implementations(const DeviceInfo& device) {
  const auto made_by = [&device](std::unique_ptr<Kernel> (*make)(const Node&, const DeviceInfo&)) {
    return [&device, make](const Node& node, Making&) { return make(node, device); };
  };
  constexpr auto is_linear_or_conv = one_of<Opcode::linear, Opcode::conv>;
  return {
      {.name = "kept",
       .of = one_of<Opcode::linear>,
       .make = [](const Node& node, Making& making) { return make_kept_linear(node, making.part(behind_widening(node))); },
       .takes_kept = true},
      {.name = "i8_linear",
       .of = one_of<Opcode::linear>,
       .supports =
           [](const Node& node) {
             return node.inputs[1].node().opcode == Opcode::parameter ? Support::yes()
                                                                      : Support::no("codes are made of parameters only");
           },
       .make = [&device](const Node& node, Making&) { return make_coded_linear(node, device); },
       .takes_codes = true},
      {.name = "amx_linear",
       .of = is_linear_or_conv,
       .supports = [&device](const Node& node) { return tiles_win(node, device); },
       .make = [&device](const Node& node, Making&) { return make_tile_linear(node, device); }},
      {.name = "onednn_matmul", .of = is_linear_or_conv, .supports = is_product, .make = made_by(make_onednn_linear)},
      {.name = "upsampled_conv",
       .of = one_of<Opcode::conv>,
       .supports = upsampled_conv_takes,
       .make = [&device](const Node& node, Making& making) { return make_upsampled_conv(node, device, making); }},
      {.name = "amx_conv",
       .of = one_of<Opcode::conv>,
       .supports = [&device](const Node& node) { return tiles_win_conv(node, device); },
       .make = [&device](const Node& node, Making&) { return make_tile_conv(node, device); },
       .reads_history = true},
      {.name = "winograd_conv",
       .of = one_of<Opcode::conv>,
       .supports = [&device](const Node& node) { return winograd_wins(node, device); },
       .make = made_by(make_winograd_conv)},
      {.name = "onednn_conv",
       .of = one_of<Opcode::conv>,
       .supports =
           [](const Node& node) {
             return node.as<ProductAttributes>().upsample == 1 ? Support::yes() : Support::no("oneDNN's does not upsample");
           },
       .make = made_by(make_direct_conv)},
      {.name = "amx_attention",
       .of = one_of<Opcode::attention>,
       .supports =
           [&device](const Node& node) {
             if (Support tiles = has_tiles(device); !tiles) return tiles;
             return tiles_take_attention(node) ? Support::yes()
                                               : Support::no("tiles take bf16, and heads of a multiple of 32 channels");
           },
       .make = [&device](const Node& node, Making&) { return make_tile_attention(node, device); }},
      {.name = "vector_attention", .of = one_of<Opcode::attention>, .make = made_by(make_vector_attention)},
      {.name = "movement",
       .of = one_of<Opcode::reshape, Opcode::slice, Opcode::concat, Opcode::permute, Opcode::swap_pairs, Opcode::flip,
                    Opcode::gather>,
       .make = made_by(make_movement)},
      {.name = "loop",
       .of = [](Opcode opcode) { return is_unary(opcode) || is_binary(opcode) || is_reduction(opcode) || opcode == Opcode::cast; },
       .make = made_by(make_elementwise)},
  };
}

std::unique_ptr<Kernel> make_kernel(const Node& node, const DeviceInfo& device) {
  const std::vector<Implementation> table = implementations(device);
  return Selection(device.platform, table).implement(node).kernel;
}

}  // namespace zoe::cpu
