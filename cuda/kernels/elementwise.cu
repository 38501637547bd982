// Elementwise kernels with one contiguous input: unary functions, clip, cast, fill. A thread an element; memory sets
// the pace, so the function is chosen inside the kernel, where the choice is the same for all threads.
#include <type_traits>

#include "core/activation.h"
#include "core/launch.h"
#include "core/math.h"
#include "kernels/args/elementwise.h"

namespace quernel::cuda {
namespace {

template <class T>
__device__ T floating_unary(UnaryOp op, T x, T p, T q, T r) {
  switch (op) {
    case UnaryOp::kNeg:
      return -x;
    case UnaryOp::kAbs:
      return magnitude(x);
    case UnaryOp::kSign:
      return sign(x);
    case UnaryOp::kSquare:
      return x * x;
    case UnaryOp::kRelu:
      return relu(x);
    case UnaryOp::kFloor:
      return round_down(x);
    case UnaryOp::kCeil:
      return -round_down(-x);
    case UnaryOp::kRound:
      return round_even(x);
    case UnaryOp::kSqrt:
      return square_root(x);
    case UnaryOp::kRsqrt:
      return T(1) / square_root(x);
    case UnaryOp::kReciprocal:
      return T(1) / x;
    case UnaryOp::kExp:
      return exponential(x);
    case UnaryOp::kExpm1:
      return exponential_minus_1(x);
    case UnaryOp::kLog:
      return logarithm(x);
    case UnaryOp::kLog1p:
      return logarithm_1_plus(x);
    case UnaryOp::kSin:
      return sine(x);
    case UnaryOp::kCos:
      return cosine(x);
    case UnaryOp::kErf:
      return error_function(x);
    case UnaryOp::kTanh:
      return hyperbolic_tangent(x);
    case UnaryOp::kSigmoid:
      return sigmoid(x);
    case UnaryOp::kGelu:
      return gelu(x);
    case UnaryOp::kSilu:
      return silu(x);
    case UnaryOp::kRelu6:
      return relu6(x);
    case UnaryOp::kHardswish:
      return hardswish(x);
    case UnaryOp::kHardsigmoid:
      return hardsigmoid(x);
    case UnaryOp::kMish:
      return mish(x);
    case UnaryOp::kLogSigmoid:
      return log_sigmoid(x);
    case UnaryOp::kSoftsign:
      return softsign(x);
    case UnaryOp::kLeakyRelu:
      return leaky_relu(x, p);
    case UnaryOp::kElu:
      return elu(x, p, q, r);
    case UnaryOp::kSoftplus:
      return softplus(x, p, q);
    default:
      return x;
  }
}

template <class T>
__device__ T integer_unary(UnaryOp op, T x) {
  using U = std::make_unsigned_t<T>;
  const U u = static_cast<U>(x);
  switch (op) {
    case UnaryOp::kNeg:
      return static_cast<T>(U(0) - u);
    case UnaryOp::kAbs:
      return is_negative(x) ? static_cast<T>(U(0) - u) : x;
    case UnaryOp::kSign:
      return static_cast<T>((x > 0) - is_negative(x));
    case UnaryOp::kSquare:
      return static_cast<T>(static_cast<uint64_t>(u) * static_cast<uint64_t>(u));
    case UnaryOp::kRelu:
      return x > 0 ? x : T(0);
    default:
      return x;
  }
}

template <class T>
struct Unary {
  const T* x;
  T* y;
  UnaryOp op;
  T p, q, r;

  __device__ void operator()(int64_t i) const {
    if constexpr (std::is_floating_point_v<T>) {
      y[i] = floating_unary(op, x[i], p, q, r);
    } else {
      y[i] = integer_unary(op, x[i]);
    }
  }
};

template <class T>
struct IsZero {
  const T* x;
  uint8_t* y;

  __device__ void operator()(int64_t i) const { y[i] = x[i] == T(0); }
};

struct CopyBytes {
  const uint8_t* x;
  uint8_t* y;

  __device__ void operator()(int64_t i) const { y[i] = x[i]; }
};

struct CopyWords {
  const uint4* x;
  uint4* y;

  __device__ void operator()(int64_t i) const { y[i] = x[i]; }
};

// Views begin anywhere, so whole words can be moved only where both sides are aligned.
void copy_bytes(const void* x, void* y, int64_t nbytes, const Ctx& ctx) {
  constexpr int64_t kWord = sizeof(uint4);
  const bool aligned = (reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(y)) % kWord == 0;
  const int64_t words = aligned ? nbytes / kWord : 0, done = words * kWord;
  for_each(ctx, words, CopyWords{static_cast<const uint4*>(x), static_cast<uint4*>(y)});
  for_each(ctx, nbytes - done, CopyBytes{static_cast<const uint8_t*>(x) + done, static_cast<uint8_t*>(y) + done});
}

template <class T>
struct Clip {
  const T* x;
  T* y;
  T lo, hi;

