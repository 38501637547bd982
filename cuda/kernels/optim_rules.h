// The rules of the optimizers: what one update does to an element, for kernels that update parameters (optim.cu) or
// also make their gradients (param_grads.cu). Formulas are those of csrc/kernels/optim.cpp. An update begins where it
// is called the first time (step 1) by ignoring what states contain.
#pragma once
#include "core/math.h"
#include "kernels/args/optim.h"

namespace quernel::cuda {
namespace {

// Hyperparameters that every optimizer begins with.
enum : int { kLr, kWeightDecay, kL1, kOwn };

// g + weight_decay p + l1 sign(p): the gradient of the loss with its penalties. Decoupled decay scales p instead.
template <class T>
struct Penalties {
  T scale, decay, l1;
  bool scales, decays, shrinks;

  __device__ Penalties(const double* hyper, bool decoupled)
      : scale(static_cast<T>(1 - hyper[kLr] * hyper[kWeightDecay])),
        decay(static_cast<T>(hyper[kWeightDecay])),
        l1(static_cast<T>(hyper[kL1])),
        scales(decoupled && hyper[kWeightDecay] != 0),
        decays(!decoupled && hyper[kWeightDecay] != 0),
        shrinks(hyper[kL1] != 0) {}

  __device__ void apply(T& g, T& p) const {
    if (shrinks) g = g + (p > T(0) ? l1 : p < T(0) ? -l1 : T(0));
    if (decays) g = multiply_add(decay, p, g);
    if (scales) p = p * scale;
  }
};

// Moving averages of the gradient and of its square, as Adam and NAdam keep them in `first` and `second`.
template <class T>
struct Moments {
  T fresh1, keep2, fresh2;

  __device__ Moments(double beta1, double beta2)
      : fresh1(static_cast<T>(1 - beta1)), keep2(static_cast<T>(beta2)), fresh2(static_cast<T>(1 - beta2)) {}

  __device__ void update(T g, T& first, T& second) const {
    first = multiply_add(fresh1, g - first, first);
    second = multiply_add(keep2, second, fresh2 * g * g);
  }
};

template <class T>
struct Segment {
  const T* grad;
  T *param, *first, *second, *third;

  __device__ explicit Segment(const UpdateArgs& a)
      : grad(static_cast<const T*>(a.grad)),
        param(static_cast<T*>(a.param)),
        first(static_cast<T*>(a.first)),
        second(static_cast<T*>(a.second)),
        third(static_cast<T*>(a.third)) {}
};

// A rule has what its hyperparameters (`own` follow the common ones) and the step decide, and updates an element.

// own: momentum, dampening, nesterov.
template <class T>
struct Sgd {
  static constexpr bool kDecoupled = false;
  T rate, momentum, fresh;
  bool uses, nesterov, begins;

  __device__ Sgd(const double* hyper, const double* own, int64_t step)
      : rate(static_cast<T>(-hyper[kLr])),
        momentum(static_cast<T>(own[0])),
        fresh(static_cast<T>(1 - own[1])),
        uses(own[0] != 0),
        nesterov(own[2] != 0),
        begins(step <= 1) {}
  __device__ void update(const Segment<T>& s, int64_t i, T g, T p) const {
    if (s.first && uses) {
      const T buffer = begins ? g : multiply_add(momentum, s.first[i], fresh * g);
      s.first[i] = buffer;
      g = nesterov ? multiply_add(momentum, buffer, g) : buffer;
    }
    s.param[i] = multiply_add(rate, g, p);
  }
};

// own: lr_decay, initial_accumulator_value, eps.
template <class T>
struct Adagrad {
  static constexpr bool kDecoupled = false;
  T rate, initial, eps;
  bool begins;

  __device__ Adagrad(const double* hyper, const double* own, int64_t step)
      : rate(static_cast<T>(-hyper[kLr] / (1 + static_cast<double>(step - 1) * own[0]))),
        initial(static_cast<T>(own[1])),
        eps(static_cast<T>(own[2])),
        begins(step <= 1) {}
  __device__ void update(const Segment<T>& s, int64_t i, T g, T p) const {
    const T sum = multiply_add(g, g, begins ? initial : s.first[i]);
    s.first[i] = sum;
    s.param[i] = multiply_add(rate, g / (square_root(sum) + eps), p);
  }
};

// own: alpha, eps, momentum. `second` is the momentum buffer, `third` the mean gradient of the centered form.
template <class T>
struct Rmsprop {
  static constexpr bool kDecoupled = false;
  T rate, alpha, fresh, eps, momentum;
  bool uses;

