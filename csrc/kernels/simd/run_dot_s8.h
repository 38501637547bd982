// Products of u8 rows and packed s8 panels with VNNI, from runs of bytes where they lie to requantized output: sums
// start from the bias, stay in registers over all of K, and never reach memory. (Through an L1 buffer and an epilogue
// of its own, as at the other levels, K = 64 took 18 % longer.)
//
// A row of K is a list of runs of whole groups of four bytes: one for a matrix, one per kernel row for a convolution,
// whose pixels lie beside each other in the image. A tile is 6 rows x 64 columns, 24 sums, for which a k-step costs 4
// loads and 6 broadcasts; one panel alone takes 8 rows, so that broadcasts have few loads beside them.
#pragma once
#include "kernels/args/quant.h"
#include "kernels/quant_epilogue.h"
#include "kernels/simd/requantize_avx512.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int64_t kRunPitch = kQStrip + 8;  // rows beyond the last are written eight at a time

// Runs of up to kQStrip rows: row r of run i begins at rows[i * kRunPitch + r]. All have `groups` of four k, but the
// last.
struct Runs {
  const uint8_t* const* rows;
  int64_t count, groups, last_groups;
};

// Copies rows of n bytes, in pieces that overlap.
[[gnu::noinline]] inline void copy_rows(const uint8_t* rows, int64_t pitch, int count, int64_t n, uint8_t* y,
                                        int64_t ldy) {
  using Sixteen [[gnu::vector_size(16)]] = uint8_t;
  const auto put = [](const uint8_t* from, uint8_t* to, auto piece) {
    __builtin_memcpy(&piece, from, sizeof(piece));
    __builtin_memcpy(to, &piece, sizeof(piece));
  };
  for (; count > 0; --count, rows += pitch, y += ldy) {
    if (n >= 16) {
      for (int64_t i = 0; i + 16 < n; i += 16) put(rows + i, y + i, Sixteen{});
      put(rows + n - 16, y + n - 16, Sixteen{});
    } else if (n >= 8) {
      put(rows, y, uint64_t{});
      put(rows + n - 8, y + n - 8, uint64_t{});
    } else if (n >= 4) {
      put(rows, y, uint32_t{});
      put(rows + n - 4, y + n - 4, uint32_t{});
    } else {
      for (int64_t i = 0; i < n; ++i) y[i] = rows[i];
    }
  }
}

// Where sums go: requantized as Requantize in args/quant.h says, or dequantized.
class RowWriter {
 public:
  RowWriter(const Requantize& p, bool y_float, void* y, int64_t ldy)
      : y_(static_cast<uint8_t*>(y)), ldy_(ldy), y_float_(y_float), requantize_(p) {}

  int64_t ldy() const { return ldy_; }

  // Sums of R rows of V registers, bias included, to the first cols.count columns from element `to` on. Whole rows are
  // stored at once, others by way of a buffer.
  template <int R, int V>
  [[gnu::always_inline]] void write(const __m512i (&sum)[R][V], const Columns& cols, int64_t to) const {
    __m512 scale[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) scale[v] = _mm512_load_ps(cols.scale + 16 * v);
    const int64_t count = cols.count;
    if (y_float_) {
      alignas(64) float rows[R][16 * V];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v)
          _mm512_store_ps(rows[r] + 16 * v, _mm512_mul_ps(_mm512_cvtepi32_ps(sum[r][v]), scale[v]));
      return copy_rows(reinterpret_cast<uint8_t*>(rows), 64 * V, R, 4 * count, y_ + 4 * to, 4 * ldy_);
    }
    const PackingRequantizer requantize = requantize_;
    alignas(64) uint8_t rows[R][64];
    const bool whole = count == 16 * V && V != 3;
    uint8_t* y = whole ? y_ + to : rows[0];
    const int64_t pitch = whole ? ldy_ : 64;
    constexpr int kPart = V <= 2 ? V : 4, kTogether = 4 / kPart;  // registers of a row; rows requantized at a time
#pragma GCC unroll 8
    for (int r = 0; r < R; r += kTogether) {
      __m512i total[4];
      __m512 scales[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {  // what is missing is anything
        const int v = i % kPart < V ? i % kPart : V - 1;
        total[i] = sum[r + i / kPart < R ? r + i / kPart : r][v];
        scales[i] = scale[v];
        asm volatile("" : "+v"(total[i]) : : "memory");  // row by row: GCC would convert all first, on the stack
      }
      store_rows<V>(requantize(total, scales), R - r, y + r * pitch, pitch);
    }
    if (!whole) copy_rows(rows[0], 64, R, count, y_ + to, ldy_);
  }

 private:
  // Up to four rows of 16 V bytes, two of 32 V or one as the requantizer packs them; of three registers, 64.
  template <int V>
  [[gnu::always_inline]] static void store_rows(__m512i packed, int rows, uint8_t* y, int64_t pitch) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i bytes = _mm512_permutexvar_epi32(order, packed);
    if constexpr (V > 2) {
      _mm512_storeu_si512(y, bytes);
    } else if constexpr (V == 2) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(y), _mm512_castsi512_si256(bytes));
      if (rows > 1) _mm256_storeu_si256(reinterpret_cast<__m256i*>(y + pitch), _mm512_extracti64x4_epi64(bytes, 1));
    } else {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(y), _mm512_castsi512_si128(bytes));
      if (rows > 1) put<1>(bytes, y + pitch);
      if (rows > 2) put<2>(bytes, y + 2 * pitch);
      if (rows > 3) put<3>(bytes, y + 3 * pitch);
    }
  }

  template <int I>
  [[gnu::always_inline]] static void put(__m512i bytes, uint8_t* y) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y), _mm512_extracti32x4_epi32(bytes, I));
  }

  uint8_t* y_;
  int64_t ldy_;
  bool y_float_;
  PackingRequantizer requantize_;
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
  for (int64_t run = runs.count; run > 0; --run, rows += kRunPitch) {
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
  writer.write<R, V>(sum, cols, to);
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
