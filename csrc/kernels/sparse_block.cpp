// Blocked sparse times dense: the dense micro-kernel with a list of the k that are there. A panel of 16 outputs walks
// its list; each step loads 16 weights and multiplies them with one element from each of several rows of x. Every
// output is one chain of FMAs over its list, whatever the tile: the dense kernel's chain with terms left out.
//
// AVX-512 takes eight rows at a time, AVX2 six, so that a step's weights and index serve as many FMAs. One row alone
// would be a single chain per panel: then four panels advance together, in steps until the shortest list ends, and so
// on with the rest. A strip of 24 rows of x stays near while all panels pass: x is the operand that is read at random.
#include "kernels/args/sparse.h"
#include "kernels/epilogue.h"
#include "kernels/integers.h"
#include "kernels/simd/vec.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int kLanes = static_cast<int>(kSparseRows);

// Vectors of a panel's width, and how many rows of x or panels fit into the registers beside them.
template <class V>
constexpr int kVecs = kLanes / V::kWidth;
template <class V>
constexpr int kTileRows = sizeof(V) == 64   ? 8
                          : sizeof(V) == 32 ? (kVecs<V> <= 2 ? 6 : 2)
                                            : (kVecs<V> <= 4 ? 2 : 1);
template <class V>
constexpr int kTogether = sizeof(V) == 64 || kVecs<V> <= 2 ? 4
                          : kVecs<V> <= 4                  ? 2
                                                           : 1;

// A panel's list: step t is column index[t / depth] · depth + t % depth.
template <class T>
struct Steps {
  const int32_t* index;
  const T* weight;
  int64_t count;
};

template <int kDepth>
inline int64_t column_of(const int32_t* index, int64_t t) {
  return kDepth == 1 ? index[t] : static_cast<int64_t>(index[t / kDepth]) * kDepth + t % kDepth;
}

template <class T, class Args>
Steps<T> steps_of(const Args& a, const void* values, int64_t panel) {
  const int32_t* indptr = static_cast<const int32_t*>(a.indptr);
  const int32_t* indices = static_cast<const int32_t*>(a.indices);
  const int64_t begin = indptr[panel], end = indptr[panel + 1];
  int64_t count = (end - begin) * a.depth;
  // Columns come in order: only the last group may reach past the end.
  const int64_t over = end > begin ? (indices[end - 1] + int64_t{1}) * a.depth - a.cols : 0;
  if (over > 0) count -= over;
  return {indices + begin, static_cast<const T*>(values) + begin * a.depth * kLanes, count};
}

template <class V>
inline void store_lanes(const V* v, typename V::Scalar* y, int columns) {
  for (int j = 0; j < kVecs<V>; ++j) {
    const int lanes = columns - j * V::kWidth;
    if (lanes > 0) put(v[j], y + j * V::kWidth, lanes < V::kWidth ? lanes : V::kWidth);
  }
}

// kRows rows of x times one panel.
template <class V, int kRows, int kDepth>
void multiply_rows(const typename V::Scalar* x, int64_t ldx, Steps<typename V::Scalar> steps,
                   typename V::Scalar* const* y, int columns) {
  using T = typename V::Scalar;
  V acc[kRows][kVecs<V>];
  const T* row[kRows];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    row[i] = x + i * ldx;
#pragma GCC unroll 8
    for (int j = 0; j < kVecs<V>; ++j) acc[i][j] = V::zero();
  }
  const T* weight = steps.weight;
  for (int64_t t = 0; t < steps.count; ++t, weight += kLanes) {
    const int64_t k = column_of<kDepth>(steps.index, t);
    V w[kVecs<V>];
#pragma GCC unroll 8
    for (int j = 0; j < kVecs<V>; ++j) w[j] = V::load(weight + j * V::kWidth);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const V v = V::set(row[i][k]);
#pragma GCC unroll 8
      for (int j = 0; j < kVecs<V>; ++j) acc[i][j] = fma(v, w[j], acc[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) store_lanes(acc[i], y[i], columns);
}

template <class V, int kRows, int kDepth>
void multiply_tile(int rows, const typename V::Scalar* x, int64_t ldx, Steps<typename V::Scalar> steps,
                   typename V::Scalar* const* y, int columns) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return multiply_tile<V, kRows - 1, kDepth>(rows, x, ldx, steps, y, columns);
  }
  multiply_rows<V, kRows, kDepth>(x, ldx, steps, y, columns);
}

