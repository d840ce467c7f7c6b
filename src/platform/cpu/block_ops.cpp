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
#include <type_traits>
#include <utility>

#include "hwy/cache_control.h"
#include "platform/cpu/block_ops.h"
#endif

HWY_BEFORE_NAMESPACE();
namespace zoe::cpu::HWY_NAMESPACE {
namespace {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
constexpr auto kLanes = static_cast<std::int64_t>(hn::MaxLanes(D()));
static_assert(kPartials % kLanes == 0);

// Every operation is called with its place in the program, the block's first column, how many of the block's elements there are,
// and the block's vectors: up to eight, as many as a call takes in registers.
using Eight = void (*)(const BlockOp*, std::int64_t, std::int64_t, V, V, V, V, V, V, V, V);
using Six = void (*)(const BlockOp*, std::int64_t, std::int64_t, V, V, V, V, V, V);
using Four = void (*)(const BlockOp*, std::int64_t, std::int64_t, V, V, V, V);
using One = void (*)(const BlockOp*, std::int64_t, std::int64_t, V);

template <class... Vectors>
constexpr std::int64_t kElements = static_cast<std::int64_t>(sizeof...(Vectors)) * kLanes;

// A call in the last place: the compiler makes a jump of it.
template <class... Vectors>
HWY_INLINE void go_on(const BlockOp* op, std::int64_t column, std::int64_t count, Vectors... x) {
  const BlockFunctions& next = op[1].functions;
  if constexpr (sizeof...(Vectors) == 8) reinterpret_cast<Eight>(next.eight)(op + 1, column, count, x...);
  else if constexpr (sizeof...(Vectors) == 6) reinterpret_cast<Six>(next.six)(op + 1, column, count, x...);
  else if constexpr (sizeof...(Vectors) == 4) reinterpret_cast<Four>(next.four)(op + 1, column, count, x...);
  else reinterpret_cast<One>(next.one)(op + 1, column, count, x...);
}

// Blocks of eight and six are whole; the others may be parts.
template <class... Vectors>
HWY_INLINE bool is_whole(std::int64_t count) {
  return sizeof...(Vectors) > 4 || HWY_LIKELY(count == kElements<Vectors...>);
}

// What operations have in memory. Functions that take a whole block know its size; others take `count` of its elements.
template <class T, Access kAccess>
struct Elements {
  static HWY_INLINE T* of_block(const BlockOp* op, std::int64_t column) {
    std::byte* at = op->at;
    if constexpr (kAccess == Access::runs) at += op->runs[static_cast<std::size_t>(column) / kPartials];
    return reinterpret_cast<T*>(at) + (kAccess == Access::one || kAccess == Access::block ? 0 : column);
  }

  template <bool kWhole>
  static HWY_INLINE V vector(const BlockOp* op, std::int64_t column, std::int64_t v, std::int64_t count) {
    const D d;
    const T* src = of_block(op, column);
    if constexpr (kAccess == Access::one) {
      const hn::CappedTag<float, 1> one;
      return hn::Set(d, hn::GetLane(load(one, src)));
    } else if constexpr (kLanes == 1) {
      const std::int64_t place = kAccess == Access::swapped ? ((column + v) ^ 1) - column : v;
      return kWhole || v < count ? load(d, src + place) : hn::Zero(d);
    } else {
      const V x = kWhole ? load(d, src + v * kLanes) : first_lanes(src + v * kLanes, count - v * kLanes);
#if HWY_TARGET != HWY_SCALAR
      if constexpr (kAccess == Access::swapped) return hn::Shuffle2301(x);
#endif
      return x;
    }
  }

