// Rows of float16 and of float32: by F16C, which sets a bit of NaNs that float16.h does not.
#pragma once
#include "kernels/float16.h"
#include "kernels/simd/vec.h"

namespace quernel::QUERNEL_ISA {
namespace {

#ifdef __AVX512F__
inline VecF32 load_f16(const uint16_t* x) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)))};
}
inline void store_f16(VecF32 x, uint16_t* y) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(y), _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__F16C__)
inline VecF32 load_f16(const uint16_t* x) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)))};
}
inline void store_f16(VecF32 x, uint16_t* y) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(y), _mm256_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}
#endif

inline void narrow_f16(const float* x, uint16_t* y, int64_t n) {
  int64_t i = 0;
#ifdef __F16C__
  for (; i + VecF32::kWidth <= n; i += VecF32::kWidth) {
    const VecF32 v = VecF32::load(x + i);
    if (is_nan(v).any()) [[unlikely]] {
      for (int j = 0; j < VecF32::kWidth; ++j) y[i + j] = to_f16(x[i + j]);
    } else {
      store_f16(v, y + i);
    }
  }
#endif
  for (; i < n; ++i) y[i] = to_f16(x[i]);
}

inline void widen_f16(const uint16_t* x, float* y, int64_t n) {
  int64_t i = 0;
#ifdef __F16C__
  for (; i + VecF32::kWidth <= n; i += VecF32::kWidth) {
    const VecF32 v = load_f16(x + i);
    if (is_nan(v).any()) [[unlikely]] {
      for (int j = 0; j < VecF32::kWidth; ++j) y[i + j] = from_f16(x[i + j]);
    } else {
      v.store(y + i);
    }
  }
#endif
  for (; i < n; ++i) y[i] = from_f16(x[i]);
}

}  // namespace
}  // namespace quernel::QUERNEL_ISA
