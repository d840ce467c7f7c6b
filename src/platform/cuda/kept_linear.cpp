// linear with a weight that stays as it is stored: kernels/widen.cu in front of an ordinary product.
//
// That writes and reads the weight once more than a product would that widens as it reads. At the size of 14B that is 28 GB each a
// forward, 16 ms at the rate of an H200's memory, of some 2,400 for 832x480x81; and any product can come behind it.

#include <algorithm>
#include <vector>

#include "base/block_text.h"
#include "base/error.h"
#include "codegen/c_printer.h"
#include "ir/change.h"
#include "platform/cuda/kernels.h"
#include "platform/cuda/sources.h"
#include "platform/kept_linear.h"

namespace zoe::cuda {
namespace {

constexpr std::size_t kAlignment = 256;                            // of what libraries are given
constexpr std::int64_t kThreads = 256, kElements = kThreads * 32;  // of a block

class KeptLinearKernel : public KeptLinear {
 public:
  KeptLinearKernel(const Node& node, const DevicePtr& device, std::unique_ptr<Kernel> product)
      : KeptLinear(node, std::move(product), kAlignment, kAlignment) {
    ZOE_INTERNAL_CHECK(product_->packed_bytes(1, type_) == type_.size_bytes() && product_->weight_layout(1).starts_with("dense"));
    for (const KeptPlace& place : layout_.places) {
      const Storage& storage = place.part.storage;
      widen_.push_back(device->function(widen_source(*storage.encoding, storage.is_scaled, has_change_, type_.dtype), "widen",
                                        fmt::format("widening {}", storage.encoding->name)));
    }
  }

 private:
  void widen(Stream& stream, Slot kept, Slot change, Slot& weight) const override {
    weight.offset += (kAlignment - address_of(weight) % kAlignment) % kAlignment;
    for (std::size_t i = 0; i < layout_.places.size(); ++i) {
      const KeptPlace& place = layout_.places[i];
      const std::int64_t count = place.part.type.shape.count();
      const std::size_t at = static_cast<std::size_t>(place.first) * size_of(type_.dtype);
      const Slot to{weight.buffer, weight.offset + at};
      bool is_wide = address_of(to) % 16 == 0;
      Launch launch(widen_[i], stream);
      launch.place({kept.buffer, kept.offset + place.blocks});
      if (place.part.storage.is_scaled) launch.place({kept.buffer, kept.offset + place.scales});
      else launch.nowhere();
      if (has_change_) {
        const Slot added{change.buffer, change.offset + at};
        is_wide = is_wide && address_of(added) % 16 == 0;
        launch.place(added);
      } else {
        launch.nowhere();
      }
      launch.place(to).integer(count).integer(place.columns()).integer(is_wide ? 1 : 0);
      launch.run({(count + kElements - 1) / kElements}, {kThreads});
    }
  }

  std::vector<Function> widen_;  // of each part
};

}  // namespace

std::string widen_source(const Encoding& encoding, bool is_scaled, bool is_changed, DType dtype) {
  std::string function = fmt::format("zoe_{}", encoding.name);
  std::transform(function.begin(), function.end(), function.begin(), [](unsigned char c) { return std::tolower(c); });
  std::string text =
      prelude(kCudaDialect) + fmt::format("#define BF16 {}\n#define SCALED {}\n#define CHANGED {}\n#define THREADS {}\n",
                                          dtype == DType::bf16 ? 1 : 0, is_scaled ? 1 : 0, is_changed ? 1 : 0, kThreads);
  if (encoding.block_elements > 1) {
    text += fmt::format("#define RUN {}\n#define ELEMENTS {}\n#define BYTES {}\n", function, encoding.block_elements,
                        encoding.block_bytes);
  } else if (encoding.dtype) {
    ZOE_INTERNAL_CHECK(encoding.dtype == dtype && !is_scaled);
  } else {
    text += fmt::format("#define VALUE {}\n", function);
    if (encoding.name.starts_with("F8_E")) text += fmt::format("#define F8 {}\n", encoding.name[4]);
  }
  return text + "#define ZOE_BLOCK const byte*\n" + kSixteenSource + kBlockText + kWidenSource;
}

std::unique_ptr<Kernel> make_kept_linear(const Node& node, const DevicePtr& device, std::unique_ptr<Kernel> product) {
  return std::make_unique<KeptLinearKernel>(node, device, std::move(product));
}

}  // namespace zoe::cuda
