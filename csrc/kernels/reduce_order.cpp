// What depends on the order of elements: the place of an extreme, the k first of a row, sorting (k = the whole row).
//
// argmax along contiguous rows finds the extreme with SIMD and then its first place; along others it carries a tile of
// columns down the rows. -x turns smallest into largest and leaves NaN what it is.
//
// Top-k turns each element and its column into one whole number that sorts as wanted: the element's order-preserving
// bits above, the column below, so that all numbers differ and ties need no care. A heap of the k best numbers, worst
// on top, takes a row in one pass; most elements fail one comparison. Emptying the heap leaves the row sorted.
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels/args/reduce.h"
#include "kernels/isa.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

// ---- argmax, argmin ---------------------------------------------------------------------------------------------

template <class T>
int64_t first_extreme(const T* x, int64_t n, bool smallest) {
  using V = Vec<T>;
  const V lowest = V::set(-std::numeric_limits<T>::infinity());
  V best = lowest;
  for_lanes<V>(n, [&](int64_t i, int k) {
    const V v = get<V>(x + i, k);
    best = max(best, select(first_lanes<V>(k), smallest ? -v : v, lowest));
  });
  const T extreme = reduce_max(best);
  const T wanted = smallest ? -extreme : extreme;
  if (wanted != wanted) {
    for (int64_t i = 0;; ++i)
      if (x[i] != x[i]) return i;
  }
  int64_t i = 0;
  while (i + V::kWidth <= n && !(V::load(x + i) == V::set(wanted)).any()) i += V::kWidth;
  while (x[i] != wanted) ++i;
  return i;
}

template <class T, class Better>
void arg_columns(const T* x, int64_t rows, int64_t stride, int64_t columns, int64_t* y, Better better) {
  T best[kReduceTile];
  int64_t index[kReduceTile] = {};
  for (int64_t c = 0; c < columns; ++c) best[c] = x[c];
  for (int64_t row = 1; row < rows; ++row) {
    const T* from = x + row * stride;
    for (int64_t c = 0; c < columns; ++c) {
      const bool wins = better(from[c], best[c]);
      best[c] = wins ? from[c] : best[c];
      index[c] = wins ? row : index[c];
    }
  }
  for (int64_t c = 0; c < columns; ++c) y[c] = index[c];
}

template <class T>
void arg_item(const ArgReduceArgs& a, const T* x, int64_t columns, int64_t* y) {
  if constexpr (std::is_floating_point_v<T>) {
    if (a.inner == 1) {
      *y = first_extreme(x, a.reduced, a.smallest);
      return;
    }
  }
  if (a.smallest) {
    arg_columns(x, a.reduced, a.inner, columns, y,
                [](T t, T best) { return (t < best) | ((t != t) & (best == best)); });
  } else {
    arg_columns(x, a.reduced, a.inner, columns, y,
                [](T t, T best) { return (t > best) | ((t != t) & (best == best)); });
  }
}

// ---- top-k ------------------------------------------------------------------------------------------------------

using Wide = unsigned __int128;

// Whole numbers in the order of the elements: -0 equals 0, every NaN is the largest.
template <class T>
auto order_key(T x) {
  if constexpr (std::is_floating_point_v<T>) {
    using U = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
    constexpr U kSign = U{1} << (8 * sizeof(U) - 1);
    if (x != x) return static_cast<U>(~U{0});
    if (x == 0) return kSign;
    U bits;
    std::memcpy(&bits, &x, sizeof(bits));
    return bits & kSign ? static_cast<U>(~bits) : static_cast<U>(bits | kSign);
  } else if constexpr (sizeof(T) == 8) {
    return static_cast<uint64_t>(x) ^ (uint64_t{1} << 63);
  } else {
    return static_cast<uint32_t>(static_cast<int32_t>(x)) ^ (uint32_t{1} << 31);
  }
}

