// Products of u8 rows and packed s8 panels with VNNI, from runs of bytes where they lie to requantized output: sums
// start from the bias, stay in registers over all of K, and never reach memory. (Through an L1 buffer and an epilogue
// of its own, as at the other levels, K = 64 took a third longer.)
//
// A row of K is a list of runs of whole groups of four bytes: one for a matrix, one per kernel row for a convolution,
// whose pixels lie beside each other in the image. A tile is 6 rows x 64 columns, 24 sums, for which a k-step costs 4
// loads and 6 broadcasts; one panel alone takes 8 rows, so that broadcasts have few loads beside them.
#pragma once
#include "kernels/args/quant.h"
#include "kernels/quant_epilogue.h"

namespace quernel::QUERNEL_ISA {
namespace {

// Runs of up to kQStrip rows: row r of run i begins at rows[i * kQStrip + r]. All have `groups` of four k, but the
// last.
struct Runs {
  const uint8_t* const* rows;
  int64_t count, groups, last_groups;
};

// Requantized rows of up to 64 columns: see Requantize in args/quant.h.
class RowWriter {
 public:
  RowWriter(const Requantize& p, bool y_float, void* y, int64_t ldy)
      : y_(static_cast<uint8_t*>(y)),
        ldy_(ldy),
        y_float_(y_float),
        lo_(_mm512_set1_ps(static_cast<float>(p.lo - p.zero_point))),
        hi_(_mm512_set1_ps(static_cast<float>(p.hi - p.zero_point))),
        zero_point_(_mm512_set1_epi32(p.zero_point)) {}

  // V sums of a row, bias included, to y from element `to` on.
  template <int V>
  [[gnu::always_inline]] void write(const __m512i (&sum)[V], const Columns& cols, int64_t to) const {
    if (y_float_) return write_float<V>(sum, cols, reinterpret_cast<float*>(y_) + to);
    const uint64_t mask = ~uint64_t{0} >> (64 - cols.count);
    uint8_t* y = y_ + to;
    if constexpr (V == 1) {
      const __m128i bytes = _mm512_cvtepi32_epi8(requantize(sum[0], cols.scale));
      if (cols.count == 16)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(y), bytes);
      else
        _mm_mask_storeu_epi8(y, static_cast<__mmask16>(mask), bytes);
    } else {
      const __m512i low = _mm512_packs_epi32(requantize(sum[0], cols.scale), requantize(sum[1], cols.scale + 16));
      __m512i high = low;
      if constexpr (V == 3) high = _mm512_packs_epi32(requantize(sum[2], cols.scale + 32), _mm512_setzero_si512());
      if constexpr (V == 4)
        high = _mm512_packs_epi32(requantize(sum[2], cols.scale + 32), requantize(sum[3], cols.scale + 48));
      // Packing works within 128-bit lanes: lane i holds columns 4 i … + 3 of each vector.
      const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
      const __m512i bytes = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high));
      if (V == 4 && cols.count == 64)
        _mm512_storeu_si512(y, bytes);
      else if (V == 2 && cols.count == 32)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(y), _mm512_castsi512_si256(bytes));
      else
        _mm512_mask_storeu_epi8(y, mask, bytes);
    }
  }
  int64_t ldy() const { return ldy_; }

 private:
  template <int V>
  static void write_float(const __m512i (&sum)[V], const Columns& cols, float* y) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const int left = cols.count - 16 * v;
      const __mmask16 mask = static_cast<__mmask16>(left < 16 ? (1 << left) - 1 : 0xffff);
      _mm512_mask_storeu_ps(y + 16 * v, mask,
                            _mm512_mul_ps(_mm512_cvtepi32_ps(sum[v]), _mm512_load_ps(cols.scale + 16 * v)));
    }
  }
  [[gnu::always_inline]] __m512i requantize(__m512i sum, const float* scale) const {
    const __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_load_ps(scale));
    return _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(v, lo_), hi_)), zero_point_);
  }

  uint8_t* y_;
  int64_t ldy_;
  bool y_float_;
  __m512 lo_, hi_;
  __m512i zero_point_;
};

// R rows from `first` on, V panels of `panel` bytes from b on; to y from element `to` on.
template <int R, int V>
[[gnu::noinline]] void dot_tile(const Runs& runs, int first, const int8_t* b, int64_t panel, const Columns& cols,
                                const RowWriter& writer, int64_t to) {
  __m512i sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = _mm512_load_si512(cols.bias + 16 * v);
  const uint8_t* const* rows = runs.rows + first;
  for (int64_t run = runs.count; run > 0; --run, rows += kQStrip) {
    const uint8_t* x[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) x[r] = rows[r];
    const int64_t bytes = 4 * (run > 1 ? runs.groups : runs.last_groups);
    for (int64_t k = 0; k < bytes; k += 4, b += 4 * kQPanel) {
      __m512i w[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) w[v] = _mm512_loadu_si512(b + v * panel);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m512i inputs = DotS8::spread(x[r] + k);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          sum[r][v] = DotS8::dot(sum[r][v], inputs, w[v]);
          asm("" : "+v"(sum[r][v]));  // stays where it is: GCC moves sums to the stack otherwise
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) writer.write<V>(sum[r], cols, to + r * writer.ldy());
}

template <int R, int V>
void dot_rows(const Runs& runs, int first, int rows, const int8_t* b, int64_t panel, const Columns& cols,
              const RowWriter& writer, int64_t to) {
  if constexpr (R > 1) {
    if (rows < R) return dot_rows<R - 1, V>(runs, first, rows, b, panel, cols, writer, to);
  }
  dot_tile<R, V>(runs, first, b, panel, cols, writer, to);
}

// All rows, up to four panels. Rows are shared out evenly: 32 are 6 6 5 5 5 5 and not five sixes and a rest of two.
template <int V = 4>
void dot_runs(const Runs& runs, int rows, const int8_t* b, int64_t panel, const Columns& cols, const RowWriter& writer,
              int64_t to) {
  if constexpr (V > 1) {
    if (cols.count <= 16 * (V - 1)) return dot_runs<V - 1>(runs, rows, b, panel, cols, writer, to);
  }
  constexpr int kRows = V == 1 ? 8 : 6;
  for (int first = 0, tiles = (rows + kRows - 1) / kRows; tiles > 0; --tiles) {
    const int here = (rows - first + tiles - 1) / tiles;
    dot_rows<kRows, V>(runs, first, here, b, panel, cols, writer, to + first * writer.ldy());
    first += here;
  }
}

}  // namespace
}  // namespace quernel::QUERNEL_ISA
