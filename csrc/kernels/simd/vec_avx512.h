// AVX-512 (F, BW, DQ, VL): 16 floats or 8 doubles; see vec.h. Tails use masked loads and stores, which touch no
// masked byte.
//
// operator+ must be inlined: GCC 12 called it for the bias of register tiles, their sums on the stack meanwhile, which
// cost recurrent layers of 64 up to 5 %.
#pragma once
#include <cstdint>

#include "kernels/simd/intrinsics.h"

namespace quernel::QUERNEL_ISA {
namespace {

struct MaskF32 {
  __mmask16 m;
  friend MaskF32 operator&(MaskF32 a, MaskF32 b) { return {static_cast<__mmask16>(a.m & b.m)}; }
  friend MaskF32 operator|(MaskF32 a, MaskF32 b) { return {static_cast<__mmask16>(a.m | b.m)}; }
  friend MaskF32 operator~(MaskF32 a) { return {static_cast<__mmask16>(~a.m)}; }
  bool any() const { return m != 0; }
  bool all() const { return m == 0xffff; }
};

struct MaskF64 {
  __mmask8 m;
  friend MaskF64 operator&(MaskF64 a, MaskF64 b) { return {static_cast<__mmask8>(a.m & b.m)}; }
  friend MaskF64 operator|(MaskF64 a, MaskF64 b) { return {static_cast<__mmask8>(a.m | b.m)}; }
  friend MaskF64 operator~(MaskF64 a) { return {static_cast<__mmask8>(~a.m)}; }
  bool any() const { return m != 0; }
  bool all() const { return m == 0xff; }
};

inline __mmask16 lanes16(int n) { return static_cast<__mmask16>((1u << n) - 1); }
inline __mmask8 lanes8(int n) { return static_cast<__mmask8>((1u << n) - 1); }

struct VecF32 {
  using Scalar = float;
  using Mask = MaskF32;
  static constexpr int kWidth = 16;
  __m512 v;

  static VecF32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static VecF32 load(const float* p, int n) { return {_mm512_maskz_loadu_ps(lanes16(n), p)}; }
  static VecF32 set(float x) { return {_mm512_set1_ps(x)}; }
  static VecF32 zero() { return {_mm512_setzero_ps()}; }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store(float* p, int n) const { _mm512_mask_storeu_ps(p, lanes16(n), v); }

  [[gnu::always_inline]] friend VecF32 operator+(VecF32 a, VecF32 b) { return {_mm512_add_ps(a.v, b.v)}; }
  friend VecF32 operator-(VecF32 a, VecF32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
  friend VecF32 operator*(VecF32 a, VecF32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
  friend VecF32 operator/(VecF32 a, VecF32 b) { return {_mm512_div_ps(a.v, b.v)}; }
  friend VecF32 operator-(VecF32 a) { return {_mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f))}; }
  friend MaskF32 operator<(VecF32 a, VecF32 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
  friend MaskF32 operator<=(VecF32 a, VecF32 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
  friend MaskF32 operator>(VecF32 a, VecF32 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
  friend MaskF32 operator>=(VecF32 a, VecF32 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
  friend MaskF32 operator==(VecF32 a, VecF32 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
  friend MaskF32 operator!=(VecF32 a, VecF32 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_NEQ_UQ)}; }
};

struct VecF64 {
  using Scalar = double;
  using Mask = MaskF64;
  static constexpr int kWidth = 8;
  __m512d v;

  static VecF64 load(const double* p) { return {_mm512_loadu_pd(p)}; }
  static VecF64 load(const double* p, int n) { return {_mm512_maskz_loadu_pd(lanes8(n), p)}; }
  static VecF64 set(double x) { return {_mm512_set1_pd(x)}; }
  static VecF64 zero() { return {_mm512_setzero_pd()}; }
  void store(double* p) const { _mm512_storeu_pd(p, v); }
  void store(double* p, int n) const { _mm512_mask_storeu_pd(p, lanes8(n), v); }

  [[gnu::always_inline]] friend VecF64 operator+(VecF64 a, VecF64 b) { return {_mm512_add_pd(a.v, b.v)}; }
  friend VecF64 operator-(VecF64 a, VecF64 b) { return {_mm512_sub_pd(a.v, b.v)}; }
  friend VecF64 operator*(VecF64 a, VecF64 b) { return {_mm512_mul_pd(a.v, b.v)}; }
  friend VecF64 operator/(VecF64 a, VecF64 b) { return {_mm512_div_pd(a.v, b.v)}; }
  friend VecF64 operator-(VecF64 a) { return {_mm512_xor_pd(a.v, _mm512_set1_pd(-0.0))}; }
  friend MaskF64 operator<(VecF64 a, VecF64 b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_LT_OQ)}; }
  friend MaskF64 operator<=(VecF64 a, VecF64 b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_LE_OQ)}; }
  friend MaskF64 operator>(VecF64 a, VecF64 b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_GT_OQ)}; }
  friend MaskF64 operator>=(VecF64 a, VecF64 b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_GE_OQ)}; }
  friend MaskF64 operator==(VecF64 a, VecF64 b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_EQ_OQ)}; }
  friend MaskF64 operator!=(VecF64 a, VecF64 b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_NEQ_UQ)}; }
};

