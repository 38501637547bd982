// AVX2 + FMA: 8 floats or 4 doubles; see vec.h. Tails are read by maskload, which touches no masked element, and
// written in halves: maskstore touches none either, but is microcode on AMD's CPUs (25 cycles on Zen 3).
#pragma once
#include <cstdint>
#include <cstring>

#include "kernels/simd/intrinsics.h"

namespace quernel::QUERNEL_ISA {
namespace {

struct MaskF32 {
  __m256 m;
  friend MaskF32 operator&(MaskF32 a, MaskF32 b) { return {_mm256_and_ps(a.m, b.m)}; }
  friend MaskF32 operator|(MaskF32 a, MaskF32 b) { return {_mm256_or_ps(a.m, b.m)}; }
  friend MaskF32 operator~(MaskF32 a) { return {_mm256_xor_ps(a.m, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))}; }
  bool any() const { return _mm256_movemask_ps(m) != 0; }
  bool all() const { return _mm256_movemask_ps(m) == 0xff; }
};

struct MaskF64 {
  __m256d m;
  friend MaskF64 operator&(MaskF64 a, MaskF64 b) { return {_mm256_and_pd(a.m, b.m)}; }
  friend MaskF64 operator|(MaskF64 a, MaskF64 b) { return {_mm256_or_pd(a.m, b.m)}; }
  friend MaskF64 operator~(MaskF64 a) { return {_mm256_xor_pd(a.m, _mm256_castsi256_pd(_mm256_set1_epi32(-1)))}; }
  bool any() const { return _mm256_movemask_pd(m) != 0; }
  bool all() const { return _mm256_movemask_pd(m) == 0xf; }
};

inline __m256i lanes8(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline __m256i lanes4(int n) { return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3)); }

struct VecF32 {
  using Scalar = float;
  using Mask = MaskF32;
  static constexpr int kWidth = 8;
  __m256 v;

  static VecF32 load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static VecF32 load(const float* p, int n) { return {_mm256_maskload_ps(p, lanes8(n))}; }
  static VecF32 set(float x) { return {_mm256_set1_ps(x)}; }
  static VecF32 zero() { return {_mm256_setzero_ps()}; }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void store(float* p, int n) const {
    if (n >= kWidth) return store(p);
    __m128 rest = _mm256_castps256_ps128(v);
    if (n & 4) {
      _mm_storeu_ps(p, rest);
      rest = _mm256_extractf128_ps(v, 1);
      p += 4;
    }
    if (n & 2) {
      _mm_storel_pi(reinterpret_cast<__m64*>(p), rest);
      rest = _mm_movehl_ps(rest, rest);
      p += 2;
    }
    if (n & 1) _mm_store_ss(p, rest);
  }

  friend VecF32 operator+(VecF32 a, VecF32 b) { return {_mm256_add_ps(a.v, b.v)}; }
  friend VecF32 operator-(VecF32 a, VecF32 b) { return {_mm256_sub_ps(a.v, b.v)}; }
  friend VecF32 operator*(VecF32 a, VecF32 b) { return {_mm256_mul_ps(a.v, b.v)}; }
  friend VecF32 operator/(VecF32 a, VecF32 b) { return {_mm256_div_ps(a.v, b.v)}; }
  friend VecF32 operator-(VecF32 a) { return {_mm256_xor_ps(a.v, _mm256_set1_ps(-0.0f))}; }
  friend MaskF32 operator<(VecF32 a, VecF32 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
  friend MaskF32 operator<=(VecF32 a, VecF32 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)}; }
  friend MaskF32 operator>(VecF32 a, VecF32 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
  friend MaskF32 operator>=(VecF32 a, VecF32 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ)}; }
  friend MaskF32 operator==(VecF32 a, VecF32 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
  friend MaskF32 operator!=(VecF32 a, VecF32 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_NEQ_UQ)}; }
};

struct VecF64 {
  using Scalar = double;
  using Mask = MaskF64;
  static constexpr int kWidth = 4;
  __m256d v;

  static VecF64 load(const double* p) { return {_mm256_loadu_pd(p)}; }
  static VecF64 load(const double* p, int n) { return {_mm256_maskload_pd(p, lanes4(n))}; }
  static VecF64 set(double x) { return {_mm256_set1_pd(x)}; }
  static VecF64 zero() { return {_mm256_setzero_pd()}; }
  void store(double* p) const { _mm256_storeu_pd(p, v); }
  void store(double* p, int n) const {
    if (n >= kWidth) return store(p);
    __m128d rest = _mm256_castpd256_pd128(v);
    if (n & 2) {
      _mm_storeu_pd(p, rest);
      rest = _mm256_extractf128_pd(v, 1);
      p += 2;
    }
    if (n & 1) _mm_store_sd(p, rest);
  }

