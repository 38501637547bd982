// A strip of u8 rows times packed s8 panels, in registers: the inner product of int8 kernels at the levels without
// VNNI, and of AMX for strips that do not pay for tiles; that of VNNI alone is run_dot_s8.h.
//
// Rows are read four k at a time, each four broadcast to all columns; a panel is [K/4][16][4]. A tile of
// DotS8::kRows x kVectors sums stays in registers over all of K. With VNNI that is 6 x 64 columns: 24 sums hide the
// instruction's latency, and a k-step costs 4 loads and 6 broadcasts for 24 dot products. Without, bytes must be
// widened to int16: set_rows() does that once per strip for the rows, the tile for its panel. Sums go to an L1 buffer,
// from which one epilogue serves every level, tiles included; that costs 1 % at K = 512.
#pragma once
#include "kernels/args/quant.h"
#include "kernels/simd/dot_s8.h"

namespace quernel::QUERNEL_ISA {
namespace {

// The strip as a tile reads it: one step of DotS8::kStep bytes per group of four k.
struct Strip {
  const uint8_t* x;
  int64_t ldx;
  int64_t k;
};

constexpr int64_t strip_panel_bytes(int64_t k) { return column_bytes(k) * kQPanel; }

// Inlined by order: sums whose address reaches a call are stored at every step, at half the speed.
template <int R, int V>
[[gnu::always_inline]] inline void dot_groups(DotS8::Sum (&sum)[R][V], const uint8_t* x, int64_t ldx, const int8_t* b,
                                              int64_t panel, int64_t groups) {
  constexpr int kPerPanel = static_cast<int>(kQPanel) / DotS8::kWidth;
  for (; groups > 0; --groups, x += DotS8::kStep, b += 4 * kQPanel) {
    DotS8::Weights w[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) w[v] = DotS8::load(b + v / kPerPanel * panel + 4 * DotS8::kWidth * (v % kPerPanel));
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const DotS8::Inputs inputs = DotS8::spread_row(x + r * ldx);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = DotS8::dot(sum[r][v], inputs, w[v]);
    }
  }
}

template <int R, int V>
[[gnu::noinline]] void dot_tile(const Strip& a, const int8_t* b, int32_t* acc) {
  DotS8::Sum sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = DotS8::zero();
  const int64_t panel = strip_panel_bytes(a.k);
  if constexpr (DotS8::kWidens) {
    dot_groups<R, V>(sum, a.x, a.ldx, b, panel, (a.k + 3) / 4);  // widened rows end with zeros
  } else {
    const int64_t whole = a.k / 4, rest = a.k % 4;
    if (rest > 0) {  // copied, since a row may end its buffer
      uint8_t last[4 * R] = {};
      for (int r = 0; r < R; ++r)
        for (int64_t i = 0; i < rest; ++i) last[4 * r + i] = a.x[r * a.ldx + 4 * whole + i];
      dot_groups<R, V>(sum, last, 4, b + whole * 4 * kQPanel, panel, 1);
    }
    dot_groups<R, V>(sum, a.x, a.ldx, b, panel, whole);  // last, or GCC stores the sums at every step for the rest
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) DotS8::store(sum[r][v], acc + kQColumns * r + DotS8::kWidth * v);
}

// One split row.
template <class Dot, int V>
[[gnu::noinline]] void dot_row(const Strip& a, const int8_t* b, int32_t* acc) {
  constexpr int kPerPanel = static_cast<int>(kQPanel) / Dot::kWidth;
  const int64_t panel = strip_panel_bytes(a.k);
  const uint8_t* x = a.x;
  typename Dot::Sum sum[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) sum[v] = Dot::zero();
  for (int64_t left = (a.k + 3) / 4; left > 0; left -= Dot::kChain) {
    typename Dot::Halves halves[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) halves[v] = Dot::zero_halves();
    const int64_t groups = left < Dot::kChain ? left : Dot::kChain;
    for (int64_t i = 0; i < groups; ++i, x += Dot::kStep, b += 4 * kQPanel) {
      const typename Dot::Inputs inputs = Dot::spread_row(x);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v)
        halves[v] = Dot::dot_halves(halves[v], inputs, b + v / kPerPanel * panel + 4 * Dot::kWidth * (v % kPerPanel));
    }
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[v] = Dot::add_halves(sum[v], halves[v]);
  }
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) Dot::store(sum[v], acc + Dot::kWidth * v);
}

