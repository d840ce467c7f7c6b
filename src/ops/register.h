// The ops there are, by name.
#pragma once

#include <span>
#include <string_view>

namespace zoe {

std::span<const std::string_view> op_names();

// invalid_argument with the nearest known name unless `op` is one of them; `where` says who asks ("--compile-exclude").
void check_op_name(std::string_view where, std::string_view op);

}  // namespace zoe
