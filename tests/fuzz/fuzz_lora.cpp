// Any bytes as a LoRA file: either refused with an Error, or every tensor it changes can be read, merged and as factors.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/error.h"
#include "checkpoint/lora.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using zoe::Shape;
  const std::vector<zoe::ExpectedTensor> tensors{{"blocks.0.attn1.to_q.weight", Shape{4, 6}},
                                                 {"blocks.0.attn1.to_q.bias", Shape{4}},
                                                 {"blocks.0.scale_shift_table", Shape{1, 6, 4}},
                                                 {"patch_embedding.weight", Shape{4, 2, 1, 2, 2}}};
  const std::vector<zoe::TensorAlias> others{{"blocks.0.attn1.to_q.weight", "blocks.0.self_attn.q.weight"},
                                             {"blocks.0.attn1.to_q.bias", "blocks.0.self_attn.q.bias"},
                                             {"blocks.0.scale_shift_table", "blocks.0.modulation"}};
  const int file = memfd_create("lora", 0);
  if (file < 0 || write(file, data, size) != static_cast<ssize_t>(size)) std::abort();
  const std::string path = "/proc/self/fd/" + std::to_string(file);
  const std::vector<float> zeros(32);  // of the largest of them
  try {
    const zoe::LoraFit fit = zoe::LoraFile(path).fit("transformer", tensors, others, 0.5);
    for (const zoe::ExpectedTensor& tensor : tensors) {
      const auto found = fit.changes.find(tensor.name);
      if (found == fit.changes.end()) continue;
      try {
        const std::int64_t count = tensor.shape.count(), half = count / 2;
        std::vector<float> whole(static_cast<std::size_t>(count)), pieces(whole.size());
        const zoe::WeightPtr weight =
            zoe::changed(zoe::dense_weight(zoe::DType::f32, tensor.shape, zeros.data()), fit.changes, tensor.name);
        weight->fetch(0, count);
        weight->read(0, count, zoe::DType::f32, whole.data());
        weight->read(0, half, zoe::DType::f32, pieces.data());
        weight->read(half, count - half, zoe::DType::f32, pieces.data() + half);
        for (std::size_t i = 0; i < whole.size(); ++i)
          if (whole[i] != pieces[i] && whole[i] == whole[i]) std::abort();
        for (const zoe::WeightChange& change : found->second)
          for (const zoe::LowRankChange& each : change.low_rank)
            for (const bool is_up : {true, false}) {
              const std::int64_t lines = is_up ? tensor.shape.dim(0) : count / tensor.shape.dim(0);
              const zoe::WeightPtr factor = zoe::low_rank_factor({each}, is_up, lines, each.rank());
              std::vector<float> values(static_cast<std::size_t>(factor->count()));
              factor->fetch(0, factor->count());
              factor->read(0, factor->count(), zoe::DType::f32, values.data());
            }
      } catch (const zoe::Error& error) {  // a number that is none, say
        if (error.kind() == zoe::ErrorKind::internal) throw;
      }
    }
  } catch (const zoe::Error& error) {
    if (error.kind() == zoe::ErrorKind::internal) throw;
  }
  close(file);
  return 0;
}
