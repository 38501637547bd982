// u8 activations times blocked s8 weights: the dense int8 kernel with a list of the groups of four k that are there. A
// block is [16][4], a register of vpdpbusd (two of AVX2's). Up to eight rows share a block's load; one row alone keeps
// four partial sums, which integers allow. Sums are exact and wrap, and the epilogue is that of every int8 kernel.
#include "kernels/args/sparse.h"
#include "kernels/integers.h"
#include "kernels/quant_epilogue.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int kVectors = static_cast<int>(kSparseRows) / DotS8::kWidth;
constexpr int kMostRows = DotS8::kWidth == 16 ? 8 : DotS8::kRows;
constexpr int kBlock = 4 * static_cast<int>(kSparseRows);

struct List {
  const int32_t* index;
  const int8_t* weight;
  int64_t count;
};

// R rows of a times blocks [first, end); sums to acc rows of kQColumns.
template <int R>
[[gnu::noinline]] void dot_blocks(const uint8_t* a, int64_t lda, const List& list, int64_t first, int64_t end,
                                  int32_t* acc) {
  DotS8::Sum sum[R][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[r][v] = DotS8::zero();
  for (int64_t i = first; i < end; ++i) {
    const uint8_t* x = a + 4 * static_cast<int64_t>(list.index[i]);
    DotS8::Weights w[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) w[v] = DotS8::load(list.weight + i * kBlock + 4 * DotS8::kWidth * v);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const DotS8::Inputs inputs = DotS8::spread(x + r * lda);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] = DotS8::dot(sum[r][v], inputs, w[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) DotS8::store(sum[r][v], acc + kQColumns * r + DotS8::kWidth * v);
}

template <int R>
void dot_rows(int rows, const uint8_t* a, int64_t lda, const List& list, int64_t end, int32_t* acc) {
  if constexpr (R > 1) {
    if (rows < R) return dot_rows<R - 1>(rows, a, lda, list, end, acc);
  }
  dot_blocks<R>(a, lda, list, 0, end, acc);
}

inline void add_sums(int32_t* acc, const int32_t* more) {
  for (int j = 0; j < kSparseRows; ++j)
    acc[j] = static_cast<int32_t>(static_cast<uint32_t>(acc[j]) + static_cast<uint32_t>(more[j]));  // wraps
}

// One row: four interleaved chains, four blocks in a step.
template <int kWays>
void dot_one(const uint8_t* a, const List& list, int64_t end, int32_t* acc) {
  DotS8::Sum sum[kWays][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kWays; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[r][v] = DotS8::zero();
  int64_t i = 0;
  for (; i + kWays <= end; i += kWays) {
#pragma GCC unroll 8
    for (int r = 0; r < kWays; ++r) {
      const DotS8::Inputs inputs = DotS8::spread(a + 4 * static_cast<int64_t>(list.index[i + r]));
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        sum[r][v] = DotS8::dot(sum[r][v], inputs, DotS8::load(list.weight + (i + r) * kBlock + 4 * DotS8::kWidth * v));
    }
  }
  dot_blocks<1>(a, 0, list, i, end, acc);
  for (int r = 0; r < kWays; ++r) {
    int32_t more[kSparseRows];
    for (int v = 0; v < kVectors; ++v) DotS8::store(sum[r][v], more + DotS8::kWidth * v);
    add_sums(acc, more);
  }
}

// acc[rows][64]: the first 16 columns hold rows of a times the listed blocks.
void dot_panel(const QSparseArgs& p, const uint8_t* a, int rows, const List& list, int32_t* acc) {
  // The last group may reach past the row: its bytes are copied.
  const bool ragged = list.count > 0 && (list.index[list.count - 1] + int64_t{1}) * 4 > p.k;
  const int64_t whole = list.count - ragged;
  if (rows == 1) {
    dot_one<4>(a, list, whole, acc);
  } else {
    for (int row = 0, tiles = (rows + kMostRows - 1) / kMostRows; tiles > 0; --tiles) {
      const int here = (rows - row + tiles - 1) / tiles;
      dot_rows<kMostRows>(here, a + row * p.k, p.k, list, whole, acc + row * kQColumns);
      row += here;
    }
  }
  if (!ragged) return;
  const int64_t group = list.index[whole], left = p.k - 4 * group;
  const int32_t zero = 0;
  const List last{&zero, list.weight + whole * kBlock, 1};
  for (int r = 0; r < rows; ++r) {
    uint8_t four[4] = {};
    for (int64_t i = 0; i < left; ++i) four[i] = a[r * p.k + 4 * group + i];
    int32_t more[kQColumns];
    dot_blocks<1>(four, 0, last, 0, 1, more);
    add_sums(acc + r * kQColumns, more);
  }
}

}  // namespace

Status sparse_u8s8(const QSparseArgs& p, Range range, const Ctx&) {
  alignas(64) int32_t acc[kQStrip * kQColumns];
  const int64_t panels = ceil_div(p.n, kSparseRows);
  const int32_t* indptr = static_cast<const int32_t*>(p.indptr);
  for (int64_t item = range.begin; item < range.end; ++item) {
    const int64_t panel = item % panels, row = item / panels * kQStrip, column = panel * kSparseRows;
    const int rows = static_cast<int>(p.m - row < kQStrip ? p.m - row : kQStrip);
    const int64_t begin = indptr[panel];
    const List list{static_cast<const int32_t*>(p.indices) + begin,
                    static_cast<const int8_t*>(p.values) + begin * kBlock, indptr[panel + 1] - begin};
    dot_panel(p, static_cast<const uint8_t*>(p.a) + row * p.k, rows, list, acc);
    const Columns cols(p, column, p.n - column < kSparseRows ? p.n - column : kSparseRows);
    epilogue(p, p.y_float, cols, acc, rows, p.c, row * p.n + column, p.n);
  }
  return {};
}

}  // namespace quernel::QUERNEL_ISA
