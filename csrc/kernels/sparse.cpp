// CSR times dense. An entry of A is broadcast and multiplies a row of x, 64 columns at a time: the lanes are columns of
// the dense operand, and a row's sums stay in registers over all of its entries. Each output is one chain of FMAs over
// its row's entries, so neither the columns beside it nor the thread change its bits; it is the dense kernel's chain
// without the terms that are zero.
//
// Entries of a row come one after another, each waiting for the sum of the one before. Four rows therefore advance
// together, taken by length from a window of 16, so that few steps are left to the longer ones alone. A single column
// has scalar chains in the same scheme.
//
// Linear layers want y = x A^T with x (n, cols), whose rows become the lanes: `sparse_spread` turns x around first, and
// a window's sums are turned back on their way out.
#include "kernels/args/sparse.h"

#include "kernels/epilogue.h"
#include "kernels/integers.h"
#include "kernels/simd/vec.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int kWindow = static_cast<int>(kSparseRows);
constexpr int kChains = 4;

// A register of one lane.
template <class T>
struct One {
  using Scalar = T;
  static constexpr int kWidth = 1;
  T v;
  static One load(const T* p) { return {*p}; }
  static One load(const T* p, int) { return {*p}; }
  static One set(T x) { return {x}; }
  static One zero() { return {0}; }
  void store(T* p) const { *p = v; }
  void store(T* p, int) const { *p = v; }
  friend One fma(One a, One b, One c) {
#if defined(__FMA__)
    if constexpr (sizeof(T) == 4)
      return {__builtin_fmaf(a.v, b.v, c.v)};
    else
      return {__builtin_fma(a.v, b.v, c.v)};
#else
    return {a.v * b.v + c.v};
#endif
  }
};

// Vectors across the columns that a chain keeps in registers.
template <class V>
constexpr int kMostVecs = sizeof(V) == 64 ? 4 : 2;

template <class T>
struct Operands {
  const int32_t* index;
  const T* value;
  const int32_t* source;
  const T* x;
  int64_t ldx;
};

// Rows that advance together: entries [at, end) each, the longest first. Those that a window lacks have no entries.
template <class T>
struct Group {
  int64_t at[kChains], end[kChains];
  T* out[kChains];
};

// A group's sums for kVecs vectors of columns, of which the last has `lanes` lanes if kTail. Not inlined: among others'
// variables its own would not all find a register.
template <class V, int kVecs, bool kTail, bool kIndirect>
[[gnu::noinline]] void run_group(const Operands<typename V::Scalar>& o, const Group<typename V::Scalar>& group,
                                 [[maybe_unused]] int lanes) {
  using T = typename V::Scalar;
  const int32_t *index = o.index, *source = o.source;
  const T *value = o.value, *x = o.x;
  const int64_t ldx = o.ldx;
  V acc[kChains][kVecs];
  int64_t at[kChains];
#pragma GCC unroll 8
  for (int i = 0; i < kChains; ++i) {
    at[i] = group.at[i];
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j) acc[i][j] = V::zero();
  }
  const auto step = [&](int i) __attribute__((always_inline)) {
    const T* row = x + (V::kWidth == 1 ? index[at[i]] : index[at[i]] * ldx);
    const V w = V::set(kIndirect ? value[source[at[i]]] : value[at[i]]);
    ++at[i];
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j) {
      if constexpr (kTail)
        acc[i][j] =
            fma(w, j == kVecs - 1 ? V::load(row + j * V::kWidth, lanes) : V::load(row + j * V::kWidth), acc[i][j]);
      else
        acc[i][j] = fma(w, V::load(row + j * V::kWidth), acc[i][j]);
    }
  };
  for (const int64_t end = group.end[kChains - 1]; at[kChains - 1] < end;) {
#pragma GCC unroll 8
    for (int i = 0; i < kChains; ++i) step(i);
  }
#pragma GCC unroll 8
  for (int i = 0; i < kChains; ++i) {
    for (const int64_t end = group.end[i]; at[i] < end;) step(i);
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j) {
      if (kTail && j == kVecs - 1)
        acc[i][j].store(group.out[i] + j * V::kWidth, lanes);
      else
        acc[i][j].store(group.out[i] + j * V::kWidth);
    }
  }
}

// Rows [row, row + count) in groups, by length: row i's sums go to out + i · stride.
template <class T>
struct Window {
  Group<T> groups[kWindow / kChains];
  int count;                                           // of groups
  alignas(64) T nowhere[kSparseLanes * kWindow / 16];  // where missing rows' sums go

