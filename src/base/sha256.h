// SHA-256.
#pragma once

#include <string>
#include <string_view>

namespace zoe {

// Of bytes, as 64 hexadecimal digits. unsupported error where the system's libcrypto refuses it.
std::string sha256(std::string_view bytes);

}  // namespace zoe
