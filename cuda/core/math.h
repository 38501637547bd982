// Functions of one number on the device, for elementwise kernels and for the epilogues of products and convolutions:
// the same ones, so that a fused activation equals the separate one bit for bit. Formulas are those of
// csrc/kernels/simd/math.h and activation.h; exp, log and the like are CUDA's accurate ones.
#pragma once
#include "core/types.h"
#include "kernels/args/epilogue.h"

namespace quernel::cuda {

// NaN and -0 stay.
template <class T>
__device__ inline T relu(T x) {
  return T(0) > x ? T(0) : x;
}
template <class T>
__device__ inline T maximum(T a, T b) {
  return a > b || a != a ? a : b;
}
template <class T>
__device__ inline T minimum(T a, T b) {
  return a < b || a != a ? a : b;
}
template <class T>
__device__ inline T sign(T x) {
  return x > T(0) ? T(1) : x < T(0) ? T(-1) : x == T(0) ? T(0) : x;
}

// One name for both widths.
__device__ inline float exponential(float x) { return expf(x); }
__device__ inline double exponential(double x) { return exp(x); }
__device__ inline float exponential_minus_1(float x) { return expm1f(x); }
__device__ inline double exponential_minus_1(double x) { return expm1(x); }
__device__ inline float logarithm(float x) { return logf(x); }
__device__ inline double logarithm(double x) { return log(x); }
__device__ inline float logarithm_1_plus(float x) { return log1pf(x); }
__device__ inline double logarithm_1_plus(double x) { return log1p(x); }
__device__ inline float hyperbolic_tangent(float x) { return tanhf(x); }
__device__ inline double hyperbolic_tangent(double x) { return tanh(x); }
__device__ inline float error_function(float x) { return erff(x); }
__device__ inline double error_function(double x) { return erf(x); }
__device__ inline float square_root(float x) { return sqrtf(x); }
__device__ inline double square_root(double x) { return sqrt(x); }
__device__ inline float magnitude(float x) { return fabsf(x); }
__device__ inline double magnitude(double x) { return fabs(x); }
__device__ inline float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ inline double multiply_add(double a, double b, double c) { return fma(a, b, c); }

// e^-|x| never overflows.
template <class T>
__device__ inline T sigmoid(T x) {
  const T e = exponential(-magnitude(x));
  return (x < T(0) ? e : T(1)) / (T(1) + e);
}

// x sigmoid(x); the limit -0 at -inf. In double where e^x is a denormal float.
__device__ inline double silu(double x) { return x < -800 ? -0.0 : x * sigmoid(x); }
__device__ inline float silu(float x) {
  return x < -80.f ? static_cast<float>(silu(static_cast<double>(x))) : x * sigmoid(x);
}

// Phi(-t) = e^(-t^2 / 2) q(t), t = min(|x|, 15); Phi is the standard normal distribution.
struct NormalTail {
  float t, q, tq, e;
};
__device__ inline NormalTail normal_tail(float x) {
  // erfcx(t / sqrt(2)) / 2 (t + 9/4) in v = t / (t + 9/4), 0 <= t <= 15.2
  constexpr float kC[] = {1.125f,        -0.894644618f, -0.0666656271f, 0.201442167f, 0.098677747f,  0.0185522661f,
                          -0.131039739f, 0.14202337f,   -0.200274691f,  0.101828441f, 0.0295956768f, -0.0255600195f};
  const float t = fabsf(x) > 15.f ? 15.f : fabsf(x);
  const float shifted = t + 2.25f, v = t / shifted;
  float p = kC[11];
  for (int i = 10; i >= 0; --i) p = fmaf(p, v, kC[i]);
  // e^(-t^2 / 2) with what rounding t^2 loses. Below 2^-80 by parts, as its products may be denormals.
  const float square = t * t, lost = fmaf(t, t, -square);
  const float e = expf(-0.5f * square) * (1.f - 0.5f * lost);
  return {t, p / shifted, p * v, e};
}

// x Phi(x); gelu(-t) = -t Phi(-t) has no cancellation, and gelu(t) = t + gelu(-t).
__device__ inline double gelu(double x) { return x < -40 ? -0.0 : 0.5 * x * erfc(x * -0.70710678118654752440); }
__device__ inline float gelu(float x) {
  if (x < -10.f) return static_cast<float>(gelu(static_cast<double>(x)));  // e^(-t^2 / 2) may be a denormal
  const NormalTail n = normal_tail(x);
  const float left = -n.tq * n.e;
  return x < 0.f ? left : x + left;
}
// Phi(x) + x phi(x)
__device__ inline double gelu_slope(double x) {
  if (x < -40 || x > 40) return x < 0 ? -0.0 : 1.0;
  return 0.5 * erfc(x * -0.70710678118654752440) + x * exp(-0.5 * x * x) * 0.39894228040143268;
}
__device__ inline float gelu_slope(float x) {
  if (x < -10.f) return static_cast<float>(gelu_slope(static_cast<double>(x)));
  const NormalTail n = normal_tail(x);
  const float density = n.t * n.e * 0.39894228f;  // at |x|
  const float left = fmaf(n.q, n.e, -density);
  return x < 0.f ? left : 1.f - left;
}

// s + x s (1 - s) with s = sigmoid(x); s (1 - s) = e / (1 + e)^2 without cancellation.
template <class T>
__device__ inline T silu_slope(T x) {
  const T limit = T(800);  // beyond it e = 0
  const T e = exponential(-magnitude(x)), d = T(1) / (T(1) + e);
  const T bounded = x < -limit ? -limit : x > limit ? limit : x;
  return multiply_add(bounded * (e * d), d, x < T(0) ? e * d : d);
}

// min(max(x, 0), 6)
template <class T>
__device__ inline T relu6(T x) {
  const T y = relu(x);
  return y > T(6) ? T(6) : y;
}
// x relu6(x + 3) / 6, by its three pieces.
template <class T>
__device__ inline T hardswish(T x) {
  return x <= T(-3) ? T(0) : x >= T(3) ? x : x * (x + T(3)) * static_cast<T>(1.0 / 6);
}

template <class T>
__device__ inline T activate(Activation activation, T x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return relu(x);
    case Activation::kTanh:
      return hyperbolic_tangent(x);
    case Activation::kSigmoid:
      return sigmoid(x);
    case Activation::kGelu:
      return gelu(x);
    case Activation::kSilu:
      return silu(x);
    case Activation::kRelu6:
      return relu6(x);
    case Activation::kHardswish:
      return hardswish(x);
  }
  return x;
}

// What a finished sum becomes: element `i` of the output, of channel `column`. Stores `pre`, if asked for.
template <class T>
__device__ inline T finished(const Epilogue& e, T value, int64_t i, int64_t column) {
  if (e.bias) value = value + static_cast<const T*>(e.bias)[column];
  if (e.residual) value = value + static_cast<const T*>(e.residual)[i];
  if (e.gate) value = static_cast<const T*>(e.gate)[i] > T(0) ? value : T(0);
  if (e.pre) static_cast<T*>(e.pre)[i] = value;
  return activate(e.activation, value);
}

}  // namespace quernel::cuda
