// TileUnit as AMX instructions. Own asm, because the intrinsics of GCC 12 declare too little memory (_tile_loadconfig
// 8 of its 64 bytes, _tile_loadd none), upon which -O2 deletes the stores that fill a local buffer. Here the
// configuration is an operand of its full size and tile loads and stores clobber memory.
//
// The configuration is immutable and full (palette 1, every tile 16 x 64): the one in force is compared, not assumed,
// since any library in the process may change it.
#pragma once
#include <cstdint>

namespace quernel::QUERNEL_ISA {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

constexpr TileConfig kFullTiles{
    .palette = 1,
    .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16},
};

class TileUnit {
 public:
  explicit TileUnit(bool keep) : keep_(keep) {}
  // A thread without a configuration stores palette 0; loading that releases the tiles again.
  ~TileUnit() {
    if (restore_) asm volatile("ldtilecfg %0" ::"m"(before_) : "memory");
  }
  TileUnit(const TileUnit&) = delete;
  TileUnit& operator=(const TileUnit&) = delete;

  void configure() {
    if (configured_) return;
    configured_ = true;
    asm volatile("sttilecfg %0" : "=m"(before_));
    if (__builtin_memcmp(&before_, &kFullTiles, sizeof(TileConfig)) == 0) return;
    restore_ = !keep_;
    asm volatile("ldtilecfg %0" ::"m"(kFullTiles) : "memory");
  }

  template <int T>
  void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(T));
  }
  template <int T>
  void load(const void* rows, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(rows), "r"(stride), "i"(T) : "memory");
  }
  template <int T>
  void store(void* rows, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(rows), "r"(stride), "i"(T) : "memory");
  }
  template <int C, int A, int B>
  void dot_u8s8() {
    asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
  template <int C, int A, int B>
  void dot_bf16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }

 private:
  TileConfig before_;
  bool keep_, configured_ = false, restore_ = false;
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
