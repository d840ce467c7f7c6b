#include "platform/cpu/tiles.h"

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <bit>
#include <cmath>
#include <cstring>

#include "base/dtype.h"
#include "base/error.h"
#include "platform/cpu/host.h"
#include "platform/cpu/onednn.h"

namespace zoe::cpu {

bool cores_have_tiles() {
#if defined(__x86_64__)
  return cpu_features().find("amx_bf16") != std::string::npos;
#else
  return false;
#endif
}

const std::string& why_no_tiles() {
  static const std::string reason = []() -> std::string {
#if defined(__x86_64__) && defined(__linux__)
    if (!cores_have_tiles()) return "the cores have no AMX";
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) return kNoTilePermission;
    if (dnnl::get_effective_cpu_isa() != dnnl::cpu_isa::avx512_core_amx) return "oneDNN is limited to lesser instructions";
    return "";
#else
    return "the cores have no AMX";
#endif
  }();
  return reason;
}

const std::string& why_no_code_tiles() {
  static const std::string reason = [] {
    if (!why_no_tiles().empty()) return why_no_tiles();
    return cpu_features().find("amx_int8") != std::string::npos ? std::string() : std::string("the cores' AMX has no bytes");
  }();
  return reason;
}

namespace {

// Registers and shapes of a thread.
struct State {
  TileShapes shapes;
  alignas(64) std::array<std::array<std::byte, kTileRows * kTileBytes>, kTiles> tiles;
};
thread_local State state;

float flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }

}  // namespace

void EmulatedTiles::configure(const TileShapes& shapes) {
  state.shapes = shapes;
  state.tiles = {};
}
void EmulatedTiles::release() { configure({}); }
void EmulatedTiles::zero(int tile) { state.tiles[static_cast<std::size_t>(tile)] = {}; }

void EmulatedTiles::load(int tile, const void* from, std::int64_t stride) {
  const auto t = static_cast<std::size_t>(tile);
  zero(tile);
  for (std::int64_t row = 0; row < state.shapes.rows[t]; ++row)
    std::memcpy(state.tiles[t].data() + row * kTileBytes, static_cast<const std::byte*>(from) + row * stride,
                state.shapes.row_bytes[t]);
}

void EmulatedTiles::store(int tile, void* to, std::int64_t stride) {
  const auto t = static_cast<std::size_t>(tile);
  for (std::int64_t row = 0; row < state.shapes.rows[t]; ++row)
    std::memcpy(static_cast<std::byte*>(to) + row * stride, state.tiles[t].data() + row * kTileBytes, state.shapes.row_bytes[t]);
}

void EmulatedTiles::multiply(int c, int a, int b) {
  const auto rows = static_cast<std::int64_t>(state.shapes.rows[static_cast<std::size_t>(c)]);
  ZOE_INTERNAL_CHECK(state.shapes.palette == 1 && rows == state.shapes.rows[static_cast<std::size_t>(a)] &&
                     state.shapes.rows[static_cast<std::size_t>(b)] == kTileRows);
  std::array<std::array<std::uint16_t, 32>, kTileRows> left, right;
  std::array<std::array<float, 16>, kTileRows> sums;
  std::memcpy(&left, &state.tiles[static_cast<std::size_t>(a)], sizeof left);
  std::memcpy(&right, &state.tiles[static_cast<std::size_t>(b)], sizeof right);
  std::memcpy(&sums, &state.tiles[static_cast<std::size_t>(c)], sizeof sums);
  const auto number = [](std::uint16_t bits) { return flushed(bf16_to_f32(bits)); };
  for (std::size_t m = 0; m < static_cast<std::size_t>(rows); ++m)
    for (std::size_t n = 0; n < 16; ++n) {
      float even = 0, odd = 0;
      for (std::size_t k = 0; k < kTileRows; ++k) {
        even = flushed(std::fma(number(left[m][2 * k]), number(right[k][2 * n]), even));
        odd = flushed(std::fma(number(left[m][2 * k + 1]), number(right[k][2 * n + 1]), odd));
      }
      sums[m][n] = flushed(flushed(sums[m][n]) + flushed(even + odd));
    }
  std::memcpy(&state.tiles[static_cast<std::size_t>(c)], &sums, sizeof sums);
}

void EmulatedCodeTiles::multiply(int c, int a, int b) {
  const auto rows = static_cast<std::int64_t>(state.shapes.rows[static_cast<std::size_t>(c)]);
  ZOE_INTERNAL_CHECK(state.shapes.palette == 1 && rows == state.shapes.rows[static_cast<std::size_t>(a)] &&
                     state.shapes.rows[static_cast<std::size_t>(b)] == kTileRows);
  std::array<std::array<std::int8_t, 64>, kTileRows> left, right;
  std::array<std::array<std::int32_t, 16>, kTileRows> sums;
  std::memcpy(&left, &state.tiles[static_cast<std::size_t>(a)], sizeof left);
  std::memcpy(&right, &state.tiles[static_cast<std::size_t>(b)], sizeof right);
  std::memcpy(&sums, &state.tiles[static_cast<std::size_t>(c)], sizeof sums);
  for (std::size_t m = 0; m < static_cast<std::size_t>(rows); ++m)
    for (std::size_t n = 0; n < 16; ++n)
      for (std::size_t k = 0; k < 64; ++k) sums[m][n] += left[m][k] * right[k / 4][4 * n + k % 4];
  std::memcpy(&state.tiles[static_cast<std::size_t>(c)], &sums, sizeof sums);
}

}  // namespace zoe::cpu
