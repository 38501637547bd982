// Losses of pairs (output, target) and their slopes in the output, one pass each; a thread an element. Formulas are
// those of csrc/kernels/loss.cpp: losses of logits are written in the two tails softplus(x) and softplus(-x) of one
// exponential, which is exact for hard targets.
#include "core/launch.h"
#include "core/math.h"
#include "kernels/args/loss.h"

namespace quernel::cuda {
namespace {

template <class T>
struct Pair {
  T x, t, w;  // output, target, weight of a positive target
};
template <class T>
struct Constants {
  T a, b;
  double gamma;   // a
  bool balanced;  // b applies
};

// sigmoid and softplus of x and of -x, from e^-|x|.
template <class T>
struct Tails {
  T up, down;     // sigmoid(x), sigmoid(-x)
  T plus, minus;  // softplus(x), softplus(-x)

  __device__ explicit Tails(T x) {
    const T e = exponential(-magnitude(x)), large = T(1) / (T(1) + e), small = e * large, l = logarithm_1_plus(e);
    const bool negative = x < T(0);
    up = negative ? small : large;
    down = negative ? large : small;
    plus = maximum(x, T(0)) + l;
    minus = maximum(-x, T(0)) + l;
  }
};

// s^a for s in [0, 1].
template <class T>
__device__ T power(T s, const Constants<T>& c) {
  if (c.gamma == 2) return s * s;
  if (c.gamma == 1) return s;
  if (c.gamma == 0) return T(1);
  return exponential(c.a * logarithm(s));
}

// 1 - e^-x = tanh(x / 2) (1 + e^-x), which keeps small x.
template <class T>
__device__ T missed(T x, T e) {
  return hyperbolic_tangent(T(0.5) * x) * (T(1) + e);
}

template <class T>
__device__ T loss_of(LossOp op, const Pair<T>& p, const Constants<T>& c) {
  const T d = p.x - p.t, size = magnitude(d), one = T(1), half = T(0.5);
  switch (op) {
    case LossOp::kSquare:
      return d * d;
    case LossOp::kAbsolute:
      return size;
    case LossOp::kHuber:
      return size < c.a ? half * size * size : c.a * (size - half * c.a);
    case LossOp::kSmoothL1:
      return size < c.a ? half * size * size / c.a : size - half * c.a;  // a = 0: |d|
    case LossOp::kBinary: {
      const T yes = maximum(logarithm(p.x), T(-100)), no = maximum(logarithm_1_plus(-p.x), T(-100));
      return -(p.t * yes + (one - p.t) * no);
    }
    case LossOp::kBinaryLogits: {
      const Tails<T> s(p.x);
      return p.w * p.t * s.minus + (one - p.t) * s.plus;
    }
    case LossOp::kFocalLogits: {
      const Tails<T> s(p.x);
      const T yes = c.balanced ? c.b : one, no = c.balanced ? one - c.b : one;
      return yes * p.t * power(s.down, c) * s.minus + no * (one - p.t) * power(s.up, c) * s.plus;
    }
    case LossOp::kFocal:
      return power(missed(p.x, exponential(-p.x)), c) * p.x;
    case LossOp::kKl:
      return p.t == T(0) ? T(0) : p.t * (logarithm(p.t) - p.x);
    case LossOp::kKlLog: {
      const T t = exponential(p.t);
      return t == T(0) ? T(0) : t * (p.t - p.x);
    }
  }
  return T(0);
}

template <class T>
__device__ T slope_of(LossOp op, const Pair<T>& p, const Constants<T>& c) {
  const T d = p.x - p.t, one = T(1);
  switch (op) {
    case LossOp::kSquare:
      return d + d;
    case LossOp::kAbsolute:
      return sign(d);
    case LossOp::kHuber:
      return magnitude(d) < c.a ? d : c.a * sign(d);
    case LossOp::kSmoothL1:
      return magnitude(d) < c.a ? d / c.a : sign(d);
    case LossOp::kBinary:
      return d / maximum(p.x * (one - p.x), static_cast<T>(1e-12));
    case LossOp::kBinaryLogits: {
      const Tails<T> s(p.x);
      return (one - p.t) * s.up - p.w * p.t * s.down;
    }
    case LossOp::kFocalLogits: {
      // f'(x) = -sigmoid(-x)^a (a sigmoid(x) softplus(-x) + sigmoid(-x))
      const Tails<T> s(p.x);
      const T yes = c.balanced ? c.b : one, no = c.balanced ? one - c.b : one;
      return no * (one - p.t) * power(s.up, c) * (c.a * s.down * s.plus + s.up) -
             yes * p.t * power(s.down, c) * (c.a * s.up * s.minus + s.down);
    }
    case LossOp::kFocal: {
      const T e = exponential(-p.x), m = missed(p.x, e);
      const T ratio = m == T(0) ? one : p.x / m;  // tends to 1 at 0
      return power(m, c) * ((e == T(0) ? T(0) : c.a * e * ratio) + one);
    }
    case LossOp::kKl:
      return -p.t;
    case LossOp::kKlLog:
      return -exponential(p.t);
  }
  return T(0);
}

template <class T, bool kBackward>
struct Loss {
  LossArgs a;
  Constants<T> c;

  __device__ void operator()(int64_t i) const {
    const auto at = [i](const void* p, T otherwise) { return p ? static_cast<const T*>(p)[i] : otherwise; };
    const Pair<T> p{at(a.x, T(0)), at(a.target, T(0)), at(a.weight, T(1))};
    T* y = static_cast<T*>(a.y);
    if constexpr (kBackward) {
      const T g = static_cast<const T*>(a.g)[a.g_is_number ? 0 : i] * static_cast<T>(a.scale);
      y[i] = g * slope_of(a.op, p, c);
    } else {
      y[i] = loss_of(a.op, p, c);
    }
  }
};

template <bool kBackward>
void run(const LossArgs& a, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) {
    const Constants<T> c{static_cast<T>(a.a), static_cast<T>(a.b), a.a, a.b >= 0};
    for_each(ctx, a.size, Loss<T, kBackward>{a, c});
  });
}

template <class T>
struct IsNoProbability {
  const T* x;
  T top;
  bool nan_passes;

  __device__ bool operator()(int64_t i) const {
    return nan_passes ? x[i] < 0 || x[i] > top : !(x[i] >= 0 && x[i] <= top);
  }
};

}  // namespace

Status loss(const LossArgs& a, Range, const Ctx& ctx) {
  run<false>(a, ctx);
  return {};
}

Status loss_grad(const LossArgs& a, Range, const Ctx& ctx) {
  run<true>(a, ctx);
  return {};
}

Status check_probabilities(const CheckProbabilitiesArgs& a, Range, const Ctx& ctx) {
  Status status;
  visit_floating(a.dtype, [&]<class T>(T) {
    const T* x = static_cast<const T*>(a.x);
    const int64_t i = first_refused(ctx, a.size, IsNoProbability<T>{x, static_cast<T>(1 + a.slack), a.nan_passes});
    if (i < 0) return;
    const double value = static_cast<double>(read_back(ctx, x + i));
    status = {StatusCode::kNotProbability, i, __builtin_bit_cast(int64_t, value)};
  });
  return status;
}

}  // namespace quernel::cuda
