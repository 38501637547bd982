// The products of attention: sums of 32 to 64 terms, between rows that lie evenly. gemm_tile.h takes rows from
// anywhere, and its preparations, which long sums hide, took 15 % of the time here: full tiles go the short way of
// strip(), with the same chain of FMAs for every output, the rest through gemm_tile.h.
#pragma once
#include "kernels/gemm_tile.h"
#include "kernels/integers.h"
#include "kernels/simd/vec.h"

namespace quernel::QUERNEL_ISA {
namespace {

// c (+)= a b: a in place, with any strides, b packed, its groups of columns `group` apart, c with rows `c_row` apart.
template <class T>
struct Product {
  const T* a;
  int64_t a_row, a_step;
  const T* b;
  int64_t group;
  T* c;
  int64_t c_row;
  int64_t rows, cols, depth;
  bool accumulate;
};

template <class V>
inline constexpr int kStripVecs = sizeof(V) == 64 ? 4 : 2;  // as tile_vecs() in gemm_tile.cpp

// kRows full rows from `row` on, by the first `cols` columns, whole tiles of them.
template <class V, int kRows, class T = typename V::Scalar>
void strip(const Product<T>& p, int64_t row, int64_t cols) {
  constexpr int kVecs = kStripVecs<V>;
  constexpr int64_t kWidth = V::kWidth, kPack = kPackWidth<T>;
  const int64_t a_row = p.a_row, a_step = p.a_step, group = p.group, c_row = p.c_row;
  const auto offset = [group](int64_t col) { return col / kPack * group + col % kPack; };
  for (int64_t col = 0; col < cols; col += kVecs * kWidth) {
    const T* b = p.b + offset(col);
    T* c = p.c + row * c_row + col;
    V acc[kRows][kVecs];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j) acc[i][j] = p.accumulate ? V::load(c + i * c_row + j * kWidth) : V::zero();
    }
    const T *low = p.a + row * a_row, *high = low + 3 * a_row;  // two bases serve six rows, by scaled strides
#pragma GCC unroll 4
    for (int64_t k = 0; k < p.depth; ++k, low += a_step, high += a_step, b += kPack) {
      V line[kVecs];
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j) line[j] = V::load(b + offset(j * kWidth));
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const V x = V::set(i < 3 ? low[i * a_row] : high[(i - 3) * a_row]);
#pragma GCC unroll 8
        for (int j = 0; j < kVecs; ++j) acc[i][j] = fma(x, line[j], acc[i][j]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j) acc[i][j].store(c + i * c_row + j * kWidth);
    }
  }
}

// Rows [from, to) by the columns from `begin` on, in the general way.
template <class T>
void multiply_rest(const Product<T>& p, int64_t from, int64_t to, int64_t begin) {
  const Run run{0, 0, p.depth};
  const T* a[kTileRows];
  T* c[kTileRows];
  for (int64_t first = begin; first < p.cols; first += kPanel) {
    for (int64_t i = from; i < to; ++i) {
      a[i - from] = p.a + i * p.a_row;
      c[i - from] = p.c + i * p.c_row + first;
    }
    multiply_tile(Tile<T>{a, p.b + first / kPackWidth<T> * p.group, c, &run, 1, false, p.a_step, kPackWidth<T>, p.group,
                          static_cast<int>(to - from), static_cast<int>(least(p.cols - first, kPanel)), p.accumulate});
  }
}

template <class T>
void multiply(const Product<T>& p) {
  using V = Vec<T>;
  constexpr int64_t kTile = kStripVecs<V> * V::kWidth, kUnit = kTile > kPackWidth<T> ? kTile : kPackWidth<T>;
  const int64_t tiles = ceil_div(p.rows, kTileRows), whole = p.cols / kUnit * kUnit;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t from = p.rows * tile / tiles, to = p.rows * (tile + 1) / tiles;
    const bool full = to - from >= kTileRows - 1;
    if (full && to - from == kTileRows)
      strip<V, kTileRows>(p, from, whole);
    else if (full)
      strip<V, kTileRows - 1>(p, from, whole);
    multiply_rest(p, from, to, full ? whole : 0);
  }
}

}  // namespace
}  // namespace quernel::QUERNEL_ISA