  __device__ void operator()(int64_t i) const {
    if constexpr (std::is_floating_point_v<T>) {
      y[i] = minimum(maximum(x[i], lo), hi);
    } else {
      const T raised = x[i] < lo ? lo : x[i];
      y[i] = raised > hi ? hi : raised;
    }
  }
};

template <class From, class To>
struct Cast {
  const From* x;
  To* y;

  __device__ void operator()(int64_t i) const { y[i] = convert<To>(x[i]); }
};
template <class From>
struct CastToBool {
  const From* x;
  uint8_t* y;

  __device__ void operator()(int64_t i) const { y[i] = x[i] != From(0); }
};
template <class Format, class From>
struct Narrow {
  const From* x;
  uint16_t* y;

  __device__ void operator()(int64_t i) const { y[i] = Format::from(x[i]); }
};
template <class Format, class To>
struct Widen {
  const uint16_t* x;
  To* y;

  __device__ void operator()(int64_t i) const { y[i] = Format::template to<To>(x[i]); }
};
template <class Format>
struct WidenToBool {
  const uint16_t* x;
  uint8_t* y;

  __device__ void operator()(int64_t i) const { y[i] = Format::template to<float>(x[i]) != 0; }
};
template <class From, class To>
struct Reformat {
  const uint16_t* x;
  uint16_t* y;

  __device__ void operator()(int64_t i) const { y[i] = To::from(From::template to<float>(x[i])); }
};

template <class Format>
void cast_half(const CastArgs& a, const Ctx& ctx) {
  const auto* x = static_cast<const uint16_t*>(a.x);
  if (a.to == DType::kBool) {
    for_each(ctx, a.size, WidenToBool<Format>{x, static_cast<uint8_t*>(a.y)});
  } else if (is_half(a.to)) {
    visit_half(a.to,
               [&]<class To>(To) { for_each(ctx, a.size, Reformat<Format, To>{x, static_cast<uint16_t*>(a.y)}); });
  } else {
    visit(a.to, [&]<class To>(To) { for_each(ctx, a.size, Widen<Format, To>{x, static_cast<To*>(a.y)}); });
  }
}

template <class T>
struct Fill {
  T* y;
  T value;

  __device__ void operator()(int64_t i) const { y[i] = value; }
};

template <class T>
T saturate(double x) {
  if constexpr (std::is_floating_point_v<T>) {
    return static_cast<T>(x);
  } else {
    if (!(x > static_cast<double>(std::numeric_limits<T>::min()))) return std::numeric_limits<T>::min();
    if (!(x < static_cast<double>(std::numeric_limits<T>::max()))) return std::numeric_limits<T>::max();
    return static_cast<T>(x);
  }
}

}  // namespace

Status unary(const UnaryArgs& a, Range, const Ctx& ctx) {
  if (a.op == UnaryOp::kCopy) {
    copy_bytes(a.x, a.y, a.size * static_cast<int64_t>(itemsize(a.dtype)), ctx);
    return {};
  }
  visit(a.dtype, [&]<class T>(T) {
    const T* x = static_cast<const T*>(a.x);
    if (a.op == UnaryOp::kLogicalNot) {
      for_each(ctx, a.size, IsZero<T>{x, static_cast<uint8_t*>(a.y)});
    } else {
      const T p = static_cast<T>(a.params[0]), q = static_cast<T>(a.params[1]), r = static_cast<T>(a.params[2]);
      for_each(ctx, a.size, Unary<T>{x, static_cast<T*>(a.y), a.op, p, q, r});
    }
  });
  return {};
}

Status clip(const ClipArgs& a, Range, const Ctx& ctx) {
  visit(a.dtype, [&]<class T>(T) {
    for_each(ctx, a.size,
             Clip<T>{static_cast<const T*>(a.x), static_cast<T*>(a.y), saturate<T>(a.lo), saturate<T>(a.hi)});
  });
  return {};
}

Status cast(const CastArgs& a, Range, const Ctx& ctx) {
  if (is_half(a.from)) {
    visit_half(a.from, [&]<class Format>(Format) { cast_half<Format>(a, ctx); });
    return {};
  }
  visit(a.from, [&]<class From>(From) {
    const From* x = static_cast<const From*>(a.x);
    if (a.to == DType::kBool) return for_each(ctx, a.size, CastToBool<From>{x, static_cast<uint8_t*>(a.y)});
    if (is_half(a.to)) {
      return visit_half(a.to, [&]<class Format>(Format) {
        for_each(ctx, a.size, Narrow<Format, From>{x, static_cast<uint16_t*>(a.y)});
      });
    }
    visit(a.to, [&]<class To>(To) { for_each(ctx, a.size, Cast<From, To>{x, static_cast<To*>(a.y)}); });
  });
  return {};
}

Status fill(const FillArgs& a, Range, const Ctx& ctx) {
  visit(a.dtype, [&]<class T>(T) {
    const T value = a.dtype == DType::kBool ? static_cast<T>(a.value != 0) : convert<T>(a.value);
    for_each(ctx, a.size, Fill<T>{static_cast<T*>(a.y), value});
  });
  return {};
}

}  // namespace quernel::cuda
