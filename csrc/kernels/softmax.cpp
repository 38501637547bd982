// Softmax, log-softmax and cross-entropy over rows; item = row. A row is read three times from L1 or L2: maximum, sum
// of exponentials, result. Logits of -inf have probability 0; a row of nothing but -inf gives NaN, as in PyTorch.
#include "kernels/args/softmax.h"

#include <limits>

#include "kernels/isa.h"
#include "kernels/simd/math.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

template <class V>
inline V masked(V v, int n, V other) {
  return n == V::kWidth ? v : select(first_lanes<V>(n), v, other);
}

template <class T>
T row_max(const T* x, int64_t n) {
  using V = Vec<T>;
  const V lowest = V::set(-std::numeric_limits<T>::infinity());
  V best = lowest;
  for_lanes<V>(n, [&](int64_t i, int k) { best = max(best, masked(get<V>(x + i, k), k, lowest)); });
  return reduce_max(best);
}

// Sum of e^(x - top), stored to y if that is given.
template <class T>
T row_exp_sum(const T* x, T top, T* y, int64_t n) {
  using V = Vec<T>;
  V total = V::zero();
  for_lanes<V>(n, [&](int64_t i, int k) {
    const V e = exp(get<V>(x + i, k) - V::set(top));
    if (y) put(e, y + i, k);
    total = total + masked(e, k, V::zero());
  });
  return reduce_add(total);
}

template <class T>
T scalar_log(T x) {
  using V = Vec<T>;
  T lanes[V::kWidth];
  log(V::set(x)).store(lanes);
  return lanes[0];
}

template <class T>
void softmax_row(const T* x, T* y, bool is_log, int64_t n) {
  using V = Vec<T>;
  const T top = row_max(x, n);
  const T total = row_exp_sum(x, top, is_log ? nullptr : y, n);
  if (is_log) {
    const V shift = V::set(top), log_total = V::set(scalar_log(total));
    for_lanes<V>(n, [&](int64_t i, int k) { put(get<V>(x + i, k) - shift - log_total, y + i, k); });
  } else {
    const V divisor = V::set(total);
    for_lanes<V>(n, [&](int64_t i, int k) { put(get<V>(y + i, k) / divisor, y + i, k); });
  }
}

// dx = y (g - sum(y g)), or g - e^y sum(g) for the logarithm.
template <class T>
void softmax_grad_row(const T* y, const T* g, T* dx, bool is_log, int64_t n) {
  using V = Vec<T>;
  V dot = V::zero();
  for_lanes<V>(n, [&](int64_t i, int k) {  // lanes beyond the row are loaded as 0
    const V incoming = get<V>(g + i, k);
    dot = is_log ? dot + incoming : fma(get<V>(y + i, k), incoming, dot);
  });
  const V total = V::set(reduce_add(dot));
  for_lanes<V>(n, [&](int64_t i, int k) {
    const V out = get<V>(y + i, k), incoming = get<V>(g + i, k);
    put(is_log ? incoming - exp(out) * total : out * (incoming - total), dx + i, k);
  });
}

template <class T>
T cross_entropy_row(const T* x, int64_t label, int64_t n) {
  const T top = row_max(x, n);
  return scalar_log(row_exp_sum<T>(x, top, nullptr, n)) + (top - x[label]);
}

template <class T>
void cross_entropy_grad_row(const T* x, int64_t label, T g, T* dx, int64_t n) {
  using V = Vec<T>;
  const T total = row_exp_sum(x, row_max(x, n), dx, n);
  const V divisor = V::set(total), scale = V::set(g);
  const T hit = (dx[label] / total - 1) * g;
  for_lanes<V>(n, [&](int64_t i, int k) { put(get<V>(dx + i, k) / divisor * scale, dx + i, k); });
  dx[label] = hit;
}

}  // namespace

Status softmax(const SoftmaxArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t row = r.begin; row < r.end; ++row)
      softmax_row(static_cast<const T*>(a.x) + row * a.cols, static_cast<T*>(a.y) + row * a.cols, a.log, a.cols);
  });
  return {};
}

Status softmax_grad(const SoftmaxArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t row = r.begin; row < r.end; ++row)
      softmax_grad_row(static_cast<const T*>(a.x) + row * a.cols, static_cast<const T*>(a.g) + row * a.cols,
                       static_cast<T*>(a.y) + row * a.cols, a.log, a.cols);
  });
  return {};
}

Status check_labels(const CheckLabelsArgs& a, Range r, const Ctx&) {
  const int64_t* labels = static_cast<const int64_t*>(a.labels);
  const Range e = elements(r, a.size);
  for (int64_t i = e.begin; i < e.end; ++i) {
    if (labels[i] < 0 || labels[i] >= a.classes) [[unlikely]]
      return {StatusCode::kLabelOutOfRange, i, labels[i], a.classes};
  }
  return {};
}

Status cross_entropy(const CrossEntropyArgs& a, Range r, const Ctx&) {
  const int64_t* labels = static_cast<const int64_t*>(a.labels);
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t row = r.begin; row < r.end; ++row)
      static_cast<T*>(a.y)[row] = cross_entropy_row(static_cast<const T*>(a.x) + row * a.cols, labels[row], a.cols);
  });
  return {};
}

Status cross_entropy_grad(const CrossEntropyArgs& a, Range r, const Ctx&) {
  const int64_t* labels = static_cast<const int64_t*>(a.labels);
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t row = r.begin; row < r.end; ++row)
      cross_entropy_grad_row(static_cast<const T*>(a.x) + row * a.cols, labels[row], static_cast<const T*>(a.g)[row],
                             static_cast<T*>(a.y) + row * a.cols, a.cols);
  });
  return {};
}

}  // namespace quernel::QUERNEL_ISA
