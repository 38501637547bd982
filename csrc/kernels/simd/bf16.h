// bfloat16 is the upper half of a float. Conversions are integer arithmetic, which the compiler vectorizes; pairs of
// bfloat16 (a 32-bit lane, the even one in its lower half) become two registers of floats.
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

inline float from_bf16(uint16_t x) { return __builtin_bit_cast(float, static_cast<uint32_t>(x) << 16); }

inline VecF32 even(VecI32 pairs) { return from_bits(shift_left<16>(pairs)); }
inline VecF32 odd(VecI32 pairs) { return from_bits(pairs & VecI32::set(static_cast<int32_t>(0xffff0000u))); }

}  // namespace
}  // namespace quernel::QUERNEL_ISA
