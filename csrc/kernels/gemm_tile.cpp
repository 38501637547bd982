// Register tiles. A row of A is broadcast element by element, so A may have any strides and is never copied; B is
// read in rows of whole vectors. AVX-512 keeps 6 x 64 floats in 24 of 32 registers and reads B once for six rows;
// AVX2 and the baseline have 16 registers, so tall tiles are 6 x 16 (4 x 8) and cover the panel in several passes,
// while one or two rows take more columns, to have enough independent chains to hide the latency.
//
// Columns beyond the whole vectors take a vector with a mask; with AVX-512, up to half of one take a half: on CPUs that
// pass 512 bits through twice, that is half the work (512x17x128: a fifth faster on Zen 4).
//
// Every output is a single chain over k whatever the tile: which tile computes it changes no bit.
#if defined(__AVX512F__) && !defined(__clang__)
// Tuned for no CPU in particular, GCC 12 keeps addresses in vector registers: 1 to 5 % slower.
#pragma GCC target("tune=skylake-avx512")
#endif
#include "kernels/gemm_tile.h"

#include <array>
#include <type_traits>
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

// The columns beyond the whole vectors of a tile.
enum Tail : int { kNone, kMasked, kHalf, kTails };

// Finishes the sums in registers, as finish() in epilogue.cpp does in a pass of its own; columns from `col` on.
template <class V, int kRows, int kVecs, class Load, class T = typename V::Scalar>
inline void finish_vecs(const TileFinish<T>& f, T* const* c, int64_t col, const Load& load, V (&acc)[kRows][kVecs]) {
  if (f.bias) {
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j) {
      const V bias = load(f.bias + col + j * V::kWidth);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) acc[i][j] = acc[i][j] + bias;
    }
  }
  if (f.residual) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const T* residual = f.residual + (c[i] - f.base) + col;
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j) acc[i][j] = acc[i][j] + load(residual + j * V::kWidth);
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

// One tile, of kRows x kVecs vectors from column `col`, then as many rows of a tail of `lanes` lanes.
template <class V, int kRows, int kVecs, Tail kTail, class T = typename V::Scalar>
[[gnu::always_inline]] inline void multiply_one(const Tile<T>& tile, const T* const* rows, T* const* to, int64_t col,
                                                [[maybe_unused]] int lanes) {
  using L = std::conditional_t<kTail == kHalf, Half<V>, V>;
  const auto whole = [](const T* p) { return V::load(p); };
  const auto some = [lanes](const T* p) { return L::load(p, lanes); };
  constexpr int kTailCol = kVecs * V::kWidth, kPrefetched = kTailCol + (kTail == kNone ? 0 : 1);
  constexpr int kLine = 64 / static_cast<int>(sizeof(T));
  // Every loop over the tile is unrolled by order: one that the compiler leaves rolled, as it does with masked tails,
  // indexes the accumulators and thereby keeps them in memory, at a third of the speed.
  V acc[kRows][kVecs > 0 ? kVecs : 1];
  [[maybe_unused]] L last[kRows][1];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j) acc[i][j] = V::zero();
    if constexpr (kTail != kNone) last[i][0] = L::zero();
  }
  if (tile.accumulate) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j) acc[i][j] = whole(to[i] + col + j * V::kWidth);
      if constexpr (kTail != kNone) last[i][0] = some(to[i] + col + kTailCol);
    }
  } else {
    // What is to be written comes into cache meanwhile.
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kPrefetched; j += kLine) __builtin_prefetch(to[i] + col + j, 1);
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
  for (int i = 0; i < kRows; ++i) a[i] = rows[i];
  const auto add = [&](int64_t at, const T* b) {
    if constexpr (kRows == 1) {  // bound by reading B
#pragma GCC unroll 8
      for (int j = 0; j < kPrefetched; j += kLine) __builtin_prefetch(b + ahead + offset(j / V::kWidth));
    }
    // What is fewer, elements of A or vectors of B, stays in registers: 3 x 4 leaves none for the other way round.
    if constexpr (kVecs > kRows || (kVecs == kRows && kTail != kNone)) {
      V x[kRows];
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) x[i] = V::set(a[i][at]);
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j) {
        const V row = whole(b + offset(j));
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) acc[i][j] = fma(x[i], row, acc[i][j]);
      }
      if constexpr (kTail != kNone) {
        const L row = some(b + offset(kVecs));
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) last[i][0] = fma(lower<L>(x[i]), row, last[i][0]);
      }
    } else {
      V row[kVecs > 0 ? kVecs : 1];
      [[maybe_unused]] L tail;
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j) row[j] = whole(b + offset(j));
      if constexpr (kTail != kNone) tail = some(b + offset(kVecs));
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        if constexpr (kVecs == 0) {
          last[i][0] = fma(L::set(a[i][at]), tail, last[i][0]);
          continue;
        }
        const V x = V::set(a[i][at]);
