// In place of this folder where oneDNN is left out (ZOE_PORTABLE): there are no products without it.
#include "base/error.h"
#include "platform/cpu/platform.h"

namespace zoe::cpu {

std::unique_ptr<Platform> open(const PlatformOptions&) {
  fail(ErrorKind::unsupported, "cpu",
       "this build has no oneDNN, which multiplies on the CPU. Use --platform cuda, or another build.");
}

}  // namespace zoe::cpu
