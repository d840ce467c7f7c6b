// The text of ir/math.inc, for programs that are compiled at run time.
#pragma once

namespace zoe {

extern const char* const kMathText;

}  // namespace zoe