// Half a register; see Half in vec.h.
struct HalfF32 {
  using Scalar = float;
  static constexpr int kWidth = 8;
  __m256 v;

  static HalfF32 load(const float* p, int n) { return {_mm256_maskz_loadu_ps(lanes8(n), p)}; }
  static HalfF32 set(float x) { return {_mm256_set1_ps(x)}; }
  static HalfF32 zero() { return {_mm256_setzero_ps()}; }
  void store(float* p, int n) const { _mm256_mask_storeu_ps(p, lanes8(n), v); }
  [[gnu::always_inline]] friend HalfF32 operator+(HalfF32 a, HalfF32 b) { return {_mm256_add_ps(a.v, b.v)}; }
};

struct HalfF64 {
  using Scalar = double;
  static constexpr int kWidth = 4;
  __m256d v;

  static HalfF64 load(const double* p, int n) { return {_mm256_maskz_loadu_pd(lanes8(n), p)}; }
  static HalfF64 set(double x) { return {_mm256_set1_pd(x)}; }
  static HalfF64 zero() { return {_mm256_setzero_pd()}; }
  void store(double* p, int n) const { _mm256_mask_storeu_pd(p, lanes8(n), v); }
  [[gnu::always_inline]] friend HalfF64 operator+(HalfF64 a, HalfF64 b) { return {_mm256_add_pd(a.v, b.v)}; }
};

