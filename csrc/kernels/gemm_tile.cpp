// Register tiles. A row of A is broadcast element by element, so A may have any strides and is never copied; B is
// read in rows of whole vectors. AVX-512 keeps 6 x 64 floats in 24 of 32 registers and reads B once for six rows;
// AVX2 and the baseline have 16 registers, so tall tiles are 6 x 16 (4 x 8) and cover the panel in several passes,
// while one or two rows take more columns, to have enough independent chains to hide the latency.
//
// Every output is a single chain over k whatever the tile: which tile computes it changes no bit.
#include "kernels/gemm_tile.h"

#include <array>
#include <utility>

#include "kernels/simd/math.h"

namespace quernel::QUERNEL_ISA {
namespace {

// Vectors across a tile of `rows` rows.
template <class V>
constexpr int tile_vecs(int rows) {
  constexpr bool kManyRegisters = sizeof(V) == 64;
  const int vecs = kManyRegisters ? (rows <= 3 ? 8 : 4) : (rows == 1 ? 8 : rows <= 3 ? 4 : 2);
  const int most = static_cast<int>(kPanel) / V::kWidth;
  return vecs < most ? vecs : most;
}

template <class V>
constexpr int kMostVecs = tile_vecs<V>(1);

template <class V, bool kTail>
inline V load(const typename V::Scalar* p, [[maybe_unused]] int lanes) {
  if constexpr (kTail)
    return V::load(p, lanes);
  else
    return V::load(p);
}

template <class V, bool kTail>
inline void store(V v, typename V::Scalar* p, [[maybe_unused]] int lanes) {
  if constexpr (kTail)
    v.store(p, lanes);
  else
    v.store(p);
}

// Finishes the sums in registers, as finish() in epilogue.cpp does in a pass of its own.
template <class V, int kRows, int kVecs, bool kTail, class T = typename V::Scalar>
inline void finish_tile(const Tile<T>& tile, int64_t col, int lanes, V (&acc)[kRows][kVecs]) {
  const TileFinish<T>& f = *tile.finish;
  const auto get = [&](const T* p, int j) {
    return j < kVecs - 1 ? V::load(p + j * V::kWidth) : load<V, kTail>(p + j * V::kWidth, lanes);
  };
  if (f.bias) {
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j) {
      const V bias = get(f.bias + col, j);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) acc[i][j] = acc[i][j] + bias;
    }
  }
  if (f.residual) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const T* residual = f.residual + (tile.c[i] - f.base) + col;
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j) acc[i][j] = acc[i][j] + get(residual, j);
    }
  }
  if (f.activation == Activation::kRelu) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j) acc[i][j] = relu(acc[i][j]);
    }
  } else if (f.activation == Activation::kRelu6) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j) acc[i][j] = relu6(acc[i][j]);
    }
  }
}