template <int R, int V>
void dot_rows(const Strip& a, int rows, const int8_t* b, int32_t* acc) {
  if constexpr (R > 1) {
    if (rows < R) return dot_rows<R - 1, V>(a, rows, b, acc);
  }
  dot_tile<R, V>(a, b, acc);
}

// All rows of a strip, V registers of columns. Rows are shared out evenly: 32 rows are 6 6 5 5 5 5 and not five sixes
// and a rest of two.
template <class Dot, int V>
void dot_strip(Strip a, int rows, const int8_t* b, int32_t* acc) {
  if constexpr (Dot::kWidens) {
    if (rows == 1) return dot_row<Dot, V>(a, b, acc);
  }
  for (int tiles = (rows + Dot::kRows - 1) / Dot::kRows; tiles > 0; --tiles) {
    const int here = (rows + tiles - 1) / tiles;
    dot_rows<Dot::kRows, V>(a, here, b, acc);
    a.x += here * a.ldx;
    acc += here * kQColumns;
    rows -= here;
  }
}

// Bytes between widened rows: an odd number of cache lines, so that rows spread over the L1's sets.
constexpr int64_t widened_stride(int64_t k) { return (2 * k + 63) / 64 * 64 | 64; }

template <class Dot>
Strip make_strip(const uint8_t* a, int64_t lda, int rows, int64_t k, uint8_t* scratch) {
  if constexpr (Dot::kWidens) {
    const int64_t ldx = widened_stride(k);
    if (rows == 1) {
      Dot::split(a, k, scratch);
      return {scratch, ldx, k};
    }
    for (int r = 0; r < rows; ++r) Dot::widen(a + r * lda, k, scratch + r * ldx);
    return {scratch, ldx, k};
  } else {
    return {a, lda, k};
  }
}

class RegisterDot {
 public:
  // Bytes of scratch for rows of k elements.
  static int64_t scratch(int64_t k) { return DotS8::kWidens ? kQStrip * widened_stride(k) : 0; }

  RegisterDot(const Ctx&, void* scratch) : scratch_(static_cast<uint8_t*>(scratch)) {}

  // The strip that the next products read: up to kQStrip rows.
  void set_rows(const uint8_t* a, int64_t lda, int rows, int64_t k) {
    rows_ = rows;
    strip_ = make_strip<DotS8>(a, lda, rows, k, scratch_);
  }

  // acc[rows][64] = strip · the panels from b on, in at least the first `columns` columns.
  void operator()(const int8_t* b, int columns, int32_t* acc) const {
    const int64_t panel = strip_panel_bytes(strip_.k);
    for (int column = 0; column < columns;) {
      const int vectors = (columns - column + DotS8::kWidth - 1) / DotS8::kWidth;
      const int taken = vectors < DotS8::kVectors ? vectors : DotS8::kVectors;
      const int64_t in_panel = column % kQPanel;
      dot_vectors<DotS8::kVectors>(b + column / kQPanel * panel + 4 * in_panel, taken, acc + column);
      column += taken * DotS8::kWidth;
    }
  }

 private:
  template <int V>
  void dot_vectors(const int8_t* b, int vectors, int32_t* acc) const {
    if constexpr (V > 1) {
      if (vectors < V) return dot_vectors<V - 1>(b, vectors, acc);
    }
    dot_strip<DotS8, V>(strip_, rows_, b, acc);
  }

  uint8_t* scratch_;
  Strip strip_{};
  int rows_ = 0;
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
