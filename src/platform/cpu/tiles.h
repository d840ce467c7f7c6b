// AMX: eight tile registers of up to 16 rows of 64 bytes, and the product of two tiles of bf16 that adds to one of f32.
//
// Two types with the same functions: the instructions, and portable code that gives the same bits. Kernels are templates over them,
// so that tests run on any machine what server cores run.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace zoe::cpu {

// Why kernels cannot use the instructions here; "" if they can. The system is asked for the permission once a process. oneDNN's
// limit (ONEDNN_MAX_CPU_ISA) holds for them, too.
const std::string& why_no_tiles();
inline constexpr const char* kNoTilePermission = "the system gives no permission for AMX tiles";
// Whether the cores have the instructions, whatever why_no_tiles() says.
bool cores_have_tiles();

constexpr int kTiles = 8;
constexpr std::int64_t kTileRows = 16, kTileBytes = 64;  // of a whole tile: 16 floats, or 32 bf16, a row

// What the instruction that configures the registers reads.
struct alignas(64) TileShapes {
  std::uint8_t palette = 1, start_row = 0;
  std::array<std::uint8_t, 14> reserved = {};
  std::array<std::uint16_t, 16> row_bytes = {};
  std::array<std::uint8_t, 16> rows = {};

  // All of them whole, but tiles of [0, 8) with the given numbers of rows.
  static TileShapes of_rows(const std::array<std::int64_t, kTiles>& rows) {
    TileShapes shapes;
    for (std::size_t i = 0; i < kTiles; ++i) {
      shapes.row_bytes[i] = kTileBytes;
      shapes.rows[i] = static_cast<std::uint8_t>(rows[i]);
    }
    return shapes;
  }
};
static_assert(sizeof(TileShapes) == 64);

// Registers belong to the thread. configure() zeroes them; they are released after use, as the system saves what is in use.
// `stride` is the distance of rows in bytes. load_past() leaves in the first cache what is there: it is for what passes once.
//
// multiply<C, A, B>: row m of C, 16 floats, += the products of row m of A, 32 bf16, with B, whose row i holds rows 2i and 2i + 1 of
// a 32 x 16 matrix in pairs. Products at even and at odd places have a sum each, of fused multiply-adds in their order, and C takes
// the sum of both; subnormal numbers count as zeros, and results round to nearest.
//
// Instructions that do nothing stand behind each load and product. While another process uses the other half of a core, tile
// instructions that follow one another closely take two to four times as long as they should (Emerald Rapids: four products and
// four loads 110 ns, with six to twelve behind each 65 to 71); with the core to oneself they cost nothing (23 ns both ways).
#if defined(__x86_64__)
#define ZOE_TILE_SPACING "\n\t.rept 6\n\tnop\n\t.endr"
struct HardwareTiles {
  static constexpr bool kEmulated = false;
  static void configure(const TileShapes& shapes) { asm volatile("ldtilecfg %0" ::"m"(shapes)); }
  static void release() { asm volatile("tilerelease" ::); }
  template <int kTile>
  static void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
  }
  template <int kTile>
  static void load(const void* from, std::int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ZOE_TILE_SPACING ::"r"(from), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  static void load_past(const void* from, std::int64_t stride) {
    asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" ZOE_TILE_SPACING ::"r"(from), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  static void store(void* to, std::int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kC, int kA, int kB>
  static void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ZOE_TILE_SPACING ::"i"(kC), "i"(kA), "i"(kB));
  }
};
#endif

// Why kernels cannot use the instructions of codes here; "" if they can.
const std::string& why_no_code_tiles();

// Tiles of 8-bit codes: multiply<C, A, B>: row m of C, 16 integers of 32 bits, += the products of row m of A, 64 codes, with B,
// whose row i holds rows 4i to 4i + 3 of a 64 x 16 matrix in fours. Exact.
#if defined(__x86_64__)
struct HardwareCodeTiles : HardwareTiles {
  template <int kC, int kA, int kB>
  static void multiply() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ZOE_TILE_SPACING ::"i"(kC), "i"(kA), "i"(kB));
  }
};
#endif

struct EmulatedTiles {
  static constexpr bool kEmulated = true;
  static void configure(const TileShapes& shapes);
  static void release();
  template <int kTile>
  static void zero() {
    zero(kTile);
  }
  template <int kTile>
  static void load(const void* from, std::int64_t stride) {
    load(kTile, from, stride);
  }
  template <int kTile>
  static void load_past(const void* from, std::int64_t stride) {
    load(kTile, from, stride);
  }
  template <int kTile>
  static void store(void* to, std::int64_t stride) {
    store(kTile, to, stride);
  }
  template <int kC, int kA, int kB>
  static void multiply() {
    multiply(kC, kA, kB);
  }

 protected:
  static void zero(int tile);
  static void load(int tile, const void* from, std::int64_t stride);
  static void store(int tile, void* to, std::int64_t stride);
  static void multiply(int c, int a, int b);
};

struct EmulatedCodeTiles : EmulatedTiles {
  template <int kC, int kA, int kB>
  static void multiply() {
    multiply(kC, kA, kB);
  }

 private:
  static void multiply(int c, int a, int b);
};

}  // namespace zoe::cpu
