// Optimizer steps over flat segments, in place: one pass that reads and writes each array once, bound by memory. Item =
// kElementBlock elements. Hyperparameters are read when the kernel runs, so that a replay sees a changed learning rate;
// what depends on them alone is computed in double. Formulas and their order are PyTorch's.
#include "kernels/args/optim.h"

#include <math.h>

#include "kernels/isa.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

template <class T>
void sgd_plain(const T* grad, T* param, const double* hyper, int64_t n) {
  using V = Vec<T>;
  const V step = V::set(static_cast<T>(-hyper[0])), decay = V::set(static_cast<T>(hyper[2]));
  const bool decays = hyper[2] != 0;
  for_lanes<V>(n, [&](int64_t i, int k) {
    const V p = get<V>(param + i, k), g = get<V>(grad + i, k);
    put(fma(step, decays ? fma(decay, p, g) : g, p), param + i, k);
  });
}

template <class T>
void sgd_momentum(const T* grad, T* param, T* buffer, const double* hyper, bool first, int64_t n) {
  using V = Vec<T>;
  const V step = V::set(static_cast<T>(-hyper[0])), momentum = V::set(static_cast<T>(hyper[1]));
  const V decay = V::set(static_cast<T>(hyper[2])), fresh = V::set(static_cast<T>(1 - hyper[3]));
  const bool decays = hyper[2] != 0, nesterov = hyper[4] != 0;
  for_lanes<V>(n, [&](int64_t i, int k) {
    const V p = get<V>(param + i, k);
    V g = get<V>(grad + i, k);
    if (decays) g = fma(decay, p, g);
    const V b = first ? g : fma(momentum, get<V>(buffer + i, k), fresh * g);
    put(b, buffer + i, k);
    put(fma(step, nesterov ? fma(momentum, b, g) : b, p), param + i, k);
  });
}

template <class T>
void adam_block(const T* grad, T* param, T* m_, T* v_, const double* hyper, int64_t step, int64_t n) {
  using V = Vec<T>;
  const double lr = hyper[0], beta1 = hyper[1], beta2 = hyper[2], weight_decay = hyper[4];
  const double count = static_cast<double>(step);
  const V rate = V::set(static_cast<T>(-lr / (1 - ::pow(beta1, count))));
  const V root = V::set(static_cast<T>(1 / ::sqrt(1 - ::pow(beta2, count))));
  const V fresh1 = V::set(static_cast<T>(1 - beta1)), keep2 = V::set(static_cast<T>(beta2));
  const V fresh2 = V::set(static_cast<T>(1 - beta2)), eps = V::set(static_cast<T>(hyper[3]));
  const bool decoupled = hyper[5] != 0, decays = weight_decay != 0;
  const V decay = V::set(static_cast<T>(decoupled ? 1 - lr * weight_decay : weight_decay));
  for_lanes<V>(n, [&](int64_t i, int k) {
    V p = get<V>(param + i, k), g = get<V>(grad + i, k);
    if (decays && decoupled) p = p * decay;
    if (decays && !decoupled) g = fma(decay, p, g);
    const V old = get<V>(m_ + i, k);
    const V m = fma(fresh1, g - old, old);
    const V v = fma(keep2, get<V>(v_ + i, k), fresh2 * g * g);
    put(m, m_ + i, k);
    put(v, v_ + i, k);
    put(fma(rate, m / fma(sqrt(v), root, eps), p), param + i, k);
  });
}

}  // namespace

Status sgd(const SgdArgs& a, Range r, const Ctx&) {
  const Range e = elements(r, a.size);
  const double* hyper = static_cast<const double*>(a.hyper);
  const bool first = *static_cast<const int64_t*>(a.step) <= 1;
  visit_floating(a.dtype, [&]<class T>(T) {
    const T* grad = static_cast<const T*>(a.grad) + e.begin;
    T* param = static_cast<T*>(a.param) + e.begin;
    if (a.momentum && hyper[1] != 0) {
      sgd_momentum(grad, param, static_cast<T*>(a.momentum) + e.begin, hyper, first, e.end - e.begin);
    } else {
      sgd_plain(grad, param, hyper, e.end - e.begin);
    }
  });
  return {};
}

Status adam(const AdamArgs& a, Range r, const Ctx&) {
  const Range e = elements(r, a.size);
  visit_floating(a.dtype, [&]<class T>(T) {
    adam_block(static_cast<const T*>(a.grad) + e.begin, static_cast<T*>(a.param) + e.begin,
               static_cast<T*>(a.m) + e.begin, static_cast<T*>(a.v) + e.begin, static_cast<const double*>(a.hyper),
               *static_cast<const int64_t*>(a.step), e.end - e.begin);
  });
  return {};
}

Status advance_step(const AdvanceStepArgs& a, Range, const Ctx&) {
  ++*static_cast<int64_t*>(a.step);
  return {};
}

}  // namespace quernel::QUERNEL_ISA
