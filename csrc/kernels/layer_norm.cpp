// Layer norm and RMS norm over contiguous rows.
//
// A row is read three times, of which two find it in L1: its mean, the squared distances from that mean (no difference
// of large sums, so a mean far from zero costs no digits), the result. Four accumulators hide the latency of an
// addition; how a row is summed depends on its length alone.
//
// The gradient takes rows in fixed blocks. A row's two sums and its dx come first; then, while the row is in L1, it is
// added to the block's share of the gradients of weight and bias, which stays in L1 as well. So x and g are read from
// memory once. The blocks' shares are summed by the reduction kernel.
#include "kernels/args/layer_norm.h"

#include "kernels/isa.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

// Sums term(i, lanes) over the registers that cover n elements. Terms are 0 in lanes that do not exist.
template <class V, class Term>
typename V::Scalar sum_row(int64_t n, Term term) {
  constexpr int64_t kWidth = V::kWidth;
  V a = V::zero(), b = V::zero(), c = V::zero(), d = V::zero();
  int64_t i = 0;
  for (; i + 4 * kWidth <= n; i += 4 * kWidth) {
    a = a + term(i, V::kWidth);
    b = b + term(i + kWidth, V::kWidth);
    c = c + term(i + 2 * kWidth, V::kWidth);
    d = d + term(i + 3 * kWidth, V::kWidth);
  }
  for (; i + kWidth <= n; i += kWidth) a = a + term(i, V::kWidth);
  if (i < n) b = b + term(i, static_cast<int>(n - i));
  return reduce_add((a + b) + (c + d));
}

template <class T>
T inverse_root(T x) {
  using V = Vec<T>;
  T lanes[V::kWidth];
  (V::set(1) / sqrt(V::set(x))).store(lanes);
  return lanes[0];
}

template <class T>
struct Moments {
  T mean, rstd;
};

template <class T>
Moments<T> moments(const T* x, int64_t n, bool rms, double eps) {
  using V = Vec<T>;
  const T count = static_cast<T>(n);
  const T mean = rms ? T(0) : sum_row<V>(n, [&](int64_t i, int k) { return get<V>(x + i, k); }) / count;
  const V center = V::set(mean);
  const T squares = sum_row<V>(n, [&](int64_t i, int k) {
    const V d = masked(get<V>(x + i, k) - center, k);
    return d * d;
  });
  return {mean, inverse_root(squares / count + static_cast<T>(eps))};
}

template <class T>
void normalize_row(const LayerNormArgs& a, int64_t row) {
  using V = Vec<T>;
  const T* x = static_cast<const T*>(a.x) + row * a.cols;
  const Moments<T> m = moments(x, a.cols, a.rms, a.eps);
  if (a.mean) static_cast<T*>(a.mean)[row] = m.mean;
  if (a.rstd) static_cast<T*>(a.rstd)[row] = m.rstd;
  const T *weight = static_cast<const T*>(a.weight), *bias = static_cast<const T*>(a.bias);
  T* y = static_cast<T*>(a.y) + row * a.cols;
  const V center = V::set(m.mean), scale = V::set(m.rstd);
  for_lanes<V>(a.cols, [&](int64_t i, int k) {
    V v = (get<V>(x + i, k) - center) * scale;
    if (weight) v = bias ? fma(v, get<V>(weight + i, k), get<V>(bias + i, k)) : v * get<V>(weight + i, k);
    if (!weight && bias) v = v + get<V>(bias + i, k);
    put(v, y + i, k);
  });
}

// With h = g · weight and z = (x - mean) rstd: dx = rstd (h - mean(h) - z mean(h z)); rms leaves mean(h) out.
template <class T>
void grad_row(const LayerNormGradArgs& a, int64_t row) {
  using V = Vec<T>;
  const T *x = static_cast<const T*>(a.x) + row * a.cols, *g = static_cast<const T*>(a.g) + row * a.cols;
  const T* weight = static_cast<const T*>(a.weight);
  T* dx = static_cast<T*>(a.dx) + row * a.cols;
  const T count = static_cast<T>(a.cols), rstd = static_cast<const T*>(a.rstd)[row];
  const V center = V::set(a.rms ? T(0) : static_cast<const T*>(a.mean)[row]), scale = V::set(rstd);
  const auto incoming = [&](int64_t i, int k) {
    const V h = get<V>(g + i, k);
    return weight ? h * get<V>(weight + i, k) : h;
  };
  const T sum = a.rms ? T(0) : sum_row<V>(a.cols, incoming);
  const T dot = sum_row<V>(
      a.cols, [&](int64_t i, int k) { return masked(incoming(i, k) * ((get<V>(x + i, k) - center) * scale), k); });
  const V offset = V::set(sum / count), slope = V::set(dot / count);
  for_lanes<V>(a.cols, [&](int64_t i, int k) {
    const V z = (get<V>(x + i, k) - center) * scale;
    put((incoming(i, k) - offset - z * slope) * scale, dx + i, k);
  });
}

// Adds a row to its block's gradients of weight and bias, or begins them with it.
template <class T>
void add_params(const LayerNormGradArgs& a, int64_t block, int64_t row, bool first) {
  using V = Vec<T>;
  const T *x = static_cast<const T*>(a.x) + row * a.cols, *g = static_cast<const T*>(a.g) + row * a.cols;
  T* dweight = a.dweight ? static_cast<T*>(a.dweight) + block * a.cols : nullptr;
  T* dbias = a.dbias ? static_cast<T*>(a.dbias) + block * a.cols : nullptr;
  const V center = V::set(a.rms ? T(0) : static_cast<const T*>(a.mean)[row]);
  const V scale = V::set(static_cast<const T*>(a.rstd)[row]);
  for_lanes<V>(a.cols, [&](int64_t i, int k) {
    const V each = get<V>(g + i, k);
    if (dweight) {
      const V share = each * ((get<V>(x + i, k) - center) * scale);
      put(first ? share : get<V>(dweight + i, k) + share, dweight + i, k);
    }
    if (dbias) put(first ? each : get<V>(dbias + i, k) + each, dbias + i, k);
  });
}

}  // namespace

Status layer_norm(const LayerNormArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t row = r.begin; row < r.end; ++row) normalize_row<T>(a, row);
  });
  return {};
}

Status layer_norm_grad(const LayerNormGradArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t block = r.begin; block < r.end; ++block) {
      const int64_t first = block * kLayerNormRows, left = a.rows - first;
      const int64_t end = first + (left < kLayerNormRows ? left : kLayerNormRows);
      for (int64_t row = first; row < end; ++row) {
        grad_row<T>(a, row);
        if (a.dweight || a.dbias) add_params<T>(a, block, row, row == first);
      }
    }
  });
  return {};
}

}  // namespace quernel::QUERNEL_ISA
