#include "pipeline/rgb8.h"

#include "ir/trace.h"

namespace zoe {

// The cast bounds what it rounds, so that nothing else has to.
Value to_rgb8(const Value& frames) { return cast((frames * 0.5 + 0.5) * 255.0, DType::u8); }

}  // namespace zoe
