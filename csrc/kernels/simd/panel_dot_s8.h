// A strip of u8 rows times one packed s8 panel, in registers: the inner product of every int8 kernel below AMX.
//
// A is read as it lies, four k at a time, each broadcast to all columns; B is a panel [K/4][64][4]. A tile of
// DotS8::kRows x kVectors sums stays in registers over all of K. With VNNI that is 6 x 64 columns: 24 sums hide the
// instruction's latency, and a k-step costs 4 loads and 6 broadcasts for 24 dot products. Narrow panels (few output
// channels) use tiles of 16 and 32 columns. Sums go to an L1 buffer, from which one epilogue serves every level,
// tiles included; that costs 1 % at K = 512.
#pragma once
#include "kernels/args/matmul.h"
#include "kernels/simd/dot_s8.h"

namespace quernel::QUERNEL_ISA {
namespace {

template <int R, int V>
[[gnu::noinline]] void dot_tile(const uint8_t* a, int64_t lda, const int8_t* b, int64_t k, int32_t* acc) {
  DotS8::Sum sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = DotS8::zero();

  // Whole groups of four k, then the 1 to 3 last bytes of each row, copied since they may end their buffer.
  uint8_t last[4 * R] = {};
  for (int64_t i = 0; i < k % 4; ++i)
    for (int r = 0; r < R; ++r) last[4 * r + i] = a[r * lda + k - k % 4 + i];
  const uint8_t* sources[2] = {a, last};
  const int64_t strides[2] = {lda, 4}, groups[2] = {k / 4, k % 4 != 0};
  for (int part = 0; part < 2; ++part) {
    const uint8_t* x = sources[part];
    const int64_t ldx = strides[part];
    for (int64_t group = 0; group < groups[part]; ++group, x += 4, b += 4 * kPanel) {
      DotS8::Weights w[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) w[v] = DotS8::load(b + 4 * DotS8::kWidth * v);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const DotS8::Inputs inputs = DotS8::spread(x + r * ldx);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[r][v] = DotS8::dot(sum[r][v], inputs, w[v]);
      }
    }
  }

#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) DotS8::store(sum[r][v], acc + kPanel * r + DotS8::kWidth * v);
}

template <int R, int V>
void dot_rows(const uint8_t* a, int64_t lda, int rows, const int8_t* b, int64_t k, int32_t* acc) {
  if constexpr (R > 1) {
    if (rows < R) return dot_rows<R - 1, V>(a, lda, rows, b, k, acc);
  }
  dot_tile<R, V>(a, lda, b, k, acc);
}

struct RegisterDot {
  explicit RegisterDot(const Ctx&) {}

  // acc[rows][64] = A[rows, K] · panel, in at least the first `columns` columns. Rows are shared out evenly:
  // 32 rows are 6 6 5 5 5 5 and not five sixes and a rest of two.
  void operator()(const uint8_t* a, int64_t lda, int rows, const int8_t* b, int64_t k, int columns,
                  int32_t* acc) const {
    for (int tiles = (rows + DotS8::kRows - 1) / DotS8::kRows; tiles > 0; --tiles) {
      const int here = (rows + tiles - 1) / tiles;
      for (int column = 0; column < columns;) column += dot_columns(a, lda, here, b, k, columns, column, acc);
      a += here * lda;
      acc += here * kPanel;
      rows -= here;
    }
  }

 private:
  // One register tile from `column` on; returns how many columns it took.
  static int dot_columns(const uint8_t* a, int64_t lda, int rows, const int8_t* b, int64_t k, int columns, int column,
                         int32_t* acc) {
    constexpr int kMost = DotS8::kVectors, kTwo = kMost < 2 ? kMost : 2;
    const int vectors = (columns - column + DotS8::kWidth - 1) / DotS8::kWidth;
    const int taken = vectors > kTwo ? kMost : vectors > 1 ? kTwo : 1;
    b += 4 * column;
    acc += column;
    if (taken == kMost)
      dot_rows<DotS8::kRows, kMost>(a, lda, rows, b, k, acc);
    else if (taken == kTwo)
      dot_rows<DotS8::kRows, kTwo>(a, lda, rows, b, k, acc);
    else
      dot_rows<DotS8::kRows, 1>(a, lda, rows, b, k, acc);
    return taken * DotS8::kWidth;
  }
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
