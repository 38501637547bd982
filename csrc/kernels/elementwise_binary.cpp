// Elementwise kernels of two and three broadcast operands; item = kElementBlock elements of the output.
//
// Every operation has one loop, over contiguous operands; broadcast.h brings the others into that form. Gradients of
// functions have theirs in elementwise_float.cpp.
#include <math.h>

#include <type_traits>

#include "kernels/args/elementwise.h"
#include "kernels/broadcast.h"
#include "kernels/elementwise_float.h"
#include "kernels/isa.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

// Integers wrap around; division truncates, and by zero gives 0.
template <class T>
using Unsigned = std::make_unsigned_t<T>;

struct Add {
  template <class V>
  static V apply(V a, V b) {
    return a + b;
  }
  template <class T>
  static T integer(T a, T b) {
    return static_cast<T>(static_cast<Unsigned<T>>(a) + static_cast<Unsigned<T>>(b));
  }
};
struct Sub {
  template <class V>
  static V apply(V a, V b) {
    return a - b;
  }
  template <class T>
  static T integer(T a, T b) {
    return static_cast<T>(static_cast<Unsigned<T>>(a) - static_cast<Unsigned<T>>(b));
  }
};
struct Mul {
  template <class V>
  static V apply(V a, V b) {
    return a * b;
  }
  template <class T>
  static T integer(T a, T b) {
    return static_cast<T>(static_cast<Unsigned<T>>(a) * static_cast<Unsigned<T>>(b));
  }
};
struct Div {
  template <class V>
  static V apply(V a, V b) {
    return a / b;
  }
  template <class T>
  static T integer(T a, T b) {
    if (b == 0) return 0;
    if constexpr (std::is_signed_v<T>) {
      if (b == -1) return Sub::integer(T{0}, a);  // the minimum divided by -1 would trap
    }
    return static_cast<T>(a / b);
  }
};
template <class F, class V>
V by_lane_of_two(V a, V b) {
  typename V::Scalar x[V::kWidth], y[V::kWidth];
  a.store(x);
  b.store(y);
  for (int i = 0; i < V::kWidth; ++i) x[i] = F::lane(x[i], y[i]);
  return V::load(x);
}

// The quotient rounded down, and what it leaves, which has the divisor's sign, as in Python and NumPy. fmod is exact,
// so no quotient is rounded up to the next whole number by accident.
struct Remainder {
  static float modulo(float a, float b) { return ::fmodf(a, b); }
  static double modulo(double a, double b) { return ::fmod(a, b); }
  template <class T>
  static T lane(T a, T b) {
    const T rest = modulo(a, b);
    return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
  }
  template <class V>
  static V apply(V a, V b) {
    return by_lane_of_two<Remainder>(a, b);
  }
  template <class T>
  static T integer(T a, T b) {
    if (b == 0) return 0;
    if constexpr (std::is_signed_v<T>) {
      if (b == -1) return 0;  // the minimum divided by -1 would trap
    }
    const T rest = static_cast<T>(a % b);
    return rest != 0 && (rest < 0) != (b < 0) ? static_cast<T>(rest + b) : rest;
  }
};
struct FloorDiv {
  static float down(float x) { return ::floorf(x); }
  static double down(double x) { return ::floor(x); }
  template <class T>
  static T lane(T a, T b) {
    if (b == 0) return a / b;
    const T rest = Remainder::modulo(a, b);
    T quotient = (a - rest) / b;  // whole, but for its own rounding
    if (rest != 0 && (rest < 0) != (b < 0)) quotient -= 1;
    if (quotient == 0) return (a < 0) != (b < 0) ? -T{0} : T{0};
    const T whole = down(quotient);
    return quotient - whole > T(0.5) ? whole + 1 : whole;
  }
  template <class V>
  static V apply(V a, V b) {
    return by_lane_of_two<FloorDiv>(a, b);
  }
  template <class T>
  static T integer(T a, T b) {
    const T quotient = Div::integer(a, b);
    return b != 0 && Remainder::integer(a, b) != 0 && (a < 0) != (b < 0) ? static_cast<T>(quotient - 1) : quotient;
  }
};
struct Pow {
  static float lane(float a, float b) { return __builtin_powf(a, b); }
  static double lane(double a, double b) { return __builtin_pow(a, b); }
  template <class V>
  static V apply(V a, V b) {
    return by_lane_of_two<Pow>(a, b);
  }
  template <class T>
  static T integer(T base, T exponent) {
    if (exponent < 0) {  // the truncated quotient 1 / base^-exponent
      if (base == 1) return 1;
      return static_cast<T>(base == static_cast<T>(-1) ? (exponent % 2 != 0 ? -1 : 1) : 0);
    }
    T result = 1;
    for (; exponent != 0; exponent = static_cast<T>(exponent / 2)) {
      if (exponent % 2 != 0) result = Mul::integer(result, base);
      base = Mul::integer(base, base);
    }
    return result;
  }
};
struct Maximum {
  template <class V>
  static V apply(V a, V b) {
    return max(a, b);
  }
  template <class T>
  static T integer(T a, T b) {
    return a > b ? a : b;
  }
};
struct Minimum {
  template <class V>
  static V apply(V a, V b) {
    return min(a, b);
  }
  template <class T>
  static T integer(T a, T b) {
    return a < b ? a : b;
  }
};

