// Products of up to four columns. A register tile would fill that many of its lanes; here the lanes hold partial sums
// of one output: product k goes to lane k mod P of P = 1 or 2 registers, and at the end of a block of K (4 KB of a row
// of A) the lanes are added as a balanced tree and the block's sum to the output. Columns of B are copied next to each
// other first, unless they lie so.
//
// Rows of A that are contiguous are read a register at a time, a few rows at once for each register of B. (To fetch the
// next rows meanwhile helped four columns, but cost single ones up to a tenth.) Of an A that is stored by columns the
// same partial sums are made for many rows side by side, in L1: a row of partial sums += an element of B times a column
// of A, for a few columns that lie P apart, so that sums come and go less often. (One lane's products after the
// other's, of longer columns, were up to a third slower at depths to 256, a tenth to a quarter faster at 1024. Half the
// rows at once were a sixth to a third slower where A leaves L2 by far.) Every way adds in the same order.
#include "kernels/gemm_narrow.h"

#include "kernels/epilogue.h"
#include "kernels/integers.h"
#include "kernels/scratch.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int64_t kBlockBytes = 4096;   // of a row of A
constexpr int64_t kColumnBytes = 2048;  // of a column of A, for one of B: rows whose partial sums are in L1
constexpr int64_t kFlat = 240;          // outputs that are finished at once, whole rows of up to four

template <class T>
constexpr int64_t kBlock = kBlockBytes / static_cast<int64_t>(sizeof(T));
template <class T>
constexpr int64_t kCopyStep = kBlock<T> + kPackWidth<T>;  // of columns of B in scratch: not all in one set of L1
template <class T, int kCols>
constexpr int64_t kHeight = kColumnBytes / (kCols > 2 ? 4 : kCols) / static_cast<int64_t>(sizeof(T));

// Registers of partial sums for an output: a single column needs two to keep the FMA busy.
template <int kCols>
constexpr int kVecs = kCols == 1 ? 2 : 1;
template <class V, int kCols>
constexpr int kPhases = kVecs<kCols> * V::kWidth;
// Rows that share the registers of B.
template <int kCols>
constexpr int kRowsAtOnce = kCols == 4 ? 2 : 4;

// A block of K. Column j of B starts at b + j * b_step.
template <class T>
struct Block {
  const T* a;
  const T* b;
  int64_t depth, b_step;
  bool begins;
};

inline bool by_columns(const GemmArgs& g) { return g.a_col != 1; }

// Sums of the lanes of each of v, as reduce_add() has them.
template <class V>
inline V reduce_each(V (&v)[V::kWidth]) {
#pragma GCC unroll 4
  for (int half = V::kWidth / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) v[i] = zip_lo(v[i], v[i + half]) + zip_hi(v[i], v[i + half]);
  }
  return v[0];
}

// The sum of v, lane by lane, in the order in which reduce_add() adds lanes.
template <class V, int kCount>
inline V add_tree(V (&v)[kCount]) {
#pragma GCC unroll 5
  for (int half = kCount / 2; half > 0; half /= 2) {
#pragma GCC unroll 16
    for (int p = 0; p < half; ++p) v[p] = v[p] + v[p + half];
  }
  return v[0];
}

// One register of the sums of kRows rows; the same lanes of A and B.
template <class V, int kRows, int kCols, class Load>
inline void step(const Load& load, const typename V::Scalar* a, int64_t a_row, const typename V::Scalar* b,
                 int64_t b_step, V (&acc)[kRows][kCols]) {
  V y[kCols];
#pragma GCC unroll 4
  for (int j = 0; j < kCols; ++j) y[j] = load(b + j * b_step);
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
    const V x = load(a + i * a_row);
#pragma GCC unroll 4
    for (int j = 0; j < kCols; ++j) acc[i][j] = fma(x, y[j], acc[i][j]);
  }
}

