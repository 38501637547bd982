// bfloat16 is the upper half of a float. Conversions are integer arithmetic; pairs of bfloat16 (a 32-bit lane, the even
// one in its lower half) become two registers of floats.
#pragma once
#include <cstdint>

#include "kernels/simd/vec.h"

namespace quernel::QUERNEL_ISA {
namespace {

// To nearest, ties to even; NaN becomes the quiet NaN of its sign, as in ml_dtypes.
inline uint16_t to_bf16(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, nan = (bits >> 16 & 0x8000) | 0x7fc0;
  return static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded);
}

// The same in the lower halves of lanes, whose upper halves are undefined.
inline VecI32 to_bf16(VecF32 x) {
  const VecI32 upper = shift_right<16>(bits(x));
  const VecI32 rounded = shift_right<16>(bits(x) + VecI32::set(0x7fff) + (upper & VecI32::set(1)));
  const VecI32 nan = (upper & VecI32::set(0x8000)) | VecI32::set(0x7fc0);
  return bits(select(is_nan(x), from_bits(nan), from_bits(rounded)));
}

inline float from_bf16(uint16_t x) { return __builtin_bit_cast(float, static_cast<uint32_t>(x) << 16); }

// The loop that cuts lanes off is left to the compiler, which has an instruction for it; the whole conversion as a
// plain loop is compiled to four times the time.
inline void narrow(const float* x, uint16_t* y, int64_t n) {
  constexpr int kChunk = 32;
  for (; n >= kChunk; n -= kChunk, x += kChunk, y += kChunk) {
    int32_t wide[kChunk];
    for (int i = 0; i < kChunk; i += VecI32::kWidth) to_bf16(VecF32::load(x + i)).store(wide + i);
    for (int i = 0; i < kChunk; ++i) y[i] = static_cast<uint16_t>(wide[i]);
  }
  for (int64_t i = 0; i < n; ++i) y[i] = to_bf16(x[i]);
}

// Pairs (even[i], odd[i]) side by side.
inline void interleave(const uint16_t* even, const uint16_t* odd, uint16_t* pairs, int n) {
  for (int i = 0; i < n; ++i) {
    const uint32_t pair = even[i] | static_cast<uint32_t>(odd[i]) << 16;
    __builtin_memcpy(pairs + 2 * i, &pair, sizeof(pair));
  }
}

inline VecI32 pairs(VecI32 even, VecI32 odd) { return (even & VecI32::set(0xffff)) | shift_left<16>(odd); }
inline VecF32 even(VecI32 pairs) { return from_bits(shift_left<16>(pairs)); }
inline VecF32 odd(VecI32 pairs) { return from_bits(pairs & VecI32::set(static_cast<int32_t>(0xffff0000u))); }

}  // namespace
}  // namespace quernel::QUERNEL_ISA