struct Eq {
  template <class X>
  static auto apply(X a, X b) {
    return a == b;
  }
};
struct Ne {
  template <class X>
  static auto apply(X a, X b) {
    return a != b;
  }
};
struct Lt {
  template <class X>
  static auto apply(X a, X b) {
    return a < b;
  }
};
struct Le {
  template <class X>
  static auto apply(X a, X b) {
    return a <= b;
  }
};
struct And {
  template <class X>
  static auto apply(X a, X b) {
    return (a != X{}) & (b != X{});
  }
};
struct Or {
  template <class X>
  static auto apply(X a, X b) {
    return (a != X{}) | (b != X{});
  }
};

// y[i] = F(a[i], b[i])
template <class F, class T, class R>
void zip(const T* a, const T* b, void* y_, int64_t n) {
  R* y = static_cast<R*>(y_);
  if constexpr (std::is_floating_point_v<T>) {
    using V = Vec<T>;
    int64_t i = 0;
    for (; i + V::kWidth <= n; i += V::kWidth) put(F::apply(V::load(a + i), V::load(b + i)), y + i, V::kWidth);
    if (i < n) {
      const int rest = static_cast<int>(n - i);
      put(F::apply(V::load(a + i, rest), V::load(b + i, rest)), y + i, rest);
    }
  } else if constexpr (requires { F::integer(T{}, T{}); }) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) y[i] = F::integer(a[i], b[i]);
  } else {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) y[i] = F::apply(a[i], b[i]);
  }
}

template <class T>
using Zip = void (*)(const T*, const T*, void*, int64_t);

template <class T>
Zip<T> binary_zip(BinaryOp op) {
  switch (op) {
    case BinaryOp::kAdd:
      return zip<Add, T, T>;
    case BinaryOp::kSub:
      return zip<Sub, T, T>;
    case BinaryOp::kMul:
      return zip<Mul, T, T>;
    case BinaryOp::kDiv:
      return zip<Div, T, T>;
    case BinaryOp::kFloorDiv:
      return zip<FloorDiv, T, T>;
    case BinaryOp::kRemainder:
      return zip<Remainder, T, T>;
    case BinaryOp::kPow:
      return zip<Pow, T, T>;
    case BinaryOp::kMaximum:
      return zip<Maximum, T, T>;
    case BinaryOp::kMinimum:
      return zip<Minimum, T, T>;
    case BinaryOp::kEq:
      return zip<Eq, T, uint8_t>;
    case BinaryOp::kNe:
      return zip<Ne, T, uint8_t>;
    case BinaryOp::kLt:
    case BinaryOp::kGt:  // operands exchanged by ops/
      return zip<Lt, T, uint8_t>;
    case BinaryOp::kLe:
    case BinaryOp::kGe:
      return zip<Le, T, uint8_t>;
    case BinaryOp::kLogicalAnd:
      return zip<And, T, uint8_t>;
    case BinaryOp::kLogicalOr:
      return zip<Or, T, uint8_t>;
    default:
      return nullptr;  // gradients: see binary()
  }
}

bool gives_bool(BinaryOp op) { return op >= BinaryOp::kEq && op <= BinaryOp::kLogicalOr; }

template <class T>
void pick(const uint8_t* c, const T* a, const T* b, T* y, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) y[i] = c[i] ? a[i] : b[i];
}

}  // namespace

Status binary(const BinaryArgs& args, Range r, const Ctx&) {
  const Range e = elements(r, args.shape.size);
  const Chunks chunks(args.shape);
  visit(args.dtype, [&]<class T>(T) {
    Source<T> a(args.a, args.scalar, args.shape, chunks, args.a_strides),
        b(args.b, args.scalar, args.shape, chunks, args.b_strides);
    const Zip<T> run = binary_zip<T>(args.op);
    const bool gradient = args.op >= BinaryOp::kReluGrad;
    const int64_t size = gives_bool(args.op) ? 1 : static_cast<int64_t>(sizeof(T));
    for (int64_t i = e.begin; i < e.end;) {
      const int64_t n = chunks.length(i, e.end);
      if (!gradient) {
        run(a.at(i, n), b.at(i, n), static_cast<char*>(args.y) + i * size, n);
      } else if constexpr (std::is_floating_point_v<T>) {  // ops/ refuses others
        gradient_floating(args.op, a.at(i, n), b.at(i, n), static_cast<T*>(args.y) + i, n, args.params);
      }
      i += n;
    }
  });
  return {};
}

Status where(const WhereArgs& args, Range r, const Ctx&) {
  const Range e = elements(r, args.shape.size);
  const Chunks chunks(args.shape);
  Source<uint8_t> c(args.condition, 0, args.shape, chunks, args.c_strides);
  visit(args.dtype, [&]<class T>(T) {
    Source<T> a(args.a, args.a_scalar, args.shape, chunks, args.a_strides);
    Source<T> b(args.b, args.b_scalar, args.shape, chunks, args.b_strides);
    for (int64_t i = e.begin; i < e.end;) {
      const int64_t n = chunks.length(i, e.end);
      pick(c.at(i, n), a.at(i, n), b.at(i, n), static_cast<T*>(args.y) + i, n);
      i += n;
    }
  });
  return {};
}

}  // namespace quernel::QUERNEL_ISA
