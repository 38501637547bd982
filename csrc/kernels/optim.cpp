// Optimizer steps over flat segments, in place: one pass that reads and writes each array once, bound by memory. Item =
// kElementBlock elements. Hyperparameters are read when the kernel runs, so that a replay sees a changed learning rate;
// what depends on them alone is computed in double. Formulas and their order are PyTorch's, Lion's those of its paper.
// An update begins where it is called the first time (step 1) by ignoring what the states contain.
//
// sgd_rows and adam_rows update only those rows of a table that have a gradient; item = row of the gradient. A row's
// update is a segment's with the same constants, so its bits are those of the dense kernel.
#include "kernels/args/optim.h"

#include <math.h>

#include "kernels/isa.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

// Hyperparameters that every optimizer begins with.
enum : int { kLr, kWeightDecay, kL1, kOwn };

template <class T>
Vec<T> set(double x) {
  return Vec<T>::set(static_cast<T>(x));
}

// A piece of a segment, and its hyperparameters.
template <class T>
struct Block {
  const T* grad;
  T *param, *first, *second, *third;
  const double* hyper;
  int64_t step, size;

  Block(const UpdateArgs& a, Range range) : Block(a, elements(range, a.size), 0) {}

  // Elements `e`, whose gradient begins at element e.begin - shift.
  Block(const UpdateArgs& a, Range e, int64_t shift) {
    const auto at = [&](void* p) { return p ? static_cast<T*>(p) + e.begin : nullptr; };
    grad = static_cast<const T*>(a.grad) + (e.begin - shift);
    param = at(a.param), first = at(a.first), second = at(a.second), third = at(a.third);
    hyper = static_cast<const double*>(a.hyper);
    step = *static_cast<const int64_t*>(a.step);
    size = e.end - e.begin;
  }

  double own(int i) const { return hyper[kOwn + i]; }
};

// g + weight_decay p + l1 sign(p): the gradient of the loss with its penalties. Decoupled decay scales p instead.
template <class V>
class Penalties {
 public:
  using T = typename V::Scalar;

  explicit Penalties(const double* hyper, bool decoupled = false)
      : scale_(set<T>(1 - hyper[kLr] * hyper[kWeightDecay])),
        decay_(set<T>(hyper[kWeightDecay])),
        l1_(set<T>(hyper[kL1])),
        scales_(decoupled && hyper[kWeightDecay] != 0),
        decays_(!decoupled && hyper[kWeightDecay] != 0),
        shrinks_(hyper[kL1] != 0) {}

  void apply(V& g, V& p) const {
    if (shrinks_) {
      const V zero = V::zero();
      g = g + select(p > zero, l1_, select(p < zero, -l1_, zero));
    }
    if (decays_) g = fma(decay_, p, g);
    if (scales_) p = p * scale_;
  }

 private:
  V scale_, decay_, l1_;
  bool scales_, decays_, shrinks_;
};

// own: momentum, dampening, nesterov.
template <class T>
class Sgd {
 public:
  using V = Vec<T>;

  explicit Sgd(const Block<T>& b)
      : penalties_(b.hyper),
        rate_(set<T>(-b.hyper[kLr])),
        momentum_(set<T>(b.own(0))),
        fresh_(set<T>(1 - b.own(1))),
        keeps_(b.first && b.own(0) != 0),
        nesterov_(b.own(2) != 0),
        begins_(b.step <= 1) {}

  void operator()(const Block<T>& b) const {
    for_lanes<V>(b.size, [&](int64_t i, int k) {
      V p = get<V>(b.param + i, k), g = get<V>(b.grad + i, k);
      penalties_.apply(g, p);
      if (keeps_) {
        const V buffer = begins_ ? g : fma(momentum_, get<V>(b.first + i, k), fresh_ * g);
        put(buffer, b.first + i, k);
        g = nesterov_ ? fma(momentum_, buffer, g) : buffer;
      }
      put(fma(rate_, g, p), b.param + i, k);
    });
  }

 private:
  Penalties<V> penalties_;
  V rate_, momentum_, fresh_;
  bool keeps_, nesterov_, begins_;
};

// own: lr_decay, initial_accumulator_value, eps.
template <class T>
void adagrad_block(const Block<T>& b) {
  using V = Vec<T>;
  const Penalties<V> penalties(b.hyper);
  const V rate = set<T>(-b.hyper[kLr] / (1 + static_cast<double>(b.step - 1) * b.own(0)));
  const V initial = set<T>(b.own(1)), eps = set<T>(b.own(2));
  const bool begins = b.step <= 1;
  for_lanes<V>(b.size, [&](int64_t i, int k) {
    V p = get<V>(b.param + i, k), g = get<V>(b.grad + i, k);
    penalties.apply(g, p);
    const V sum = fma(g, g, begins ? initial : get<V>(b.first + i, k));
    put(sum, b.first + i, k);
    put(fma(rate, g / (sqrt(sum) + eps), p), b.param + i, k);
  });
}

