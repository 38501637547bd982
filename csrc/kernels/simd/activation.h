// Activations that no GEMM epilogue has, and the derivatives of all of them (see math.h for accuracy). Derivatives are
// those of PyTorch where a function bends: the left one at 0 for leaky ReLU and ELU, 0 at the ends of the hard ones.
#pragma once
#include "kernels/simd/math.h"

namespace quernel::QUERNEL_ISA {
namespace {

template <class V>
inline V hardswish_slope(V x) {
  using T = typename V::Scalar;
  const V three = V::set(3);
  const V middle = fma(x, V::set(static_cast<T>(1.0 / 3)), V::set(static_cast<T>(0.5)));
  return select(x <= -three, V::zero(), select(x >= three, V::set(1), middle));
}

// relu6(x + 3) / 6
template <class V>
inline V hardsigmoid(V x) {
  const V middle = (x + V::set(3)) * V::set(static_cast<typename V::Scalar>(1.0 / 6));
  return raw_min(V::set(1), relu(middle));
}
template <class V>
inline V hardsigmoid_slope(V x) {
  const V inside = V::set(static_cast<typename V::Scalar>(1.0 / 6));
  return select((x > V::set(-3)) & (x < V::set(3)), inside, V::zero());
}

template <class V>
inline V leaky_relu(V x, V slope) {
  return select(x > V::zero(), x, x * slope);
}
template <class V>
inline V leaky_relu_slope(V x, V slope) {
  return select(x > V::zero(), V::set(1), slope);
}

template <class V>
inline V elu(V x, V a, V b, V c) {
  return select(x > V::zero(), b * x, a * expm1(c * x));
}
template <class V>
inline V elu_slope(V x, V a, V b, V c) {
  return select(x > V::zero(), b, a * c * exp(c * x));
}

// log(1 + e^t), by e^-|t|, which does not overflow.
template <class V>
inline V softplus(V t) {
  return relu(t) + log1p(exp(-abs(t)));
}
template <class V>
inline V softplus(V x, V beta, V threshold) {
  const V t = beta * x;
  return select(t > threshold, x, softplus(t) / beta);
}
template <class V>
inline V softplus_slope(V x, V beta, V threshold) {
  const V t = beta * x;
  return select(t > threshold, V::set(1), sigmoid(t));
}

// log(sigmoid(x)) = -softplus(-x)
template <class V>
inline V log_sigmoid(V x) {
  return raw_min(V::zero(), x) - log1p(exp(-abs(x)));
}

template <class V>
inline V softsign(V x) {
  return x / (V::set(1) + abs(x));
}
// From the output: (1 - |y|)^2.
template <class V>
inline V softsign_slope(V y) {
  const V rest = V::set(1) - abs(y);
  return rest * rest;
}

// Mish is x t with t = tanh(log(1 + e^x)). With m = e^-|x|, l = m + 2 and r = 1 + 2m:
//   t = m l / (m l + 2) where x < 0, else r / (r + 2 m^2)
template <class V>
struct MishGate {
  V top, bottom;  // t = top / bottom, times m where x < 0
};
template <class V>
inline MishGate<V> mish_gate(V x, V m) {
  const V two = V::set(2), left = m + two, right = fma(two, m, V::set(1));
  const auto negative = x < V::zero();
  return {select(negative, left, right), select(negative, fma(m, left, two), fma(two * m, m, right))};
}

// The limit -0 at -inf; the left tail is scaled by 2^n last.
inline VecF32 mish(VecF32 x) {
  const ExpParts e = exp_parts(-abs(x), VecF32::zero());
  const MishGate<VecF32> gate = mish_gate(x, scale_pow2(e.p, e.n));
  const VecF32 t = gate.top / gate.bottom;
  const VecF32 bounded = select(x < VecF32::set(-120.f), VecF32::set(-120.f), x);
  return select(x < VecF32::zero(), scale_pow2(e.p * bounded * t, e.n), x * t);
}
inline VecF64 mish(VecF64 x) {
  const VecF64 m = exp(-abs(x));
  const MishGate<VecF64> gate = mish_gate(x, m);
  const VecF64 y = x * (gate.top / gate.bottom) * select(x < VecF64::zero(), m, VecF64::set(1));
  return select(x < VecF64::set(-800), VecF64::set(-0.0), y);
}

// t + x t' with t' = 4 m (1 + m) / bottom^2, times m again where x > 0.
template <class V>
inline V mish_slope(V x) {
  const V limit = V::set(800);  // beyond it m = 0
  const V m = exp(-abs(x));
  const MishGate<V> gate = mish_gate(x, m);
  const auto negative = x < V::zero();
  V bounded = select(x < -limit, -limit, x);
  bounded = select(x > limit, limit, bounded);
  const V t = select(negative, m, V::set(1)) * gate.top / gate.bottom;
  const V change = V::set(4) * (fma(m, m, m) / gate.bottom) * (select(negative, V::set(1), m) / gate.bottom);
  return fma(bounded, change, t);
}

}  // namespace
}  // namespace quernel::QUERNEL_ISA
