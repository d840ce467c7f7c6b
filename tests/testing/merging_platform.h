// `cpu`, made to say that products of one operand are faster as one.
#pragma once

#include "compiler_fuzz/wrapped_platform.h"

namespace zoe::testing {

struct MergingPlatform : fuzz::WrappedPlatform {
  MergingPlatform() : WrappedPlatform(open_platform("cpu", {.threads = 1})) {}
  Support merges_products(const Node&) const override { return Support::yes(); }
};

}  // namespace zoe::testing