  Window(const SparseArgs& a, int64_t row, int rows, T* out, int64_t stride) : count((rows + kChains - 1) / kChains) {
    const int32_t* indptr = static_cast<const int32_t*>(a.indptr) + row;
    // Places by length, found without branches: nobody can predict them. Of equal lengths the first row comes first.
    int64_t key[kWindow], place[kWindow] = {};
    for (int i = 0; i < kWindow; ++i)
      key[i] = (i < rows ? int64_t{indptr[i + 1]} - indptr[i] + 1 : 0) * kWindow + kWindow - 1 - i;
    for (int j = 0; j < kWindow; ++j)
      for (int i = 0; i < kWindow; ++i) place[i] += key[j] > key[i];
    for (int i = 0; i < kWindow; ++i) {
      Group<T>& group = groups[place[i] / kChains];
      const int64_t at = place[i] % kChains;
      group.at[at] = i < rows ? indptr[i] : 0;
      group.end[at] = i < rows ? indptr[i + 1] : 0;
      group.out[at] = i < rows ? out + i * stride : nullptr;
    }
  }

  // Moves the outputs `by` columns on.
  void move(int64_t by) {
    for (int g = 0; g < count; ++g)
      for (T*& out : groups[g].out) out = out && out != nowhere ? out + by : nowhere;
  }
};

// A window's sums over `columns` columns.
template <class V, bool kIndirect>
void run_columns(Operands<typename V::Scalar> o, Window<typename V::Scalar>& window, int64_t columns) {
  constexpr int kMost = kMostVecs<V>, kWidth = V::kWidth;
  window.move(0);
  const auto run = [&](auto vecs, auto tail, int64_t taken) {
    for (int g = 0; g < window.count; ++g)
      run_group<V, decltype(vecs)::value, decltype(tail)::value, kIndirect>(o, window.groups[g],
                                                                            static_cast<int>(taken));
    window.move(taken);
    o.x += taken;
    columns -= taken;
  };
  constexpr std::integral_constant<bool, false> whole;
  if constexpr (kWidth > 1) {
    while (columns >= kMost * kWidth) run(std::integral_constant<int, kMost>{}, whole, kMost * kWidth);
    if constexpr (kMost > 2) {
      if (columns >= 2 * kWidth) run(std::integral_constant<int, 2>{}, whole, 2 * kWidth);
    }
    if (columns % kWidth) {
      if (columns > kWidth) run(std::integral_constant<int, 1>{}, whole, kWidth);
      return run(std::integral_constant<int, 1>{}, std::integral_constant<bool, true>{}, columns);
    }
  }
  if (columns > 0) run(std::integral_constant<int, 1>{}, whole, kWidth);
}

template <class V>
void run_window(const SparseArgs& a, int64_t row, int count, const typename V::Scalar* x, int64_t columns,
                typename V::Scalar* out, int64_t stride) {
  using T = typename V::Scalar;
  const Operands<T> o{static_cast<const int32_t*>(a.indices), static_cast<const T*>(a.values),
                      static_cast<const int32_t*>(a.source), x, a.ldx};
  Window<T> window(a, row, count, out, stride);
  if (a.source)
    run_columns<V, true>(o, window, columns);
  else
    run_columns<V, false>(o, window, columns);
}

// Sums tile[output][column] of `outputs` x `columns` to rows of y (n, rows), from column `first` of the n on.
template <class V>
void turn_back(const SparseArgs& a, typename V::Scalar* tile, int64_t row, int outputs, int64_t first,
               int64_t columns) {
  using T = typename V::Scalar;
  constexpr int kWidth = V::kWidth;
  T* y = static_cast<T*>(a.y);
  for (int64_t c = 0; c < columns; c += kWidth) {
    const int here = static_cast<int>(least(kWidth, columns - c));
    T* out[kWidth];
    for (int i = 0; i < here; ++i) out[i] = y + (first + c + i) * a.rows + row;
    for (int o = 0; o < outputs; o += kWidth) {
      V square[kWidth];
      for (int i = 0; i < kWidth; ++i) square[i] = V::load(tile + (o + i) * kSparseLanes + c);
      transpose(square);
      const int lanes = outputs - o < kWidth ? outputs - o : kWidth;
      for (int i = 0; i < here; ++i) put(square[i], out[i] + o, lanes);
    }
    finish(Finish<T>{&a, y, out, here, outputs, row});
  }
}

