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
  // Even and odd terms are summed apart from zero, and both sums then added to C; denormals are flushed throughout.
  template <int C, int A, int B>
  void dot_bf16() {
    float sums[16][16];
    uint16_t a[16][32], b[16][32];
    __builtin_memcpy(sums, tiles_[C], sizeof(sums));
    __builtin_memcpy(a, tiles_[A], sizeof(a));
    __builtin_memcpy(b, tiles_[B], sizeof(b));
    for (int m = 0; m < 16; ++m) {
      float parts[32] = {};
      for (int k = 0; k < 16; ++k)
        for (int i = 0; i < 32; ++i)
          parts[i] = flushed(__builtin_fmaf(widened(a[m][2 * k + i % 2]), widened(b[k][i]), parts[i]));
      for (int n = 0; n < 16; ++n) sums[m][n] = flushed(flushed(sums[m][n]) + flushed(parts[2 * n] + parts[2 * n + 1]));
    }
    __builtin_memcpy(tiles_[C], sums, sizeof(sums));
  }

 private:
  static float flushed(float x) { return __builtin_fabsf(x) < 0x1p-126f ? __builtin_copysignf(0.0f, x) : x; }
  static float widened(uint16_t x) { return flushed(__builtin_bit_cast(float, static_cast<uint32_t>(x) << 16)); }

  uint8_t tiles_[8][16][64];
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
