// Vectorized exp, log, erf, tanh, sigmoid, GELU, SiLU and what is built on them: at most 4 ulp over all floats,
// denormals, infinities and NaN included (tests/ops/test_elementwise.py sweeps them at every ISA level). Branch-free:
// both sides are computed and selected. The GEMM epilogue calls these same functions, so a fused activation equals the
// separate one bit for bit. Activations that no epilogue has are in activation.h.
//
// Polynomials are minimax fits (weighted for relative error) in the variables named beside them. Where a result
// would lose bits to a denormal intermediate, the scaling by 2^n comes last (ExpParts).
//
// Doubles exist for correctness, not speed: they call libm lane by lane. So do sine and cosine of floats, whose
// arguments up to 10^38 need a reduction in many digits, and which nothing here computes in bulk.
#pragma once
#include <math.h>

#include "kernels/args/epilogue.h"
#include "kernels/simd/vec.h"

namespace quernel::QUERNEL_ISA {
namespace {

// c[0] + c[1] x + … + c[N-1] x^(N-1)
template <int N>
inline VecF32 polynomial(VecF32 x, const float (&c)[N]) {
  VecF32 p = VecF32::set(c[N - 1]);
  for (int i = N - 2; i >= 0; --i) p = fma(p, x, VecF32::set(c[i]));
  return p;
}

template <double (*F)(double)>
inline VecF64 by_lane(VecF64 x) {
  double lanes[VecF64::kWidth];
  x.store(lanes);
  for (double& lane : lanes) lane = F(lane);
  return VecF64::load(lanes);
}

template <float (*F)(float)>
inline VecF32 by_lane(VecF32 x) {
  float lanes[VecF32::kWidth];
  x.store(lanes);
  for (float& lane : lanes) lane = F(lane);
  return VecF32::load(lanes);
}
template <class V>
inline V sin(V x) {
  return by_lane<::sin>(x);
}
template <class V>
inline V cos(V x) {
  return by_lane<::cos>(x);
}

constexpr float kLog2E = 1.44269504f;
constexpr float kLn2Hi = 0.693359375f;  // few bits: n · kLn2Hi is exact without FMA too
constexpr float kLn2Lo = -2.12194440e-4f;
// (e^r - 1 - r) / r^2 on |r| <= ln2 / 2
constexpr float kExpm1[] = {0.49999994f, 0.16666521f, 0.041668389f, 0.0083687454f, 0.0013814538f};

// e^x = p · 2^n, p near 1. Arguments below the smallest denormal's stay representable here, so that a product
// with p can still be scaled into the range.
struct ExpParts {
  VecF32 p, n;
};

// e^(x + tail), |tail| <= 0.06, with p - 1 in place of p, for x in [-120, 89] or NaN.
inline ExpParts expm1_parts_inside(VecF32 x, VecF32 tail) {
  const VecF32 n = round_even(x * VecF32::set(kLog2E));
  const VecF32 r = fma(n, VecF32::set(-kLn2Lo), fma(n, VecF32::set(-kLn2Hi), x)) + tail;
  return {fma(polynomial(r, kExpm1), r * r, r), n};
}
// x is clamped to [-120, 89], where e^x is already 0 or infinite.
inline ExpParts expm1_parts(VecF32 x, VecF32 tail) {
  x = select(x < VecF32::set(-120.f), VecF32::set(-120.f), x);  // NaN stays
  x = select(x > VecF32::set(89.f), VecF32::set(89.f), x);
  return expm1_parts_inside(x, tail);
}
inline ExpParts exp_parts(VecF32 x, VecF32 tail) {
  const ExpParts e = expm1_parts(x, tail);
  return {e.p + VecF32::set(1.f), e.n};
}

inline VecF32 exp(VecF32 x) {
  const ExpParts e = exp_parts(x, VecF32::zero());
  return scale_pow2(e.p, e.n);
}
inline VecF64 exp(VecF64 x) { return by_lane<::exp>(x); }

// 2^x for x <= 0 (or little more), in fewer steps, within 1.3 ulp and exact at 0: results below the least normal number
// are 0.
inline VecF32 exp2_to_zero(VecF32 x) {
  // 2^r on |r| <= 1/2
  constexpr float kC[] = {1.f, 0.693147004f, 0.240222424f, 0.055507008f, 0.00967149716f, 0.00132740673f};
  const VecF32 magic = VecF32::set(0x1.8p23f + 127);  // leaves 127 + n, the exponent of 2^n, in the low bits
  x = raw_max(VecF32::set(-127.f), x);                // NaN stays; 2^-127 is taken for 0
  const VecF32 shifted = x + magic;
  const VecF32 r = x - (shifted - magic);
  return polynomial(r, kC) * from_bits(shift_left<23>(bits(shifted)));
}
inline VecF64 exp2_to_zero(VecF64 x) { return by_lane<::exp2>(x); }

// 2^n p + (2^n - 1), in halves, because 2^n may overflow where the result does not.
inline VecF32 expm1(VecF32 x) {
  const VecF32 zero = VecF32::zero(), half = VecF32::set(0.5f);
  const ExpParts e = expm1_parts(x, zero);
  const VecF32 power = scale_pow2(half, e.n);
  const VecF32 y = fma(power, e.p, power - half);
  return select(e.n == zero, select(x == zero, x, e.p), y + y);  // -0 stays
}
inline VecF64 expm1(VecF64 x) { return by_lane<::expm1>(x); }

inline VecF32 log(VecF32 x) {
  // (log(1 + f) - f + f^2 / 2) / f^3 on sqrt(1/2) <= 1 + f <= sqrt(2)
  constexpr float kC[] = {0.33333313f,  -0.25000009f, 0.20002119f,  -0.16667996f, 0.14219551f,
                          -0.12405592f, 0.11888178f,  -0.11675639f, 0.067465916f};
  const VecF32 one = VecF32::set(1.f), zero = VecF32::zero(), infinity = VecF32::set(INFINITY);
  const VecF32 proper = select((x > zero) & (x < infinity), x, one);
  VecF32 e = exponent(proper);
  VecF32 m = mantissa(proper);
  const auto large = m > VecF32::set(1.41421356f);
  m = select(large, m * VecF32::set(0.5f), m);
  e = select(large, e + one, e);
  const VecF32 f = m - one;
  const VecF32 f2 = f * f;
  const VecF32 tail = fma(polynomial(f, kC) * f, f2, fma(f2, VecF32::set(-0.5f), e * VecF32::set(kLn2Lo)));
  VecF32 y = fma(e, VecF32::set(kLn2Hi), f + tail);
  y = select(x < infinity, y, x);  // +inf and NaN
  y = select(x == zero, -infinity, y);
  return select(x < zero, VecF32::set(NAN), y);
}
inline VecF64 log(VecF64 x) { return by_lane<::log>(x); }

// log(u) + d / u, where d is what rounding u = 1 + x lost.
inline VecF32 log1p(VecF32 x) {
  const VecF32 one = VecF32::set(1.f), zero = VecF32::zero();
  const VecF32 u = one + x;
  const VecF32 lost = select(x < one, x - (u - one), one - (u - x));
  const VecF32 y = log(u);
  const VecF32 corrected = select((u > zero) & (u < VecF32::set(INFINITY)), y + lost / u, y);
  return select(x == zero, x, corrected);  // -0 stays
}
inline VecF64 log1p(VecF64 x) { return by_lane<::log1p>(x); }

inline VecF32 tanh(VecF32 x) {
  // (tanh(x) / x - 1) / x^2 in z = x^2, |x| <= 0.65
  constexpr float kC[] = {-0.33333328f, 0.13333158f, -0.053940564f, 0.021666344f, -0.0080919648f, 0.0020646621f};
  const VecF32 one = VecF32::set(1.f), two = VecF32::set(2.f);
  const VecF32 z = x * x;
  const VecF32 t = abs(x);
  const VecF32 small = select(t > VecF32::zero(), fma(polynomial(z, kC) * z, x, x), x);  // -0 stays
  const VecF32 e = exp(t + t);
  const VecF32 large = one - two / (e + one);
  return select(t < VecF32::set(0.625f), small, select(x < VecF32::zero(), -large, large));
}
inline VecF64 tanh(VecF64 x) { return by_lane<::tanh>(x); }

// e^-|x| never overflows; the numerator keeps the left tail accurate down to the denormals.
template <class V>
inline V sigmoid(V x) {
  const V one = V::set(1), zero = V::zero();
  const V e = exp(-abs(x));
  return select(x < zero, e, one) / (one + e);
}

// x · sigmoid(x); the limit -0 at -inf.
inline VecF32 silu(VecF32 x) {
  const VecF32 one = VecF32::set(1.f), zero = VecF32::zero();
  const ExpParts e = exp_parts(-abs(x), zero);
  const VecF32 bounded = select(x < VecF32::set(-120.f), VecF32::set(-120.f), x);
  return select(x < zero, scale_pow2(e.p * bounded, e.n), x) / (one + scale_pow2(e.p, e.n));
}
inline VecF64 silu(VecF64 x) { return select(x < VecF64::set(-800), VecF64::set(-0.0), x * sigmoid(x)); }

// Phi(-t) = e^(-t^2 / 2) · q(t) for t = min(|x|, 15), with e^… in parts; Phi is the standard normal distribution.
struct NormalTail {
  VecF32 t, q, tq;  // tq = t · q, rounded less often than their product
  ExpParts e;
};

// kShort: x has at most 12 bits, as a bfloat16 has.
template <bool kShort = false>
inline NormalTail normal_tail(VecF32 x) {
  // erfcx(t / sqrt(2)) / 2 · (t + 9/4) in v = t / (t + 9/4), 0 <= t <= 15.2
  constexpr float kC[] = {1.125f,        -0.894644618f, -0.0666656271f, 0.201442167f, 0.098677747f,  0.0185522661f,
                          -0.131039739f, 0.14202337f,   -0.200274691f,  0.101828441f, 0.0295956768f, -0.0255600195f};
  const VecF32 half = VecF32::set(0.5f);
  VecF32 t = abs(x);
  t = select(t > VecF32::set(15.f), VecF32::set(15.f), t);
  const VecF32 shifted = t + VecF32::set(2.25f);
  const VecF32 v = t / shifted;
  const VecF32 p = polynomial(v, kC);
  // t^2 in two parts: the upper 12 bits of t have an exact square. Rounding t^2 would cost 100 ulp at t = 14.
  VecF32 hi = t, tail = VecF32::zero();
  if constexpr (!kShort) {
    const VecF32 c = t * VecF32::set(4097.f);
    hi = c - (c - t);
    tail = -half * (t - hi) * (t + hi);
  }
  const ExpParts e = expm1_parts_inside(-half * hi * hi, tail);
  return {t, p / shifted, p * v, {e.p + VecF32::set(1.f), e.n}};
}

// x · Phi(x), exact erf form. gelu(-t) = -t · Phi(-t) has no cancellation, and gelu(t) = t + gelu(-t).
template <bool kShort = false>
inline VecF32 gelu(VecF32 x) {
  const NormalTail n = normal_tail<kShort>(x);
  const VecF32 left = scale_pow2(-n.tq * n.e.p, n.e.n);
  return select(x < VecF32::zero(), left, x + left);
}

inline VecF32 erf(VecF32 x) {
  // erf(x) / x - 1 in z = x^2, |x| <= 1
  constexpr float kC[] = {0.128379166f,   -0.376126379f,   0.112837829f,    -0.0268654376f,
                          0.00522105349f, -0.00084843964f, 0.000112682537f, -9.67359319e-06f};
  const VecF32 one = VecF32::set(1.f);
  const VecF32 small = fma(polynomial(x * x, kC), x, x);
  const NormalTail n = normal_tail(x * VecF32::set(1.41421356f));  // 1 - erf(|x|) = 2 Phi(-|x| sqrt(2))
  const VecF32 large = fma(VecF32::set(-2.f), scale_pow2(n.q * n.e.p, n.e.n), one);
  return select(abs(x) < one, small, select(x < VecF32::zero(), -large, large));
}
inline VecF64 erf(VecF64 x) { return by_lane<::erf>(x); }

namespace lane {
inline double gelu(double x) { return x < -40 ? -0.0 : 0.5 * x * ::erfc(x * -M_SQRT1_2); }
inline double gelu_slope(double x) {
  if (x < -40 || x > 40) return x < 0 ? -0.0 : 1.0;
  return 0.5 * ::erfc(x * -M_SQRT1_2) + x * ::exp(-0.5 * x * x) * 0.39894228040143268;
}
}  // namespace lane
inline VecF64 gelu(VecF64 x) { return by_lane<lane::gelu>(x); }

// d gelu(x) / dx = Phi(x) + x · phi(x)
inline VecF32 gelu_slope(VecF32 x) {
  const NormalTail n = normal_tail(x);
  const VecF32 e = scale_pow2(n.e.p, n.e.n);
  const VecF32 density = n.t * e * VecF32::set(0.39894228f);  // at |x|
  const VecF32 left = fma(n.q, e, -density);
  return select(x < VecF32::zero(), left, VecF32::set(1.f) - left);
}
inline VecF64 gelu_slope(VecF64 x) { return by_lane<lane::gelu_slope>(x); }

// d silu(x) / dx = s + x · s · (1 - s) with s = sigmoid(x); s (1 - s) = e / (1 + e)^2 without cancellation.
template <class V>
inline V silu_slope(V x) {
  const V one = V::set(1), limit = V::set(800);  // beyond it e = 0
  const V e = exp(-abs(x));
  const V d = one / (one + e);
  V bounded = select(x < -limit, -limit, x);
  bounded = select(x > limit, limit, bounded);
  return fma(bounded * (e * d), d, select(x < V::zero(), e * d, d));
}

// min(max(x, 0), 6), with relu6(NaN) = NaN.
template <class V>
inline V relu6(V x) {
  return raw_min(V::set(6), relu(x));
}

// x · relu6(x + 3) / 6, by its three pieces: no product overflows, and -inf gives the limit 0.
template <class V>
inline V hardswish(V x) {
  const V three = V::set(3);
  const V middle = x * (x + three) * V::set(static_cast<typename V::Scalar>(1.0 / 6));
  return select(x <= -three, V::zero(), select(x >= three, x, middle));
}

template <class V>
inline V activate(Activation activation, V x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return relu(x);
    case Activation::kTanh:
      return tanh(x);
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

}  // namespace
}  // namespace quernel::QUERNEL_ISA
