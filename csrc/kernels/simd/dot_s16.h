// One register of int32 columns for products of int16: DotS16 with
//   kWidth            columns of a register
//   load(b)           kWidth columns x 2 k
//   spread(x)         two k of one row for every column
//   dot(s, x, w)      s + x[0] · w[][0] + x[1] · w[][1]; sums wrap
#pragma once
#include <cstdint>

#include "kernels/isa.h"

#if defined(__AVX2__)
// GCC 12 warns of the deliberately undefined operands in its own header (its bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "kernels/simd/intrinsics.h"
#pragma GCC diagnostic pop
#endif

namespace quernel::QUERNEL_ISA {
namespace {

#if defined(__AVX512BW__)

struct DotS16 {
  static constexpr int kWidth = 16;
  using Sum = __m512i;
  static Sum zero() { return _mm512_setzero_si512(); }
  static __m512i load(const int16_t* b) { return _mm512_loadu_si512(b); }
  static __m512i spread(const int16_t* x) {
    int32_t two;
    __builtin_memcpy(&two, x, 4);
    return _mm512_set1_epi32(two);
  }
  static Sum dot(Sum s, __m512i x, __m512i w) { return _mm512_add_epi32(s, _mm512_madd_epi16(x, w)); }
  static void store(Sum s, int32_t* out) { _mm512_storeu_si512(out, s); }
};

#elif defined(__AVX2__)

struct DotS16 {
  static constexpr int kWidth = 8;
  using Sum = __m256i;
  static Sum zero() { return _mm256_setzero_si256(); }
  static __m256i load(const int16_t* b) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)); }
  static __m256i spread(const int16_t* x) {
    int32_t two;
    __builtin_memcpy(&two, x, 4);
    return _mm256_set1_epi32(two);
  }
  static Sum dot(Sum s, __m256i x, __m256i w) { return _mm256_add_epi32(s, _mm256_madd_epi16(x, w)); }
  static void store(Sum s, int32_t* out) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), s); }
};

#else

struct DotS16 {
  static constexpr int kWidth = 4;
  struct Sum {
    uint32_t lane[kWidth];  // unsigned: wraps
  };
  static Sum zero() { return {}; }
  static const int16_t* load(const int16_t* b) { return b; }
  static const int16_t* spread(const int16_t* x) { return x; }
  static Sum dot(Sum s, const int16_t* x, const int16_t* w) {
    for (int j = 0; j < kWidth; ++j) s.lane[j] += static_cast<uint32_t>(x[0] * w[2 * j] + x[1] * w[2 * j + 1]);
    return s;
  }
  static void store(const Sum& s, int32_t* out) { __builtin_memcpy(out, s.lane, sizeof(s.lane)); }
};

#endif

}  // namespace
}  // namespace quernel::QUERNEL_ISA
