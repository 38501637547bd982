// The mainloop of float32 and float64 products: matrices, and convolutions as implicit products. tensor_tile.h has
// that of the other types.
//
// A block computes a tile of kRows x kCols results, a thread TM x TN of them in registers. Slices of A and B, kDepth
// deep, go through shared memory, A turned, so that a thread reads neighbouring rows; the next slice is fetched into
// registers while the present one is multiplied. A sum runs over k in order, one fma after the other, whatever the tile
// is: results do not depend on the number of rows. compute_tile is one long function, for its parts share a thread's
// registers and places.
//
// What is multiplied is a Problem P, whose operands are never laid out for this:
//   using T                      what is multiplied and added up (float, double)
//   void enter(int64_t batch)    chooses one of the products
//   int64_t m, n, k, batches     m and k of the chosen product; m at most what it was before
//   struct Row; Row row(i)       what a thread remembers of row i of A
//   struct Depth; Depth depth(k); void advance(Depth&, int64_t by)    and of a place along k
//   T a(const Row&, const Depth&), b(const Depth&, int64_t column)    0 outside of A and B
//   void store(int64_t row, int64_t column, T sum)
//   static constexpr bool kRowsAdjacent      neighbouring threads read neighbouring rows of A, else neighbouring k
#pragma once
#include "core/device.h"
#include "core/launch.h"

namespace quernel::cuda {

__device__ inline float product_sum(float a, float b, float c) { return fmaf(a, b, c); }
__device__ inline double product_sum(double a, double b, double c) { return fma(a, b, c); }

// A sum of products too small for their type may be -0, unless a product of zeros, with which slices are filled up,
// comes last. So that tiles of all depths agree it never is.
template <class T>
__device__ inline T finished_sum(T sum) {
  return sum + T(0);
}

// The tile of the chosen product that begins at this row and column.
template <class P, int kRows, int kCols, int kDepth, int TM, int TN>
__device__ __forceinline__ void compute_tile(P& p, int64_t first_row, int64_t first_column) {
  using T = typename P::T;
  constexpr int kAcross = kCols / TN;  // threads of a row
  static_assert(kRows / TM * kAcross == kThreads && kThreads % kCols == 0 && kThreads % kRows == 0);
  constexpr int kPitch = kRows + 4;  // of A, turned
  __shared__ T shared[kDepth * (kPitch + kCols)];
  static_assert(kRows / TM * kCols <= kDepth * (kPitch + kCols));
  T(*a_tile)[kPitch] = reinterpret_cast<T(*)[kPitch]>(shared);
  T(*b_tile)[kCols] = reinterpret_cast<T(*)[kCols]>(shared + kDepth * kPitch);
  T* staged = shared;
  const int t = static_cast<int>(threadIdx.x);

  // Places of a thread in a slice of A: kRowsAdjacent: one row, some k; else one k, some rows. Of B: one column.
  constexpr bool kTall = P::kRowsAdjacent;
  constexpr int kARows = kTall ? 1 : kRows * kDepth / kThreads, kADepths = kTall ? kRows * kDepth / kThreads : 1;
  constexpr int kBDepths = kCols * kDepth / kThreads;
  constexpr int kAStep = kTall ? kThreads / kRows : kThreads / kDepth, kBStep = kThreads / kCols;
  const int a_row = kTall ? t % kRows : t / kDepth, a_depth = kTall ? t / kRows : t % kDepth;
  const int b_column = t % kCols, b_depth = t / kCols;
  typename P::Row a_rows[kARows];
  typename P::Depth a_depths[kADepths], b_depths[kBDepths];
  for (int i = 0; i < kARows; ++i) a_rows[i] = p.row(first_row + a_row + i * kAStep);
  if (p.k > 0) {
    for (int i = 0; i < kADepths; ++i) a_depths[i] = p.depth(a_depth + i * kAStep);
    for (int i = 0; i < kBDepths; ++i) b_depths[i] = p.depth(b_depth + i * kBStep);
  }

  T a_next[kARows * kADepths], b_next[kBDepths];
  const auto fetch = [&] {
    for (int i = 0; i < kARows * kADepths; ++i) {
      a_next[i] = p.a(a_rows[kTall ? 0 : i], a_depths[kTall ? i : 0]);
    }
    for (int i = 0; i < kBDepths; ++i) b_next[i] = p.b(b_depths[i], first_column + b_column);
    for (int i = 0; i < kADepths; ++i) p.advance(a_depths[i], kDepth);
    for (int i = 0; i < kBDepths; ++i) p.advance(b_depths[i], kDepth);
  };
  T sums[TM][TN] = {};
  const int row = t / kAcross * TM, column = t % kAcross * TN;
  if (p.k > 0) fetch();
  for (int64_t k = 0; k < p.k; k += kDepth) {
    for (int i = 0; i < kARows * kADepths; ++i)
      a_tile[a_depth + (kTall ? i * kAStep : 0)][a_row + (kTall ? 0 : i * kAStep)] = a_next[i];
    for (int i = 0; i < kBDepths; ++i) b_tile[b_depth + i * kBStep][b_column] = b_next[i];
    __syncthreads();
    if (k + kDepth < p.k) fetch();
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      T left[TM], right[TN];
      for (int i = 0; i < TM; ++i) left[i] = a_tile[d][row + i];
      for (int j = 0; j < TN; ++j) right[j] = b_tile[d][column + j];
      for (int i = 0; i < TM; ++i)
        for (int j = 0; j < TN; ++j) sums[i][j] = product_sum(left[i], right[j], sums[i][j]);
    }
    __syncthreads();
  }
  // Results go out through the same shared memory, one row of each thread at a time, so that neighbouring threads write
  // neighbouring columns, and what becomes of a sum is compiled once per row of a thread.
#pragma unroll
  for (int i = 0; i < TM; ++i) {
    for (int j = 0; j < TN; ++j) staged[t / kAcross * kCols + column + j] = sums[i][j];
    __syncthreads();
#pragma unroll 1
    for (int at = t; at < kRows / TM * kCols; at += kThreads) {
      const int64_t r = first_row + at / kCols * TM + i, c = first_column + at % kCols;
      if (r < p.m && c < p.n) p.store(r, c, finished_sum(staged[at]));
    }
    __syncthreads();
  }
}

