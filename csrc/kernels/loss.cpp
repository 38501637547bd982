// Losses of pairs (output, target) and their slopes in the output, one pass each; item = kElementBlock elements.
//
// A functor states loss and slope once for both float types. Losses of logits are written in the two tails softplus(x)
// and softplus(-x) of one exponential, weighted by 1 - t and t: that is exact for hard targets, where the usual
// max(x, 0) - x t + log(1 + e^-|x|) cancels, and its slope keeps its relative accuracy where sigmoid(x) - t has none.
// The slope is recomputed from the operands: reading back a stored slope costs as much memory traffic as it saves.
#include "kernels/args/loss.h"

#include "kernels/isa.h"
#include "kernels/simd/math.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

template <class V>
struct Pair {
  V x, t, w;  // output, target, weight of a positive target
};
template <class V>
struct Constants {
  V a, b;
  double gamma;   // a
  bool balanced;  // b applies
};

// sigmoid and softplus of x and of -x, from e^-|x|.
template <class V>
struct Tails {
  V up, down;     // sigmoid(x), sigmoid(-x)
  V plus, minus;  // softplus(x), softplus(-x)
  explicit Tails(V x) {
    const V zero = V::zero(), one = V::set(1), e = exp(-abs(x));
    const V large = one / (one + e), small = e * large, l = log1p(e);
    const auto negative = x < zero;
    up = select(negative, small, large);
    down = select(negative, large, small);
    plus = max(x, zero) + l;
    minus = max(-x, zero) + l;
  }
};

// s^a for s in [0, 1].
template <class V>
inline V power(V s, const Constants<V>& c) {
  if (c.gamma == 2) return s * s;
  if (c.gamma == 1) return s;
  if (c.gamma == 0) return V::set(1);
  return exp(c.a * log(s));
}

template <class V>
inline V sign(V x) {
  const V zero = V::zero(), one = V::set(1);
  return select(x > zero, one, select(x < zero, -one, x));  // NaN stays
}

struct Square {
  template <class V>
  static V loss(const Pair<V>& p, const Constants<V>&) {
    const V d = p.x - p.t;
    return d * d;
  }
  template <class V>
  static V slope(const Pair<V>& p, const Constants<V>&) {
    const V d = p.x - p.t;
    return d + d;
  }
};

struct Absolute {
  template <class V>
  static V loss(const Pair<V>& p, const Constants<V>&) {
    return abs(p.x - p.t);
  }
  template <class V>
  static V slope(const Pair<V>& p, const Constants<V>&) {
    return sign(p.x - p.t);
  }
};

struct Huber {
  template <class V>
  static V loss(const Pair<V>& p, const Constants<V>& c) {
    const V half = V::set(0.5), d = abs(p.x - p.t);
    return select(d < c.a, half * d * d, c.a * (d - half * c.a));
  }
  template <class V>
  static V slope(const Pair<V>& p, const Constants<V>& c) {
    const V d = p.x - p.t;
    return select(abs(d) < c.a, d, c.a * sign(d));
  }
};

struct SmoothL1 {
  template <class V>
  static V loss(const Pair<V>& p, const Constants<V>& c) {
    const V half = V::set(0.5), d = abs(p.x - p.t);
    return select(d < c.a, half * d * d / c.a, d - half * c.a);  // a = 0: |d|
  }
  template <class V>
  static V slope(const Pair<V>& p, const Constants<V>& c) {
    const V d = p.x - p.t;
    return select(abs(d) < c.a, d / c.a, sign(d));
  }
};

struct Binary {
  template <class V>
  static V loss(const Pair<V>& p, const Constants<V>&) {
    const V floor = V::set(-100), one = V::set(1);
    const V yes = max(log(p.x), floor), no = max(log1p(-p.x), floor);
    return -(p.t * yes + (one - p.t) * no);
  }
  template <class V>
  static V slope(const Pair<V>& p, const Constants<V>&) {
    return (p.x - p.t) / max(p.x * (V::set(1) - p.x), V::set(static_cast<typename V::Scalar>(1e-12)));
  }
};

struct BinaryLogits {
  template <class V>
  static V loss(const Pair<V>& p, const Constants<V>&) {
    const Tails<V> s(p.x);
    return p.w * p.t * s.minus + (V::set(1) - p.t) * s.plus;
  }
  template <class V>
  static V slope(const Pair<V>& p, const Constants<V>&) {
    const Tails<V> s(p.x);
    return (V::set(1) - p.t) * s.up - p.w * p.t * s.down;
  }
};

struct FocalLogits {
  template <class V>
  static V loss(const Pair<V>& p, const Constants<V>& c) {
    const Tails<V> s(p.x);
    const V one = V::set(1), yes = c.balanced ? c.b : one, no = c.balanced ? one - c.b : one;
    return yes * p.t * power(s.down, c) * s.minus + no * (one - p.t) * power(s.up, c) * s.plus;
  }
  // f'(x) = -sigmoid(-x)^a (a sigmoid(x) softplus(-x) + sigmoid(-x))
  template <class V>
  static V slope(const Pair<V>& p, const Constants<V>& c) {
    const Tails<V> s(p.x);
    const V one = V::set(1), yes = c.balanced ? c.b : one, no = c.balanced ? one - c.b : one;
    return no * (one - p.t) * power(s.up, c) * (c.a * s.down * s.plus + s.up) -
           yes * p.t * power(s.down, c) * (c.a * s.up * s.minus + s.down);
  }
};