// The element's key above its column; a smaller number comes earlier. Columns of short types fit 32 bits (ops/).
template <class T>
using Ranked = std::conditional_t<sizeof(T) == 8, Wide, uint64_t>;

template <class T>
Ranked<T> ranked(T x, int64_t column, bool largest) {
  auto key = order_key(x);
  if (largest) key = static_cast<decltype(key)>(~key);
  return static_cast<Ranked<T>>(key) << (4 * sizeof(Ranked<T>)) | static_cast<uint64_t>(column);
}

// Restores the order of a heap, largest on top, whose element `at` may be too small for its place.
template <class R>
void sift_down(R* heap, int64_t n, int64_t at) {
  const R moving = heap[at];
  for (int64_t child = 2 * at + 1; child < n; child = 2 * at + 1) {
    child += child + 1 < n && heap[child] < heap[child + 1];
    if (!(moving < heap[child])) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = moving;
}

template <class T>
void topk_row(const T* x, int64_t n, int64_t k, bool largest, Ranked<T>* heap, T* values, int64_t* indices) {
  for (int64_t i = 0; i < k; ++i) heap[i] = ranked(x[i], i, largest);
  for (int64_t i = k / 2 - 1; i >= 0; --i) sift_down(heap, k, i);
  for (int64_t i = k; i < n; ++i) {
    const Ranked<T> candidate = ranked(x[i], i, largest);
    if (candidate < heap[0]) {
      heap[0] = candidate;
      sift_down(heap, k, 0);
    }
  }
  constexpr Ranked<T> kColumn = (Ranked<T>{1} << (4 * sizeof(Ranked<T>))) - 1;
  for (int64_t left = k; left > 0; --left) {
    const auto column = static_cast<int64_t>(heap[0] & kColumn);
    values[left - 1] = x[column];
    indices[left - 1] = column;
    heap[0] = heap[left - 1];
    sift_down(heap, left - 1, 0);
  }
}

}  // namespace

Status arg_reduce(const ArgReduceArgs& a, Range r, const Ctx&) {
  const int64_t tiles = (a.inner + kReduceTile - 1) / kReduceTile;
  visit(a.dtype, [&]<class T>(T) {
    for (int64_t item = r.begin; item < r.end; ++item) {
      const int64_t outer = item / tiles, column = item % tiles * kReduceTile;
      const int64_t columns = a.inner - column < kReduceTile ? a.inner - column : kReduceTile;
      arg_item(a, static_cast<const T*>(a.x) + outer * a.reduced * a.inner + column, columns,
               static_cast<int64_t*>(a.y) + outer * a.inner + column);
    }
  });
  return {};
}

int64_t topk_scratch(const TopkArgs& a) { return a.k * static_cast<int64_t>(sizeof(Wide)); }

Status topk(const TopkArgs& a, Range r, const Ctx& ctx) {
  if (a.k == 0) return {};
  visit(a.dtype, [&]<class T>(T) {
    for (int64_t row = r.begin; row < r.end; ++row)
      topk_row(static_cast<const T*>(a.x) + row * a.cols, a.cols, a.k, a.largest, static_cast<Ranked<T>*>(ctx.scratch),
               static_cast<T*>(a.values) + row * a.k, static_cast<int64_t*>(a.indices) + row * a.k);
  });
  return {};
}

Status topk_grad(const TopkGradArgs& a, Range r, const Ctx&) {
  const int64_t* indices = static_cast<const int64_t*>(a.indices);
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t row = r.begin; row < r.end; ++row) {
      T* y = static_cast<T*>(a.y) + row * a.cols;
      for (int64_t i = 0; i < a.cols; ++i) y[i] = 0;
      for (int64_t j = row * a.k; j < (row + 1) * a.k; ++j) y[indices[j]] = static_cast<const T*>(a.g)[j];
    }
  });
  return {};
}

}  // namespace quernel::QUERNEL_ISA
