// Any bytes as a file of torch.save: either refused with an Error, or every tensor lies inside the file and is readable.
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "base/error.h"
#include "checkpoint/pytorch.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  try {
    int most = 100;  // tensors may share their bytes
    for (const zoe::TensorEntry& tensor : zoe::parse_pytorch(file, "fuzz")) {
      if (tensor.bytes.size() > size) std::abort();
      if (!tensor.encoding->is_weight() || --most < 0) continue;
      std::vector<float> values(static_cast<std::size_t>(tensor.shape.count()));
      zoe::weight_of(tensor, "fuzz")->read(0, tensor.shape.count(), zoe::DType::f32, values.data());
    }
  } catch (const zoe::Error& error) {
    if (error.kind() == zoe::ErrorKind::internal) throw;
  }
  return 0;
}