// Steps [from, to) of kPanels panels for one row of x; sums stand in sum[panel].
template <class V, int kPanels, int kDepth>
void advance(const typename V::Scalar* x, const Steps<typename V::Scalar>* steps, int64_t from, int64_t to,
             typename V::Scalar (*const* sum)[kLanes]) {
  using T = typename V::Scalar;
  V acc[kPanels][kVecs<V>];
  const int32_t* index[kPanels];
  const T* weight[kPanels];
#pragma GCC unroll 8
  for (int i = 0; i < kPanels; ++i) {
    index[i] = steps[i].index;
    weight[i] = steps[i].weight;
#pragma GCC unroll 8
    for (int j = 0; j < kVecs<V>; ++j) acc[i][j] = V::load(*sum[i] + j * V::kWidth);
  }
  for (int64_t t = from; t < to; ++t) {
#pragma GCC unroll 8
    for (int i = 0; i < kPanels; ++i) {
      const V v = V::set(x[column_of<kDepth>(index[i], t)]);
#pragma GCC unroll 8
      for (int j = 0; j < kVecs<V>; ++j) acc[i][j] = fma(v, V::load(weight[i] + t * kLanes + j * V::kWidth), acc[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kPanels; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kVecs<V>; ++j) acc[i][j].store(*sum[i] + j * V::kWidth);
  }
}

// One row of x times up to kTogether panels.
template <class V, int kDepth>
void multiply_row(const SparsePanelArgs& a, const typename V::Scalar* x, int64_t panel, int count,
                  typename V::Scalar* y) {
  using T = typename V::Scalar;
  alignas(64) T sums[kTogether<V>][kLanes] = {};
  Steps<T> steps[kTogether<V>];  // the longest first
  T(*sum[kTogether<V>])[kLanes];
  for (int i = 0; i < count; ++i) {
    const Steps<T> mine = steps_of<T>(a, a.values, panel + i);
    int at = i;
    for (; at > 0 && steps[at - 1].count < mine.count; --at) {
      steps[at] = steps[at - 1];
      sum[at] = sum[at - 1];
    }
    steps[at] = mine;
    sum[at] = &sums[i];
  }
  int64_t done = 0;
  for (int left = count; left > 0; --left) {
    const int64_t to = steps[left - 1].count;
    if (to == done) continue;
    if constexpr (kTogether<V> > 2) {
      if (left == 4) advance<V, 4, kDepth>(x, steps, done, to, sum);
      if (left == 3) advance<V, 3, kDepth>(x, steps, done, to, sum);
    }
    if constexpr (kTogether<V> > 1) {
      if (left == 2) advance<V, 2, kDepth>(x, steps, done, to, sum);
    }
    if (left == 1) advance<V, 1, kDepth>(x, steps, done, to, sum);
    done = to;
  }
  const int64_t first = panel * kSparseRows;
  const int columns = static_cast<int>(least(count * kSparseRows, a.rows - first));
  __builtin_memcpy(y + first, sums, static_cast<size_t>(columns) * sizeof(T));
  T* const out = y + first;
  finish(Finish<T>{&a, static_cast<T*>(a.y), &out, 1, columns, first});
}

template <class V, int kDepth>
void multiply_item(const SparsePanelArgs& a, int64_t strip, int64_t group) {
  using T = typename V::Scalar;
  constexpr int kRows = kTileRows<V>;
  const int64_t panels = ceil_div(a.rows, kSparseRows), end = least(panels, (group + 1) * kPanelGroup);
  const int64_t row = strip * kStripRows, rows = least(kStripRows, a.n - row), tiles = ceil_div(rows, kRows);
  const T* x = static_cast<const T*>(a.x) + row * a.cols;
  T* y = static_cast<T*>(a.y) + row * a.rows;
  if (rows == 1) {
    for (int64_t panel = group * kPanelGroup; panel < end; panel += kTogether<V>)
      multiply_row<V, kDepth>(a, x, panel, static_cast<int>(least(kTogether<V>, end - panel)), y);
    return;
  }
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t from = rows * tile / tiles;
    const int here = static_cast<int>(rows * (tile + 1) / tiles - from);
    for (int64_t panel = group * kPanelGroup; panel < end; ++panel) {
      const int64_t first = panel * kSparseRows;
      const int columns = static_cast<int>(least(kSparseRows, a.rows - first));
      T* out[kRows];
      for (int i = 0; i < here; ++i) out[i] = y + (from + i) * a.rows + first;
      multiply_tile<V, kRows, kDepth>(here, x + from * a.cols, a.cols, steps_of<T>(a, a.values, panel), out, columns);
      finish(Finish<T>{&a, static_cast<T*>(a.y), out, here, columns, first});
    }
  }
}

// ---- y = A x ----------------------------------------------------------------------------------------------------

// kRows rows of a panel, from `row` on, times one vector of columns.
template <class V, int kRows, bool kTail, int kDepth>
void panel_columns(Steps<typename V::Scalar> steps, int row, const typename V::Scalar* x, int64_t ldx,
                   typename V::Scalar* y, int64_t ldy, int rows, [[maybe_unused]] int lanes) {
  using T = typename V::Scalar;
  V acc[kRows];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) acc[i] = V::zero();
  const T* weight = steps.weight + row;
  for (int64_t t = 0; t < steps.count; ++t, weight += kLanes) {
    const T* from = x + column_of<kDepth>(steps.index, t) * ldx;
    V v;
    if constexpr (kTail)
      v = V::load(from, lanes);
    else
      v = V::load(from);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) acc[i] = fma(V::set(weight[i]), v, acc[i]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    if (i >= rows) break;
    if constexpr (kTail)
      acc[i].store(y + i * ldy, lanes);
    else
      acc[i].store(y + i * ldy);
  }
}

