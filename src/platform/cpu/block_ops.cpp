// Block operations for every instruction set, chosen when a kernel is made.

#define HWY_DISABLED_TARGETS HWY_SSSE3
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "platform/cpu/block_ops.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "platform/cpu/math-inl.h"

#ifndef ZOE_PLATFORM_CPU_BLOCK_OPS_ONCE
#define ZOE_PLATFORM_CPU_BLOCK_OPS_ONCE
#include <algorithm>
#include <cstring>
#include <utility>

#include "hwy/cache_control.h"
#include "platform/cpu/block_ops.h"
#endif

HWY_BEFORE_NAMESPACE();
namespace zoe::cpu::HWY_NAMESPACE {
namespace {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
constexpr std::int64_t kLanes = HWY_MAX_BYTES / static_cast<std::int64_t>(sizeof(float));
static_assert(kPartials % kLanes == 0);

// Every operation is called with its place in the program, the block's row and first column, how many of the block's elements
// there are, and the block's vectors: as many as there are registers for in a call.
using Wide = void (*)(const BlockOp*, std::int64_t, std::int64_t, std::int64_t, V, V, V, V);
using Narrow = void (*)(const BlockOp*, std::int64_t, std::int64_t, std::int64_t, V);
constexpr std::int64_t kVectors = 4;

template <class... Vectors>
constexpr std::int64_t kElements = static_cast<std::int64_t>(sizeof...(Vectors)) * kLanes;

// A call in the last place: the compiler makes a jump of it.
template <class... Vectors>
HWY_INLINE void go_on(const BlockOp* op, std::int64_t row, std::int64_t column, std::int64_t count, Vectors... x) {
  const BlockFunctions next = op[1].functions;
  if constexpr (sizeof...(Vectors) == 1) reinterpret_cast<Narrow>(next.narrow)(op + 1, row, column, count, x...);
  else reinterpret_cast<Wide>(next.wide)(op + 1, row, column, count, x...);
}

HWY_INLINE std::byte* place(const BlockOp* op, std::int64_t row, std::int64_t column) {
  return op->at + row * op->row_step + column * op->column_step;
}

// The first `count` lanes, zeros in the others.
template <class T>
HWY_INLINE V load_some(const T* src, std::int64_t count) {
  const D d;
  if (count >= kLanes) return load(d, src);
  if (count <= 0) return hn::Zero(d);
  T some[kLanes] = {};
  std::memcpy(some, src, static_cast<std::size_t>(count) * sizeof(T));
  return load(d, some);
}

// The operand's elements for vector `v` of a block, of which it takes all, or `count`.
template <class T, Access kAccess, bool kWhole>
HWY_INLINE V operand(const std::byte* at, [[maybe_unused]] std::int64_t column, std::int64_t v, std::int64_t count) {
  const D d;
  const auto* src = reinterpret_cast<const T*>(at);
  if constexpr (kAccess == Access::one) {
    const hn::CappedTag<float, 1> one;
    return hn::Set(d, hn::GetLane(load(one, src)));
  } else if constexpr (kLanes == 1) {
    const std::int64_t index = kAccess == Access::swapped ? ((column + v) ^ 1) - column : v;
    return kWhole || v < count ? load(d, src + index) : hn::Zero(d);
  } else {
    const V x = kWhole ? load(d, src + v * kLanes) : load_some(src + v * kLanes, count - v * kLanes);
#if HWY_TARGET != HWY_SCALAR
    if constexpr (kAccess == Access::swapped) return hn::Shuffle2301(x);
#endif
    return x;
  }
}

template <class T, Access kAccess>
struct Load {
  static constexpr bool kReads = kAccess != Access::one;
  template <bool kWhole>
  static HWY_INLINE V of(const std::byte* at, std::int64_t column, std::int64_t v, std::int64_t count, V) {
    return operand<T, kAccess, kWhole>(at, column, v, count);
  }
};

template <Opcode kOpcode>
struct Unary {
  static constexpr bool kReads = false;
  template <bool>
  static HWY_INLINE V of(const std::byte*, std::int64_t, std::int64_t, std::int64_t, V x) {
    return Formula<kOpcode, D>::of(x).v;
  }
};

template <Opcode kOpcode, class T, Access kAccess, bool kReversed>
struct Binary {
  static constexpr bool kReads = kAccess != Access::one;
  template <bool kWhole>
  static HWY_INLINE V of(const std::byte* at, std::int64_t column, std::int64_t v, std::int64_t count, V x) {
    const V other = operand<T, kAccess, kWhole>(at, column, v, count);
    return kReversed ? Formula<kOpcode, D>::of(other, x).v : Formula<kOpcode, D>::of(x, other).v;
  }
};

struct Round {
  static constexpr bool kReads = false;
  template <bool>
  static HWY_INLINE V of(const std::byte*, std::int64_t, std::int64_t, std::int64_t, V x) {
    return hn::BitCast(D(), hn::ShiftLeft<16>(rounded_to_bf16(D(), x)));
  }
};

template <class Map, bool kWhole, std::size_t... v, class... Vectors>
HWY_INLINE void map(std::index_sequence<v...>, const BlockOp* op, std::int64_t row, std::int64_t column, std::int64_t count,
                    Vectors... x) {
  const std::byte* at = place(op, row, column);
  go_on(op, row, column, count, Map::template of<kWhole>(at, column, v, count, x)...);
}

// Parts of blocks have functions of their own, so that whole ones need no stack.
template <class Map, class... Vectors>
HWY_NOINLINE void map_part(const BlockOp* op, std::int64_t row, std::int64_t column, std::int64_t count, Vectors... x) {
  map<Map, false>(std::index_sequence_for<Vectors...>(), op, row, column, count, x...);
}

// Makes a new vector of each.
template <class Map, class... Vectors>
void map_op(const BlockOp* op, std::int64_t row, std::int64_t column, std::int64_t count, Vectors... x) {
  if (Map::kReads && HWY_UNLIKELY(count != kElements<Vectors...>)) return map_part<Map>(op, row, column, count, x...);
  map<Map, true>(std::index_sequence_for<Vectors...>(), op, row, column, count, x...);
}

struct StoreF32 {
  using T = float;
  static HWY_INLINE void whole(V x, T* dst) { hn::StoreU(x, D(), dst); }
};
struct StreamF32 {
  using T = float;
  static HWY_INLINE void whole(V x, T* dst) {
    if (HWY_LIKELY(reinterpret_cast<std::uintptr_t>(dst) % sizeof(V) == 0)) hn::Stream(x, D(), dst);
    else hn::StoreU(x, D(), dst);
  }
};

// Rounded before: the upper halves.
HWY_INLINE auto upper_halves(V x) {
  const hn::Rebind<std::uint16_t, D> d16;
  const hn::Rebind<std::int32_t, D> di32;
  const hn::Rebind<std::uint32_t, D> d32;
  return hn::DemoteTo(d16, hn::BitCast(di32, hn::ShiftRight<16>(hn::BitCast(d32, x))));
}
struct StoreBf16 {
  using T = std::uint16_t;
  static HWY_INLINE void whole(V x, T* dst) { hn::StoreU(upper_halves(x), hn::Rebind<T, D>(), dst); }
};
struct StreamBf16 {
  using T = std::uint16_t;
  static HWY_INLINE void whole(V x, T* dst) {
    const hn::Rebind<T, D> d16;
    if (HWY_LIKELY(reinterpret_cast<std::uintptr_t>(dst) % (kLanes * sizeof(T)) == 0)) hn::Stream(upper_halves(x), d16, dst);
    else hn::StoreU(upper_halves(x), d16, dst);
  }
};

template <class Store, bool kWhole>
HWY_INLINE void store_vector(std::byte* at, std::int64_t v, std::int64_t count, V x) {
  using T = typename Store::T;
  auto* dst = reinterpret_cast<T*>(at) + v * kLanes;
  const std::int64_t left = count - v * kLanes;
  if (kWhole || left >= kLanes) return Store::whole(x, dst);
  if (left <= 0) return;
  T some[kLanes];
  if constexpr (sizeof(T) == 4) StoreF32::whole(x, some);
  else StoreBf16::whole(x, some);
  std::memcpy(dst, some, static_cast<std::size_t>(left) * sizeof(T));
}

template <class Store, bool kWhole, std::size_t... v, class... Vectors>
HWY_INLINE void store_vectors(std::index_sequence<v...>, std::byte* at, std::int64_t count, Vectors... x) {
  (store_vector<Store, kWhole>(at, v, count, x), ...);
}

template <class Store, class... Vectors>
HWY_NOINLINE void store_part(const BlockOp* op, std::int64_t row, std::int64_t column, std::int64_t count, Vectors... x) {
  store_vectors<Store, false>(std::index_sequence_for<Vectors...>(), place(op, row, column), count, x...);
  go_on(op, row, column, count, x...);
}

template <class Store, class... Vectors>
void store_op(const BlockOp* op, std::int64_t row, std::int64_t column, std::int64_t count, Vectors... x) {
  if (HWY_UNLIKELY(count != kElements<Vectors...>)) return store_part<Store>(op, row, column, count, x...);
  store_vectors<Store, true>(std::index_sequence_for<Vectors...>(), place(op, row, column), count, x...);
  go_on(op, row, column, count, x...);
}

// Partial j has the elements of columns j, j + 32, ..., added in that order.
template <class... Vectors>
HWY_INLINE void add_to_partials(const BlockOp* op, std::int64_t row, std::int64_t column, Vectors... x) {
  constexpr std::int64_t kGroup = kPartials / kLanes, kCount = sizeof...(Vectors);
  const D d;
  const V vectors[] = {x...};
  auto* partials = reinterpret_cast<float*>(place(op, row, 0)) + (column & (kPartials - 1));
  for (std::int64_t v = 0; v < std::min(kGroup, kCount); ++v) {
    V partial = hn::LoadU(d, partials + v * kLanes);
    for (std::int64_t w = v; w < kCount; w += kGroup) partial = hn::Add(partial, vectors[w]);
    hn::StoreU(partial, d, partials + v * kLanes);
  }
}

// No partial is ever -0, so that zeros in place of missing elements change nothing.
template <std::size_t... v, class... Vectors>
HWY_INLINE void add_some_to_partials(std::index_sequence<v...>, const BlockOp* op, std::int64_t row, std::int64_t column,
                                     std::int64_t count, Vectors... x) {
  const auto mask = [&](std::int64_t vector) HWY_ATTR {
    return hn::FirstN(D(), static_cast<std::size_t>(std::clamp<std::int64_t>(count - vector * kLanes, 0, kLanes)));
  };
  add_to_partials(op, row, column, hn::IfThenElseZero(mask(v), x)...);
}

template <class... Vectors>
HWY_NOINLINE void sum_part(const BlockOp* op, std::int64_t row, std::int64_t column, std::int64_t count, Vectors... x) {
  add_some_to_partials(std::index_sequence_for<Vectors...>(), op, row, column, count, x...);
  go_on(op, row, column, count, x...);
}

template <class... Vectors>
void sum_op(const BlockOp* op, std::int64_t row, std::int64_t column, std::int64_t count, Vectors... x) {
  if (HWY_UNLIKELY(count != kElements<Vectors...>)) return sum_part(op, row, column, count, x...);
  add_to_partials(op, row, column, x...);
  go_on(op, row, column, count, x...);
}

template <class... Vectors>
void prefetch_op(const BlockOp* op, std::int64_t row, std::int64_t column, std::int64_t count, Vectors... x) {
  constexpr std::int64_t kLine = 64;
  const std::byte* at = place(op, row, column);
  for (std::int64_t i = 0; i < kElements<Vectors...> * op->column_step; i += kLine) hwy::Prefetch(at + i);
  go_on(op, row, column, count, x...);
}

template <class... Vectors>
void end_op(const BlockOp*, std::int64_t, std::int64_t, std::int64_t, Vectors...) {}

void run(const BlockOp* program, std::int64_t row, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kBlock = kVectors * kLanes;
  const auto wide = reinterpret_cast<Wide>(program->functions.wide);
  const auto narrow = reinterpret_cast<Narrow>(program->functions.narrow);
  const V zero = hn::Zero(D());
  std::int64_t column = begin;
  for (; column + kBlock <= end; column += kBlock) wide(program, row, column, kBlock, zero, zero, zero, zero);
  // The rest as a part of a block or vector by vector, whichever is less work.
  if (end - column > kBlock / 2) return wide(program, row, column, end - column, zero, zero, zero, zero);
  for (; column < end; column += kLanes) narrow(program, row, column, std::min(kLanes, end - column), zero);
}

void totals(const float* partials, float* sums, std::int64_t rows) {
  const D d;
  for (std::int64_t row = 0; row < rows; ++row, partials += kPartials) {
    V vectors[kPartials / kLanes];
    for (std::int64_t v = 0; v < kPartials / kLanes; ++v) vectors[v] = hn::LoadU(d, partials + v * kLanes);
    sums[row] = sum_of_partials(d, vectors);
  }
}

BlockFunctions both(Wide wide, Narrow narrow) { return {reinterpret_cast<void (*)()>(wide), reinterpret_cast<void (*)()>(narrow)}; }
template <class Map>
BlockFunctions of_map() {
  return both(map_op<Map, V, V, V, V>, map_op<Map, V>);
}
template <class Store>
BlockFunctions of_store() {
  return both(store_op<Store, V, V, V, V>, store_op<Store, V>);
}

// make<storage, access>()
template <class Make>
BlockFunctions by_access(DType dtype, Access access, const Make& make) {
  const auto of_storage = [&]<class T>() {
    switch (access) {
      case Access::one: return make.template operator()<T, Access::one>();
      case Access::dense: return make.template operator()<T, Access::dense>();
      default: return make.template operator()<T, Access::swapped>();
    }
  };
  return dtype == DType::f32 ? of_storage.template operator()<float>() : of_storage.template operator()<std::uint16_t>();
}

BlockFunctions select_load(DType dtype, Access access) {
  return by_access(dtype, access, []<class T, Access kAccess>() { return of_map<Load<T, kAccess>>(); });
}

BlockFunctions select_unary(Opcode opcode) {
  switch (opcode) {
#define ZOE_UNARY(name, value, spelling) \
  case Opcode::name:                     \
    return of_map<Unary<Opcode::name>>();
#define ZOE_BINARY(name, value, spelling)
#include "ir/opcodes.def"
    default: return {};
  }
}

template <Opcode kOpcode>
BlockFunctions select_operand(DType dtype, Access access, bool reversed) {
  return by_access(dtype, access, [&]<class T, Access kAccess>() {
    return reversed ? of_map<Binary<kOpcode, T, kAccess, true>>() : of_map<Binary<kOpcode, T, kAccess, false>>();
  });
}

BlockFunctions select_binary(Opcode opcode, DType dtype, Access access, bool reversed) {
  switch (opcode) {
#define ZOE_UNARY(name, value, spelling)
#define ZOE_BINARY(name, value, spelling) \
  case Opcode::name: return select_operand<Opcode::name>(dtype, access, reversed);
#include "ir/opcodes.def"
    default: return {};
  }
}

BlockFunctions select_store(DType dtype, bool streams) {
  if (dtype == DType::f32) return streams ? of_store<StreamF32>() : of_store<StoreF32>();
  return streams ? of_store<StreamBf16>() : of_store<StoreBf16>();
}

BlockFunctions select_round() { return of_map<Round>(); }
BlockFunctions select_sum() { return both(sum_op<V, V, V, V>, sum_op<V>); }
BlockFunctions select_prefetch() { return both(prefetch_op<V, V, V, V>, prefetch_op<V>); }
BlockFunctions select_end() { return both(end_op<V, V, V, V>, end_op<V>); }
BlockRun select_run() { return run; }
BlockTotals select_totals() { return totals; }
std::int64_t block_size() { return kVectors * kLanes; }

}  // namespace
}  // namespace zoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace zoe::cpu {
namespace {

HWY_EXPORT(select_load);
HWY_EXPORT(select_unary);
HWY_EXPORT(select_binary);
HWY_EXPORT(select_store);
HWY_EXPORT(select_round);
HWY_EXPORT(select_sum);
HWY_EXPORT(select_prefetch);
HWY_EXPORT(select_end);
HWY_EXPORT(select_run);
HWY_EXPORT(select_totals);
HWY_EXPORT(block_size);

}  // namespace