struct Focal {
  // 1 - e^-x = tanh(x / 2) (1 + e^-x), which keeps small x.
  template <class V>
  static V missed(V x, V e) {
    return tanh(V::set(0.5) * x) * (V::set(1) + e);
  }
  template <class V>
  static V loss(const Pair<V>& p, const Constants<V>& c) {
    return power(missed(p.x, exp(-p.x)), c) * p.x;
  }
  template <class V>
  static V slope(const Pair<V>& p, const Constants<V>& c) {
    const V zero = V::zero(), one = V::set(1), e = exp(-p.x), m = missed(p.x, e);
    const V ratio = select(m == zero, one, p.x / m);  // tends to 1 at 0
    return power(m, c) * (select(e == zero, zero, c.a * e * ratio) + one);
  }
};

struct Kl {
  template <class V>
  static V loss(const Pair<V>& p, const Constants<V>&) {
    return select(p.t == V::zero(), V::zero(), p.t * (log(p.t) - p.x));
  }
  template <class V>
  static V slope(const Pair<V>& p, const Constants<V>&) {
    return -p.t;
  }
};

struct KlLog {
  template <class V>
  static V loss(const Pair<V>& p, const Constants<V>&) {
    const V t = exp(p.t);
    return select(t == V::zero(), V::zero(), t * (p.t - p.x));
  }
  template <class V>
  static V slope(const Pair<V>& p, const Constants<V>&) {
    return -exp(p.t);
  }
};

template <class F, class T, bool kBackward>
void block(const LossArgs& args, Range r) {
  using V = Vec<T>;
  const auto at = [&](const void* p) { return p ? static_cast<const T*>(p) + r.begin : nullptr; };
  const T *x = at(args.x), *t = at(args.target), *w = at(args.weight);
  const T* g = kBackward && !args.g_is_number ? at(args.g) : nullptr;
  T* y = static_cast<T*>(args.y) + r.begin;
  const Constants<V> c{V::set(static_cast<T>(args.a)), V::set(static_cast<T>(args.b)), args.a, args.b >= 0};
  const T scale = static_cast<T>(args.scale);
  const V factor = V::set(kBackward && args.g_is_number ? *static_cast<const T*>(args.g) * scale : scale);
  for_lanes<V>(r.end - r.begin, [&](int64_t i, int k) {
    const Pair<V> p{get<V>(x + i, k), t ? get<V>(t + i, k) : V::zero(), w ? get<V>(w + i, k) : V::set(1)};
    if constexpr (kBackward) {
      put((g ? get<V>(g + i, k) * factor : factor) * F::slope(p, c), y + i, k);
    } else {
      put(F::loss(p, c), y + i, k);
    }
  });
}

template <bool kBackward, class T>
void run(const LossArgs& a, Range r) {
  switch (a.op) {
    case LossOp::kSquare:
      return block<Square, T, kBackward>(a, r);
    case LossOp::kAbsolute:
      return block<Absolute, T, kBackward>(a, r);
    case LossOp::kHuber:
      return block<Huber, T, kBackward>(a, r);
    case LossOp::kSmoothL1:
      return block<SmoothL1, T, kBackward>(a, r);
    case LossOp::kBinary:
      return block<Binary, T, kBackward>(a, r);
    case LossOp::kBinaryLogits:
      return block<BinaryLogits, T, kBackward>(a, r);
    case LossOp::kFocalLogits:
      return block<FocalLogits, T, kBackward>(a, r);
    case LossOp::kFocal:
      return block<Focal, T, kBackward>(a, r);
    case LossOp::kKl:
      return block<Kl, T, kBackward>(a, r);
    case LossOp::kKlLog:
      return block<KlLog, T, kBackward>(a, r);
  }
}

}  // namespace

Status loss(const LossArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) { run<false, T>(a, elements(r, a.size)); });
  return {};
}

Status loss_grad(const LossArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) { run<true, T>(a, elements(r, a.size)); });
  return {};
}

Status check_probabilities(const CheckProbabilitiesArgs& a, Range r, const Ctx&) {
  Status status;
  visit_floating(a.dtype, [&]<class T>(T) {
    using V = Vec<T>;
    const Range e = elements(r, a.size);
    const T* x = static_cast<const T*>(a.x);
    const T top = static_cast<T>(1 + a.slack);
    const auto is_wrong = [&](T value) {
      return a.nan_passes ? value < 0 || value > top : !(value >= 0 && value <= top);
    };
    for (int64_t i = e.begin; i < e.end; i += V::kWidth) {
      const int k = static_cast<int>(e.end - i < V::kWidth ? e.end - i : V::kWidth);
      const V v = get<V>(x + i, k);  // lanes beyond the end are 0
      if (((v >= V::zero()) & (v <= V::set(top))).all()) [[likely]]
        continue;
      for (int j = 0; j < k; ++j) {
        if (!is_wrong(x[i + j])) continue;
        status = {StatusCode::kNotProbability, i + j, __builtin_bit_cast(int64_t, static_cast<double>(x[i + j]))};
        return;
      }
    }
  });
  return status;
}

}  // namespace quernel::QUERNEL_ISA