template <class V, int kDepth>
void multiply_panel(const SparsePanelArgs& a, int64_t panel) {
  using T = typename V::Scalar;
  constexpr int kRows = sizeof(V) == 64 ? 16 : 8;
  const Steps<T> steps = steps_of<T>(a, a.values, panel);
  const int64_t first = panel * kSparseRows;
  const int rows = static_cast<int>(least(kSparseRows, a.rows - first));
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.y) + first * a.n;
  for (int64_t c = 0; c < a.n; c += V::kWidth) {
    const int lanes = static_cast<int>(least(V::kWidth, a.n - c));
    for (int row = 0; row < rows; row += kRows) {
      T* out = y + row * a.n + c;
      if (lanes == V::kWidth)
        panel_columns<V, kRows, false, kDepth>(steps, row, x + c, a.n, out, a.n, rows - row, lanes);
      else
        panel_columns<V, kRows, true, kDepth>(steps, row, x + c, a.n, out, a.n, rows - row, lanes);
    }
  }
  T* out[kSparseRows];
  for (int64_t c = 0; c < a.n; c += kSparseLanes) {
    for (int i = 0; i < rows; ++i) out[i] = y + i * a.n + c;
    finish(Finish<T>{&a, static_cast<T*>(a.y), out, rows, static_cast<int>(least(kSparseLanes, a.n - c)), c});
  }
}

// Calls f(Vec<T>{}, depth) for the dtype and depth at hand.
template <class F>
void visit_depth(DType dtype, int depth, F f) {
  visit_floating(dtype, [&]<class T>(T) {
    if (depth == 1)
      f.template operator()<Vec<T>, 1>();
    else
      f.template operator()<Vec<T>, 4>();
  });
}

