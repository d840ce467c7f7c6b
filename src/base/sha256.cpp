#include "base/sha256.h"

#include <openssl/evp.h>

#include <array>

#include "base/error.h"

namespace zoe {

std::string sha256(std::string_view bytes) {
  std::array<unsigned char, 32> digest;
  unsigned length = 0;
  check(EVP_Digest(bytes.data(), bytes.size(), digest.data(), &length, EVP_sha256(), nullptr) == 1 && length == digest.size(),
        ErrorKind::unsupported, "SHA-256", "the system's libcrypto refuses it.");
  std::string hex;
  for (const unsigned char byte : digest) hex += fmt::format("{:02x}", byte);
  return hex;
}

}  // namespace zoe
