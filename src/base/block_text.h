// The text of base/blocks.inc, for programs that are compiled at run time.
#pragma once

namespace zoe {

extern const char* const kBlockText;

}  // namespace zoe
