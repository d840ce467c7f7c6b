// Normalized attention guidance (Chen et al. 2025, arXiv:2505.21179, algorithm 1): a negative prompt in cross-attention, for models
// that take no classifier-free guidance.
#pragma once

#include "ir/value.h"

namespace zoe {

// positive, negative [1,L,D]: what a block's queries see of the prompt and of the negative prompt; settings f32 [3]: scale, tau,
// alpha.
//   z = positive + (scale - 1) (positive - negative), no longer than tau times positive in the sum of absolute values of a row;
//   alpha z + (1 - alpha) positive -> [1,L,D]
// in positive's dtype, computed in f32.
Value normalized_guidance(const Value& positive, const Value& negative, const Value& settings);

}  // namespace zoe
