// TileUnit in plain C++: the tiles are an array, the dot product three loops. configure() fills the tiles with
// garbage, since a kernel must zero or load them.
#pragma once
#include <cstdint>

namespace quernel::QUERNEL_ISA {
namespace {

class TileUnit {
 public:
  explicit TileUnit(bool) {}
  void configure() { __builtin_memset(tiles_, 0x80, sizeof(tiles_)); }

  template <int T>
  void zero() {
    __builtin_memset(tiles_[T], 0, sizeof(tiles_[T]));
  }
  template <int T>
  void load(const void* rows, int64_t stride) {
    for (int r = 0; r < 16; ++r) __builtin_memcpy(tiles_[T][r], static_cast<const uint8_t*>(rows) + r * stride, 64);
  }
  template <int T>
  void store(void* rows, int64_t stride) {
    for (int r = 0; r < 16; ++r) __builtin_memcpy(static_cast<uint8_t*>(rows) + r * stride, tiles_[T][r], 64);
  }
  template <int C, int A, int B>
  void dot_u8s8() {
    uint32_t sums[16][16];  // unsigned: wraps as the instruction does
    __builtin_memcpy(sums, tiles_[C], sizeof(sums));
    for (int m = 0; m < 16; ++m)
      for (int k = 0; k < 64; ++k)
        for (int n = 0; n < 16; ++n)
          sums[m][n] += static_cast<uint32_t>(tiles_[A][m][k] * static_cast<int8_t>(tiles_[B][k / 4][4 * n + k % 4]));
    __builtin_memcpy(tiles_[C], sums, sizeof(sums));
  }

 private:
  uint8_t tiles_[8][16][64];
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