// own: alpha, eps, momentum. `second` is the momentum buffer, `third` the mean gradient of the centered form.
template <class T>
void rmsprop_block(const Block<T>& b) {
  using V = Vec<T>;
  const Penalties<V> penalties(b.hyper);
  const V rate = set<T>(-b.hyper[kLr]), alpha = set<T>(b.own(0)), fresh = set<T>(1 - b.own(0));
  const V eps = set<T>(b.own(1)), momentum = set<T>(b.own(2));
  const bool keeps = b.second && b.own(2) != 0;
  for_lanes<V>(b.size, [&](int64_t i, int k) {
    V p = get<V>(b.param + i, k), g = get<V>(b.grad + i, k);
    penalties.apply(g, p);
    const V squares = fma(alpha, get<V>(b.first + i, k), fresh * g * g);
    put(squares, b.first + i, k);
    V variance = squares;
    if (b.third) {
      const V old = get<V>(b.third + i, k), mean = fma(fresh, g - old, old);
      put(mean, b.third + i, k);
      variance = fma(-mean, mean, squares);
    }
    V update = g / (sqrt(variance) + eps);
    if (keeps) {
      update = fma(momentum, get<V>(b.second + i, k), update);
      put(update, b.second + i, k);
    }
    put(fma(rate, update, p), b.param + i, k);
  });
}

// Moving averages of the gradient and of its square, as Adam and NAdam keep them in `first` and `second`.
template <class V>
class Moments {
 public:
  using T = typename V::Scalar;

  Moments(double beta1, double beta2) : fresh1_(set<T>(1 - beta1)), keep2_(set<T>(beta2)), fresh2_(set<T>(1 - beta2)) {}

  void update(V g, T* first, T* second, int k, V* m, V* v) const {
    const V old = get<V>(first, k);
    *m = fma(fresh1_, g - old, old);
    *v = fma(keep2_, get<V>(second, k), fresh2_ * g * g);
    put(*m, first, k);
    put(*v, second, k);
  }

 private:
  V fresh1_, keep2_, fresh2_;
};

// own: beta1, beta2, eps, and what AdamW (1: decay is decoupled) and SparseAdam (2: eps too is divided by the root of
// its bias) do otherwise than Adam (0).
template <class T>
class Adam {
 public:
  using V = Vec<T>;

  explicit Adam(const Block<T>& b) : penalties_(b.hyper, b.own(3) == 1), moments_(b.own(0), b.own(1)) {
    const double count = static_cast<double>(b.step), root = 1 / ::sqrt(1 - ::pow(b.own(1), count));
    rate_ = set<T>(-b.hyper[kLr] / (1 - ::pow(b.own(0), count)));
    root_ = set<T>(root);
    eps_ = set<T>(b.own(3) == 2 ? b.own(2) * root : b.own(2));
  }

  void operator()(const Block<T>& b) const {
    for_lanes<V>(b.size, [&](int64_t i, int k) {
      V p = get<V>(b.param + i, k), g = get<V>(b.grad + i, k), m, v;
      penalties_.apply(g, p);
      moments_.update(g, b.first + i, b.second + i, k, &m, &v);
      put(fma(rate_, m / fma(sqrt(v), root_, eps_), p), b.param + i, k);
    });
  }

 private:
  Penalties<V> penalties_;
  Moments<V> moments_;
  V rate_, root_, eps_;
};

// The product over i <= step of beta1 (1 - q^i / 2), q = 0.96^momentum_decay. By the series of the logarithm,
// sum over i of log(1 - q^i / 2) = - sum over k of (1/2)^k / k · (q^k + q^2k + … + q^(step k)), so that no step has to
// remember the product of those before.
double nadam_product(double beta1, double momentum_decay, double step) {
  const double log_q = momentum_decay * ::log(0.96);
  double sum = 0, half = 1;
  for (int k = 1; k <= 53; ++k) {
    half /= 2;
    const double x = log_q * k;
    sum += half / k * (x == 0 ? step : ::exp(x) * ::expm1(x * step) / ::expm1(x));
  }
  return ::exp(step * ::log(beta1) - sum);
}