BlockFunctions block_load(DType dtype, Access access) { return HWY_DYNAMIC_DISPATCH(select_load)(dtype, access); }
BlockFunctions block_unary(Opcode opcode) { return HWY_DYNAMIC_DISPATCH(select_unary)(opcode); }
BlockFunctions block_binary(Opcode opcode, DType dtype, Access access) {
  return HWY_DYNAMIC_DISPATCH(select_binary)(opcode, dtype, access, false);
}
BlockFunctions block_binary_reversed(Opcode opcode, DType dtype, Access access) {
  return HWY_DYNAMIC_DISPATCH(select_binary)(opcode, dtype, access, true);
}
BlockFunctions block_round() { return HWY_DYNAMIC_DISPATCH(select_round)(); }
BlockFunctions block_store(DType dtype) { return HWY_DYNAMIC_DISPATCH(select_store)(dtype, false); }
BlockFunctions block_stream(DType dtype) { return HWY_DYNAMIC_DISPATCH(select_store)(dtype, true); }
BlockFunctions block_sum() { return HWY_DYNAMIC_DISPATCH(select_sum)(); }
BlockFunctions block_prefetch() { return HWY_DYNAMIC_DISPATCH(select_prefetch)(); }
BlockFunctions block_end() { return HWY_DYNAMIC_DISPATCH(select_end)(); }
BlockRun block_run() { return HWY_DYNAMIC_DISPATCH(select_run)(); }
BlockTotals block_totals() { return HWY_DYNAMIC_DISPATCH(select_totals)(); }
std::int64_t block_elements() { return HWY_DYNAMIC_DISPATCH(block_size)(); }

}  // namespace zoe::cpu
#endif
