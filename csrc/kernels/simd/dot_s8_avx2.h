// DotS8 on AVX2. vpmaddubsw would saturate (255 · 127 · 2 > 32767), so bytes are widened to int16 and multiplied with
// vpmaddwd. Even and odd k are widened apart, by shifts inside each 32-bit column: both halves of a column's pair then
// belong to that column, and no horizontal add is needed.
//
// Zen 3, multiply-adds a cycle from L1, of the 32 that two multiplications a cycle allow: 24 as it is; 21 without the
// pins in dot(), where GCC reassociates the sums and spills two of them; 19 with rows widened in the loop, too; 24 with
// |x - 128| and vpsignb before vpmaddubsw, which has no room for a weight of -128; 25 with the panel widened in memory
// and 27 with one of two weights of the same sign negated and its input complemented (x xor a packed mask), which both
// double the bytes of weights. vpmaddubsw without such care, inexact, does 32.
#pragma once
#include <cstdint>

#include "kernels/args/quant.h"
#include "kernels/simd/dot_s8_rows.h"
#include "kernels/simd/intrinsics.h"

namespace quernel::QUERNEL_ISA {
namespace {

struct DotS8 : WideRows {
  static constexpr int kWidth = 8, kRows = 4, kVectors = 2, kStep = 8;
  static constexpr bool kWidens = true;
  using Sum = __m256i;
  struct Pair {
    __m256i even, odd;  // int16: k = 0, 2 and k = 1, 3
  };
  using Weights = Pair;
  using Inputs = Pair;

  static Sum zero() { return _mm256_setzero_si256(); }
  static Weights load(const int8_t* b) {
    const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b));
    return {_mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8), _mm256_srai_epi16(w, 8)};
  }
  static Inputs spread(const uint8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, 4);
    const __m256i all = _mm256_set1_epi32(four);
    return {_mm256_and_si256(all, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(all, 8)};
  }
  static Inputs spread_row(const uint8_t* x) {
    int32_t even, odd;  // two loads: GCC takes one of eight bytes apart in integer registers
    __builtin_memcpy(&even, x, 4);
    __builtin_memcpy(&odd, x + 4, 4);
    return {_mm256_set1_epi32(even), _mm256_set1_epi32(odd)};
  }
  static Sum dot(Sum s, const Inputs& x, const Weights& w) {
    s = _mm256_add_epi32(s, _mm256_madd_epi16(x.even, w.even));
    asm("" : "+x"(s));
    s = _mm256_add_epi32(s, _mm256_madd_epi16(x.odd, w.odd));
    asm("" : "+x"(s));
    return s;
  }
  static void store(Sum s, int32_t* out) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), s); }

  // One row alone shares no widened weights. It is split into low and high nibbles instead: vpmaddubsw of a nibble
  // cannot saturate. Per 32 products that is 4.5 instructions against 7.
  struct Halves {
    __m256i low, high;  // int16
  };
  static Halves zero_halves() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static Halves dot_halves(const Halves& s, const Inputs& x, const int8_t* b) {
    const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b));
    return {_mm256_add_epi16(s.low, _mm256_maddubs_epi16(x.even, w)),
            _mm256_add_epi16(s.high, _mm256_maddubs_epi16(x.odd, w))};
  }
  static Sum add_halves(Sum s, const Halves& h) {
    s = _mm256_add_epi32(s, _mm256_madd_epi16(h.low, _mm256_set1_epi16(1)));
    return _mm256_add_epi32(s, _mm256_madd_epi16(h.high, _mm256_set1_epi16(16)));
  }
};

// Requantizes kWidth columns: see Requantize in args/quant.h.
class Requantizer {
 public:
  static constexpr int kWidth = 8;
  explicit Requantizer(const Requantize& p)
      : lo_(_mm256_set1_ps(static_cast<float>(p.lo - p.zero_point))),
        hi_(_mm256_set1_ps(static_cast<float>(p.hi - p.zero_point))),
        zero_point_(_mm256_set1_epi32(p.zero_point)) {}

  void operator()(const int32_t* acc, const int32_t* bias, const float* scale, uint8_t* y) const {
    const __m256i sum = _mm256_add_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(acc)),
                                         _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bias)));
    __m256 v = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(scale));
    v = _mm256_min_ps(_mm256_max_ps(v, lo_), hi_);
    const __m256i q = _mm256_add_epi32(_mm256_cvtps_epi32(v), zero_point_);  // rounds half to even
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(y), _mm_packus_epi16(words, words));
  }

 private:
  __m256 lo_, hi_;
  __m256i zero_point_;
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
