// What Winograd's algorithm over bytes takes from VNNI: channels of bytes as pairs of int16, products of pairs, and
// four neighbouring pixels of sums as bytes.
//
// vpdpwssd makes half as many products as vpdpbusd, 32 a cycle. A tile of 12 rows x 32 columns is 24 sums, for which a
// pair of k costs 2 loads and 12 broadcasts.
#pragma once
#include "kernels/args/quant.h"
#include "kernels/simd/requantize_avx512.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int kPairRows = 12, kPairPanels = 2;
constexpr int64_t kPairColumns = kPairPanels * kQPanel;

// Up to 64 neighbouring bytes as int16. Of four, byte 0 is followed by 2, and 1 by 3, as packed weights come apart:
// even ones, odd ones, or, of up to 32, first the even and then the odd.
class PairLanes {
 public:
  enum Which { kEven, kOdd, kBoth };

  explicit PairLanes(int64_t bytes) : mask_(bytes < 64 ? (uint64_t{1} << bytes) - 1 : ~uint64_t{0}) {
    const int quads = static_cast<int>(bytes / 4);
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i first = _mm512_set1_epi32(quads);
    const __mmask16 even = _mm512_cmplt_epi32_mask(lane, first);
    order_ = _mm512_mask_mov_epi32(_mm512_sub_epi32(lane, first), even, lane);
    shift_ = _mm512_maskz_set1_epi16(static_cast<__mmask32>(_pdep_u32(even, 0x55555555) * 3), 8);
  }

  template <Which kWhich>
  [[gnu::always_inline]] __m512i load(const uint8_t* x) const {
    __m512i bytes = _mm512_maskz_loadu_epi8(mask_, x);
    if constexpr (kWhich == kEven) return _mm512_and_si512(bytes, _mm512_set1_epi16(0xff));
    if constexpr (kWhich == kBoth) bytes = _mm512_sllv_epi16(_mm512_permutexvar_epi32(order_, bytes), shift_);
    return _mm512_srli_epi16(bytes, 8);
  }

 private:
  __mmask64 mask_;
  __m512i order_, shift_;
};

// R rows x V panels of sums over pairs of k: a[rows][pairs][2], b[pairs][V][16][2], sums[rows][V][16]. (Asking for the
// next point's operands on the way took 2 % longer.)
template <int R, int V>
[[gnu::noinline]] void dot_pairs(const int16_t* a, int64_t lda, const int16_t* b, int64_t pairs, int32_t* sums) {
  __m512i sum[R][V];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[r][v] = _mm512_setzero_si512();
  for (; pairs > 0; --pairs, a += 2, b += 2 * kQPanel * V) {
    __m512i w[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) w[v] = _mm512_load_si512(b + 2 * kQPanel * v);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      int32_t two;
      __builtin_memcpy(&two, a + r * lda, 4);
      const __m512i x = _mm512_set1_epi32(two);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        sum[r][v] = _mm512_dpwssd_epi32(sum[r][v], x, w[v]);
        asm("" : "+v"(sum[r][v]));  // stays where it is: GCC moves sums to the stack otherwise
      }
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) _mm512_store_si512(sums + (r * V + v) * kQPanel, sum[r][v]);
}

template <int R, int V>
void dot_pair_rows(int64_t rows, const int16_t* a, int64_t lda, const int16_t* b, int64_t pairs, int32_t* sums) {
  if constexpr (R > 1) {
    if (rows < R) return dot_pair_rows<R - 1, V>(rows, a, lda, b, pairs, sums);
  }
  dot_pairs<R, V>(a, lda, b, pairs, sums);
}

// Requantized or dequantized sums of a panel's columns, `bias` included.
class PixelWriter {
 public:
  explicit PixelWriter(const QConvArgs& p)
      : y_(static_cast<uint8_t*>(p.y)), ldy_(p.s.o), y_float_(p.y_float), requantize_(p) {}

  // The first `columns` of `pixels` neighbours, up to four, from element `to` on.
  [[gnu::always_inline]] void write(const __m512i (&sum)[4], int64_t pixels, const float* scales, int64_t columns,
                                    int64_t to) const {
    const __m512 scale = _mm512_load_ps(scales);
    const auto mask = static_cast<__mmask16>((1u << columns) - 1);
    if (y_float_) {
      float* y = reinterpret_cast<float*>(y_) + to;
#pragma GCC unroll 4
      for (int64_t i = 0; i < 4; ++i, y += ldy_)
        if (i < pixels) _mm512_mask_storeu_ps(y, mask, _mm512_mul_ps(_mm512_cvtepi32_ps(sum[i]), scale));
      return;
    }
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i bytes = _mm512_permutexvar_epi32(order, requantize_(sum, {scale, scale, scale, scale}));
    uint8_t* y = y_ + to;
    put<0>(bytes, mask, y);
    if (pixels > 1) put<1>(bytes, mask, y + ldy_);
    if (pixels > 2) put<2>(bytes, mask, y + 2 * ldy_);
    if (pixels > 3) put<3>(bytes, mask, y + 3 * ldy_);
  }

 private:
  template <int I>
  [[gnu::always_inline]] static void put(__m512i bytes, __mmask16 mask, uint8_t* y) {
    _mm_mask_storeu_epi8(y, mask, _mm512_extracti32x4_epi32(bytes, I));
  }

  uint8_t* y_;
  int64_t ldy_;
  bool y_float_;
  PackingRequantizer requantize_;
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
