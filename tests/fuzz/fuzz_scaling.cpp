// Any bytes as a safetensors file of quantised weights: either its scales are refused with an Error, or every weight is readable.
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "base/error.h"
#include "checkpoint/scaling.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  try {
    zoe::Safetensors read = zoe::parse_safetensors(file, "fuzz");
    zoe::fold_scales(read.tensors, read.metadata, "fuzz");
    for (const zoe::TensorEntry& tensor : read.tensors) {
      const zoe::Encoding* const encoding = tensor.encoding;
      if (!encoding->is_weight() && !tensor.scaling) continue;
      try {
        const zoe::WeightPtr weight = zoe::weight_of(tensor, "fuzz");
        const std::int64_t count = weight->count();
        if (count > static_cast<std::int64_t>(2 * size)) std::abort();  // two numbers in a byte are the most
        std::vector<float> values(static_cast<std::size_t>(count));
        weight->fetch(0, count);
        weight->read(0, count, zoe::DType::f32, values.data());
        const zoe::Storage storage = weight->storage();
        if (!storage || !storage.is_scaled) continue;
        std::vector<float> scales(static_cast<std::size_t>(weight->shape().dim(0)));
        weight->read_scales(0, weight->shape().dim(0), scales.data());
      } catch (const zoe::Error& error) {  // a block scale that is no number
        if (error.kind() == zoe::ErrorKind::internal) throw;
      }
    }
  } catch (const zoe::Error& error) {
    if (error.kind() == zoe::ErrorKind::internal) throw;
  }
  return 0;
}
