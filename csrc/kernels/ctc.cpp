// Connectionist temporal classification: the forward-backward algorithm of Graves et al. (2006), a row at a time.
//
// A row's states are its labels with a blank before, between and after them. alpha[t][s] is the logarithm of the
// probability of all ways into state s at step t, beta of all ways on from there. States of a step are neighbours in
// memory, so that a step is three shifted loads, a log-sum-exp and an add over whole vectors; lanes beyond the last
// state are -inf, which nothing leads out of. Each step is kept relative to its likeliest state and the shifts are
// added up in double: a float then holds differences that matter, not the size of a thousand steps' logarithm.
//
// alpha of all steps stays in scratch memory for the way back; without a gradient two steps do.
#include "kernels/args/ctc.h"

#include <cstddef>
#include <limits>

#include "kernels/isa.h"
#include "kernels/scratch.h"
#include "kernels/simd/math.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int64_t kReach = 2;  // states that a step may skip ahead: padding on either side

template <class T>
constexpr T kNever = -std::numeric_limits<T>::infinity();

template <class T>
struct Lattice {
  int64_t width;  // of a step, padding included
  T *alpha = nullptr, *beta = nullptr, *emitted = nullptr, *skip = nullptr;
  int64_t* state_class = nullptr;  // of each state

  Lattice(const CtcArgs& a, Carver carver) {
    constexpr int64_t kLanes = Vec<T>::kWidth;
    width = ceil_div(2 * a.labels + 1, kLanes) * kLanes + 2 * kReach;
    carver.take(alpha, width * (a.wants_grad ? a.steps : 2));
    carver.take(beta, width);
    carver.take(emitted, width);
    carver.take(skip, width);
    carver.take(state_class, width);
    bytes = carver.used();
  }
  int64_t bytes;
};

// -inf where all three are.
template <class V>
V log_sum(V a, V b, V c) {
  const V top = max(a, max(b, c));
  const V finite = select(top == V::set(kNever<typename V::Scalar>), V::zero(), top);
  return finite + log(exp(a - finite) + exp(b - finite) + exp(c - finite));
}

template <class T>
T log_sum(T a, T b) {
  using V = Vec<T>;
  T lanes[V::kWidth];
  log_sum(V::set(a), V::set(b), V::set(kNever<T>)).store(lanes);
  return lanes[0];
}

// One row of a call.
template <class T>
struct Row {
  const T* log_probs;
  int64_t steps, states, classes;
  Lattice<T> m;

  Row(const CtcArgs& a, int64_t row, void* scratch)
      : log_probs(static_cast<const T*>(a.log_probs) + row * a.steps * a.classes),
        steps(a.lengths ? static_cast<const int64_t*>(a.lengths)[row] : a.steps),
        states(2 * (a.target_lengths ? static_cast<const int64_t*>(a.target_lengths)[row] : a.labels) + 1),
        classes(a.classes),
        m(a, Carver(scratch)) {
    const int64_t* targets = static_cast<const int64_t*>(a.targets) + row * a.labels;
    for (int64_t s = 0; s < m.width; ++s) m.skip[s] = m.emitted[s] = m.beta[s] = kNever<T>;
    for (int64_t s = 0; s < states; ++s) {
      m.state_class[s] = s % 2 == 1 ? targets[s / 2] : a.blank;
      if (s % 2 == 1 && s > 1 && targets[s / 2] != targets[s / 2 - 1]) m.skip[s] = 0;  // over the blank between
    }
  }

  void read_emissions(int64_t t) const {
    for (int64_t s = 0; s < states; ++s) m.emitted[s] = log_probs[t * classes + m.state_class[s]];
  }

  // The padding before a step's states stays -inf.
  T* alpha_at(int64_t place) const { return m.alpha + place * m.width + kReach; }

  // Subtracts the greatest of a step's states and returns it; -inf: there is no way.
  T normalize(T* x) const {
    using V = Vec<T>;
    constexpr int kLanes = V::kWidth;
    V best = V::set(kNever<T>);
    for (int64_t s = 0; s < states; s += kLanes) best = max(best, V::load(x + s));
    const T top = reduce_max(best);
    if (top == kNever<T>) return top;
    for (int64_t s = 0; s < states; s += kLanes) (V::load(x + s) - V::set(top)).store(x + s);
    return top;
  }

