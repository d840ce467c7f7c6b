// The team of OpenMP threads that oneDNN splits its work for: a primitive does a share of it for each, and what a thread that is
// not there should have done is missing from the result.
#pragma once

#include <omp.h>

namespace zoe::cpu {

// The calling thread's next teams have exactly so many members, at most omp_get_thread_limit(): also where OMP_DYNAMIC or
// OMP_MAX_ACTIVE_LEVELS allow fewer, and within a team of the caller's.
inline void use_team(int threads) {
  omp_set_dynamic(0);
  if (omp_get_active_level() >= omp_get_max_active_levels()) omp_set_max_active_levels(omp_get_active_level() + 1);
  omp_set_num_threads(threads);
}

}  // namespace zoe::cpu
