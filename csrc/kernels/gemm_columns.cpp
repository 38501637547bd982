// Products of few rows of A with a B that is stored by columns, as a linear layer's weight is, and used once, as while
// it is trained. A square of B, as many columns as a register has lanes, is read, turned in registers and multiplied
// there: turning is the shuffles' work, multiplying the FMA's, and they overlap. To pack the panel instead takes 1.2 to
// 1.6 times as long; to turn squares twice for twice the rows was slower where rows of B lie a power of two apart.
// (Roles exchanged, Cᵗ = Bᵗ Aᵗ, need no turning, but one load an FMA: as slow as packing.)
//
// K is cut into blocks. Rows of A are copied to scratch at a pitch that is no power of two: a square's rows and theirs
// would share the sets of L1 (twice as slow at K = 2048). Between blocks the sums rest in C, one chain over k each, as
// in gemm.cpp.
#include "kernels/gemm_columns.h"

#include <utility>

#include "kernels/epilogue.h"
#include "kernels/integers.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int64_t kBlockBytes = 1024;  // of a row of A

template <class T>
constexpr int64_t kBlock = kBlockBytes / static_cast<int64_t>(sizeof(T));
template <class T>
constexpr int64_t kPitch = kBlock<T> + kPackWidth<T>;

// A block of K of some columns, at most the lanes of a register.
template <class T>
struct Columns {
  const T* b;
  int64_t b_col, depth;
  int count;
};

// acc[i] += a[i] v, for the first `depth` of v.
template <class V, int kRows, int kDepth, class T = typename V::Scalar>
[[gnu::always_inline]] inline void add_products(const T* a, const V (&v)[kDepth], int64_t depth, V (&acc)[kRows]) {
#pragma GCC unroll 8
  for (int k = 0; k < depth; ++k) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) acc[i] = fma(V::set(a[i * kPitch<T> + k]), v[k], acc[i]);
  }
}

// c[i] (+)= a[i] B for kRows rows. Half a square at a time leaves registers for their sums.
template <class V, int kRows, class T = typename V::Scalar>
void add_columns(const Columns<T>& columns, const T* a, bool begins, T* c, int64_t ldc) {
  constexpr int kHalf = V::kWidth / 2;
  const int count = columns.count;
  V acc[kRows];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) acc[i] = begins ? V::zero() : get<V>(c + i * ldc, count);
  const T* b = columns.b;
  int64_t left = columns.depth;
  if (count == V::kWidth) {
    for (; left >= kHalf; left -= kHalf, a += kHalf, b += kHalf) {
      V half[kHalf];
      load_transposed(b, columns.b_col, half);
      add_products<V, kRows>(a, half, kHalf, acc);
    }
  }
  for (int64_t depth; left > 0; left -= depth, a += depth, b += depth) {
    depth = least(V::kWidth, left);
    V square[V::kWidth];
    for (int j = 0; j < V::kWidth; ++j)
      square[j] = j < count ? get<V>(b + j * columns.b_col, static_cast<int>(depth)) : V::zero();
    transpose(square);
    add_products<V, kRows>(a, square, depth, acc);
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) put(acc[i], c + i * ldc, count);
}

template <class V, int... kRows, class T = typename V::Scalar>
void add_columns(const Columns<T>& columns, int rows, const T* a, bool begins, T* c, int64_t ldc,
                 std::integer_sequence<int, kRows...>) {
  ((rows == kRows + 1 ? add_columns<V, kRows + 1>(columns, a, begins, c, ldc) : void()), ...);
}

template <class T>
void copy_rows(const GemmArgs& g, const T* a, int64_t depth, T* to) {
  for (int64_t i = 0; i < g.m; ++i, a += g.a_row, to += kPitch<T>) {
    if (g.a_col == 1) {
      __builtin_memcpy(to, a, static_cast<size_t>(depth) * sizeof(T));
    } else {
      for (int64_t k = 0; k < depth; ++k) to[k] = a[k * g.a_col];
    }
  }
}

template <class T>
void run(const GemmArgs& g, const ColumnsPart<T>& part, T* rows) {
  using V = Vec<T>;
  const int64_t depth = ceil_div(g.k, ceil_div(g.k, kBlock<T>));
  for (int64_t k = 0; k < g.k; k += depth) {
    const int64_t block = least(depth, g.k - k);
    copy_rows(g, part.a + k * g.a_col, block, rows);
    for (int64_t j = part.first; j < part.last; j += V::kWidth) {
      const Columns<T> columns{part.b + j * g.b_col + k, g.b_col, block,
                               static_cast<int>(least(V::kWidth, part.last - j))};
      add_columns<V>(columns, static_cast<int>(g.m), rows, k == 0, part.c + j, g.n,
                     std::make_integer_sequence<int, kColumnsRows>());
    }
  }
  if (is_trivial(g)) return;
  T* out[kColumnsRows];
  for (int64_t i = 0; i < g.m; ++i) out[i] = part.c + i * g.n + part.first;
  finish(Finish<T>{&g, static_cast<T*>(g.c), out, static_cast<int>(g.m), static_cast<int>(part.last - part.first),
                   part.first});
}

}  // namespace

int64_t columns_scratch(const GemmArgs& g, float) { return g.m * kPitch<float> * 4; }
int64_t columns_scratch(const GemmArgs& g, double) { return g.m * kPitch<double> * 8; }

void multiply_columns(const GemmArgs& g, const ColumnsPart<float>& part, void* scratch) {
  run(g, part, static_cast<float*>(scratch));
}

void multiply_columns(const GemmArgs& g, const ColumnsPart<double>& part, void* scratch) {
  run(g, part, static_cast<double*>(scratch));
}

}  // namespace quernel::QUERNEL_ISA
