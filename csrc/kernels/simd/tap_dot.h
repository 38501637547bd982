// TapDot: sums of sixteen channels of a depthwise convolution, two taps at a time.
//   add(sum, x0, x1, w)  sum + x0 · w[..][0] + x1 · w[..][1], for sixteen u8 channels of two taps, w int16 [16][2]
// Two taps are what vpmaddwd adds: bytes are interleaved first and widened after, which keeps the channels in order.
#pragma once
#include <cstdint>

#include "kernels/isa.h"

#if defined(__AVX2__)
#include "kernels/simd/intrinsics.h"
#endif

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int kTapChannels = 16;

#if defined(__AVX2__)

struct TapDot {
  struct Sum {
    __m256i low, high;
  };
  static Sum zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static Sum add(const Sum& s, const uint8_t* x0, const uint8_t* x1, const int16_t* w) {
    const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x0));
    const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x1));
    const __m256i low = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(a, b));
    const __m256i high = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(a, b));
    const __m256i* pairs = reinterpret_cast<const __m256i*>(w);
    return {_mm256_add_epi32(s.low, _mm256_madd_epi16(low, _mm256_loadu_si256(pairs))),
            _mm256_add_epi32(s.high, _mm256_madd_epi16(high, _mm256_loadu_si256(pairs + 1)))};
  }
  static void store(const Sum& s, int32_t* out) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), s.low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 8), s.high);
  }
};

#else

struct TapDot {
  struct Sum {
    uint32_t lane[kTapChannels];  // unsigned: wraps
  };
  static Sum zero() { return {}; }
  static Sum add(Sum s, const uint8_t* x0, const uint8_t* x1, const int16_t* w) {
    for (int c = 0; c < kTapChannels; ++c) s.lane[c] += static_cast<uint32_t>(x0[c] * w[2 * c] + x1[c] * w[2 * c + 1]);
    return s;
  }
  static void store(const Sum& s, int32_t* out) { __builtin_memcpy(out, s.lane, sizeof(s.lane)); }
};

#endif

}  // namespace
}  // namespace quernel::QUERNEL_ISA