  // Zeros in the other lanes.
  static HWY_NOINLINE V first_lanes(const T* src, std::int64_t count) {
    const D d;
    if (count >= kLanes) return load(d, src);
    if (count <= 0) return hn::Zero(d);
    T some[kLanes] = {};
    std::memcpy(some, src, static_cast<std::size_t>(count) * sizeof(T));
    return load(d, some);
  }
};

template <class Memory>
struct Load {
  static constexpr bool kReads = true;
  template <bool kWhole>
  static HWY_INLINE V of(const BlockOp* op, std::int64_t column, std::int64_t v, std::int64_t count, V) {
    return Memory::template vector<kWhole>(op, column, v, count);
  }
};

template <Opcode kOpcode>
struct Unary {
  static constexpr bool kReads = false;
  template <bool>
  static HWY_INLINE V of(const BlockOp*, std::int64_t, std::int64_t, std::int64_t, V x) {
    return Formula<kOpcode, D>::of(x).v;
  }
};

template <Opcode kOpcode, class Memory, bool kReversed>
struct Binary {
  static constexpr bool kReads = true;
  template <bool kWhole>
  static HWY_INLINE V of(const BlockOp* op, std::int64_t column, std::int64_t v, std::int64_t count, V x) {
    const V other = Memory::template vector<kWhole>(op, column, v, count);
    return kReversed ? Formula<kOpcode, D>::of(other, x).v : Formula<kOpcode, D>::of(x, other).v;
  }
};

template <class Byte>
struct RoundToBytes {
  static constexpr bool kReads = false;
  template <bool>
  static HWY_INLINE V of(const BlockOp*, std::int64_t, std::int64_t, std::int64_t, V x) {
    return (std::is_signed_v<Byte> ? zoe_round_i8(Floats<D>(x)) : zoe_round_u8(Floats<D>(x))).v;
  }
};

// make<T>() for the storage of a dtype of 8 bits.
template <class Make>
BlockFunctions by_byte(DType dtype, const Make& make) {
  return dtype == DType::i8 ? make.template operator()<std::int8_t>() : make.template operator()<std::uint8_t>();
}

struct Round {
  static constexpr bool kReads = false;
  template <bool>
  static HWY_INLINE V of(const BlockOp*, std::int64_t, std::int64_t, std::int64_t, V x) {
    return hn::BitCast(D(), hn::And(round_in_upper_halves(D(), x), hn::Set(hn::Rebind<std::uint32_t, D>(), 0xffff0000u)));
  }
};

template <class Map, bool kWhole, std::size_t... v, class... Vectors>
HWY_INLINE void map(std::index_sequence<v...>, const BlockOp* op, std::int64_t column, std::int64_t count, Vectors... x) {
  go_on(op, column, count, Map::template of<kWhole>(op, column, v, count, x)...);
}

// Parts of blocks have functions of their own, so that whole ones need no stack.
template <class Map, class... Vectors>
HWY_NOINLINE void map_part(const BlockOp* op, std::int64_t column, std::int64_t count, Vectors... x) {
  map<Map, false>(std::index_sequence_for<Vectors...>(), op, column, count, x...);
}

// Makes a new vector of each.
template <class Map, class... Vectors>
void map_op(const BlockOp* op, std::int64_t column, std::int64_t count, Vectors... x) {
  if (!Map::kReads || is_whole<Vectors...>(count)) map<Map, true>(std::index_sequence_for<Vectors...>(), op, column, count, x...);
  else map_part<Map>(op, column, count, x...);
}

enum class How : std::uint8_t { plain, rounds, streams, rounds_and_streams };

template <How kHow, class To, class T>
HWY_INLINE void store_vector(To d, hn::Vec<To> x, T* dst) {
  // Streams are of 16 bytes at least.
  constexpr bool kStreams = (kHow == How::streams || kHow == How::rounds_and_streams) && hn::MaxLanes(To()) * sizeof(T) >= 16;
  if (kStreams && HWY_LIKELY(reinterpret_cast<std::uintptr_t>(dst) % sizeof(x) == 0)) hn::Stream(x, d, dst);
  else hn::StoreU(x, d, dst);
}

template <How kHow>
HWY_INLINE auto upper_halves(V x) {
  constexpr bool kRounds = kHow == How::rounds || kHow == How::rounds_and_streams;
  if constexpr (kRounds) return round_in_upper_halves(D(), x);
  else return hn::BitCast(hn::Rebind<std::uint32_t, D>(), x);
}

template <class T, Access kAccess, How kHow>
struct Store {
  using Place = Elements<T, kAccess>;