  friend VecF64 operator+(VecF64 a, VecF64 b) { return {_mm256_add_pd(a.v, b.v)}; }
  friend VecF64 operator-(VecF64 a, VecF64 b) { return {_mm256_sub_pd(a.v, b.v)}; }
  friend VecF64 operator*(VecF64 a, VecF64 b) { return {_mm256_mul_pd(a.v, b.v)}; }
  friend VecF64 operator/(VecF64 a, VecF64 b) { return {_mm256_div_pd(a.v, b.v)}; }
  friend VecF64 operator-(VecF64 a) { return {_mm256_xor_pd(a.v, _mm256_set1_pd(-0.0))}; }
  friend MaskF64 operator<(VecF64 a, VecF64 b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_LT_OQ)}; }
  friend MaskF64 operator<=(VecF64 a, VecF64 b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_LE_OQ)}; }
  friend MaskF64 operator>(VecF64 a, VecF64 b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_GT_OQ)}; }
  friend MaskF64 operator>=(VecF64 a, VecF64 b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_GE_OQ)}; }
  friend MaskF64 operator==(VecF64 a, VecF64 b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_EQ_OQ)}; }
  friend MaskF64 operator!=(VecF64 a, VecF64 b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_NEQ_UQ)}; }
};

inline VecF32 fma(VecF32 a, VecF32 b, VecF32 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline VecF32 sqrt(VecF32 a) { return {_mm256_sqrt_ps(a.v)}; }
inline VecF32 abs(VecF32 a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
inline VecF32 round_even(VecF32 a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline VecF32 floor(VecF32 a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
inline VecF32 raw_min(VecF32 a, VecF32 b) { return {_mm256_min_ps(a.v, b.v)}; }
inline VecF32 raw_max(VecF32 a, VecF32 b) { return {_mm256_max_ps(a.v, b.v)}; }
inline VecF32 select(MaskF32 mask, VecF32 a, VecF32 b) { return {_mm256_blendv_ps(b.v, a.v, mask.m)}; }

inline VecF64 fma(VecF64 a, VecF64 b, VecF64 c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
inline VecF64 sqrt(VecF64 a) { return {_mm256_sqrt_pd(a.v)}; }
inline VecF64 abs(VecF64 a) { return {_mm256_andnot_pd(_mm256_set1_pd(-0.0), a.v)}; }
inline VecF64 round_even(VecF64 a) { return {_mm256_round_pd(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline VecF64 floor(VecF64 a) { return {_mm256_round_pd(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
inline VecF64 raw_min(VecF64 a, VecF64 b) { return {_mm256_min_pd(a.v, b.v)}; }
inline VecF64 raw_max(VecF64 a, VecF64 b) { return {_mm256_max_pd(a.v, b.v)}; }
inline VecF64 select(MaskF64 mask, VecF64 a, VecF64 b) { return {_mm256_blendv_pd(b.v, a.v, mask.m)}; }

template <class V>
inline V min(V a, V b) {
  return select(a != a, a, raw_min(a, b));
}
template <class V>
inline V max(V a, V b) {
  return select(a != a, a, raw_max(a, b));
}

// 2^n for integral n within the exponent range. Adding 1.5 · 2^(mantissa bits) leaves n in the low bits.
inline VecF32 pow2(VecF32 n) {
  const __m256i k = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(k, 23))};
}
inline VecF64 pow2(VecF64 n) {
  const __m256d shifted = _mm256_add_pd(n.v, _mm256_set1_pd(0x1.8p52 + 1023));
  return {_mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(shifted), 52))};
}

// In two factors, as 2^n itself may be out of range where the product is not.
template <class V>
inline V scale_pow2(V x, V n) {
  constexpr double kRange = V::kWidth == 8 ? 252 : 2044;
  n = raw_max(V::set(-kRange), raw_min(V::set(kRange), n));
  const V half = floor(n * V::set(0.5));
  return x * pow2(half) * pow2(n - half);
}

inline VecF32 exponent_bits(VecF32 x) { return {_mm256_cvtepi32_ps(_mm256_srli_epi32(_mm256_castps_si256(x.v), 23))}; }
inline VecF64 exponent_bits(VecF64 x) {
  const __m256i e = _mm256_srli_epi64(_mm256_castpd_si256(x.v), 52);
  const __m256d magic = _mm256_set1_pd(0x1p52);
  return {_mm256_sub_pd(_mm256_castsi256_pd(_mm256_or_si256(e, _mm256_castpd_si256(magic))), magic)};
}

// Subnormals are scaled into the normal range first.
template <class V>
inline V exponent(V x) {
  constexpr double kMinNormal = V::kWidth == 8 ? 0x1p-126 : 0x1p-1022;
  constexpr double kBias = V::kWidth == 8 ? 127 : 1023;
  const auto tiny = x < V::set(kMinNormal);
  const V scaled = select(tiny, x * V::set(0x1p64), x);
  return exponent_bits(scaled) - select(tiny, V::set(kBias + 64), V::set(kBias));
}
inline VecF32 mantissa(VecF32 x) {
  x = select(x < VecF32::set(0x1p-126f), x * VecF32::set(0x1p64f), x);
  const __m256 fraction = _mm256_and_ps(x.v, _mm256_castsi256_ps(_mm256_set1_epi32(0x007fffff)));
  return {_mm256_or_ps(fraction, _mm256_set1_ps(1.0f))};
}
inline VecF64 mantissa(VecF64 x) {
  x = select(x < VecF64::set(0x1p-1022), x * VecF64::set(0x1p64), x);
  const __m256d fraction = _mm256_and_pd(x.v, _mm256_castsi256_pd(_mm256_set1_epi64x(0x000fffffffffffff)));
  return {_mm256_or_pd(fraction, _mm256_set1_pd(1.0))};
}

inline VecF32 zip_lo(VecF32 a, VecF32 b) {
  return {_mm256_permute2f128_ps(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v), 0x20)};
}
inline VecF32 zip_hi(VecF32 a, VecF32 b) {
  return {_mm256_permute2f128_ps(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v), 0x31)};
}
inline VecF64 zip_lo(VecF64 a, VecF64 b) {
  return {_mm256_permute2f128_pd(_mm256_unpacklo_pd(a.v, b.v), _mm256_unpackhi_pd(a.v, b.v), 0x20)};
}
inline VecF64 zip_hi(VecF64 a, VecF64 b) {
  return {_mm256_permute2f128_pd(_mm256_unpacklo_pd(a.v, b.v), _mm256_unpackhi_pd(a.v, b.v), 0x31)};
}

// Half registers of rows four apart side by side; then pairs within 128 bits, and pairs of pairs.
inline void load_transposed(const float* p, int64_t step, VecF32 (&v)[4]) {
  __m256d pairs[4];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    __m256 row[2];
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const float* from = p + (2 * i + j) * step;
      row[j] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from)), _mm_loadu_ps(from + 4 * step), 1);
    }
    pairs[2 * i] = _mm256_castps_pd(_mm256_unpacklo_ps(row[0], row[1]));
    pairs[2 * i + 1] = _mm256_castps_pd(_mm256_unpackhi_ps(row[0], row[1]));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    v[2 * i] = {_mm256_castpd_ps(_mm256_unpacklo_pd(pairs[i], pairs[i + 2]))};
    v[2 * i + 1] = {_mm256_castpd_ps(_mm256_unpackhi_pd(pairs[i], pairs[i + 2]))};
  }
}
inline void load_transposed(const double* p, int64_t step, VecF64 (&v)[2]) {
  __m256d row[2];
#pragma GCC unroll 2
  for (int j = 0; j < 2; ++j) {
    const double* from = p + j * step;
    row[j] = _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(from)), _mm_loadu_pd(from + 2 * step), 1);
  }
  v[0] = {_mm256_unpacklo_pd(row[0], row[1])};
  v[1] = {_mm256_unpackhi_pd(row[0], row[1])};
}

