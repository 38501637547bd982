// Activations that no epilogue has, and the derivatives of all of them, as csrc/kernels/simd/activation.h defines them.
#pragma once
#include "core/math.h"

namespace quernel::cuda {

__device__ inline float sine(float x) { return sinf(x); }
__device__ inline double sine(double x) { return sin(x); }
__device__ inline float cosine(float x) { return cosf(x); }
__device__ inline double cosine(double x) { return cos(x); }
__device__ inline float round_down(float x) { return floorf(x); }
__device__ inline double round_down(double x) { return floor(x); }
__device__ inline float round_even(float x) { return rintf(x); }
__device__ inline double round_even(double x) { return rint(x); }

template <class T>
__device__ inline T hardswish_slope(T x) {
  const T middle = multiply_add(x, static_cast<T>(1.0 / 3), static_cast<T>(0.5));
  return x <= T(-3) ? T(0) : x >= T(3) ? T(1) : middle;
}

template <class T>
__device__ inline T hardsigmoid(T x) {
  const T y = relu((x + T(3)) * static_cast<T>(1.0 / 6));
  return y > T(1) ? T(1) : y;
}
template <class T>
__device__ inline T hardsigmoid_slope(T x) {
  return x > T(-3) && x < T(3) ? static_cast<T>(1.0 / 6) : T(0);
}

template <class T>
__device__ inline T leaky_relu(T x, T slope) {
  return x > T(0) ? x : x * slope;
}
template <class T>
__device__ inline T leaky_relu_slope(T x, T slope) {
  return x > T(0) ? T(1) : slope;
}

template <class T>
__device__ inline T elu(T x, T a, T b, T c) {
  return x > T(0) ? b * x : a * exponential_minus_1(c * x);
}
template <class T>
__device__ inline T elu_slope(T x, T a, T b, T c) {
  return x > T(0) ? b : a * c * exponential(c * x);
}

// log(1 + e^t), by e^-|t|, which does not overflow.
template <class T>
__device__ inline T softplus(T t) {
  return relu(t) + logarithm_1_plus(exponential(-magnitude(t)));
}
template <class T>
__device__ inline T softplus(T x, T beta, T threshold) {
  const T t = beta * x;
  return t > threshold ? x : softplus(t) / beta;
}
template <class T>
__device__ inline T softplus_slope(T x, T beta, T threshold) {
  const T t = beta * x;
  return t > threshold ? T(1) : sigmoid(t);
}

template <class T>
__device__ inline T log_sigmoid(T x) {
  return (T(0) < x ? T(0) : x) - logarithm_1_plus(exponential(-magnitude(x)));
}

template <class T>
__device__ inline T softsign(T x) {
  return x / (T(1) + magnitude(x));
}
template <class T>
__device__ inline T softsign_slope(T y) {  // from the output
  const T rest = T(1) - magnitude(y);
  return rest * rest;
}

// Mish is x t with t = tanh(log(1 + e^x)). With m = e^-|x|, l = m + 2 and r = 1 + 2m:
//   t = m l / (m l + 2) where x < 0, else r / (r + 2 m^2)
template <class T>
struct MishGate {
  T top, bottom;  // t = top / bottom, times m where x < 0
};
template <class T>
__device__ inline MishGate<T> mish_gate(T x, T m) {
  const T left = m + T(2), right = multiply_add(T(2), m, T(1));
  if (x < T(0)) return {left, multiply_add(left, m, T(2))};
  return {right, multiply_add(T(2) * m, m, right)};
}
__device__ inline double mish(double x) {
  const double m = exponential(-magnitude(x));
  const MishGate<double> gate = mish_gate(x, m);
  return x < -800 ? -0.0 : x * (gate.top / gate.bottom) * (x < 0 ? m : 1.0);
}
__device__ inline float mish(float x) {
  if (x < -80.f) return static_cast<float>(mish(static_cast<double>(x)));  // e^x may be a denormal
  const float m = exponential(-magnitude(x));
  const MishGate<float> gate = mish_gate(x, m);
  return x * (gate.top / gate.bottom) * (x < 0.f ? m : 1.f);
}
// t + x t' with t' = 4 m (1 + m) / bottom^2, times m again where x > 0.
template <class T>
__device__ inline T mish_slope(T x) {
  const T limit = T(800);  // beyond it m = 0
  const T m = exponential(-magnitude(x));
  const MishGate<T> gate = mish_gate(x, m);
  const bool negative = x < T(0);
  const T bounded = x < -limit ? -limit : x > limit ? limit : x;
  const T t = (negative ? m : T(1)) * gate.top / gate.bottom;
  const T change = T(4) * (multiply_add(m, m, m) / gate.bottom) * ((negative ? T(1) : m) / gate.bottom);
  return multiply_add(bounded, change, t);
}

}  // namespace quernel::cuda
