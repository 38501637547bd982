// Few channels of bytes with VNNI: lanes over 16 neighbouring output pixels, weights broadcast, sums of one output
// channel a register.
//
// Four bytes of a run for each of 16 pixels that lie up to four bytes apart are a load and two shuffles: the four
// pixels of a 128-bit lane read within 16 bytes, which begin at a whole group of four.
#pragma once
#include "kernels/args/quant.h"
#include "kernels/simd/requantize_avx512.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int64_t kLanePixels = 16;
constexpr int64_t kMostPixelStep = 4;  // bytes

class PixelQuads {
 public:
  explicit PixelQuads(int64_t step) {
    int32_t groups[16];
    uint8_t bytes[64];
    for (int64_t i = 0; i < 16; ++i) groups[i] = static_cast<int32_t>(i / 4 * step + i % 4);
    for (int64_t i = 0; i < 64; ++i) bytes[i] = static_cast<uint8_t>(i % 16 / 4 * step + i % 4);
    groups_ = _mm512_loadu_si512(groups);
    bytes_ = _mm512_loadu_si512(bytes);
  }

  // Reads 64 bytes.
  [[gnu::always_inline]] __m512i load(const uint8_t* x) const {
    return _mm512_shuffle_epi8(_mm512_permutexvar_epi32(groups_, _mm512_loadu_si512(x)), bytes_);
  }

 private:
  __m512i groups_, bytes_;
};

// What all pixels of a convolution share. Weights are a panel, [run][group of four][16][4].
struct PixelLayer {
  const int8_t* w;
  const int32_t* bias;
  int64_t runs, groups;
};

// Sums of V times 16 pixels, bias included, from `first` and, of two, from `second` on in each run; R output channels.
template <int R, int V>
[[gnu::always_inline]] inline void dot_pixels(const PixelQuads& quads, const PixelLayer& layer,
                                              const uint8_t* const* lines, int64_t first, int64_t second,
                                              __m512i (&sum)[R][V]) {
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[r][v] = _mm512_set1_epi32(layer.bias[r]);
  const int8_t* w = layer.w;
  for (int64_t run = 0; run < layer.runs; ++run) {
    const uint8_t* x[2] = {lines[run] + first, lines[run] + second};
    for (int64_t k = 0; k < 4 * layer.groups; k += 4, w += 4 * kQPanel) {
      __m512i inputs[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) inputs[v] = quads.load(x[v] + k);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        int32_t four;
        __builtin_memcpy(&four, w + 4 * r, 4);
        const __m512i weights = _mm512_set1_epi32(four);
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) {
          sum[r][v] = _mm512_dpbusd_epi32(sum[r][v], inputs[v], weights);
          asm("" : "+v"(sum[r][v]));  // stays where it is: GCC moves sums to the stack otherwise
        }
      }
    }
  }
}

// Writes 16 neighbouring pixels of R channels, of whose sums requantized by fours a 128-bit lane holds four pixels; of
// more than four channels two, of more than eight one. Their channels are moved together.
template <int R>
class QuadWriter {
 public:
  static constexpr int64_t kOverrun = 16;  // bytes that may be written beyond the last pixel

  explicit QuadWriter(const Requantize& p) : requantize_(p) {
    uint8_t bytes[64];
    for (int64_t i = 0; i < 64; ++i) {
      const int64_t at = i % 16, pixel = at / R;
      bytes[i] = pixel < 16 / kPitch ? static_cast<uint8_t>(pixel * kPitch + at % R) : 0;
    }
    together_ = _mm512_loadu_si512(bytes);
  }

  template <int V>
  [[gnu::always_inline]] void write(const __m512i (&sum)[R][V], int v, const float* scales, uint8_t* y) const {
    __m512i pixels[kFours];  // four channels of each
#pragma GCC unroll 3
    for (int f = 0; f < kFours; ++f) {
      __m512i four[4];
      __m512 scale[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const int r = 4 * f + i < R ? 4 * f + i : R - 1;
        four[i] = sum[r][v];
        scale[i] = _mm512_set1_ps(scales[r]);
      }
      const __m128i turn = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
      pixels[f] = _mm512_shuffle_epi8(requantize_(four, scale), _mm512_broadcast_i32x4(turn));
    }
    if constexpr (kFours == 1) {
      put_lanes(y, _mm512_shuffle_epi8(pixels[0], together_));
    } else {
      const __m512i low = _mm512_unpacklo_epi32(pixels[0], pixels[1]),
                    high = _mm512_unpackhi_epi32(pixels[0], pixels[1]);
      if constexpr (kFours == 2) {
        put_lanes(y, _mm512_shuffle_epi8(low, together_), _mm512_shuffle_epi8(high, together_));
      } else {
        const __m512i last = pixels[2], low2 = _mm512_unpacklo_epi32(last, last),
                      high2 = _mm512_unpackhi_epi32(last, last);
        put_lanes(y, _mm512_unpacklo_epi64(low, low2), _mm512_unpackhi_epi64(low, low2),
                  _mm512_unpacklo_epi64(high, high2), _mm512_unpackhi_epi64(high, high2));
      }
    }
  }

 private:
  static constexpr int kFours = (R + 3) / 4;
  static constexpr int64_t kPitch = kFours == 1 ? 4 : kFours == 2 ? 8 : 16;  // bytes of a pixel before it is moved

  // The lanes of all vectors in turn, the first ones of each first: what one holds too much the next one overwrites.
  template <class... Vectors>
  [[gnu::always_inline]] static void put_lanes(uint8_t* y, const Vectors&... vectors) {
    constexpr int64_t kStep = 16 / kPitch * R;
    const auto put = [&](__m128i lane) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(y), lane);
      y += kStep;
    };
    (put(_mm512_extracti32x4_epi32(vectors, 0)), ...);
    (put(_mm512_extracti32x4_epi32(vectors, 1)), ...);
    (put(_mm512_extracti32x4_epi32(vectors, 2)), ...);
    (put(_mm512_extracti32x4_epi32(vectors, 3)), ...);
  }

  PackingRequantizer requantize_;
  __m512i together_;
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