template <class V>
inline typename V::Mask first_lanes(int n) {
  if constexpr (V::kWidth == 8)
    return {_mm256_castsi256_ps(lanes8(n))};
  else
    return {_mm256_castsi256_pd(lanes4(n))};
}

inline __m128i load_bytes(const void* p, int n) {
  alignas(8) uint8_t bytes[8] = {};
  std::memcpy(bytes, p, static_cast<size_t>(n));
  return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes));
}

template <class V>
inline typename V::Mask load_bool(const uint8_t* p, int n) {
  const __m128i bytes = load_bytes(p, n);
  if constexpr (V::kWidth == 8)
    return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_cvtepu8_epi32(bytes), _mm256_setzero_si256()))};
  else
    return {_mm256_castsi256_pd(_mm256_cmpgt_epi64(_mm256_cvtepu8_epi64(bytes), _mm256_setzero_si256()))};
}

inline void store_bool(MaskF32 mask, uint8_t* p, int n) {
  const __m256i lanes = _mm256_castps_si256(mask.m);
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
  const __m128i bytes = _mm_and_si128(_mm_packs_epi16(words, words), _mm_set1_epi8(1));
  if (n == 8) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), bytes);
    return;
  }
  alignas(8) uint8_t all[8];
  _mm_storel_epi64(reinterpret_cast<__m128i*>(all), bytes);
  std::memcpy(p, all, static_cast<size_t>(n));
}
inline void store_bool(MaskF64 mask, uint8_t* p, int n) {
  const int set = _mm256_movemask_pd(mask.m);
  for (int i = 0; i < n; ++i) p[i] = static_cast<uint8_t>(set >> i & 1);
}

