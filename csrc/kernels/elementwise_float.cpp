// Functions of floating-point numbers and their gradients: one loop per function and float type, its tail one masked
// step, so that short rows cost one iteration. The functions themselves are in simd/math.h and simd/activation.h;
// parameters stay in registers.
#include "kernels/elementwise_float.h"

#include "kernels/isa.h"
#include "kernels/simd/activation.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

template <class V>
V sign(V x) {
  const V zero = V::zero();
  return select(x > zero, V::set(1), select(x < zero, V::set(-1), select(x == zero, zero, x)));  // NaN stays
}

template <class T>
void unary_loop(UnaryOp op, const T* x, T* y, int64_t n, const double* params) {
  using V = Vec<T>;
  const V p = V::set(static_cast<T>(params[0])), q = V::set(static_cast<T>(params[1])),
          r = V::set(static_cast<T>(params[2]));
  const auto map = [=](auto f) { for_lanes<V>(n, [=](int64_t i, int k) { put(f(get<V>(x + i, k)), y + i, k); }); };
  switch (op) {
    case UnaryOp::kFloor:
      return map([](V v) { return floor(v); });
    case UnaryOp::kCeil:
      return map([](V v) { return -floor(-v); });
    case UnaryOp::kRound:
      return map([](V v) { return round_even(v); });
    case UnaryOp::kSqrt:
      return map([](V v) { return sqrt(v); });
    case UnaryOp::kRsqrt:
      return map([](V v) { return V::set(1) / sqrt(v); });
    case UnaryOp::kReciprocal:
      return map([](V v) { return V::set(1) / v; });
    case UnaryOp::kExp:
      return map([](V v) { return exp(v); });
    case UnaryOp::kExpm1:
      return map([](V v) { return expm1(v); });
    case UnaryOp::kLog:
      return map([](V v) { return log(v); });
    case UnaryOp::kLog1p:
      return map([](V v) { return log1p(v); });
    case UnaryOp::kSin:
      return map([](V v) { return sin(v); });
    case UnaryOp::kCos:
      return map([](V v) { return cos(v); });
    case UnaryOp::kErf:
      return map([](V v) { return erf(v); });
    case UnaryOp::kTanh:
      return map([](V v) { return tanh(v); });
    case UnaryOp::kSigmoid:
      return map([](V v) { return sigmoid(v); });
    case UnaryOp::kGelu:
      return map([](V v) { return gelu(v); });
    case UnaryOp::kSilu:
      return map([](V v) { return silu(v); });
    case UnaryOp::kRelu6:
      return map([](V v) { return relu6(v); });
    case UnaryOp::kHardswish:
      return map([](V v) { return hardswish(v); });
    case UnaryOp::kHardsigmoid:
      return map([](V v) { return hardsigmoid(v); });
    case UnaryOp::kMish:
      return map([](V v) { return mish(v); });
    case UnaryOp::kLogSigmoid:
      return map([](V v) { return log_sigmoid(v); });
    case UnaryOp::kSoftsign:
      return map([](V v) { return softsign(v); });
    case UnaryOp::kLeakyRelu:
      return map([=](V v) { return leaky_relu(v, p); });
    case UnaryOp::kElu:
      return map([=](V v) { return elu(v, p, q, r); });
    case UnaryOp::kSoftplus:
      return map([=](V v) { return softplus(v, p, q); });
    default:
      return;  // elementwise.cpp has the others
  }
}

template <class T>
void gradient_loop(BinaryOp op, const T* saved, const T* incoming, T* y, int64_t n, const double* params) {
  using V = Vec<T>;
  const V p = V::set(static_cast<T>(params[0])), q = V::set(static_cast<T>(params[1])),
          r = V::set(static_cast<T>(params[2]));
  const auto zip = [=](auto f) {
    for_lanes<V>(n, [=](int64_t i, int k) { put(f(get<V>(saved + i, k), get<V>(incoming + i, k)), y + i, k); });
  };
  switch (op) {
    case BinaryOp::kReluGrad:
      return zip([](V s, V g) { return select(s > V::zero(), g, V::zero()); });
    case BinaryOp::kTanhGrad:
      return zip([](V s, V g) { return g * (V::set(1) - s * s); });
    case BinaryOp::kSigmoidGrad:
      return zip([](V s, V g) { return g * (s * (V::set(1) - s)); });
    case BinaryOp::kSoftsignGrad:
      return zip([](V s, V g) { return g * softsign_slope(s); });
    case BinaryOp::kClampGrad:
      return zip([=](V s, V g) { return select((s <= p) | (s >= q), V::zero(), g); });
    case BinaryOp::kAbsGrad:
      return zip([](V s, V g) { return g * sign(s); });
    case BinaryOp::kGeluGrad:
      return zip([](V s, V g) { return g * gelu_slope(s); });
    case BinaryOp::kSiluGrad:
      return zip([](V s, V g) { return g * silu_slope(s); });
    case BinaryOp::kMishGrad:
      return zip([](V s, V g) { return g * mish_slope(s); });
    case BinaryOp::kLogSigmoidGrad:
      return zip([](V s, V g) { return g * sigmoid(-s); });
    case BinaryOp::kHardswishGrad:
      return zip([](V s, V g) { return g * hardswish_slope(s); });
    case BinaryOp::kHardsigmoidGrad:
      return zip([](V s, V g) { return g * hardsigmoid_slope(s); });
    case BinaryOp::kLeakyReluGrad:
      return zip([=](V s, V g) { return g * leaky_relu_slope(s, p); });
    case BinaryOp::kEluGrad:
      return zip([=](V s, V g) { return g * elu_slope(s, p, q, r); });
    case BinaryOp::kSoftplusGrad:
      return zip([=](V s, V g) { return g * softplus_slope(s, p, q); });
    default:
      return;  // elementwise_binary.cpp has the others
  }
}

}  // namespace

void unary_floating(UnaryOp op, const float* x, float* y, int64_t n, const double* params) {
  unary_loop(op, x, y, n, params);
}
void unary_floating(UnaryOp op, const double* x, double* y, int64_t n, const double* params) {
  unary_loop(op, x, y, n, params);
}

void gradient_floating(BinaryOp op, const float* s, const float* g, float* y, int64_t n, const double* params) {
  gradient_loop(op, s, g, y, n, params);
}
void gradient_floating(BinaryOp op, const double* s, const double* g, double* y, int64_t n, const double* params) {
  gradient_loop(op, s, g, y, n, params);
}

}  // namespace quernel::QUERNEL_ISA
