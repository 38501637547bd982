// Sums, products and maxima over one axis of (outer, reduced, inner), a fixed block of the reduced axis at a time; and
// running sums.
//
// inner = 1: a block is contiguous; four registers run through it and are folded as a tree at its end.
// inner > 1: two registers of columns times four phases of rows (row r adds to phase r mod 4), so that narrow
// matrices are not bound by the latency of one addition. Integers add up in int64, in plain loops.
//
// A running sum is one chain by definition; floats add up in double, so that its end is as exact as a sum's.
#include "kernels/args/reduce.h"

#include <limits>
#include <type_traits>

#include "kernels/isa.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

struct Sum {
  template <class T>
  static constexpr T identity() {
    return 0;
  }
  template <class V>
  static V combine(V a, V b) {
    return a + b;
  }
  template <class V>
  static auto fold(V v) {
    return reduce_add(v);
  }
};
struct Prod {
  template <class T>
  static constexpr T identity() {
    return 1;
  }
  template <class V>
  static V combine(V a, V b) {
    return a * b;
  }
  template <class V>
  static auto fold(V v) {
    typename V::Scalar lanes[V::kWidth];
    v.store(lanes);
    for (int half = V::kWidth / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) lanes[i] *= lanes[i + half];
    return lanes[0];
  }
};
struct Max {
  template <class T>
  static constexpr T identity() {
    return -std::numeric_limits<T>::infinity();
  }
  template <class V>
  static V combine(V a, V b) {
    return max(a, b);  // NaN wins
  }
  template <class V>
  static auto fold(V v) {
    return reduce_max(v);
  }
};

template <class Op, class T>
T contiguous(const T* x, int64_t n) {
  using V = Vec<T>;
  constexpr int kWidth = V::kWidth;
  const V identity = V::set(Op::template identity<T>());
  V acc[4] = {identity, identity, identity, identity};
  int64_t i = 0;
  for (; i + 4 * kWidth <= n; i += 4 * kWidth)
    for (int k = 0; k < 4; ++k) acc[k] = Op::combine(acc[k], V::load(x + i + k * kWidth));
  for (; i + kWidth <= n; i += kWidth) acc[0] = Op::combine(acc[0], V::load(x + i));
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    acc[1] = Op::combine(acc[1], select(first_lanes<V>(rest), V::load(x + i, rest), identity));
  }
  return Op::fold(Op::combine(Op::combine(acc[0], acc[1]), Op::combine(acc[2], acc[3])));
}

// Up to two registers of columns.
template <class Op, class T>
void columns(const T* x, int64_t rows, int64_t stride, T divisor, T* y, int64_t n) {
  using V = Vec<T>;
  constexpr int kWidth = V::kWidth;
  const V identity = V::set(Op::template identity<T>());
  const int n0 = static_cast<int>(n < kWidth ? n : kWidth), n1 = static_cast<int>(n - n0);
  V a[4] = {identity, identity, identity, identity}, b[4] = {identity, identity, identity, identity};
  int64_t r = 0;
  if (n1 == kWidth) {
    for (; r + 4 <= rows; r += 4) {
      for (int k = 0; k < 4; ++k) {
        a[k] = Op::combine(a[k], V::load(x + (r + k) * stride));
        b[k] = Op::combine(b[k], V::load(x + (r + k) * stride + kWidth));
      }
    }
  } else {
    for (; r + 4 <= rows; r += 4) {
      for (int k = 0; k < 4; ++k) {
        a[k] = Op::combine(a[k], V::load(x + (r + k) * stride, n0));
        if (n1 > 0) b[k] = Op::combine(b[k], V::load(x + (r + k) * stride + n0, n1));
      }
    }
  }
  for (int k = 0; r < rows; ++r, ++k) {
    a[k] = Op::combine(a[k], V::load(x + r * stride, n0));
    if (n1 > 0) b[k] = Op::combine(b[k], V::load(x + r * stride + n0, n1));
  }
  V first = Op::combine(Op::combine(a[0], a[1]), Op::combine(a[2], a[3]));
  V second = Op::combine(Op::combine(b[0], b[1]), Op::combine(b[2], b[3]));
  if (divisor != 1) {
    first = first / V::set(divisor);
    second = second / V::set(divisor);
  }
  put(first, y, n0);
  if (n1 > 0) put(second, y + n0, n1);
}

// What one item covers.
struct Item {
  int64_t x, y;     // offsets
  int64_t rows;     // of the reduced axis
  int64_t columns;  // of the inner axis
};

Item locate(const ReduceArgs& a, int64_t item) {
  const int64_t tiles = (a.inner + kReduceTile - 1) / kReduceTile;
  const int64_t blocks = (a.reduced + a.block - 1) / a.block;
  const int64_t column = item % tiles * kReduceTile;
  const int64_t block = item / tiles % blocks, outer = item / tiles / blocks;
  const int64_t row = block * a.block;
  return {(outer * a.reduced + row) * a.inner + column, (outer * blocks + block) * a.inner + column,
          a.reduced - row < a.block ? a.reduced - row : a.block,
          a.inner - column < kReduceTile ? a.inner - column : kReduceTile};
}