struct VecI32 {
  using Scalar = int32_t;
  static constexpr int kWidth = 8;
  __m256i v;

  static VecI32 load(const int32_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
  static VecI32 load(const int32_t* p, int n) { return {_mm256_maskload_epi32(p, lanes8(n))}; }
  static VecI32 load_u8(const uint8_t* p, int n) { return {_mm256_cvtepu8_epi32(load_bytes(p, n))}; }
  static VecI32 load_s8(const int8_t* p, int n) { return {_mm256_cvtepi8_epi32(load_bytes(p, n))}; }
  static VecI32 set(int32_t x) { return {_mm256_set1_epi32(x)}; }
  static VecI32 zero() { return {_mm256_setzero_si256()}; }
  void store(int32_t* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  void store(int32_t* p, int n) const { _mm256_maskstore_epi32(p, lanes8(n), v); }
  // Lanes must lie in [0, 255].
  void store_u8(uint8_t* p, int n) const {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    alignas(8) uint8_t bytes[8];
    _mm_storel_epi64(reinterpret_cast<__m128i*>(bytes), _mm_packus_epi16(words, words));
    std::memcpy(p, bytes, static_cast<size_t>(n));
  }

  friend VecI32 operator+(VecI32 a, VecI32 b) { return {_mm256_add_epi32(a.v, b.v)}; }
  friend VecI32 operator-(VecI32 a, VecI32 b) { return {_mm256_sub_epi32(a.v, b.v)}; }
  friend VecI32 operator*(VecI32 a, VecI32 b) { return {_mm256_mullo_epi32(a.v, b.v)}; }
  friend VecI32 operator&(VecI32 a, VecI32 b) { return {_mm256_and_si256(a.v, b.v)}; }
  friend VecI32 operator|(VecI32 a, VecI32 b) { return {_mm256_or_si256(a.v, b.v)}; }
  friend VecI32 operator^(VecI32 a, VecI32 b) { return {_mm256_xor_si256(a.v, b.v)}; }
};

inline VecI32 min(VecI32 a, VecI32 b) { return {_mm256_min_epi32(a.v, b.v)}; }
inline VecI32 max(VecI32 a, VecI32 b) { return {_mm256_max_epi32(a.v, b.v)}; }
template <int kBits>
inline VecI32 shift_left(VecI32 a) {
  return {_mm256_slli_epi32(a.v, kBits)};
}
template <int kBits>
inline VecI32 shift_right(VecI32 a) {  // arithmetic
  return {_mm256_srai_epi32(a.v, kBits)};
}
// The lower halves of the products of unsigned lanes, and the upper ones.
inline VecI32 multiply_wide(VecI32 a, VecI32 b, VecI32& high) {
  const __m256i even = _mm256_mul_epu32(a.v, b.v);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a.v, 32), _mm256_srli_epi64(b.v, 32));
  high = {_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa)};
  return {_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa)};
}
inline VecF32 to_f32(VecI32 a) { return {_mm256_cvtepi32_ps(a.v)}; }
inline VecI32 round_to_i32(VecF32 a) { return {_mm256_cvtps_epi32(a.v)}; }  // half to even
inline VecI32 bits(VecF32 a) { return {_mm256_castps_si256(a.v)}; }
inline VecF32 from_bits(VecI32 a) { return {_mm256_castsi256_ps(a.v)}; }

}  // namespace
}  // namespace quernel::QUERNEL_ISA