// ---- gradient of the values -------------------------------------------------------------------------------------

// kSteps steps of a panel: sums over the rows of g and x.
template <class V, int kSteps>
void grad_steps(const SparseGradArgs& a, const int64_t* column, int64_t first, int lanes, typename V::Scalar* y) {
  using T = typename V::Scalar;
  V acc[kSteps][kVecs<V>];
#pragma GCC unroll 8
  for (int i = 0; i < kSteps; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kVecs<V>; ++j) acc[i][j] = V::zero();
  }
  const T* x[kSteps];
  for (int i = 0; i < kSteps; ++i) x[i] = static_cast<const T*>(a.x) + column[i];
  const T* g = static_cast<const T*>(a.g) + first;
  for (int64_t m = 0; m < a.m; ++m, g += a.rows) {
    V row[kVecs<V>];
#pragma GCC unroll 8
    for (int j = 0; j < kVecs<V>; ++j) {
      const int here = lanes - j * V::kWidth;
      row[j] = here <= 0 ? V::zero() : get<V>(g + j * V::kWidth, here < V::kWidth ? here : V::kWidth);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kSteps; ++i) {
      const V v = V::set(x[i][m * a.cols]);
#pragma GCC unroll 8
      for (int j = 0; j < kVecs<V>; ++j) acc[i][j] = fma(v, row[j], acc[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kSteps; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kVecs<V>; ++j) acc[i][j].store(y + i * kLanes + j * V::kWidth);
  }
}

template <class V, int kDepth>
void grad_panel(const SparseGradArgs& a, int64_t panel) {
  using T = typename V::Scalar;
  constexpr int kSteps = kTileRows<V>;
  const int32_t* indptr = static_cast<const int32_t*>(a.indptr);
  const int64_t begin = indptr[panel] * int64_t{kDepth}, stored = indptr[panel + 1] * int64_t{kDepth} - begin;
  T* y = static_cast<T*>(a.y) + begin * kLanes;
  const Steps<T> steps = steps_of<T>(a, a.y, panel);
  const int64_t first = panel * kSparseRows;
  const int lanes = static_cast<int>(least(kSparseRows, a.rows - first));
  int64_t t = 0;
  for (; t + kSteps <= steps.count; t += kSteps) {
    int64_t column[kSteps];
    for (int i = 0; i < kSteps; ++i) column[i] = column_of<kDepth>(steps.index, t + i);
    grad_steps<V, kSteps>(a, column, first, lanes, y + t * kLanes);
  }
  for (; t < steps.count; ++t) {
    const int64_t column = column_of<kDepth>(steps.index, t);
    grad_steps<V, 1>(a, &column, first, lanes, y + t * kLanes);
  }
  __builtin_memset(y + t * kLanes, 0, static_cast<size_t>((stored - t) * kLanes) * sizeof(T));  // past the last column
}

}  // namespace

Status sparse_panels(const SparsePanelArgs& a, Range range, const Ctx&) {
  const int64_t groups = ceil_div(ceil_div(a.rows, kSparseRows), kPanelGroup);
  visit_depth(a.dtype, a.depth, [&]<class V, int kDepth>() {
    for (int64_t item = range.begin; item < range.end; ++item)
      multiply_item<V, kDepth>(a, item / groups, item % groups);
  });
  return {};
}

Status sparse_panel_rows(const SparsePanelArgs& a, Range range, const Ctx&) {
  visit_depth(a.dtype, a.depth, [&]<class V, int kDepth>() {
    for (int64_t item = range.begin; item < range.end; ++item) multiply_panel<V, kDepth>(a, item);
  });
  return {};
}

Status sparse_panel_grad(const SparseGradArgs& a, Range range, const Ctx&) {
  visit_depth(a.dtype, a.depth, [&]<class V, int kDepth>() {
    for (int64_t item = range.begin; item < range.end; ++item) grad_panel<V, kDepth>(a, item);
  });
  return {};
}

}  // namespace quernel::QUERNEL_ISA
