// Elementwise kernels of two and three broadcast operands. A thread an output element; operands of the output's own
// shape are read in order, others at places computed from the strides.
#include <type_traits>

#include "core/activation.h"
#include "core/launch.h"
#include "core/strided.h"
#include "kernels/args/elementwise.h"

namespace quernel::cuda {
namespace {

// One operand: dense, broadcast or a number.
template <class T>
struct Source {
  const T* data;
  T scalar;
  bool dense;
  int64_t strides[kArgsRank];

  Source(const void* data_, double scalar_, const StridedShape& shape, const int64_t* strides_)
      : data(static_cast<const T*>(data_)), scalar(convert<T>(scalar_)), dense(is_dense(shape, strides_)) {
    for (int d = 0; d < kArgsRank; ++d) strides[d] = strides_[d];
  }
  __device__ T at(const StridedShape& shape, int64_t i) const {
    if (!data) return scalar;
    return data[dense ? i : offset_of(shape, strides, i)];
  }
};

// ---- floating-point numbers -------------------------------------------------------------------------------------

__device__ inline float modulo(float a, float b) { return fmodf(a, b); }
__device__ inline double modulo(double a, double b) { return fmod(a, b); }
__device__ inline float power(float a, float b) { return powf(a, b); }
__device__ inline double power(double a, double b) { return pow(a, b); }

// The quotient rounded down, and what it leaves, which has the divisor's sign. fmod is exact, so no quotient is rounded
// up to the next whole number by accident.
template <class T>
__device__ T remainder_of(T a, T b) {
  const T rest = modulo(a, b);
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}
template <class T>
__device__ T floor_quotient(T a, T b) {
  if (b == 0) return a / b;
  const T rest = modulo(a, b);
  T quotient = (a - rest) / b;  // whole, but for its own rounding
  if (rest != 0 && (rest < 0) != (b < 0)) quotient -= 1;
  if (quotient == 0) return (a < 0) != (b < 0) ? -T(0) : T(0);
  const T whole = round_down(quotient);
  return quotient - whole > T(0.5) ? whole + 1 : whole;
}

template <class T>
__device__ T floating_binary(BinaryOp op, T a, T b) {
  switch (op) {
    case BinaryOp::kAdd:
      return a + b;
    case BinaryOp::kSub:
      return a - b;
    case BinaryOp::kMul:
      return a * b;
    case BinaryOp::kDiv:
      return a / b;
    case BinaryOp::kFloorDiv:
      return floor_quotient(a, b);
    case BinaryOp::kRemainder:
      return remainder_of(a, b);
    case BinaryOp::kPow:
      return power(a, b);
    case BinaryOp::kMaximum:
      return maximum(a, b);
    case BinaryOp::kMinimum:
      return minimum(a, b);
    default:
      return a;
  }
}

// s is what the forward pass saved, g the incoming gradient.
template <class T>
__device__ T gradient(BinaryOp op, T s, T g, T p, T q, T r) {
  switch (op) {
    case BinaryOp::kReluGrad:
      return s > T(0) ? g : T(0);
    case BinaryOp::kTanhGrad:
      return g * (T(1) - s * s);
    case BinaryOp::kSigmoidGrad:
      return g * (s * (T(1) - s));
    case BinaryOp::kSoftsignGrad:
      return g * softsign_slope(s);
    case BinaryOp::kClampGrad:
      return s <= p || s >= q ? T(0) : g;
    case BinaryOp::kAbsGrad:
      return g * sign(s);
    case BinaryOp::kGeluGrad:
      return g * gelu_slope(s);
    case BinaryOp::kSiluGrad:
      return g * silu_slope(s);
    case BinaryOp::kMishGrad:
      return g * mish_slope(s);
    case BinaryOp::kLogSigmoidGrad:
      return g * sigmoid(-s);
    case BinaryOp::kHardswishGrad:
      return g * hardswish_slope(s);
    case BinaryOp::kHardsigmoidGrad:
      return g * hardsigmoid_slope(s);
    case BinaryOp::kLeakyReluGrad:
      return g * leaky_relu_slope(s, p);
    case BinaryOp::kEluGrad:
      return g * elu_slope(s, p, q, r);
    case BinaryOp::kSoftplusGrad:
      return g * softplus_slope(s, p, q);
    default:
      return g;
  }
}

// ---- integers: they wrap around; division truncates, and by zero gives 0 --------------------------------------------

template <class T>
__device__ T wrapped(uint64_t x) {
  return static_cast<T>(x);
}
template <class T>
__device__ T quotient(T a, T b) {
  if (b == 0) return 0;
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return wrapped<T>(0 - static_cast<uint64_t>(a));
  return static_cast<T>(a / b);
}
template <class T>
__device__ T integer_remainder(T a, T b) {
  if (b == 0 || (std::is_signed_v<T> && b == static_cast<T>(-1))) return 0;
  const T rest = static_cast<T>(a % b);
  return rest != 0 && is_negative(rest) != is_negative(b) ? static_cast<T>(rest + b) : rest;
}
template <class T>
__device__ T integer_power(T base, T exponent) {
  if (is_negative(exponent)) {  // the truncated quotient 1 / base^-exponent
    if (base == 1) return 1;
    return static_cast<T>(base == static_cast<T>(-1) ? (exponent % 2 != 0 ? -1 : 1) : 0);
  }
  uint64_t result = 1, factor = static_cast<uint64_t>(base);
  for (; exponent != 0; exponent = static_cast<T>(exponent / 2)) {
    if (exponent % 2 != 0) result *= factor;
    factor *= factor;
  }
  return wrapped<T>(result);
}

template <class T>
__device__ T integer_binary(BinaryOp op, T a, T b) {
  const auto x = static_cast<uint64_t>(a), y = static_cast<uint64_t>(b);
  switch (op) {
    case BinaryOp::kAdd:
      return wrapped<T>(x + y);
    case BinaryOp::kSub:
      return wrapped<T>(x - y);
    case BinaryOp::kMul:
      return wrapped<T>(x * y);
    case BinaryOp::kDiv:
      return quotient(a, b);
    case BinaryOp::kFloorDiv: {
      const T whole = quotient(a, b);
      return b != 0 && integer_remainder(a, b) != 0 && is_negative(a) != is_negative(b) ? static_cast<T>(whole - 1)
                                                                                        : whole;
    }
    case BinaryOp::kRemainder:
      return integer_remainder(a, b);
    case BinaryOp::kPow:
      return integer_power(a, b);
    case BinaryOp::kMaximum:
      return a > b ? a : b;
    case BinaryOp::kMinimum:
      return a < b ? a : b;
    default:
      return a;
  }
}

template <class T>
__device__ bool comparison(BinaryOp op, T a, T b) {
  switch (op) {
    case BinaryOp::kEq:
      return a == b;
    case BinaryOp::kNe:
      return a != b;
    case BinaryOp::kLt:
    case BinaryOp::kGt:  // operands exchanged by ops/
      return a < b;
    case BinaryOp::kLe:
    case BinaryOp::kGe:
      return a <= b;
    case BinaryOp::kLogicalAnd:
      return a != T(0) && b != T(0);
    default:
      return a != T(0) || b != T(0);
  }
}

// ---- kernels --------------------------------------------------------------------------------------------------------

template <class T>
struct Arithmetic {
  Source<T> a, b;
  StridedShape shape;
  T* y;
  BinaryOp op;