template <class P, int kRows, int kCols, int kDepth, int TM, int TN>
__global__ void __launch_bounds__(kThreads) multiply_tile(P p) {
  const int64_t columns = ceil_div(p.n, kCols), rows = ceil_div(p.m, kRows);
  const int64_t block = blockIdx.x, first_column = block % columns * kCols, first_row = block / columns % rows * kRows;
  p.enter(block / columns / rows);
  compute_tile<P, kRows, kCols, kDepth, TM, TN>(p, first_row, first_column);
}

// Large tiles where they fill the device, small ones elsewhere.
template <class P>
void multiply(const Ctx& ctx, const P& p) {
  if (p.m <= 0 || p.n <= 0 || p.batches <= 0) return;
  const auto tiles = [&](int64_t rows, int64_t cols) { return ceil_div(p.m, rows) * ceil_div(p.n, cols) * p.batches; };
  if constexpr (sizeof(typename P::T) == 4) {
    if (p.n > 64 && tiles(128, 128) >= device_multiprocessors())
      return launch(ctx, multiply_tile<P, 128, 128, 8, 8, 8>, static_cast<unsigned>(tiles(128, 128)), kThreads, 0, p);
  }
  constexpr int kDepth = sizeof(typename P::T) == 4 ? 16 : 8;
  launch(ctx, multiply_tile<P, 64, 64, kDepth, 4, 4>, static_cast<unsigned>(tiles(64, 64)), kThreads, 0, p);
}

}  // namespace quernel::cuda
