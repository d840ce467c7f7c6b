// A dense tensor in real memory: dtype and shape over a buffer of one platform. Cheap to copy; copies share the bytes.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "ir/value.h"
#include "platform/platform.h"

namespace zoe {

struct Tensor {
  Type type;
  std::shared_ptr<Buffer> buffer;
  std::size_t offset = 0;

  Slot slot() const { return {buffer.get(), offset}; }
  std::size_t size_bytes() const { return type.size_bytes(); }
};

// Zeroed.
Tensor make_tensor(Platform& platform, Type type, std::string_view what);
// Copies from and to host memory, converting between f32 and the tensor's dtype. Blocks until done.
void upload(Platform& platform, Stream& stream, std::span<const float> src, const Tensor& dst);
void upload(Platform& platform, Stream& stream, std::span<const std::int32_t> src, const Tensor& dst);
void download(Platform& platform, Stream& stream, const Tensor& src, std::span<float> dst);

}  // namespace zoe
