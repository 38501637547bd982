// Softmax, log-softmax and cross-entropy over rows; item = row. A row is read three times from L1 or L2: maximum, sum
// of exponentials, result. Logits of -inf have probability 0; a row of nothing but -inf gives NaN, as in PyTorch.
//
// Cross-entropy of plain labels touches the row's logits and one of them again; probabilities and label smoothing are a
// mixture over all classes, one pass more. Labels that are ignored cost nothing.
#include "kernels/args/softmax.h"

#include <limits>

#include "kernels/isa.h"
#include "kernels/simd/math.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

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

// What a row of logits is compared with: `hit` of the label, and a mixture over all classes (probabilities or the
// smoothed part), each times the weights of the classes.
template <class T>
struct RowTarget {
  int64_t label = -1;  // -1: none
  T hit = 0;
  const T* targets = nullptr;
  const T* weight = nullptr;
  T share = 0, floor = 0;  // mixture = weight (share target + floor)
  bool mixed = false;
  bool normalized = false;

  template <class V>
  V mixture(int64_t i, int k) const {
    V q = V::set(floor);
    if (targets) q = fma(get<V>(targets + i, k), V::set(share), q);
    if (weight) q = q * get<V>(weight + i, k);
    return masked(q, k, V::zero());
  }
};

template <class T>
RowTarget<T> row_target(const CrossEntropyArgs& a, int64_t row) {
  RowTarget<T> t;
  t.weight = static_cast<const T*>(a.weight);
  t.normalized = a.normalized;
  t.floor = static_cast<T>(a.smoothing / static_cast<double>(a.cols));
  if (a.targets) {
    t.targets = static_cast<const T*>(a.targets) + row * a.cols;
    t.share = static_cast<T>(1 - a.smoothing);
    t.mixed = true;
    return t;
  }
  const int64_t label = static_cast<const int64_t*>(a.labels)[row];
  if (label < 0 || label >= a.cols || label == a.ignore_index) return t;
  t.label = label;
  t.hit = static_cast<T>(1 - a.smoothing) * (t.weight ? t.weight[label] : T{1});
  t.mixed = a.smoothing > 0;
  return t;
}

template <class T>
T cross_entropy_row(const T* x, const RowTarget<T>& t, int64_t n) {
  using V = Vec<T>;
  if (t.label < 0 && !t.mixed) return 0;
  if (t.normalized) return -(t.hit * x[t.label]);
  const T top = row_max(x, n);
  const T log_total = scalar_log(row_exp_sum<T>(x, top, nullptr, n));
  T loss = 0;
  if (t.label >= 0) {
    loss = log_total + (top - x[t.label]);
    if (t.hit != 1) loss = t.hit * loss;
  }
  if (t.mixed) {
    V sum = V::zero();
    const V shift = V::set(top), rest = V::set(log_total), zero = V::zero();
    for_lanes<V>(n, [&](int64_t i, int k) {
      const V q = t.template mixture<V>(i, k);
      sum = sum + select(q == zero, zero, q * (rest + (shift - get<V>(x + i, k))));  // a logit of -inf may have q = 0
    });
    loss += reduce_add(sum);
  }
  return loss;
}

template <class T>
void cross_entropy_grad_row(const T* x, const RowTarget<T>& t, T g, T* dx, int64_t n) {
  using V = Vec<T>;
  if (t.normalized || (t.label < 0 && !t.mixed)) {
    for (int64_t i = 0; i < n; ++i) dx[i] = 0;
    if (t.label >= 0) dx[t.label] = -(t.hit * g);
    return;
  }
  const T total = row_exp_sum(x, row_max(x, n), dx, n);
  const V divisor = V::set(total);
  if (!t.mixed) {
    const T scale = t.hit == 1 ? g : t.hit * g;
    const T hit = (dx[t.label] / total - 1) * scale;
    for_lanes<V>(n, [&](int64_t i, int k) { put(get<V>(dx + i, k) / divisor * V::set(scale), dx + i, k); });
    dx[t.label] = hit;
    return;
  }
  V sum = V::zero();
  for_lanes<V>(n, [&](int64_t i, int k) { sum = sum + t.template mixture<V>(i, k); });
  const T all = reduce_add(sum) + t.hit;
  const T hit = t.label < 0 ? T{0} : dx[t.label];
  for_lanes<V>(n, [&](int64_t i, int k) {
    const V p = get<V>(dx + i, k) / divisor;
    put((V::set(all) * p - t.template mixture<V>(i, k)) * V::set(g), dx + i, k);
  });
  if (t.label < 0) return;
  const T q = t.floor * (t.weight ? t.weight[t.label] : T{1});
  dx[t.label] = (all * (hit / total) - (q + t.hit)) * g;
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
    if ((labels[i] < 0 || labels[i] >= a.classes) && labels[i] != a.ignore_index) [[unlikely]]
      return {StatusCode::kLabelOutOfRange, i, labels[i], a.classes};
  }
  return {};
}

Status cross_entropy(const CrossEntropyArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t row = r.begin; row < r.end; ++row)
      static_cast<T*>(a.y)[row] =
          cross_entropy_row(static_cast<const T*>(a.x) + row * a.cols, row_target<T>(a, row), a.cols);
  });
  return {};
}

Status cross_entropy_grad(const CrossEntropyArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    const T* g = static_cast<const T*>(a.g);
    const T scale = static_cast<T>(a.scale), divisor = a.divisor ? *static_cast<const T*>(a.divisor) : T{1};
    for (int64_t row = r.begin; row < r.end; ++row)
      cross_entropy_grad_row(static_cast<const T*>(a.x) + row * a.cols, row_target<T>(a, row),
                             g[a.g_is_number ? 0 : row] * scale / divisor, static_cast<T*>(a.y) + row * a.cols, a.cols);
  });
  return {};
}

// Sums in double, row r in phase r mod 8, so that no addition waits for the one before.
Status cross_entropy_mean(const CrossEntropyMeanArgs& a, Range, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    const T* losses = static_cast<const T*>(a.losses);
    const T* weight = static_cast<const T*>(a.weight);
    const int64_t* labels = static_cast<const int64_t*>(a.labels);
    double sums[8] = {}, weights[8] = {};
    for (int64_t begin = 0; begin < a.rows; begin += 8) {
      const int64_t count = a.rows - begin < 8 ? a.rows - begin : 8;
      for (int64_t k = 0; k < count; ++k) {
        const int64_t label = labels[begin + k];
        sums[k] += static_cast<double>(losses[begin + k]);
        if (label >= 0 && label < a.cols && label != a.ignore_index)
          weights[k] += weight ? static_cast<double>(weight[label]) : 1.0;
      }
    }
    double sum = 0, divisor = 0;
    for (int k = 0; k < 8; ++k) {
      sum += sums[k];
      divisor += weights[k];
    }
    *static_cast<T*>(a.y) = static_cast<T>(sum / divisor);
    *static_cast<T*>(a.divisor) = static_cast<T>(divisor);
  });
  return {};
}

}  // namespace quernel::QUERNEL_ISA