template <class Op, class T>
void reduce_floating(const ReduceArgs& a, Range r) {
  const T divisor = static_cast<T>(a.divisor);
  if (a.inner == 1 && a.reduced <= a.block) {  // short rows: locate() would cost more than the sum
    for (int64_t row = r.begin; row < r.end; ++row)
      static_cast<T*>(a.y)[row] = contiguous<Op>(static_cast<const T*>(a.x) + row * a.reduced, a.reduced) / divisor;
    return;
  }
  for (int64_t item = r.begin; item < r.end; ++item) {
    const Item i = locate(a, item);
    const T* x = static_cast<const T*>(a.x) + i.x;
    T* y = static_cast<T*>(a.y) + i.y;
    if (a.inner == 1) {
      *y = contiguous<Op>(x, i.rows) / divisor;
      continue;
    }
    constexpr int64_t kStep = 2 * Vec<T>::kWidth;
    for (int64_t c = 0; c < i.columns; c += kStep)
      columns<Op>(x + c, i.rows, a.inner, divisor, y + c, i.columns - c < kStep ? i.columns - c : kStep);
  }
}

// Sums and products wrap around.
template <class Op, class T>
void total_integers(const ReduceArgs& a, Range r) {
  for (int64_t item = r.begin; item < r.end; ++item) {
    const Item i = locate(a, item);
    const T* x = static_cast<const T*>(a.x) + i.x;
    uint64_t total[kReduceTile];
    for (int64_t c = 0; c < i.columns; ++c) total[c] = Op::template identity<uint64_t>();
    for (int64_t row = 0; row < i.rows; ++row)
      for (int64_t c = 0; c < i.columns; ++c)
        total[c] = Op::combine(total[c], static_cast<uint64_t>(x[row * a.inner + c]));
    int64_t* y = static_cast<int64_t*>(a.y) + i.y;
    for (int64_t c = 0; c < i.columns; ++c) y[c] = static_cast<int64_t>(total[c]);
  }
}

template <class T>
void max_integers(const ReduceArgs& a, Range r) {
  for (int64_t item = r.begin; item < r.end; ++item) {
    const Item i = locate(a, item);
    const T* x = static_cast<const T*>(a.x) + i.x;
    T best[kReduceTile];
    for (int64_t c = 0; c < i.columns; ++c) best[c] = x[c];
    for (int64_t row = 1; row < i.rows; ++row)
      for (int64_t c = 0; c < i.columns; ++c) best[c] = x[row * a.inner + c] > best[c] ? x[row * a.inner + c] : best[c];
    T* y = static_cast<T*>(a.y) + i.y;
    for (int64_t c = 0; c < i.columns; ++c) y[c] = best[c];
  }
}

template <class T, class Total, class Y>
void running_sums(const CumsumArgs& a, Range r) {
  const int64_t tiles = (a.inner + kReduceTile - 1) / kReduceTile;
  for (int64_t item = r.begin; item < r.end; ++item) {
    const int64_t column = item % tiles * kReduceTile;
    const int64_t columns = a.inner - column < kReduceTile ? a.inner - column : kReduceTile;
    const int64_t start = item / tiles * a.length * a.inner + column;
    Total total[kReduceTile] = {};
    for (int64_t i = 0; i < a.length; ++i) {
      const int64_t at = start + (a.reverse ? a.length - 1 - i : i) * a.inner;
      const T* x = static_cast<const T*>(a.x) + at;
      Y* y = static_cast<Y*>(a.y) + at;
      for (int64_t c = 0; c < columns; ++c) y[c] = static_cast<Y>(total[c] += static_cast<Total>(x[c]));
    }
  }
}

}  // namespace

Status reduce(const ReduceArgs& a, Range r, const Ctx&) {
  visit(a.dtype, [&]<class T>(T) {
    if constexpr (std::is_floating_point_v<T>) {
      if (a.op == ReduceOp::kSum) reduce_floating<Sum, T>(a, r);
      if (a.op == ReduceOp::kProd) reduce_floating<Prod, T>(a, r);
      if (a.op == ReduceOp::kMax) reduce_floating<Max, T>(a, r);
    } else {
      if (a.op == ReduceOp::kSum) total_integers<Sum, T>(a, r);
      if (a.op == ReduceOp::kProd) total_integers<Prod, T>(a, r);
      if (a.op == ReduceOp::kMax) max_integers<T>(a, r);
    }
  });
  return {};
}

Status cumsum(const CumsumArgs& a, Range r, const Ctx&) {
  visit(a.dtype, [&]<class T>(T) {
    if constexpr (std::is_floating_point_v<T>) {
      running_sums<T, double, T>(a, r);
    } else {
      running_sums<T, uint64_t, int64_t>(a, r);  // wraps around
    }
  });
  return {};
}

}  // namespace quernel::QUERNEL_ISA
