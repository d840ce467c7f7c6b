// `cpu`, made to say that products of one operand are faster as one.
#pragma once

#include "compiler_fuzz/wrapped_platform.h"
#include "platform/implementation.h"

namespace zoe::testing {

struct MergingPlatform : fuzz::WrappedPlatform {
  MergingPlatform() : WrappedPlatform(open_platform("cpu", {.threads = 1})) {
    const std::span<const Implementation> rows = WrappedPlatform::implementations();
    table.assign(rows.begin(), rows.end());
    for (Implementation& row : table) row.gains_by_merging = true;
  }
  std::span<const Implementation> implementations() const override { return table; }
  std::vector<Implementation> table;
};

}  // namespace zoe::testing