template <class T>
void one_column(const SparseArgs& a, int64_t row, int count) {
  T* y = static_cast<T*>(a.y);
  run_window<One<T>>(a, row, count, static_cast<const T*>(a.x), 1, y + row, 1);
  T* out[kWindow];
  for (int i = 0; i < count; ++i) out[i] = y + row + i;
  if (a.transposed)
    finish(Finish<T>{&a, y, out, 1, count, row});
  else
    finish(Finish<T>{&a, y, out, count, 1, 0});
}

template <class T>
void multiply_window(const SparseArgs& a, int64_t panel, int64_t row) {
  using V = Vec<T>;
  const int count = static_cast<int>(least(kWindow, a.rows - row));
  if (a.n == 1) return one_column<T>(a, row, count);
  const int64_t first = panel * a.lanes, columns = least(a.lanes, a.n - first);
  const T* x = static_cast<const T*>(a.x) + panel * a.panel_stride;
  if (a.transposed) {
    alignas(64) T tile[kWindow * kSparseLanes];
    for (int i = count; i < kWindow; ++i) __builtin_memset(tile + i * kSparseLanes, 0, kSparseLanes * sizeof(T));
    // x is padded to whole vectors.
    run_window<V>(a, row, count, x, ceil_div(columns, V::kWidth) * V::kWidth, tile, kSparseLanes);
    turn_back<V>(a, tile, row, count, first, columns);
  } else {
    T* y = static_cast<T*>(a.y);
    run_window<V>(a, row, count, x, columns, y + row * a.n + first, a.n);
    T* out[kWindow];
    for (int i = 0; i < count; ++i) out[i] = y + (row + i) * a.n + first;
    finish(Finish<T>{&a, y, out, count, static_cast<int>(columns), first});
  }
}

// Rows [k, end) of x's columns [first, first + lanes).
template <class V>
void spread_rows(const SpreadArgs& a, const typename V::Scalar* x, typename V::Scalar* y, int64_t columns, int64_t k,
                 int64_t end) {
  constexpr int kWidth = V::kWidth;
  for (; k < end; k += kWidth) {
    const int rows = static_cast<int>(least(kWidth, end - k));
    for (int64_t c = 0; c < a.lanes; c += kWidth) {
      V square[kWidth];
      for (int i = 0; i < kWidth; ++i) square[i] = c + i < columns ? get<V>(x + (c + i) * a.k + k, rows) : V::zero();
      transpose(square);
      for (int i = 0; i < rows; ++i) square[i].store(y + (k + i) * a.lanes + c);
    }
  }
}

}  // namespace

Status sparse_rows(const SparseArgs& a, Range range, const Ctx&) {
  const int64_t windows = ceil_div(a.rows, kSparseRows);
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t item = range.begin; item < range.end; ++item)
      multiply_window<T>(a, item / windows, item % windows * kSparseRows);
  });
  return {};
}

Status sparse_spread(const SpreadArgs& a, Range range, const Ctx&) {
  const int64_t blocks = ceil_div(a.k, kSpreadRows);
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t item = range.begin; item < range.end; ++item) {
      const int64_t panel = item / blocks, k = item % blocks * kSpreadRows, first = panel * a.lanes;
      spread_rows<Vec<T>>(a, static_cast<const T*>(a.x) + first * a.k, static_cast<T*>(a.y) + first * a.k, a.m - first,
                          k, least(a.k, k + kSpreadRows));
    }
  });
  return {};
}

Status check_sparse(const CheckSparseArgs& a, Range range, const Ctx&) {
  const auto* indptr = static_cast<const int32_t*>(a.indptr);
  const auto* indices = static_cast<const int32_t*>(a.indices);
  const int64_t end = least(a.rows, range.end * kCheckRows);
  for (int64_t row = range.begin * kCheckRows; row < end; ++row) {
    const int64_t from = indptr[row], to = indptr[row + 1];
    if (from < 0 || to < from || to > a.size || (row == 0 && from != 0) || (row == a.rows - 1 && to != a.size))
      return {StatusCode::kSparsePointers, row, to, a.size};
    int64_t before = -1;
    for (int64_t i = from; i < to; ++i) {
      if (indices[i] < 0 || indices[i] >= a.cols) return {StatusCode::kSparseIndex, row, indices[i], a.cols};
      if (indices[i] <= before) return {StatusCode::kSparseOrder, row, indices[i], a.cols};
      before = indices[i];
    }
  }
  return {};
}

}  // namespace quernel::QUERNEL_ISA