// own: beta1, beta2, eps, momentum_decay.
template <class T>
void nadam_block(const Block<T>& b) {
  using V = Vec<T>;
  const Penalties<V> penalties(b.hyper);
  const Moments<V> moments(b.own(0), b.own(1));
  const double lr = b.hyper[kLr], beta1 = b.own(0), count = static_cast<double>(b.step);
  const auto mu = [&](double step) { return beta1 * (1 - 0.5 * ::pow(0.96, step * b.own(3))); };
  const double product = nadam_product(beta1, b.own(3), count), next = mu(count + 1);
  const V of_gradient = set<T>(-lr * (1 - mu(count)) / (1 - product));
  const V of_mean = set<T>(-lr * next / (1 - product * next));
  const V root = set<T>(1 / ::sqrt(1 - ::pow(b.own(1), count))), eps = set<T>(b.own(2));
  for_lanes<V>(b.size, [&](int64_t i, int k) {
    V p = get<V>(b.param + i, k), g = get<V>(b.grad + i, k), m, v;
    penalties.apply(g, p);
    moments.update(g, b.first + i, b.second + i, k, &m, &v);
    put(p + fma(of_gradient, g, of_mean * m) / fma(sqrt(v), root, eps), b.param + i, k);
  });
}

// own: beta1, beta2.
template <class T>
void lion_block(const Block<T>& b) {
  using V = Vec<T>;
  const Penalties<V> penalties(b.hyper, true);
  const V rate = set<T>(b.hyper[kLr]), fresh1 = set<T>(1 - b.own(0)), fresh2 = set<T>(1 - b.own(1)), zero = V::zero();
  for_lanes<V>(b.size, [&](int64_t i, int k) {
    V p = get<V>(b.param + i, k), g = get<V>(b.grad + i, k);
    penalties.apply(g, p);
    const V m = get<V>(b.first + i, k), direction = fma(fresh1, g - m, m);
    put(fma(fresh2, g - m, m), b.first + i, k);
    // Not a number stays one: no comparison below would show it.
    const V move = select(direction > zero, -rate, select(direction < zero, rate, zero * direction));
    put(p + move, b.param + i, k);
  });
}

// Every row that has a gradient. Asking for the next rows ahead of time was no faster.
template <template <class> class Rule>
void update_rows(const UpdateRowsArgs& a, Range r) {
  visit_floating(a.dtype, [&]<class T>(T) {
    const Rule<T> rule(Block<T>(a, Range{0, 0}, 0));
    const int64_t* rows = static_cast<const int64_t*>(a.rows);
    for (int64_t i = r.begin; i < r.end; ++i) {
      if (rows[i] < 0) continue;
      const int64_t at = rows[i] * a.width;
      rule(Block<T>(a, {at, at + a.width}, at - i * a.width));
    }
  });
}

template <class T>
void average_block(const MovingAverageArgs& a, Range e) {
  using V = Vec<T>;
  const double* hyper = static_cast<const double*>(a.hyper);
  const double count = static_cast<double>(*static_cast<const int64_t*>(a.step));
  const double warm = (1 + count) / (10 + count);
  const V fresh = set<T>(1 - (hyper[1] != 0 && warm < hyper[0] ? warm : hyper[0]));
  const T* param = static_cast<const T*>(a.param) + e.begin;
  T* average = static_cast<T*>(a.average) + e.begin;
  for_lanes<V>(e.end - e.begin, [&](int64_t i, int k) {
    const V old = get<V>(average + i, k);
    put(fma(fresh, get<V>(param + i, k) - old, old), average + i, k);
  });
}

}  // namespace

Status sgd(const UpdateArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    const Block<T> block(a, r);
    Sgd<T>{block}(block);
  });
  return {};
}

Status adagrad(const UpdateArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) { adagrad_block(Block<T>(a, r)); });
  return {};
}

Status rmsprop(const UpdateArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) { rmsprop_block(Block<T>(a, r)); });
  return {};
}

Status adam(const UpdateArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    const Block<T> block(a, r);
    Adam<T>{block}(block);
  });
  return {};
}

Status nadam(const UpdateArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) { nadam_block(Block<T>(a, r)); });
  return {};
}

Status lion(const UpdateArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) { lion_block(Block<T>(a, r)); });
  return {};
}

Status sgd_rows(const UpdateRowsArgs& a, Range r, const Ctx&) {
  update_rows<Sgd>(a, r);
  return {};
}

Status adam_rows(const UpdateRowsArgs& a, Range r, const Ctx&) {
  update_rows<Adam>(a, r);
  return {};
}

Status advance_step(const AdvanceStepArgs& a, Range, const Ctx&) {
  ++*static_cast<int64_t*>(a.step);
  return {};
}

Status moving_average(const MovingAverageArgs& a, Range r, const Ctx&) {
  const Range e = elements(r, a.size);
  visit_floating(a.dtype, [&]<class T>(T) { average_block<T>(a, e); });
  return {};
}

}  // namespace quernel::QUERNEL_ISA