  __device__ Rmsprop(const double* hyper, const double* own, int64_t)
      : rate(static_cast<T>(-hyper[kLr])),
        alpha(static_cast<T>(own[0])),
        fresh(static_cast<T>(1 - own[0])),
        eps(static_cast<T>(own[1])),
        momentum(static_cast<T>(own[2])),
        uses(own[2] != 0) {}
  __device__ void update(const Segment<T>& s, int64_t i, T g, T p) const {
    const T squares = multiply_add(alpha, s.first[i], fresh * g * g);
    s.first[i] = squares;
    T variance = squares;
    if (s.third) {
      const T mean = multiply_add(fresh, g - s.third[i], s.third[i]);
      s.third[i] = mean;
      variance = multiply_add(-mean, mean, squares);
    }
    T move = g / (square_root(variance) + eps);
    if (s.second && uses) {
      move = multiply_add(momentum, s.second[i], move);
      s.second[i] = move;
    }
    s.param[i] = multiply_add(rate, move, p);
  }
};

// own: beta1, beta2, eps, decoupled.
template <class T>
struct Adam {
  Moments<T> moments;
  T rate, root, eps;

  __device__ Adam(const double* hyper, const double* own, int64_t step)
      : moments(own[0], own[1]),
        rate(static_cast<T>(-hyper[kLr] / (1 - pow(own[0], static_cast<double>(step))))),
        root(static_cast<T>(1 / sqrt(1 - pow(own[1], static_cast<double>(step))))),
        eps(static_cast<T>(own[2])) {}
  __device__ void update(const Segment<T>& s, int64_t i, T g, T p) const {
    moments.update(g, s.first[i], s.second[i]);
    s.param[i] = multiply_add(rate, s.first[i] / multiply_add(square_root(s.second[i]), root, eps), p);
  }
};

// The product over i <= step of beta1 (1 - q^i / 2), q = 0.96^momentum_decay, by the series of the logarithm (see
// csrc/kernels/optim.cpp).
__device__ inline double nadam_product(double beta1, double momentum_decay, double step) {
  const double log_q = momentum_decay * log(0.96);
  double sum = 0, half = 1;
  for (int k = 1; k <= 53; ++k) {
    half /= 2;
    const double x = log_q * k;
    sum += half / k * (x == 0 ? step : exp(x) * expm1(x * step) / expm1(x));
  }
  return exp(step * log(beta1) - sum);
}

// own: beta1, beta2, eps, momentum_decay.
template <class T>
struct Nadam {
  static constexpr bool kDecoupled = false;
  Moments<T> moments;
  T of_gradient, of_mean, root, eps;

  __device__ Nadam(const double* hyper, const double* own, int64_t step)
      : moments(own[0], own[1]), eps(static_cast<T>(own[2])) {
    const double lr = hyper[kLr], beta1 = own[0], count = static_cast<double>(step);
    const double now = beta1 * (1 - 0.5 * pow(0.96, count * own[3]));
    const double next = beta1 * (1 - 0.5 * pow(0.96, (count + 1) * own[3]));
    const double product = nadam_product(beta1, own[3], count);
    of_gradient = static_cast<T>(-lr * (1 - now) / (1 - product));
    of_mean = static_cast<T>(-lr * next / (1 - product * next));
    root = static_cast<T>(1 / sqrt(1 - pow(own[1], count)));
  }
  __device__ void update(const Segment<T>& s, int64_t i, T g, T p) const {
    moments.update(g, s.first[i], s.second[i]);
    const T move = multiply_add(of_gradient, g, of_mean * s.first[i]);
    s.param[i] = p + move / multiply_add(square_root(s.second[i]), root, eps);
  }
};

// own: beta1, beta2.
template <class T>
struct Lion {
  static constexpr bool kDecoupled = true;
  T rate, fresh1, fresh2;

  __device__ Lion(const double* hyper, const double* own, int64_t)
      : rate(static_cast<T>(hyper[kLr])), fresh1(static_cast<T>(1 - own[0])), fresh2(static_cast<T>(1 - own[1])) {}
  __device__ void update(const Segment<T>& s, int64_t i, T g, T p) const {
    const T m = s.first[i], direction = multiply_add(fresh1, g - m, m);
    s.first[i] = multiply_add(fresh2, g - m, m);
    // Not a number stays one: no comparison below would show it.
    s.param[i] = p + (direction > T(0) ? -rate : direction < T(0) ? rate : T(0) * direction);
  }
};

template <class Rule>
__device__ bool is_decoupled(const double* own) {
  if constexpr (requires { Rule::kDecoupled; }) {
    return Rule::kDecoupled;
  } else {
    return own[3] != 0;  // Adam's own
  }
}

// What hyperparameters and the step alone decide. Powers and logarithms in double cost more than an element does, so
// one thread of a block computes them for all.
template <class Rule, class T>
struct Decided {
  Penalties<T> penalties;
  Rule rule;

  __device__ explicit Decided(const UpdateArgs& a) : Decided(static_cast<const double*>(a.hyper), a) {}

 private:
  __device__ Decided(const double* hyper, const UpdateArgs& a)
      : penalties(hyper, is_decoupled<Rule>(hyper + kOwn)),
        rule(hyper, hyper + kOwn, *static_cast<const int64_t*>(a.step)) {}
};

}  // namespace
}  // namespace quernel::cuda