  // All vectors of a block, one after the other: of an array of them g++ would make memory.
  template <class... Vectors>
  static HWY_INLINE void whole(T* dst, V x, Vectors... others) {
#if HWY_TARGET != HWY_SCALAR
    if constexpr (sizeof(T) == 2 && sizeof...(others) % 2 == 1) return pairs(dst, x, others...);
#endif
    one(x, dst);
    if constexpr (sizeof...(others) > 0) whole(dst + kLanes, others...);
  }

#if HWY_TARGET != HWY_SCALAR
  // Two vectors make one.
  template <class... Vectors>
  static HWY_INLINE void pairs(T* dst, V low, V high, Vectors... others) {
    const hn::Repartition<T, D> d;
    store_vector<kHow>(d, hn::ConcatOdd(d, hn::BitCast(d, upper_halves<kHow>(high)), hn::BitCast(d, upper_halves<kHow>(low))), dst);
    if constexpr (sizeof...(others) > 0) pairs(dst + 2 * kLanes, others...);
  }
#endif

  static HWY_INLINE void one(V x, T* dst) {
    const hn::Rebind<T, D> d;
    if constexpr (sizeof(T) == 4) {
      store_vector<kHow>(d, x, dst);
    } else if constexpr (sizeof(T) == 1) {
      hn::StoreU(hn::DemoteTo(d, hn::ConvertTo(hn::Rebind<std::int32_t, D>(), x)), d, dst);
    } else {
      const hn::Rebind<std::int32_t, D> di32;
      store_vector<kHow>(d, hn::DemoteTo(d, hn::BitCast(di32, hn::ShiftRight<16>(upper_halves<kHow>(x)))), dst);
    }
  }

