// Rows of u8 on their way into vpmaddwd or vpmaddubsw: four bytes of k = 0, 1, 2, 3 are laid apart, so that one load is
// spread over every column.
#pragma once
#include <cstdint>

#include "kernels/simd/intrinsics.h"

namespace quernel::QUERNEL_ISA {
namespace {

struct WideRows {
  // Products that dot_halves adds up in int16: a nibble times a weight, 15 · 256 · 8 = 30720.
  static constexpr int kChain = 8;

  // Four k become k = 0, 2 and k = 1, 3 in int16.
  static void widen(const uint8_t* x, int64_t k, uint8_t* out) { by_16(x, k, out, widen_16); }
  // Four k become their low and their high nibbles.
  static void split(const uint8_t* x, int64_t k, uint8_t* out) { by_16(x, k, out, split_16); }

 private:
  template <class F>
  static void by_16(const uint8_t* x, int64_t k, uint8_t* out, F f) {
    for (; k >= 16; k -= 16, x += 16, out += 32) f(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)), out);
    if (k > 0) f(load_last(x, k), out);
  }
  static __m128i load_last(const uint8_t* x, int64_t k) {
    alignas(16) uint8_t last[16] = {};
    int64_t i = 0;
    for (; i + 4 <= k; i += 4) __builtin_memcpy(last + i, x + i, 4);
    for (; i < k; ++i) last[i] = x[i];
    return _mm_load_si128(reinterpret_cast<const __m128i*>(last));
  }
  static void split_16(__m128i x, uint8_t* out) {
    const __m128i mask = _mm_set1_epi8(15), low = _mm_and_si128(x, mask);
    const __m128i high = _mm_and_si128(_mm_srli_epi16(x, 4), mask);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_unpacklo_epi32(low, high));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 16), _mm_unpackhi_epi32(low, high));
  }
  static void widen_16(__m128i x, uint8_t* out) {
    const __m256i apart =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_shuffle_epi8(_mm256_cvtepu8_epi16(x), apart));
  }
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
