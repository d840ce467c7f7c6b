#include "base/weight_reader.h"

#include <algorithm>
#include <cstring>

#include "base/encoding.h"
#include "base/error.h"

namespace zoe {

// Readers whose storage() has something have their own.
void WeightReader::read_blocks(std::int64_t begin, std::int64_t count, std::byte* out) const {
  const Encoding* const encoding = storage().encoding;
  const std::byte* const all = blocks();
  ZOE_INTERNAL_CHECK(encoding && all && begin % encoding->block_elements == 0 && count % encoding->block_elements == 0);
  std::memcpy(out, all + encoding->size_bytes(begin), static_cast<std::size_t>(encoding->size_bytes(count)));
}
void WeightReader::read_scales(std::int64_t, std::int64_t, float*) const { ZOE_INTERNAL_CHECK(!"a reader of its own"); }

void DenseWeight::read(std::int64_t begin, std::int64_t count, DType dtype, void* out) const {
  ZOE_INTERNAL_CHECK(begin >= 0 && count >= 0 && count <= shape_.count() - begin);
  convert(data_ + static_cast<std::size_t>(begin) * size_of(dtype_), dtype_, out, dtype, static_cast<std::size_t>(count));
}

JoinedWeight::JoinedWeight(Shape shape, std::vector<WeightPtr> parts) : shape_(std::move(shape)), parts_(std::move(parts)) {
  std::int64_t sum = 0;
  for (const WeightPtr& part : parts_) sum += part->count();
  ZOE_INTERNAL_CHECK(!parts_.empty() && sum == shape_.count());
}

template <class Body>
void JoinedWeight::each(std::int64_t begin, std::int64_t count, const Body& body) const {
  std::int64_t behind = 0;
  for (const WeightPtr& part : parts_) {
    const std::int64_t here = begin < part->count() ? std::min(count - behind, part->count() - begin) : 0;
    if (here > 0) body(*part, begin, here, behind);
    behind += here;
    begin = std::max<std::int64_t>(0, begin - part->count());
    if (behind == count) return;
  }
}

void JoinedWeight::read(std::int64_t begin, std::int64_t count, DType dtype, void* out) const {
  each(begin, count, [&](const WeightReader& part, std::int64_t first, std::int64_t n, std::int64_t behind) {
    part.read(first, n, dtype, static_cast<std::byte*>(out) + static_cast<std::size_t>(behind) * size_of(dtype));
  });
}

std::size_t JoinedWeight::stored_bytes() const {
  std::size_t sum = 0;
  for (const WeightPtr& part : parts_) sum += part->stored_bytes();
  return sum;
}

void JoinedWeight::read_ahead(std::int64_t begin, std::int64_t count) const {
  each(begin, count, [](const WeightReader& part, std::int64_t first, std::int64_t n, std::int64_t) { part.read_ahead(first, n); });
}

void JoinedWeight::drop(std::int64_t begin, std::int64_t count) const {
  each(begin, count, [](const WeightReader& part, std::int64_t first, std::int64_t n, std::int64_t) { part.drop(first, n); });
}

void JoinedWeight::fetch(std::int64_t begin, std::int64_t count) const {
  each(begin, count, [](const WeightReader& part, std::int64_t first, std::int64_t n, std::int64_t) { part.fetch(first, n); });
}

}  // namespace zoe