// kRows x kVecs vectors from column `col`; with kTail the last vector has only `lanes` lanes.
template <class V, int kRows, int kVecs, bool kTail>
void multiply(const Tile<typename V::Scalar>& tile, int64_t col, int lanes) {
  using T = typename V::Scalar;
  // Every loop over the tile is unrolled by order: one that the compiler leaves rolled, as it does with masked tails,
  // indexes the accumulators and thereby keeps them in memory, at a third of the speed.
  V acc[kRows][kVecs];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j) acc[i][j] = V::zero();
  }
  if (tile.accumulate) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kVecs - 1; ++j) acc[i][j] = V::load(tile.c[i] + col + j * V::kWidth);
      acc[i][kVecs - 1] = load<V, kTail>(tile.c[i] + col + (kVecs - 1) * V::kWidth, lanes);
    }
  } else {
    // What is to be written comes into cache meanwhile.
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      constexpr int kLine = 64 / static_cast<int>(sizeof(T));
#pragma GCC unroll 8
      for (int j = 0; j < kVecs * V::kWidth; j += kLine) __builtin_prefetch(tile.c[i] + col + j, 1);
    }
  }
  const int64_t a_step = tile.a_step, ldb = tile.ldb, group = tile.group;
  // Tiles start at a multiple of their width, so either they stay within a group or they start with one.
  constexpr int kWidth = kPackWidth<T>;
  const auto offset = [group](int vec) { return vec * V::kWidth / kWidth * group + vec * V::kWidth % kWidth; };
  const T* first = tile.b + col / kWidth * group + col % kWidth;
  const int64_t ahead = 16 * ldb;
  const T* a[kRows];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) a[i] = tile.a[i];
  const auto add = [&](int64_t at, const T* b) {
    if constexpr (kRows == 1) {  // bound by reading B
      constexpr int kLine = 64 / static_cast<int>(sizeof(T));
#pragma GCC unroll 8
      for (int j = 0; j < kVecs * V::kWidth; j += kLine) __builtin_prefetch(b + ahead + offset(j / V::kWidth));
    }
    // What is fewer, elements of A or vectors of B, stays in registers: 3 x 4 leaves none for the other way round.
    if constexpr (kVecs > kRows) {
      V x[kRows];
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) x[i] = V::set(a[i][at]);
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j) {
        const V row = j < kVecs - 1 ? V::load(b + offset(j)) : load<V, kTail>(b + offset(j), lanes);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) acc[i][j] = fma(x[i], row, acc[i][j]);
      }
    } else {
      V row[kVecs];
#pragma GCC unroll 8
      for (int j = 0; j < kVecs - 1; ++j) row[j] = V::load(b + offset(j));
      row[kVecs - 1] = load<V, kTail>(b + offset(kVecs - 1), lanes);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const V x = V::set(a[i][at]);
#pragma GCC unroll 8
        for (int j = 0; j < kVecs; ++j) acc[i][j] = fma(x, row[j], acc[i][j]);
      }
    }
  };
  const Run* end = tile.runs + tile.count;
  if (tile.single) {
    for (const Run* run = tile.runs; run < end; ++run) add(run->a, first + run->b);
  } else if (kRows > 1 && tile.ahead) {
    for (const Run* run = tile.runs; run < end; ++run) {
      const T *b = first + run->b, *next = b + tile.ahead;
#pragma GCC unroll 4
      for (int64_t k = run->depth, at = run->a; k > 0; --k, at += a_step, b += ldb, next += ldb) {
        constexpr int kLine = 64 / static_cast<int>(sizeof(T));
#pragma GCC unroll 8
        for (int j = 0; j < kVecs * V::kWidth; j += kLine) __builtin_prefetch(next + offset(j / V::kWidth), 0, 2);
        add(at, b);
      }
    }
  } else {
    for (const Run* run = tile.runs; run < end; ++run) {
      const T* b = first + run->b;
      // Four products a turn: 1 to 5 % faster than two, except for up to four rows in place whose B lies in whole
      // pages.
#pragma GCC unroll 4
      for (int64_t k = run->depth, at = run->a; k > 0; --k, at += a_step, b += ldb) add(at, b);
    }
  }
  if (tile.finish) finish_tile<V, kRows, kVecs, kTail>(tile, col, lanes, acc);
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kVecs - 1; ++j) acc[i][j].store(tile.c[i] + col + j * V::kWidth);
    store<V, kTail>(acc[i][kVecs - 1], tile.c[i] + col + (kVecs - 1) * V::kWidth, lanes);
  }
}

template <class V>
using Multiply = void (*)(const Tile<typename V::Scalar>&, int64_t, int);

template <class V, int kRows, int kVecs>
constexpr std::array<Multiply<V>, 2> variants() {
  if constexpr (kVecs <= tile_vecs<V>(kRows))
    return {multiply<V, kRows, kVecs, false>, multiply<V, kRows, kVecs, true>};
  else
    return {};
}

template <class V>
using Table = std::array<std::array<std::array<Multiply<V>, 2>, kMostVecs<V>>, kTileRows>;

template <class V, size_t... kRow>
constexpr Table<V> make_table(std::index_sequence<kRow...>) {
  const auto row = []<int kRows, size_t... kVec>(std::integral_constant<int, kRows>, std::index_sequence<kVec...>) {
    return std::array<std::array<Multiply<V>, 2>, kMostVecs<V>>{variants<V, kRows, kVec + 1>()...};
  };
  return {row(std::integral_constant<int, kRow + 1>{}, std::make_index_sequence<kMostVecs<V>>{})...};
}

// [rows - 1][vectors - 1][tail]
template <class V>
constexpr Table<V> kTable = make_table<V>(std::make_index_sequence<kTileRows>{});

template <class V>
inline void dispatch(const Tile<typename V::Scalar>& tile) {
  constexpr int kWidth = V::kWidth;
  const int most = tile_vecs<V>(tile.rows);
  for (int col = 0; col < tile.cols; col += most * kWidth) {
    const int left = tile.cols - col;
    const int vecs = left >= most * kWidth ? most : (left + kWidth - 1) / kWidth;
    const int lanes = left - (vecs - 1) * kWidth;
    const bool tail = lanes < kWidth;
    kTable<V>[tile.rows - 1][vecs - 1][tail](tile, col, lanes);
  }
}

}  // namespace

void multiply_tile(const Tile<float>& tile) { dispatch<VecF32>(tile); }
void multiply_tile(const Tile<double>& tile) { dispatch<VecF64>(tile); }

}  // namespace quernel::QUERNEL_ISA
