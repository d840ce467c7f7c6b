// Any text as a Range header, of any size of file: the range lies inside the file, or is none.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "server/range.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::uint64_t file_bytes = 0;
  if (size < sizeof file_bytes) return 0;
  std::memcpy(&file_bytes, data, sizeof file_bytes);
  const std::string_view header(reinterpret_cast<const char*>(data) + sizeof file_bytes, size - sizeof file_bytes);
  const zoe::server::ByteRange range = zoe::server::parse_range(header, file_bytes);
  using Kind = zoe::server::ByteRange::Kind;
  if (range.kind == Kind::whole && (range.begin != 0 || range.bytes != file_bytes)) std::abort();
  if (range.kind == Kind::part && (range.bytes == 0 || range.begin >= file_bytes || range.bytes > file_bytes - range.begin))
    std::abort();
  return 0;
}