inline HalfF32 fma(HalfF32 a, HalfF32 b, HalfF32 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline HalfF32 raw_min(HalfF32 a, HalfF32 b) { return {_mm256_min_ps(a.v, b.v)}; }
inline HalfF32 raw_max(HalfF32 a, HalfF32 b) { return {_mm256_max_ps(a.v, b.v)}; }
inline HalfF64 fma(HalfF64 a, HalfF64 b, HalfF64 c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
inline HalfF64 raw_min(HalfF64 a, HalfF64 b) { return {_mm256_min_pd(a.v, b.v)}; }
inline HalfF64 raw_max(HalfF64 a, HalfF64 b) { return {_mm256_max_pd(a.v, b.v)}; }
inline HalfF32 lower_half(VecF32 a) { return {_mm512_castps512_ps256(a.v)}; }
inline HalfF64 lower_half(VecF64 a) { return {_mm512_castpd512_pd256(a.v)}; }

inline VecF32 fma(VecF32 a, VecF32 b, VecF32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline VecF32 sqrt(VecF32 a) { return {_mm512_sqrt_ps(a.v)}; }
inline VecF32 abs(VecF32 a) { return {_mm512_abs_ps(a.v)}; }
inline VecF32 round_even(VecF32 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline VecF32 floor(VecF32 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
inline VecF32 raw_min(VecF32 a, VecF32 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline VecF32 raw_max(VecF32 a, VecF32 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline VecF32 min(VecF32 a, VecF32 b) { return {_mm512_mask_min_ps(a.v, (a == a).m, a.v, b.v)}; }
inline VecF32 max(VecF32 a, VecF32 b) { return {_mm512_mask_max_ps(a.v, (a == a).m, a.v, b.v)}; }
inline VecF32 select(MaskF32 mask, VecF32 a, VecF32 b) { return {_mm512_mask_blend_ps(mask.m, b.v, a.v)}; }
inline VecF32 scale_pow2(VecF32 x, VecF32 n) { return {_mm512_scalef_ps(x.v, n.v)}; }
inline VecF32 exponent(VecF32 x) { return {_mm512_getexp_ps(x.v)}; }
inline VecF32 mantissa(VecF32 x) { return {_mm512_getmant_ps(x.v, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src)}; }

inline VecF64 fma(VecF64 a, VecF64 b, VecF64 c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
inline VecF64 sqrt(VecF64 a) { return {_mm512_sqrt_pd(a.v)}; }
inline VecF64 abs(VecF64 a) { return {_mm512_abs_pd(a.v)}; }
inline VecF64 round_even(VecF64 a) {
  return {_mm512_roundscale_pd(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline VecF64 floor(VecF64 a) { return {_mm512_roundscale_pd(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
inline VecF64 raw_min(VecF64 a, VecF64 b) { return {_mm512_min_pd(a.v, b.v)}; }
inline VecF64 raw_max(VecF64 a, VecF64 b) { return {_mm512_max_pd(a.v, b.v)}; }
inline VecF64 min(VecF64 a, VecF64 b) { return {_mm512_mask_min_pd(a.v, (a == a).m, a.v, b.v)}; }
inline VecF64 max(VecF64 a, VecF64 b) { return {_mm512_mask_max_pd(a.v, (a == a).m, a.v, b.v)}; }
inline VecF64 select(MaskF64 mask, VecF64 a, VecF64 b) { return {_mm512_mask_blend_pd(mask.m, b.v, a.v)}; }
inline VecF64 scale_pow2(VecF64 x, VecF64 n) { return {_mm512_scalef_pd(x.v, n.v)}; }
inline VecF64 exponent(VecF64 x) { return {_mm512_getexp_pd(x.v)}; }
inline VecF64 mantissa(VecF64 x) { return {_mm512_getmant_pd(x.v, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src)}; }

inline VecF32 zip_lo(VecF32 a, VecF32 b) {
  const __m512i at = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  return {_mm512_permutex2var_ps(a.v, at, b.v)};
}
inline VecF32 zip_hi(VecF32 a, VecF32 b) {
  const __m512i at = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  return {_mm512_permutex2var_ps(a.v, at, b.v)};
}
inline VecF64 zip_lo(VecF64 a, VecF64 b) {
  return {_mm512_permutex2var_pd(a.v, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), b.v)};
}
inline VecF64 zip_hi(VecF64 a, VecF64 b) {
  return {_mm512_permutex2var_pd(a.v, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), b.v)};
}

// Half registers of rows eight apart side by side; then pairs within 128 bits, pairs of pairs, and pairs of those.
inline void load_transposed(const float* p, int64_t step, VecF32 (&v)[8]) {
  __m512d pairs[8], fours[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    __m512 row[2];
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const float* from = p + (2 * i + j) * step;
      row[j] = _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(from)), _mm256_loadu_ps(from + 8 * step), 1);
    }
    pairs[2 * i] = _mm512_castps_pd(_mm512_unpacklo_ps(row[0], row[1]));
    pairs[2 * i + 1] = _mm512_castps_pd(_mm512_unpackhi_ps(row[0], row[1]));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const int from = i / 2 * 4 + i % 2;
    fours[2 * i] = _mm512_unpacklo_pd(pairs[from], pairs[from + 2]);
    fours[2 * i + 1] = _mm512_unpackhi_pd(pairs[from], pairs[from + 2]);
  }
  const __m512i lo = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), hi = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    v[k] = {_mm512_castpd_ps(_mm512_permutex2var_pd(fours[k], lo, fours[k + 4]))};
    v[k + 4] = {_mm512_castpd_ps(_mm512_permutex2var_pd(fours[k], hi, fours[k + 4]))};
  }
}
inline void load_transposed(const double* p, int64_t step, VecF64 (&v)[4]) {
  __m512d pairs[4];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    __m512d row[2];
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const double* from = p + (2 * i + j) * step;
      row[j] = _mm512_insertf64x4(_mm512_castpd256_pd512(_mm256_loadu_pd(from)), _mm256_loadu_pd(from + 4 * step), 1);
    }
    pairs[2 * i] = _mm512_unpacklo_pd(row[0], row[1]);
    pairs[2 * i + 1] = _mm512_unpackhi_pd(row[0], row[1]);
  }
  const __m512i lo = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), hi = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
#pragma GCC unroll 2
  for (int k = 0; k < 2; ++k) {
    v[k] = {_mm512_permutex2var_pd(pairs[k], lo, pairs[k + 2])};
    v[k + 2] = {_mm512_permutex2var_pd(pairs[k], hi, pairs[k + 2])};
  }
}

template <class V>
inline typename V::Mask first_lanes(int n) {
  if constexpr (V::kWidth == 16)
    return {lanes16(n)};
  else
    return {lanes8(n)};
}

template <class V>
inline typename V::Mask load_bool(const uint8_t* p, int n) {
  const __m128i bytes = _mm_maskz_loadu_epi8(lanes16(n), p);
  return {static_cast<decltype(V::Mask::m)>(_mm_test_epi8_mask(bytes, bytes))};
}

inline void store_bool(MaskF32 mask, uint8_t* p, int n) {
  _mm_mask_storeu_epi8(p, lanes16(n), _mm_maskz_set1_epi8(mask.m, 1));
}
inline void store_bool(MaskF64 mask, uint8_t* p, int n) {
  _mm_mask_storeu_epi8(p, lanes8(n), _mm_maskz_set1_epi8(mask.m, 1));
}

struct VecI32 {
  using Scalar = int32_t;
  static constexpr int kWidth = 16;
  __m512i v;

  static VecI32 load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
  static VecI32 load(const int32_t* p, int n) { return {_mm512_maskz_loadu_epi32(lanes16(n), p)}; }
  static VecI32 load_u8(const uint8_t* p, int n) { return {_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(lanes16(n), p))}; }
  static VecI32 load_s8(const int8_t* p, int n) { return {_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(lanes16(n), p))}; }
  static VecI32 set(int32_t x) { return {_mm512_set1_epi32(x)}; }
  static VecI32 zero() { return {_mm512_setzero_si512()}; }
  void store(int32_t* p) const { _mm512_storeu_si512(p, v); }
  void store(int32_t* p, int n) const { _mm512_mask_storeu_epi32(p, lanes16(n), v); }
  // Lanes must lie in [0, 255].
  void store_u8(uint8_t* p, int n) const { _mm512_mask_cvtepi32_storeu_epi8(p, lanes16(n), v); }

  friend VecI32 operator+(VecI32 a, VecI32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
  friend VecI32 operator-(VecI32 a, VecI32 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
  friend VecI32 operator*(VecI32 a, VecI32 b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
  friend VecI32 operator&(VecI32 a, VecI32 b) { return {_mm512_and_si512(a.v, b.v)}; }
  friend VecI32 operator|(VecI32 a, VecI32 b) { return {_mm512_or_si512(a.v, b.v)}; }
  friend VecI32 operator^(VecI32 a, VecI32 b) { return {_mm512_xor_si512(a.v, b.v)}; }
};

inline VecI32 min(VecI32 a, VecI32 b) { return {_mm512_min_epi32(a.v, b.v)}; }
inline VecI32 max(VecI32 a, VecI32 b) { return {_mm512_max_epi32(a.v, b.v)}; }
template <int kBits>
inline VecI32 shift_left(VecI32 a) {
  return {_mm512_slli_epi32(a.v, kBits)};
}
template <int kBits>
inline VecI32 shift_right(VecI32 a) {  // arithmetic
  return {_mm512_srai_epi32(a.v, kBits)};
}
// The lower halves of the products of unsigned lanes, and the upper ones.
inline VecI32 multiply_wide(VecI32 a, VecI32 b, VecI32& high) {
  const __m512i even = _mm512_mul_epu32(a.v, b.v);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a.v, 32), _mm512_srli_epi64(b.v, 32));
  high = {_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd)};
  return {_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32))};
}
inline VecF32 to_f32(VecI32 a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline VecI32 round_to_i32(VecF32 a) { return {_mm512_cvtps_epi32(a.v)}; }  // half to even
inline VecI32 bits(VecF32 a) { return {_mm512_castps_si512(a.v)}; }
inline VecF32 from_bits(VecI32 a) { return {_mm512_castsi512_ps(a.v)}; }

#ifdef __AVX512BF16__
// sum + odd a · odd b, rounded, + even a · even b, rounded: denormals count as zero, operands and results.
inline VecF32 dot_pairs(VecI32 a, VecI32 b, VecF32 sum) {
  return {_mm512_dpbf16_ps(sum.v, reinterpret_cast<__m512bh>(a.v), reinterpret_cast<__m512bh>(b.v))};
}
#endif

}  // namespace
}  // namespace quernel::QUERNEL_ISA
