// DotS8 on AVX-512: vpdpbusd (which wraps; vpdpbusds would saturate) at the vnni level, else the AVX2 scheme at twice
// the width.
#pragma once
#include <cstdint>

#include "kernels/args/quant.h"
#include "kernels/simd/dot_s8_rows.h"
#include "kernels/simd/intrinsics.h"

namespace quernel::QUERNEL_ISA {
namespace {

#if defined(__AVX512VNNI__)

struct DotS8 {
  static constexpr int kWidth = 16, kRows = 6, kVectors = 4, kStep = 4;
  static constexpr bool kWidens = false;
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
  static Inputs spread_row(const uint8_t* x) { return spread(x); }
  static Sum dot(Sum s, Inputs x, Weights w) { return _mm512_dpbusd_epi32(s, x, w); }
  static void store(Sum s, int32_t* out) { _mm512_storeu_si512(out, s); }
};

#else

struct DotS8 : WideRows {
  static constexpr int kWidth = 16, kRows = 4, kVectors = 4, kStep = 8;
  static constexpr bool kWidens = true;
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
  static Inputs spread_row(const uint8_t* x) {
    int32_t even, odd;  // two loads: GCC takes one of eight bytes apart in integer registers
    __builtin_memcpy(&even, x, 4);
    __builtin_memcpy(&odd, x + 4, 4);
    return {_mm512_set1_epi32(even), _mm512_set1_epi32(odd)};
  }
  static Sum dot(Sum s, const Inputs& x, const Weights& w) {
    s = _mm512_add_epi32(s, _mm512_madd_epi16(x.even, w.even));
    return _mm512_add_epi32(s, _mm512_madd_epi16(x.odd, w.odd));
  }
  static void store(Sum s, int32_t* out) { _mm512_storeu_si512(out, s); }

  // One row alone shares no widened weights. It is split into low and high nibbles instead: vpmaddubsw of a nibble
  // cannot saturate. Per 64 products that is 4.5 instructions against 7.
  struct Halves {
    __m512i low, high;  // int16
  };
  static Halves zero_halves() { return {_mm512_setzero_si512(), _mm512_setzero_si512()}; }
  static Halves dot_halves(const Halves& s, const Inputs& x, const int8_t* b) {
    const __m512i w = _mm512_loadu_si512(b);
    return {_mm512_add_epi16(s.low, _mm512_maddubs_epi16(x.even, w)),
            _mm512_add_epi16(s.high, _mm512_maddubs_epi16(x.odd, w))};
  }
  static Sum add_halves(Sum s, const Halves& h) {
    s = _mm512_add_epi32(s, _mm512_madd_epi16(h.low, _mm512_set1_epi16(1)));
    return _mm512_add_epi32(s, _mm512_madd_epi16(h.high, _mm512_set1_epi16(16)));
  }
};

#endif

// Requantizes kWidth columns: see Requantize in args/quant.h.
class Requantizer {
 public:
  static constexpr int kWidth = 16;
  explicit Requantizer(const Requantize& p)
      : lo_(_mm512_set1_ps(static_cast<float>(p.lo - p.zero_point))),
        hi_(_mm512_set1_ps(static_cast<float>(p.hi - p.zero_point))),
        zero_point_(_mm512_set1_epi32(p.zero_point)) {}

  void operator()(const int32_t* acc, const int32_t* bias, const float* scale, uint8_t* y) const {
    const __m512i sum = _mm512_add_epi32(_mm512_loadu_si512(acc), _mm512_loadu_si512(bias));
    __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_loadu_ps(scale));
    v = _mm512_min_ps(_mm512_max_ps(v, lo_), hi_);
    const __m512i q = _mm512_add_epi32(_mm512_cvtps_epi32(v), zero_point_);  // rounds half to even
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y), _mm512_cvtepi32_epi8(q));
  }

 private:
  __m512 lo_, hi_;
  __m512i zero_point_;
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