// sums[i * kCols + j] for kRows rows from `a` on.
template <class V, int kRows, int kCols, class T = typename V::Scalar>
inline void add_products(const Block<T>& block, const T* a, int64_t a_row, V* sums) {
  constexpr int kUse = kVecs<kCols>;
  V acc[kUse][kRows][kCols];
#pragma GCC unroll 2
  for (int v = 0; v < kUse; ++v) {
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kCols; ++j) acc[v][i][j] = V::zero();
    }
  }
  const T* b = block.b;
  int64_t left = block.depth;
  const auto whole = [](const T* p) { return V::load(p); };
  for (; left >= kUse * V::kWidth; left -= kUse * V::kWidth) {
#pragma GCC unroll 2
    for (int v = 0; v < kUse; ++v, a += V::kWidth, b += V::kWidth) step<V>(whole, a, a_row, b, block.b_step, acc[v]);
  }
  if (left > 0) {
    // A register beyond the end adds zeros too: a lane does not keep a -0 that another way of going on would lose.
#pragma GCC unroll 2
    for (int v = 0; v < kUse; ++v) {
      const int lanes = static_cast<int>(most(0, least(left - v * V::kWidth, V::kWidth)));
      const auto some = [lanes](const T* p) { return lanes > 0 ? get<V>(p, lanes) : V::zero(); };
      step<V>(some, a + v * V::kWidth, a_row, b + v * V::kWidth, block.b_step, acc[v]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kCols; ++j) sums[i * kCols + j] = kUse == 1 ? acc[0][i][j] : acc[0][i][j] + acc[kUse - 1][i][j];
  }
}

// Adds what a block brings to outputs, or begins them.
template <class V>
inline void put_sums(V sums, typename V::Scalar* c, int lanes, bool begins) {
  put(begins ? sums : get<V>(c, lanes) + sums, c, lanes);
}

template <class V, int kCols, class T = typename V::Scalar>
void multiply_rows(const GemmArgs& g, const NarrowRows<T>& part, const Block<T>& block) {
  constexpr int kRows = kRowsAtOnce<kCols>, kOut = kRows * kCols;
  constexpr int kCalls = kOut < V::kWidth ? V::kWidth / kOut : 1, kGroups = (kOut * kCalls + V::kWidth - 1) / V::kWidth;
  int64_t i = 0;
  for (; i + kCalls * kRows <= part.rows; i += kCalls * kRows) {
    V sums[kGroups][V::kWidth];
    V* const flat = sums[0];
#pragma GCC unroll 4
    for (int call = 0; call < kCalls; ++call)
      add_products<V, kRows, kCols>(block, block.a + (i + call * kRows) * g.a_row, g.a_row, flat + call * kOut);
#pragma GCC unroll 16
    for (int o = kOut * kCalls; o < kGroups * V::kWidth; ++o) flat[o] = V::zero();
#pragma GCC unroll 4
    for (int group = 0; group < kGroups; ++group) {
      const int lanes = kOut * kCalls - group * V::kWidth < V::kWidth ? kOut * kCalls - group * V::kWidth : V::kWidth;
      put_sums(reduce_each(sums[group]), part.c + i * kCols + group * V::kWidth, lanes, block.begins);
    }
  }
  for (; i < part.rows; ++i) {
    V sums[kCols];
    add_products<V, 1, kCols>(block, block.a + i * g.a_row, g.a_row, sums);
    for (int j = 0; j < kCols; ++j) {
      T& c = part.c[i * kCols + j];
      const T sum = reduce_add(sums[j]);
      c = block.begins ? sum : c + sum;
    }
  }
}

// A single row does not pay for copying rows of B: lanes are columns, and each partial sum has a register.
template <class V, int kCols, class T = typename V::Scalar>
void multiply_one(const GemmArgs& g, T* c, const Block<T>& block) {
  constexpr int kCount = kPhases<V, kCols>;
  const T *a = block.a, *b = block.b;
  const int64_t a_step = g.a_col, b_step = g.b_row;
  V acc[kCount];
#pragma GCC unroll 16
  for (int p = 0; p < kCount; ++p) acc[p] = V::zero();
  int64_t left = block.depth;
  for (; left >= kCount; left -= kCount) {
#pragma GCC unroll 16
    for (int p = 0; p < kCount; ++p, a += a_step, b += b_step) acc[p] = fma(V::set(*a), V::load(b, kCols), acc[p]);
  }
  for (int p = 0; left != 0 && p < kCount; ++p, a += a_step, b += b_step)
    acc[p] = p < left ? fma(V::set(*a), V::load(b, kCols), acc[p]) : acc[p] + V::zero();
  put_sums(add_tree(acc), c, kCols, block.begins);
}

