#include "platform/tensor.h"

#include <algorithm>
#include <vector>

#include "base/error.h"

namespace zoe {

namespace {

void check_count(std::string_view where, std::size_t got, const Tensor& tensor) {
  const auto expected = static_cast<std::size_t>(tensor.type.shape.count());
  check(got == expected, ErrorKind::invalid_argument, where, "got {} elements, expected {} for {}.", got, expected,
        tensor.type.str());
}

}  // namespace

Tensor make_tensor(Platform& platform, Type type, std::string_view what) {
  auto buffer = platform.allocate(type.size_bytes(), what);
  return {std::move(type), std::move(buffer), 0};
}

void upload(Platform& platform, Stream& stream, std::span<const float> src, const Tensor& dst) {
  check_count("upload", src.size(), dst);
  if (dst.type.dtype == DType::f32) {
    platform.upload(stream, src.data(), dst.slot(), dst.size_bytes());
  } else {
    constexpr std::size_t kElements = std::size_t{1} << 18;  // at a time: what is in the caches
    const std::size_t size = size_of(dst.type.dtype);
    std::vector<std::byte> narrow(std::min(kElements, src.size()) * size);
    for (std::size_t begin = 0; begin < src.size(); begin += kElements) {
      const std::span<const float> part = src.subspan(begin, std::min(kElements, src.size() - begin));
      convert(part.data(), DType::f32, narrow.data(), dst.type.dtype, part.size());
      platform.upload(stream, narrow.data(), {dst.buffer.get(), dst.offset + begin * size}, part.size() * size);
    }
  }
  stream.synchronize();
}

void upload(Platform& platform, Stream& stream, std::span<const std::int32_t> src, const Tensor& dst) {
  check_count("upload", src.size(), dst);
  ZOE_INTERNAL_CHECK(dst.type.dtype == DType::i32);
  platform.upload(stream, src.data(), dst.slot(), dst.size_bytes());
  stream.synchronize();
}

void download(Platform& platform, Stream& stream, const Tensor& src, std::span<float> dst) {
  check_count("download", dst.size(), src);
  if (src.type.dtype == DType::f32) {
    platform.download(stream, src.slot(), dst.data(), src.size_bytes());
    stream.synchronize();
    return;
  }
  std::vector<std::byte> narrow(src.size_bytes());
  platform.download(stream, src.slot(), narrow.data(), src.size_bytes());
  stream.synchronize();
  convert(narrow.data(), src.type.dtype, dst.data(), DType::f32, dst.size());
}

}  // namespace zoe
