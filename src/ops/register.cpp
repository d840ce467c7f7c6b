#include "ops/register.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/nearest.h"

namespace zoe {

namespace {

// clang-format off
constexpr std::string_view kOps[] = {
    "channel_norm",
    "mul_add",
    "norm_scale_shift",
    "norm_tanh_mul_add",
    "norm_tanh_mul_add_norm_scale",
    "rms_norm",
    "rotary_interleaved",
    "rotary_split",
    "scale_residual_norm_scale_shift",
    "scale_shift",
};
// clang-format on

}  // namespace

std::span<const std::string_view> op_names() { return kOps; }

void check_op_name(std::string_view where, std::string_view op) {
  if (std::find(std::begin(kOps), std::end(kOps), op) != std::end(kOps)) return;
  const std::vector<std::string> known(std::begin(kOps), std::end(kOps));
  const std::string near = nearest(op, known);
  fail(ErrorKind::invalid_argument, where, "unknown op: got {}, expected one of {}.{}", in_quotes(op), fmt::join(known, ", "),
       near.empty() ? "" : " Did you mean " + near + "?");
}

}  // namespace zoe
