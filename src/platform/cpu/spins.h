// How long idle threads of the OpenMP pool look for work before they sleep.
#pragma once

#include <memory>

namespace zoe::cpu {

// While the result lives, waiting threads sleep after some microseconds. libgomp's spin for milliseconds between two parallel
// loops, unless told otherwise when it is loaded: right on idle cores, and a disaster on busy ones, where a spinning thread keeps
// the working one from its core. It spins a three-thousandth as long while it manages more threads than there are CPUs; so a second
// team is kept that does nothing, as large as it takes beside one of `threads`. Null, and nothing is changed, where the user has
// set OMP_WAIT_POLICY or GOMP_SPINCOUNT.
std::shared_ptr<void> keep_spins_short(int threads);

}  // namespace zoe::cpu
