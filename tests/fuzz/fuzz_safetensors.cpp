// Any bytes as a safetensors file: either refused with an Error, or every tensor lies inside the file and is readable.
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "base/error.h"
#include "checkpoint/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  try {
    const zoe::Safetensors read = zoe::parse_safetensors(file, "fuzz");
    std::size_t covered = 0;
    for (const zoe::TensorEntry& tensor : read.tensors) {
      covered += tensor.bytes.size();
      if (!tensor.encoding->is_weight()) continue;
      std::vector<float> values(static_cast<std::size_t>(tensor.shape.count()));
      zoe::weight_of(tensor, "fuzz")->read(0, tensor.shape.count(), zoe::DType::f32, values.data());
    }
    if (covered > size) std::abort();
  } catch (const zoe::Error& error) {
    if (error.kind() == zoe::ErrorKind::internal) throw;
  }
  return 0;
}
