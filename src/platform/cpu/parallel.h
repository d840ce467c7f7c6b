// Splitting a loop over the threads of the platform: the same contiguous pieces every time, so that each thread meets
// the pages it touched before.
#pragma once

#include <omp.h>

#include <cstdint>
#include <type_traits>

namespace zoe::cpu {

// Below this many elements a loop is done before the other threads have woken up.
inline constexpr std::int64_t kParallelElements = 16384;

// Calls body(begin, end), or body(begin, end, thread), for contiguous pieces of [0, count), on `threads` threads if `elements` of
// work pay for them. Pieces begin at multiples of `grain`. `thread` is below `threads`, and no two calls have the same at a time:
// it numbers scratch memory, for which omp_get_thread_num() would not do: where the loop is not split, that is the number inside a
// parallel region of the caller's. `body` must not throw.
template <class Body>
void parallel_ranges(std::int64_t count, std::int64_t grain, std::int64_t elements, int threads, const Body& body) {
  const auto call = [&body](std::int64_t begin, std::int64_t end, int thread) {
    if constexpr (std::is_invocable_v<const Body&, std::int64_t, std::int64_t, int>) body(begin, end, thread);
    else body(begin, end), static_cast<void>(thread);
  };
  if (threads <= 1 || elements < kParallelElements || count <= grain) return call(0, count, 0);
#pragma omp parallel num_threads(threads)
  {
    const std::int64_t team = omp_get_num_threads(), me = omp_get_thread_num();
    const std::int64_t grains = (count + grain - 1) / grain;
    const std::int64_t begin = grains * me / team * grain, limit = grains * (me + 1) / team * grain;
    const std::int64_t end = limit < count ? limit : count;
    if (begin < end) call(begin, end, static_cast<int>(me));
  }
}

}  // namespace zoe::cpu