  // The logarithm of the probability of the labels; -inf if no alignment has one. `kept`: steps that alpha has room
  // for.
  double forward(int64_t kept) const {
    using V = Vec<T>;
    constexpr int kLanes = V::kWidth;
    for (int64_t i = 0; i < kept * m.width; ++i) m.alpha[i] = kNever<T>;
    double shift = 0;
    for (int64_t t = 0; t < steps; ++t) {
      T* now = alpha_at(t % kept);
      read_emissions(t);
      if (t == 0) {
        now[0] = m.emitted[0];
        if (states > 1) now[1] = m.emitted[1];
      } else {
        const T* before = alpha_at((t - 1) % kept);
        for (int64_t s = 0; s < states; s += kLanes) {
          const V skipping = V::load(before + s - 2) + V::load(m.skip + s);
          (log_sum(V::load(before + s), V::load(before + s - 1), skipping) + V::load(m.emitted + s)).store(now + s);
        }
      }
      const T top = normalize(now);
      if (top == kNever<T>) return static_cast<double>(top);
      shift += static_cast<double>(top);
    }
    const T* last = alpha_at((steps - 1) % kept);
    return shift + static_cast<double>(log_sum(last[states - 1], states > 1 ? last[states - 2] : kNever<T>));
  }

  // grad = -(the probability of being in a state of the class at that step, given the labels). A row is in one state at
  // each step, so that a softmax of alpha + beta over states is that probability, whatever they are relative to.
  void backward(T* grad) const {
    using V = Vec<T>;
    constexpr int kLanes = V::kWidth;
    T* beta = m.beta;
    beta[states - 1] = 0;
    if (states > 1) beta[states - 2] = 0;
    for (int64_t t = steps - 1; t >= 0; --t) {
      T* both = alpha_at(t);
      for (int64_t s = 0; s < states; s += kLanes) (V::load(both + s) + V::load(beta + s)).store(both + s);
      normalize(both);
      V sum = V::zero();
      for (int64_t s = 0; s < states; s += kLanes) {
        const V p = exp(V::load(both + s));
        p.store(both + s);
        sum = sum + p;
      }
      const T share = 1 / reduce_add(sum);
      for (int64_t s = 0; s < states; ++s) grad[t * classes + m.state_class[s]] -= both[s] * share;
      if (t == 0) return;
      read_emissions(t);
      for (int64_t s = 0; s < states; s += kLanes) (V::load(beta + s) + V::load(m.emitted + s)).store(beta + s);
      for (int64_t s = 0; s < states; s += kLanes) {  // each reads itself and what follows
        const V skipping = V::load(beta + s + 2) + V::load(m.skip + s + 2);
        log_sum(V::load(beta + s), V::load(beta + s + 1), skipping).store(beta + s);
      }
      normalize(beta);
    }
  }
};

template <class T>
void ctc_row(const CtcArgs& a, int64_t r, void* scratch) {
  const Row<T> row(a, r, scratch);
  const double total = row.forward(a.wants_grad ? a.steps : 2);
  static_cast<T*>(a.loss)[r] = static_cast<T>(0 - total);  // not -0
  if (!a.wants_grad) return;
  T* grad = static_cast<T*>(a.grad) + r * a.steps * a.classes;
  __builtin_memset(grad, 0, static_cast<size_t>(a.steps * a.classes) * sizeof(T));
  if (total != -std::numeric_limits<double>::infinity()) row.backward(grad);
}

}  // namespace

int64_t ctc_loss_scratch(const CtcArgs& a) {
  int64_t bytes = 0;
  visit_floating(a.dtype, [&]<class T>(T) { bytes = Lattice<T>(a, Carver(nullptr)).bytes; });
  return bytes;
}

Status ctc_loss(const CtcArgs& a, Range range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t row = range.begin; row < range.end; ++row) ctc_row<T>(a, row, ctx.scratch);
  });
  return {};
}

Status check_ctc_labels(const CheckCtcLabelsArgs& a, Range, const Ctx&) {
  const int64_t* targets = static_cast<const int64_t*>(a.targets);
  const int64_t* lengths = static_cast<const int64_t*>(a.target_lengths);
  for (int64_t row = 0; row < a.rows; ++row) {
    const int64_t count = lengths ? lengths[row] : a.labels;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t label = targets[row * a.labels + i];
      if (label == a.blank) return {StatusCode::kLabelIsBlank, row, label};
      if (label < 0 || label >= a.classes) return {StatusCode::kLabelOutOfRange, row, label, a.classes};
    }
  }
  return {};
}

}  // namespace quernel::QUERNEL_ISA
