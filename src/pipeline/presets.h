// Settings that distilled models and LoRAs were made for, by name.
#pragma once

#include "pipeline/request.h"

namespace zoe {

// The request with what its preset says where it says nothing itself; a notice tells what that is. Steps that are said beside a
// preset of evenly spaced levels make as many of them, beside one of rCM the first so many.
Request with_preset(const Request& request, Spelling spelling);

}  // namespace zoe
