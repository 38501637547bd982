// DotS8 on AVX-512: vpdpbusd (which wraps; vpdpbusds would saturate) at the vnni level, else the AVX2 scheme at twice
// the width.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace quernel::QUERNEL_ISA {
namespace {

#if defined(__AVX512VNNI__)

struct DotS8 {
  static constexpr int kWidth = 16, kRows = 6, kVectors = 4;
  using Sum = __m512i;
  using Weights = __m512i;
  using Inputs = __m512i;

  static Sum zero() { return _mm512_setzero_si512(); }
  static Weights load(const int8_t* b) { return _mm512_loadu_si512(b); }
  static Inputs spread(const uint8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, 4);
    return _mm512_set1_epi32(four);
  }
  static Sum dot(Sum s, Inputs x, Weights w) { return _mm512_dpbusd_epi32(s, x, w); }
  static void store(Sum s, int32_t* out) { _mm512_storeu_si512(out, s); }
};

#else

struct DotS8 {
  static constexpr int kWidth = 16, kRows = 4, kVectors = 4;
  using Sum = __m512i;
  struct Pair {
    __m512i even, odd;  // int16: k = 0, 2 and k = 1, 3 of each column
  };
  using Weights = Pair;
  using Inputs = Pair;

  static Sum zero() { return _mm512_setzero_si512(); }
  static Weights load(const int8_t* b) {
    const __m512i w = _mm512_loadu_si512(b);
    return {_mm512_srai_epi16(_mm512_slli_epi16(w, 8), 8), _mm512_srai_epi16(w, 8)};
  }
  static Inputs spread(const uint8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, 4);
    const __m512i all = _mm512_set1_epi32(four);
    return {_mm512_and_si512(all, _mm512_set1_epi16(0xff)), _mm512_srli_epi16(all, 8)};
  }
  static Sum dot(Sum s, const Inputs& x, const Weights& w) {
    s = _mm512_add_epi32(s, _mm512_madd_epi16(x.even, w.even));
    return _mm512_add_epi32(s, _mm512_madd_epi16(x.odd, w.odd));
  }
  static void store(Sum s, int32_t* out) { _mm512_storeu_si512(out, s); }
};

#endif

}  // namespace
}  // namespace quernel::QUERNEL_ISA
