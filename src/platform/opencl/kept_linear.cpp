// linear with a weight that stays as it is stored: kernels/widen.cl in front of an ordinary product.

#include <algorithm>
#include <cctype>
#include <vector>

#include "base/block_text.h"
#include "base/error.h"
#include "ir/change.h"
#include "platform/kept_linear.h"
#include "platform/opencl/kernels.h"
#include "platform/opencl/sources.h"

namespace zoe::opencl {
namespace {

constexpr std::size_t kAlignment = 256, kElements = 16;  // of what the product is given; of an item

std::string widen_source(const ProductTile& tile, const Encoding& encoding, bool is_scaled, bool is_changed, DType dtype) {
  std::string function = fmt::format("zoe_{}", encoding.name);
  std::transform(function.begin(), function.end(), function.begin(), [](unsigned char c) { return std::tolower(c); });
  std::string text = fmt::format("#define SCALED {}\n#define CHANGED {}\n#define ZOE_BLOCK __global const uchar*\n",
                                 is_scaled ? 1 : 0, is_changed ? 1 : 0);
  if (encoding.block_elements > 1)
    text += fmt::format("#define RUN {}\n#define ELEMENTS {}\n#define BYTES {}\n", function, encoding.block_elements,
                        encoding.block_bytes);
  else if (!encoding.dtype) text += fmt::format("#define VALUE {}\n", function);
  else ZOE_INTERNAL_CHECK(encoding.dtype == dtype && !is_scaled);
  return with_prelude(tile, dtype, std::string(kBlockText) + kWidenSource, "#define SCALAR_MATH\n" + text);
}

class KeptLinearKernel : public KeptLinear {
 public:
  KeptLinearKernel(const Node& node, const DevicePtr& device, std::unique_ptr<Kernel> product)
      : KeptLinear(node, std::move(product), kAlignment), tile_(product_tile(*device, type_.shape.dim(0))) {
    for (const KeptPlace& place : layout_.places) {
      const Storage& storage = place.part.storage;
      widen_.push_back(device->function(widen_source(tile_, *storage.encoding, storage.is_scaled, has_change_, type_.dtype),
                                        "widen", fmt::format("widening {}", storage.encoding->name)));
    }
  }

 private:
  void widen(Stream& stream, Slot kept, Slot change, Slot& weight) const override {
    for (std::size_t i = 0; i < layout_.places.size(); ++i) {
      const KeptPlace& place = layout_.places[i];
      const std::int64_t end = type_.shape.dim(0), panel = tile_.panel;
      const std::int64_t padded = i + 1 < layout_.places.size() ? 0 : (end + panel - 1) / panel * panel - end;
      Launch launch(*widen_[i], stream);
      launch.place({kept.buffer, kept.offset + place.blocks}, 1);
      if (place.part.storage.is_scaled) launch.place({kept.buffer, kept.offset + place.scales}, sizeof(float));
      else launch.nowhere();
      if (has_change_) launch.place(change, size_of(type_.dtype));
      else launch.nowhere();
      launch.place(weight, size_of(type_.dtype)).integer(place.first / place.columns()).integer(place.rows()).integer(padded);
      launch.integer(place.columns());
      const auto across = static_cast<std::size_t>(place.rows() + padded), along = static_cast<std::size_t>(place.columns());
      launch.run({across, (along + kElements - 1) / kElements}, {static_cast<std::size_t>(panel), 1});
    }
  }

  const ProductTile tile_;
  std::vector<std::shared_ptr<Function>> widen_;  // of each part
};

}  // namespace

std::unique_ptr<Kernel> make_kept_linear(const Node& node, const DevicePtr& device, std::unique_ptr<Kernel> product) {
  return std::make_unique<KeptLinearKernel>(node, device, std::move(product));
}

}  // namespace zoe::opencl