  __device__ void operator()(int64_t i) const {
    const T left = a.at(shape, i), right = b.at(shape, i);
    if constexpr (std::is_floating_point_v<T>) {
      y[i] = floating_binary(op, left, right);
    } else {
      y[i] = integer_binary(op, left, right);
    }
  }
};

template <class T>
struct Gradient {
  Source<T> a, b;
  StridedShape shape;
  T* y;
  BinaryOp op;
  T p, q, r;

  __device__ void operator()(int64_t i) const { y[i] = gradient(op, a.at(shape, i), b.at(shape, i), p, q, r); }
};

template <class T>
struct Comparison {
  Source<T> a, b;
  StridedShape shape;
  uint8_t* y;
  BinaryOp op;

  __device__ void operator()(int64_t i) const { y[i] = comparison(op, a.at(shape, i), b.at(shape, i)); }
};

template <class T>
struct Where {
  Source<uint8_t> c;
  Source<T> a, b;
  StridedShape shape;
  T* y;

  __device__ void operator()(int64_t i) const { y[i] = c.at(shape, i) ? a.at(shape, i) : b.at(shape, i); }
};

}  // namespace

Status binary(const BinaryArgs& args, Range, const Ctx& ctx) {
  visit(args.dtype, [&]<class T>(T) {
    const Source<T> a(args.a, args.scalar, args.shape, args.a_strides),
        b(args.b, args.scalar, args.shape, args.b_strides);
    const int64_t size = args.shape.size;
    if (args.op >= BinaryOp::kReluGrad) {
      if constexpr (std::is_floating_point_v<T>) {  // ops/ refuses others
        const T p = static_cast<T>(args.params[0]), q = static_cast<T>(args.params[1]),
                r = static_cast<T>(args.params[2]);
        for_each(ctx, size, Gradient<T>{a, b, args.shape, static_cast<T*>(args.y), args.op, p, q, r});
      }
    } else if (args.op >= BinaryOp::kEq) {
      for_each(ctx, size, Comparison<T>{a, b, args.shape, static_cast<uint8_t*>(args.y), args.op});
    } else {
      for_each(ctx, size, Arithmetic<T>{a, b, args.shape, static_cast<T*>(args.y), args.op});
    }
  });
  return {};
}

Status where(const WhereArgs& args, Range, const Ctx& ctx) {
  const Source<uint8_t> c(args.condition, 0, args.shape, args.c_strides);
  visit(args.dtype, [&]<class T>(T) {
    const Source<T> a(args.a, args.a_scalar, args.shape, args.a_strides),
        b(args.b, args.b_scalar, args.shape, args.b_strides);
    for_each(ctx, args.shape.size, Where<T>{c, a, b, args.shape, static_cast<T*>(args.y)});
  });
  return {};
}

}  // namespace quernel::cuda