// partial[j][row] += kDepth elements of column j of B, P apart, times as many columns of A; the first ones begin it.
template <class V, int kCols, int kDepth, class T = typename V::Scalar>
inline void add_columns(const GemmArgs& g, const Block<T>& block, int64_t k, const T* a, int64_t rows, T* partial) {
  constexpr int kStep = kPhases<V, kCols>, kLine = static_cast<int>(kPackWidth<T>);
  const bool begins = k < kStep;
  V y[kCols][kDepth];
  const T* x[kDepth];
#pragma GCC unroll 4
  for (int d = 0; d < kDepth; ++d) {
    x[d] = a + (k + d * kStep) * g.a_col;
#pragma GCC unroll 4
    for (int j = 0; j < kCols; ++j) y[j][d] = V::set(block.b[j * block.b_step + k + d * kStep]);
  }
  const auto add = [&](int64_t i, auto load) {
#pragma GCC unroll 4
    for (int j = 0; j < kCols; ++j) {
      T* const at = partial + j * kHeight<T, kCols> + i;
      V sum = begins ? V::zero() : V::load(at);
#pragma GCC unroll 4
      for (int d = 0; d < kDepth; ++d) sum = fma(load(x[d] + i), y[j][d], sum);
      sum.store(at);
    }
  };
  int64_t i = 0;
  for (; i + kLine <= rows; i += kLine) {
    // The next columns begin other pages.
#pragma GCC unroll 4
    for (int d = 0; d < kDepth; ++d) __builtin_prefetch(x[d] + g.a_col + i);
#pragma GCC unroll 4
    for (int v = 0; v < kLine; v += V::kWidth) add(i + v, [](const T* p) { return V::load(p); });
  }
  for (; i < rows; i += V::kWidth) {
    const int lanes = static_cast<int>(least(V::kWidth, rows - i));
    add(i, [lanes](const T* p) { return get<V>(p, lanes); });
  }
}

// Adds the partial sums of up to kHeight rows as reduce_add() does those of a row.
template <class V, int kCols, class T = typename V::Scalar>
inline void add_partial(const T* partial, int64_t rows, T* c, bool begins) {
  constexpr int kCount = kPhases<V, kCols>;
  for_lanes<V>(rows, [&](int64_t i, int lanes) {
#pragma GCC unroll 4
    for (int j = 0; j < kCols; ++j) {
      V sums[kCount];
      for (int p = 0; p < kCount; ++p) sums[p] = V::load(partial + (p * kCols + j) * kHeight<T, kCols> + i);
      add_tree(sums);
      if constexpr (kCols == 1) {
        put_sums(sums[0], c + i, lanes, begins);
      } else {
        T out[V::kWidth];
        sums[0].store(out);
        for (int r = 0; r < lanes; ++r) {
          T& at = c[(i + r) * kCols + j];
          at = begins ? out[r] : at + out[r];
        }
      }
    }
  });
}

template <class V, int kCols, class T = typename V::Scalar>
void multiply_columns(const GemmArgs& g, const NarrowRows<T>& part, const Block<T>& block, T* partial) {
  constexpr int kCount = kPhases<V, kCols>, kDepth = kCols <= 2 ? 4 : 2;
  for (int64_t first = 0; first < part.rows; first += kHeight<T, kCols>) {
    const int64_t rows = least(kHeight<T, kCols>, part.rows - first);
    const T* a = block.a + first;
    int64_t k = 0;
    for (; k + kDepth * kCount <= block.depth; k += kDepth * kCount)
      for (int p = 0; p < kCount; ++p)
        add_columns<V, kCols, kDepth>(g, block, k + p, a, rows, partial + p * kCols * kHeight<T, kCols>);
    for (; k < block.depth; k += kCount)
      for (int p = 0; p < kCount; ++p) {
        T* const sums = partial + p * kCols * kHeight<T, kCols>;
        if (k + p < block.depth) {
          add_columns<V, kCols, 1>(g, block, k + p, a, rows, sums);
        } else {  // zero is added where multiply_rows() does
          for (int64_t i = 0; i < kCols * kHeight<T, kCols>; i += V::kWidth)
            (k == 0 ? V::zero() : V::load(sums + i) + V::zero()).store(sums + i);
        }
      }
    add_partial<V, kCols>(partial, rows, part.c + first * kCols, block.begins);
  }
}

