// QuadTaps: 64 neighbouring bytes of four taps of a depthwise convolution, times a weight each, by vpdpbusd. Bytes of
// four vectors are interleaved within their 128-bit lanes, so sum j holds in its lane L the bytes 16 L + 4 j … + 3:
// permuted() puts weights, biases and scales into that order, and packing to bytes undoes it for nothing.
#pragma once
#include <cstdint>

#include "kernels/simd/requantize_avx512.h"

namespace quernel::QUERNEL_ISA {
namespace {

class QuadTaps {
 public:
  static constexpr int kLanes = 64, kSums = 4;  // of 16
  struct Sum {
    __m512i part[kSums];
  };

  // Where the sums keep lane `lane`.
  static int permuted(int lane) { return lane % 16 / 4 * 16 + lane / 16 * 4 + lane % 4; }

  explicit QuadTaps(const Requantize& p) : requantize_(p) {}

  // bias[64], permuted.
  static Sum start(const int32_t* bias) {
    return {_mm512_loadu_si512(bias), _mm512_loadu_si512(bias + 16), _mm512_loadu_si512(bias + 32),
            _mm512_loadu_si512(bias + 48)};
  }
  // sum[P] += four taps of P vectors, `step` bytes apart; w[64][4], permuted.
  template <int P>
  [[gnu::always_inline]] static void add(Sum (&sum)[P], const uint8_t* const (&x)[4], int64_t step, const int8_t* w) {
    const Sum weight = {_mm512_loadu_si512(w), _mm512_loadu_si512(w + 64), _mm512_loadu_si512(w + 128),
                        _mm512_loadu_si512(w + 192)};
#pragma GCC unroll 4
    for (int i = 0; i < P; ++i) {
      const __m512i a = _mm512_loadu_si512(x[0] + i * step), b = _mm512_loadu_si512(x[1] + i * step),
                    c = _mm512_loadu_si512(x[2] + i * step), d = _mm512_loadu_si512(x[3] + i * step);
      const __m512i ab = _mm512_unpacklo_epi8(a, b), cd = _mm512_unpacklo_epi8(c, d);
      dot(sum[i].part[0], _mm512_unpacklo_epi16(ab, cd), weight.part[0]);
      dot(sum[i].part[1], _mm512_unpackhi_epi16(ab, cd), weight.part[1]);
      const __m512i ab_high = _mm512_unpackhi_epi8(a, b), cd_high = _mm512_unpackhi_epi8(c, d);
      dot(sum[i].part[2], _mm512_unpacklo_epi16(ab_high, cd_high), weight.part[2]);
      dot(sum[i].part[3], _mm512_unpackhi_epi16(ab_high, cd_high), weight.part[3]);
    }
  }

  // The first `count` of 64 bytes; `whole`: all of them may be overwritten. scale[64], permuted.
  [[gnu::always_inline]] void write(const Sum& sum, const float* scale, uint8_t* y, int64_t count, bool whole) const {
    const __m512 factor[kSums] = {_mm512_loadu_ps(scale), _mm512_loadu_ps(scale + 16), _mm512_loadu_ps(scale + 32),
                                  _mm512_loadu_ps(scale + 48)};
    const __m512i bytes = requantize_(sum.part, factor);
    if (whole)
      _mm512_storeu_si512(y, bytes);
    else
      _mm512_mask_storeu_epi8(y, ~uint64_t{0} >> (kLanes - count), bytes);
  }
  static void write_float(const Sum& sum, const float* scale, float* y, int64_t count) {
    float permutation[kLanes];
    for (int i = 0; i < kSums; ++i)
      _mm512_storeu_ps(permutation + 16 * i,
                       _mm512_mul_ps(_mm512_cvtepi32_ps(sum.part[i]), _mm512_loadu_ps(scale + 16 * i)));
    for (int lane = 0; lane < count; ++lane) y[lane] = permutation[permuted(lane)];
  }

 private:
  [[gnu::always_inline]] static void dot(__m512i& sum, __m512i x, __m512i w) {
    sum = _mm512_dpbusd_epi32(sum, x, w);
    asm("" : "+v"(sum));  // stays where it is: GCC moves sums to the stack otherwise
  }

  PackingRequantizer requantize_;
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