#pragma GCC unroll 8
        for (int j = 0; j < kVecs; ++j) acc[i][j] = fma(x, row[j], acc[i][j]);
        if constexpr (kTail != kNone) last[i][0] = fma(lower<L>(x), tail, last[i][0]);
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
#pragma GCC unroll 8
        for (int j = 0; j < kPrefetched; j += kLine) __builtin_prefetch(next + offset(j / V::kWidth), 0, 2);
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
  if (tile.finish) {
    if constexpr (kVecs > 0) finish_vecs<V, kRows, kVecs>(*tile.finish, to, col, whole, acc);
    if constexpr (kTail != kNone) finish_vecs<L, kRows, 1>(*tile.finish, to, col + kTailCol, some, last);
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    T* const c = to[i] + col;
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j) acc[i][j].store(c + j * V::kWidth);
    if constexpr (kTail != kNone) last[i][0].store(c + kTailCol, lanes);
  }
}

template <class V, int kRows, int kVecs, Tail kTail>
void multiply(const Tile<typename V::Scalar>& tile, int64_t col, int lanes) {
  const auto* a = tile.a;
  const auto* c = tile.c;
  for (int64_t left = tile.tiles; left > 0; --left, a += kRows, c += kRows)
    multiply_one<V, kRows, kVecs, kTail>(tile, a, c, col, lanes);
}

template <class V>
using Multiply = void (*)(const Tile<typename V::Scalar>&, int64_t, int);

template <class V>
using Variants = std::array<Multiply<V>, kTails>;

template <class V, int kRows, int kVecs, Tail kTail>
constexpr Multiply<V> variant() {
  constexpr int kAll = kVecs + (kTail == kNone ? 0 : 1);
  if constexpr (kAll == 0 || kAll > tile_vecs<V>(kRows) || (kTail == kHalf && std::is_same_v<Half<V>, V>))
    return nullptr;
  else
    return multiply<V, kRows, kVecs, kTail>;
}

template <class V>
using Table = std::array<std::array<Variants<V>, kMostVecs<V> + 1>, kTileRows>;

template <class V, size_t... kRow>
constexpr Table<V> make_table(std::index_sequence<kRow...>) {
  const auto row = []<int kRows, size_t... kVec>(std::integral_constant<int, kRows>, std::index_sequence<kVec...>) {
    return std::array<Variants<V>, kMostVecs<V> + 1>{Variants<V>{
        variant<V, kRows, kVec, kNone>(), variant<V, kRows, kVec, kMasked>(), variant<V, kRows, kVec, kHalf>()}...};
  };
  return {row(std::integral_constant<int, kRow + 1>{}, std::make_index_sequence<kMostVecs<V> + 1>{})...};
}

// [rows - 1][whole vectors][tail]
template <class V>
constexpr Table<V> kTable = make_table<V>(std::make_index_sequence<kTileRows>{});

template <class V>
inline void dispatch(const Tile<typename V::Scalar>& tile) {
  constexpr int kWidth = V::kWidth;
  constexpr bool kHalves = !std::is_same_v<Half<V>, V>;
  const int most = tile_vecs<V>(tile.rows), end = tile.first + tile.cols;
  for (int col = tile.first; col < end; col += most * kWidth) {
    const int left = end - col, whole = left / kWidth, vecs = whole < most ? whole : most;
    const int lanes = whole < most ? left % kWidth : 0;
    const Tail tail = lanes == 0 ? kNone : kHalves && lanes <= kWidth / 2 ? kHalf : kMasked;
    kTable<V>[tile.rows - 1][vecs][tail](tile, col, lanes);
  }
}

}  // namespace

void multiply_tile(const Tile<float>& tile) { dispatch<VecF32>(tile); }
void multiply_tile(const Tile<double>& tile) { dispatch<VecF64>(tile); }

}  // namespace quernel::QUERNEL_ISA