// Columns of B next to each other and, for an A by columns, partial sums: [phase][column][kHeight].
template <class T>
struct Scratch {
  T* b = nullptr;
  T* partial = nullptr;
  int64_t used = 0;

  Scratch(const GemmArgs& g, void* at) {
    Carver carver(at);
    if (g.b_row != 1) carver.take(b, g.n * kCopyStep<T>);
    if (by_columns(g)) carver.take(partial, 2 * Vec<T>::kWidth * kHeight<T, 1>);  // no more with more columns
    used = carver.used();
  }
};

// Rows of outputs lie next to each other: they are finished as one row, with the bias again and again.
template <class T>
void finish_rows(const GemmArgs& g, const NarrowRows<T>& part) {
  if (is_trivial(g)) return;
  const int64_t height = kFlat / g.n, size = least(height, part.rows) * g.n;
  Epilogue flat = g;
  T bias[kFlat];
  if (g.bias) {
    for (int64_t i = 0; i < size; ++i) bias[i] = static_cast<const T*>(g.bias)[i % g.n];
    flat.bias = bias;
  }
  for (int64_t i = 0; i < part.rows; i += height) {
    T* const row = part.c + i * g.n;
    const int cols = static_cast<int>(least(height, part.rows - i) * g.n);
    finish(Finish<T>{&flat, static_cast<T*>(g.c), &row, 1, cols, 0});
  }
}

// Columns of a block of B, one after the other; where it lies in plain rows the compiler sees the stride.
template <int kCols, class T>
inline void copy_columns(const T* __restrict b, int64_t depth, int64_t row, int64_t col, T* __restrict to) {
  if (row == kCols && col == 1) {
    for (int64_t k = 0; k < depth; ++k)
      for (int j = 0; j < kCols; ++j) to[j * kCopyStep<T> + k] = b[k * kCols + j];
  } else {
    for (int64_t k = 0; k < depth; ++k)
      for (int j = 0; j < kCols; ++j) to[j * kCopyStep<T> + k] = b[k * row + j * col];
  }
}

template <int kCols, class T>
void multiply(const GemmArgs& g, const NarrowRows<T>& part, const Scratch<T>& scratch) {
  using V = Vec<T>;
  for (int64_t k = 0; k < g.k; k += kBlock<T>) {
    const int64_t depth = least(kBlock<T>, g.k - k);
    Block<T> block{part.a + k * g.a_col, part.b + k * g.b_row, depth, g.b_col, k == 0};
    if constexpr (kCols > 1 && kCols <= V::kWidth) {
      if (part.rows == 1 && g.b_row != 1 && g.b_col == 1) {
        multiply_one<V, kCols>(g, part.c, block);
        continue;
      }
    }
    if (g.b_row != 1) {
      copy_columns<kCols>(block.b, depth, g.b_row, g.b_col, scratch.b);
      block.b = scratch.b;
      block.b_step = kCopyStep<T>;
    }
    if (by_columns(g))
      multiply_columns<V, kCols>(g, part, block, scratch.partial);
    else
      multiply_rows<V, kCols>(g, part, block);
  }
  finish_rows(g, part);
}

template <class T>
inline void dispatch(const GemmArgs& g, const NarrowRows<T>& part, void* memory) {
  const Scratch<T> scratch(g, memory);
  switch (g.n) {
    case 1:
      return multiply<1>(g, part, scratch);
    case 2:
      return multiply<2>(g, part, scratch);
    case 3:
      return multiply<3>(g, part, scratch);
    default:
      return multiply<4>(g, part, scratch);
  }
}

}  // namespace

void multiply_narrow(const GemmArgs& g, const NarrowRows<float>& part, void* scratch) { dispatch(g, part, scratch); }
void multiply_narrow(const GemmArgs& g, const NarrowRows<double>& part, void* scratch) { dispatch(g, part, scratch); }

int64_t narrow_scratch(const GemmArgs& g, float) { return Scratch<float>(g, nullptr).used; }
int64_t narrow_scratch(const GemmArgs& g, double) { return Scratch<double>(g, nullptr).used; }

}  // namespace quernel::QUERNEL_ISA