  // The first elements of a block.
  template <class... Vectors>
  static HWY_INLINE void some(const BlockOp* op, std::int64_t column, std::int64_t count, Vectors... x) {
    T* dst = Place::of_block(op, column);
    const auto first_lanes = [&](V vector) HWY_ATTR {
      if (count >= kLanes) {
        one(vector, dst);
      } else if (count > 0) {
        T lanes[kLanes];
        one(vector, lanes);
        std::memcpy(dst, lanes, static_cast<std::size_t>(count) * sizeof(T));
      }
      dst += kLanes;
      count -= kLanes;
    };
    (first_lanes(x), ...);
  }
};

template <class Store, class... Vectors>
HWY_NOINLINE void store_part(const BlockOp* op, std::int64_t column, std::int64_t count, Vectors... x) {
  Store::some(op, column, count, x...);
  go_on(op, column, count, x...);
}

template <class Store, class... Vectors>
void store_op(const BlockOp* op, std::int64_t column, std::int64_t count, Vectors... x) {
  if (!is_whole<Vectors...>(count)) return store_part<Store>(op, column, count, x...);
  Store::whole(Store::Place::of_block(op, column), x...);
  go_on(op, column, count, x...);
}

// Partial j has the elements of columns j, j + 32, ..., taken in that order.
template <Opcode kReduction, class... Vectors>
HWY_INLINE void take_into_partials(const BlockOp* op, std::int64_t column, Vectors... x) {
  constexpr std::int64_t kGroup = kPartials / kLanes, kCount = sizeof...(Vectors);
  const D d;
  const V vectors[] = {x...};
  auto* partials = reinterpret_cast<float*>(op->at) + (column & (kPartials - 1));
  for (std::int64_t v = 0; v < std::min(kGroup, kCount); ++v) {
    V partial = hn::LoadU(d, partials + v * kLanes);
    for (std::int64_t w = v; w < kCount; w += kGroup) partial = Formula<kReduction, D>::combined(vectors[w], partial);
    hn::StoreU(partial, d, partials + v * kLanes);
  }
}

// With identities in place of missing elements.
template <Opcode kReduction, std::size_t... v, class... Vectors>
HWY_INLINE void take_some_into_partials(std::index_sequence<v...>, const BlockOp* op, std::int64_t column, std::int64_t count,
                                        Vectors... x) {
  const auto mask = [&](std::int64_t vector) HWY_ATTR {
    return hn::FirstN(D(), static_cast<std::size_t>(std::clamp<std::int64_t>(count - vector * kLanes, 0, kLanes)));
  };
  const V identity = hn::Set(D(), Formula<kReduction, D>::kIdentity);
  take_into_partials<kReduction>(op, column, hn::IfThenElse(mask(v), x, identity)...);
}

template <bool kSquares>
HWY_INLINE V term(V x) {
  return kSquares ? hn::Mul(x, x) : x;
}

template <Opcode kReduction, bool kSquares, class... Vectors>
HWY_NOINLINE void reduce_part(const BlockOp* op, std::int64_t column, std::int64_t count, Vectors... x) {
  take_some_into_partials<kReduction>(std::index_sequence_for<Vectors...>(), op, column, count, term<kSquares>(x)...);
  go_on(op, column, count, x...);
}

template <Opcode kReduction, bool kSquares, class... Vectors>
void reduce_op(const BlockOp* op, std::int64_t column, std::int64_t count, Vectors... x) {
  if (!is_whole<Vectors...>(count)) return reduce_part<kReduction, kSquares>(op, column, count, x...);
  take_into_partials<kReduction>(op, column, term<kSquares>(x)...);
  go_on(op, column, count, x...);
}

template <class T, Access kAccess, class... Vectors>
void prefetch_op(const BlockOp* op, std::int64_t column, std::int64_t count, Vectors... x) {
  constexpr auto kLine = 64 / static_cast<std::int64_t>(sizeof(T));
  const T* at = Elements<T, kAccess>::of_block(op, column);
  for (std::int64_t i = 0; i < kElements<Vectors...>; i += kLine) hwy::Prefetch(at + i);
  go_on(op, column, count, x...);
}

template <class... Vectors>
void end_op(const BlockOp*, std::int64_t, std::int64_t, Vectors...) {}

HWY_INLINE void run_row(const BlockOp* program, std::int64_t begin, std::int64_t end, bool by_eight) {
  const auto eight = reinterpret_cast<Eight>(program->functions.eight);
  const auto six = reinterpret_cast<Six>(program->functions.six);
  const auto four = reinterpret_cast<Four>(program->functions.four);
  const auto one = reinterpret_cast<One>(program->functions.one);
  const V x = hn::Zero(D());
  std::int64_t column = begin;
  if (by_eight)
    for (; column + 8 * kLanes <= end; column += 8 * kLanes) eight(program, column, 8 * kLanes, x, x, x, x, x, x, x, x);
  if (by_eight && column + 6 * kLanes <= end) six(program, column, 6 * kLanes, x, x, x, x, x, x), column += 6 * kLanes;
  for (; column + 4 * kLanes <= end; column += 4 * kLanes) four(program, column, 4 * kLanes, x, x, x, x);
  // The rest as a part of a block or vector by vector, whichever is less work.
  if (end - column > 2 * kLanes) return four(program, column, end - column, x, x, x, x);
  for (; column < end; column += kLanes) one(program, column, std::min(kLanes, end - column), x);
}

void run(BlockOp* program, std::span<const BlockMove> moves, std::int64_t rows, std::int64_t begin, std::int64_t end,
         bool by_eight) {
  for (std::int64_t row = 0; row < rows; ++row) {
    run_row(program, begin, end, by_eight);
    for (const BlockMove& move : moves) program[move.op].at += move.row_step;
  }
}

template <Opcode kReduction>
void totals(const float* partials, float* reduced, std::int64_t rows) {
  const D d;
  for (std::int64_t row = 0; row < rows; ++row, partials += kPartials) {
    V vectors[kPartials / kLanes];
    for (std::int64_t v = 0; v < kPartials / kLanes; ++v) vectors[v] = hn::LoadU(d, partials + v * kLanes);
    reduced[row] = reduce_partials<kReduction>(d, vectors);
  }
}

BlockFunctions all(Eight eight, Six six, Four four, One one) {
  return {reinterpret_cast<void (*)()>(eight), reinterpret_cast<void (*)()>(six), reinterpret_cast<void (*)()>(four),
          reinterpret_cast<void (*)()>(one)};
}
template <class Map>
BlockFunctions of_map() {
  return all(map_op<Map, V, V, V, V, V, V, V, V>, map_op<Map, V, V, V, V, V, V>, map_op<Map, V, V, V, V>, map_op<Map, V>);
}

// make<memory>()
template <class Make>
BlockFunctions by_memory(DType dtype, Access access, const Make& make) {
  if (access == Access::block) return make.template operator()<Elements<float, Access::block>>();
  const auto of_storage = [&]<class T>() {
    switch (access) {
      case Access::one: return make.template operator()<Elements<T, Access::one>>();
      case Access::dense: return make.template operator()<Elements<T, Access::dense>>();
      case Access::runs: return make.template operator()<Elements<T, Access::runs>>();
      default: return make.template operator()<Elements<T, Access::swapped>>();
    }
  };
  return dtype == DType::f32 ? of_storage.template operator()<float>() : of_storage.template operator()<std::uint16_t>();
}

BlockFunctions select_load(DType dtype, Access access) {
  if (is_byte(dtype))
    return by_byte(dtype, [&]<class Byte>() {
      if (access == Access::swapped) return of_map<Load<Elements<Byte, Access::swapped>>>();
      return access == Access::runs ? of_map<Load<Elements<Byte, Access::runs>>>() : of_map<Load<Elements<Byte, Access::dense>>>();
    });
  return by_memory(dtype, access, []<class Memory>() { return of_map<Load<Memory>>(); });
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
  return by_memory(dtype, access, [&]<class Memory>() {
    return reversed ? of_map<Binary<kOpcode, Memory, true>>() : of_map<Binary<kOpcode, Memory, false>>();
  });
}

BlockFunctions select_binary(Opcode opcode, DType dtype, Access access, bool reversed) {
  using Select = BlockFunctions (*)(DType, Access, bool);
  Select select = nullptr;
  switch (opcode) {
#define ZOE_UNARY(name, value, spelling)
#define ZOE_BINARY(name, value, spelling)  \
  case Opcode::name:                       \
    select = select_operand<Opcode::name>; \
    break;
#include "ir/opcodes.def"
    default: break;
  }
  return select(dtype, access, reversed);
}

template <class T, Access kAccess, How kHow>
BlockFunctions of_store() {
  using To = Store<T, kAccess, kHow>;
  return all(store_op<To, V, V, V, V, V, V, V, V>, store_op<To, V, V, V, V, V, V>, store_op<To, V, V, V, V>, store_op<To, V>);
}

template <Access kAccess>
BlockFunctions select_row_store(DType dtype, bool rounds, bool streams) {
  using Half = std::uint16_t;
  if (dtype == DType::f32) return streams ? of_store<float, kAccess, How::streams>() : of_store<float, kAccess, How::plain>();
  if (is_byte(dtype))  // too short for streams
    return by_byte(dtype, []<class Byte>() { return of_store<Byte, kAccess, How::plain>(); });
  if (rounds) return streams ? of_store<Half, kAccess, How::rounds_and_streams>() : of_store<Half, kAccess, How::rounds>();
  return streams ? of_store<Half, kAccess, How::streams>() : of_store<Half, kAccess, How::plain>();
}

BlockFunctions select_store(DType dtype, Access access, bool rounds, bool streams) {
  if (access == Access::block) return of_store<float, Access::block, How::plain>();
  return access == Access::runs ? select_row_store<Access::runs>(dtype, rounds, streams)
                                : select_row_store<Access::dense>(dtype, rounds, streams);
}

BlockFunctions select_round(DType dtype) {
  return is_byte(dtype) ? by_byte(dtype, []<class Byte>() { return of_map<RoundToBytes<Byte>>(); }) : of_map<Round>();
}
template <Opcode kReduction, bool kSquares>
BlockFunctions of_reduction() {
  return all(reduce_op<kReduction, kSquares, V, V, V, V, V, V, V, V>, reduce_op<kReduction, kSquares, V, V, V, V, V, V>,
             reduce_op<kReduction, kSquares, V, V, V, V>, reduce_op<kReduction, kSquares, V>);
}
// make<opcode>() for a reduction.
template <class Make>
auto by_reduction(Opcode opcode, const Make& make) {
  switch (opcode) {
#define ZOE_UNARY(name, value, spelling)
#define ZOE_BINARY(name, value, spelling)
// clang-format off
#define ZOE_REDUCTION(name, combine, identity) \
  case Opcode::name: return make.template operator()<Opcode::name>();
#include "ir/opcodes.def"
    // clang-format on
    default: return decltype(make.template operator()<Opcode::sum>()){};
  }
}
BlockFunctions select_reduction(Opcode opcode, bool squares) {
  return by_reduction(
      opcode, [&]<Opcode kReduction>() { return squares ? of_reduction<kReduction, true>() : of_reduction<kReduction, false>(); });
}
template <class T, Access kAccess>
BlockFunctions of_prefetch() {
  return all(prefetch_op<T, kAccess, V, V, V, V, V, V, V, V>, prefetch_op<T, kAccess, V, V, V, V, V, V>,
             prefetch_op<T, kAccess, V, V, V, V>, prefetch_op<T, kAccess, V>);
}
BlockFunctions select_prefetch(DType dtype, Access access) {
  if (dtype == DType::f32) return access == Access::runs ? of_prefetch<float, Access::runs>() : of_prefetch<float, Access::dense>();
  if (is_byte(dtype))  // addresses are all that matters
    return access == Access::runs ? of_prefetch<std::uint8_t, Access::runs>() : of_prefetch<std::uint8_t, Access::dense>();
  return access == Access::runs ? of_prefetch<std::uint16_t, Access::runs>() : of_prefetch<std::uint16_t, Access::dense>();
}
BlockFunctions select_end() { return all(end_op<V, V, V, V, V, V, V, V>, end_op<V, V, V, V, V, V>, end_op<V, V, V, V>, end_op<V>); }
BlockRun select_run() { return run; }
BlockTotals select_totals(Opcode opcode) {
  return by_reduction(opcode, []<Opcode kReduction>() -> BlockTotals { return totals<kReduction>; });
}
std::int64_t vector_size() { return kLanes; }

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
HWY_EXPORT(select_reduction);
HWY_EXPORT(select_prefetch);
HWY_EXPORT(select_end);
HWY_EXPORT(select_run);
HWY_EXPORT(select_totals);
HWY_EXPORT(vector_size);

}  // namespace

BlockFunctions block_load(DType dtype, Access access) { return HWY_DYNAMIC_DISPATCH(select_load)(dtype, access); }
BlockFunctions block_unary(Opcode opcode) { return HWY_DYNAMIC_DISPATCH(select_unary)(opcode); }
BlockFunctions block_binary(Opcode opcode, DType dtype, Access access) {
  return HWY_DYNAMIC_DISPATCH(select_binary)(opcode, dtype, access, false);
}
BlockFunctions block_binary_reversed(Opcode opcode, DType dtype, Access access) {
  return HWY_DYNAMIC_DISPATCH(select_binary)(opcode, dtype, access, true);
}
BlockFunctions block_round(DType dtype) { return HWY_DYNAMIC_DISPATCH(select_round)(dtype); }
BlockFunctions block_store(DType dtype, Access access, bool rounds) {
  return HWY_DYNAMIC_DISPATCH(select_store)(dtype, access, rounds, false);
}
BlockFunctions block_stream(DType dtype, Access access, bool rounds) {
  return HWY_DYNAMIC_DISPATCH(select_store)(dtype, access, rounds, true);
}
BlockFunctions block_reduction(Opcode opcode, bool squares) { return HWY_DYNAMIC_DISPATCH(select_reduction)(opcode, squares); }
BlockFunctions block_prefetch(DType dtype, Access access) { return HWY_DYNAMIC_DISPATCH(select_prefetch)(dtype, access); }
BlockFunctions block_end() { return HWY_DYNAMIC_DISPATCH(select_end)(); }
BlockRun block_run() { return HWY_DYNAMIC_DISPATCH(select_run)(); }
void flush_streams() { hwy::FlushStream(); }
BlockTotals block_totals(Opcode opcode) { return HWY_DYNAMIC_DISPATCH(select_totals)(opcode); }
std::int64_t block_elements(int vectors) { return HWY_DYNAMIC_DISPATCH(vector_size)() * vectors; }

}  // namespace zoe::cpu
#endif
