// bfloat16 is the upper half of a float. Conversions are integer arithmetic, or AVX512_BF16's instruction where that
// gives the same bits; pairs of bfloat16 (a 32-bit lane, the even one in its lower half) become two registers of
// floats.
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

inline VecI32 pairs(VecI32 even, VecI32 odd) { return (even & VecI32::set(0xffff)) | shift_left<16>(odd); }
inline VecF32 even(VecI32 pairs) { return from_bits(shift_left<16>(pairs)); }
inline VecF32 odd(VecI32 pairs) { return from_bits(pairs & VecI32::set(static_cast<int32_t>(0xffff0000u))); }

inline float from_bf16(uint16_t x) { return __builtin_bit_cast(float, static_cast<uint32_t>(x) << 16); }

#ifdef __AVX512BF16__

// The level's instructions round as to_bf16() does, but take denormals for zero and keep what a NaN carries: whether
// none of these is among x.
inline bool rounds_alike(VecF32 x) { return _mm512_fpclass_ps_mask(x.v, 0x80 | 0x20 | 0x01) == 0; }

// First x, then y.
inline __m512i rounded_halves(VecF32 x, VecF32 y) { return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(y.v, x.v)); }

inline VecF32 round_to_bf16(VecF32 x) {
  if (!rounds_alike(x)) [[unlikely]]
    return even(to_bf16(x));
  return {_mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x.v))), 16))};
}

inline VecI32 round_pairs(VecF32 x, VecF32 y) {
  if (!rounds_alike(x) || !rounds_alike(y)) [[unlikely]]
    return pairs(to_bf16(x), to_bf16(y));
  alignas(64) static constexpr uint16_t kPairs[] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                    8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return {_mm512_permutexvar_epi16(_mm512_load_si512(kPairs), rounded_halves(x, y))};
}

inline void narrow_chunk(const float* x, uint16_t* y) {
  const VecF32 lo = VecF32::load(x), hi = VecF32::load(x + 16);
  if (rounds_alike(lo) && rounds_alike(hi)) [[likely]]
    return _mm512_storeu_si512(y, rounded_halves(lo, hi));
  for (int i = 0; i < 32; ++i) y[i] = to_bf16(x[i]);
}

#else

inline VecF32 round_to_bf16(VecF32 x) { return even(to_bf16(x)); }
inline VecI32 round_pairs(VecF32 even, VecF32 odd) { return pairs(to_bf16(even), to_bf16(odd)); }

// The loop that cuts lanes off is left to the compiler, which has an instruction for it; the whole conversion as a
// plain loop is compiled to four times the time.
inline void narrow_chunk(const float* x, uint16_t* y) {
  int32_t wide[32];
  for (int i = 0; i < 32; i += VecI32::kWidth) to_bf16(VecF32::load(x + i)).store(wide + i);
  for (int i = 0; i < 32; ++i) y[i] = static_cast<uint16_t>(wide[i]);
}

#endif

inline void narrow(const float* x, uint16_t* y, int64_t n) {
  for (; n >= 32; n -= 32, x += 32, y += 32) narrow_chunk(x, y);
  for (int64_t i = 0; i < n; ++i) y[i] = to_bf16(x[i]);
}

// Pairs (even[i], odd[i]) side by side.
inline void interleave(const uint16_t* even, const uint16_t* odd, uint16_t* pairs, int n) {
  for (int i = 0; i < n; ++i) {
    const uint32_t pair = even[i] | static_cast<uint32_t>(odd[i]) << 16;
    __builtin_memcpy(pairs + 2 * i, &pair, sizeof(pair));
  }
}

}  // namespace
}  // namespace quernel::QUERNEL_ISA
