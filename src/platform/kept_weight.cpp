#include "platform/kept_weight.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace zoe {

namespace {

// Of parts and scales: a cache line.
constexpr std::size_t aligned(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

KeptLayout::KeptLayout(const Node& parameter) {
  std::int64_t first = 0;
  for (KeptPart& part : kept_parts(parameter)) {
    KeptPlace place{std::move(part), first, size_bytes, 0};
    const Encoding& encoding = *place.part.storage.encoding;
    first += place.part.type.shape.count();
    size_bytes = aligned(size_bytes + static_cast<std::size_t>(encoding.size_bytes(place.part.type.shape.count())));
    place.scales = size_bytes;
    if (place.part.storage.is_scaled) size_bytes = aligned(size_bytes + static_cast<std::size_t>(place.rows()) * sizeof(float));
    name += fmt::format("{}{}{} {}", name.empty() ? "as stored: " : ", ", encoding.name,
                        place.part.storage.is_scaled ? " with scales" : "", place.part.type.shape.str());
    places.push_back(std::move(place));
  }
  ZOE_INTERNAL_CHECK(!places.empty());
}

void KeptWeight::read(std::int64_t begin, std::int64_t count, DType dtype, void* out) const {
  ZOE_INTERNAL_CHECK(begin >= 0 && count >= 0 && count <= shape_.count() - begin);
  auto* to = static_cast<std::byte*>(out);
  for (const KeptPlace& place : layout_.places) {
    const std::int64_t end = place.first + place.part.type.shape.count();
    while (begin < end && count > 0) {
      const std::int64_t at = begin - place.first, columns = place.columns();
      std::int64_t now = std::min(count, end - begin);
      float scale = 1;
      if (place.part.storage.is_scaled) {
        now = std::min(now, columns - at % columns);
        std::memcpy(&scale, bytes_ + place.scales + static_cast<std::size_t>(at / columns) * sizeof scale, sizeof scale);
      }
      decode(*place.part.storage.encoding, bytes_ + place.blocks, at, now, dtype, to, scale);
      begin += now;
      count -= now;
      to += static_cast<std::size_t>(now) * size_of(dtype);
    }
    if (count == 0) return;
  }
}

}  // namespace zoe
