// The Range header of a request (RFC 9110, section 14).
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace zoe::server {

struct ByteRange {
  enum class Kind : std::uint8_t { whole, part, none };  // none: no byte of the file is in it
  Kind kind = Kind::whole;
  std::uint64_t begin = 0, bytes = 0;
};

// Of a file of `size` bytes. What is no range of bytes, or several of them, is the whole file, as the RFC allows.
ByteRange parse_range(std::string_view header, std::uint64_t size);

}  // namespace zoe::server
