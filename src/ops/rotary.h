// What the two rotary embeddings share: the form of their tables.
#pragma once

#include <string_view>

#include "ir/trace.h"

namespace zoe {

// invalid_argument, naming op and argument, unless x is a float [B,L,N,D] with D even and the tables are f32 [L,1|N,D]: one row a
// token, for all heads or for each. They are f32 whatever x is.
void check_rotary(std::string_view op, const Value& x, const Value& cos_full, const Value& sin_signed);

}  // namespace zoe
