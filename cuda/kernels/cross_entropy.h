// Cross-entropy of one row, for the kernels of softmax.cu and for one that has just made the logits (mlp.cu). `x` is
// whatever has x[i]; a thread visits the same elements in each pass.
#pragma once
#include <limits>

#include "core/math.h"
#include "core/rows.h"
#include "kernels/args/softmax.h"

namespace quernel::cuda {
namespace {

struct Larger {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return maximum(a, b);
  }
};

template <class T, int kGroup, class X>
__device__ T row_max(const RowGroup<kGroup>& group, const X& x, int64_t n) {
  T best = -std::numeric_limits<T>::infinity();
  for (int64_t i = group.lane; i < n; i += kGroup) best = maximum(best, x[i]);
  return group.reduce(best, Larger{});
}

// Sum of e^(x - top).
template <class T, int kGroup, class X>
__device__ T row_exp_sum(const RowGroup<kGroup>& group, const X& x, T top, int64_t n) {
  T total = 0;
  for (int64_t i = group.lane; i < n; i += kGroup) total += exponential(x[i] - top);
  return group.reduce(total, Plus{});
}

// What a row of logits is compared with: `hit` of the label, and a mixture over all classes (probabilities or the
// smoothed part), each times the weights of the classes.
template <class T>
struct RowTarget {
  int64_t label = -1;  // -1: none
  T hit = 0;
  const T* targets = nullptr;
  const T* weight = nullptr;
  T share = 0, floor = 0;  // mixture = weight (share target + floor)
  bool mixed = false;

  __device__ RowTarget(const CrossEntropyArgs& a, int64_t row) : weight(static_cast<const T*>(a.weight)) {
    floor = static_cast<T>(a.smoothing / static_cast<double>(a.cols));
    if (a.targets) {
      targets = static_cast<const T*>(a.targets) + row * a.cols;
      share = static_cast<T>(1 - a.smoothing);
      mixed = true;
      return;
    }
    const int64_t given = static_cast<const int64_t*>(a.labels)[row];
    if (given < 0 || given >= a.cols || given == a.ignore_index) return;
    label = given;
    hit = static_cast<T>(1 - a.smoothing) * (weight ? weight[label] : T(1));
    mixed = a.smoothing > 0;
  }
  __device__ bool ignored() const { return label < 0 && !mixed; }
  __device__ T mixture(int64_t i) const {
    const T q = targets ? multiply_add(targets[i], share, floor) : floor;
    return weight ? q * weight[i] : q;
  }
};

// Of a row that is not ignored, from its largest logit and the sum of e^(x - top).
template <class T, int kGroup, class X>
__device__ T loss_of_row(const RowGroup<kGroup>& group, const RowTarget<T>& t, const X& x, T top, T total, int64_t n) {
  const T log_total = logarithm(total);
  T loss = 0;
  if (t.label >= 0) {
    loss = log_total + (top - x[t.label]);
    if (t.hit != 1) loss = t.hit * loss;
  }
  if (t.mixed) {
    T sum = 0;
    for (int64_t i = group.lane; i < n; i += kGroup) {
      const T q = t.mixture(i);
      if (q != 0) sum += q * (log_total + (top - x[i]));  // a logit of -inf may have q = 0
    }
    loss += group.reduce(sum, Plus{});
  }
  return loss;
}

// Likewise; put(i, dx) may overwrite x[i].
template <class T, int kGroup, class X, class Put>
__device__ void grad_of_row(const RowGroup<kGroup>& group, const RowTarget<T>& t, const X& x, T top, T total, T g,
                            int64_t n, Put put) {
  if (!t.mixed) {
    const T scale = t.hit == 1 ? g : t.hit * g;
    for (int64_t i = group.lane; i < n; i += kGroup) {
      const T p = exponential(x[i] - top) / total;
      put(i, i == t.label ? (p - 1) * scale : p * scale);
    }
    return;
  }
  T sum = 0;
  for (int64_t i = group.lane; i < n; i += kGroup) sum += t.mixture(i);
  const T all = group.reduce(sum, Plus{}) + t.hit;
  for (int64_t i = group.lane; i < n; i += kGroup) {
    const T p = exponential(x[i] - top) / total, q = t.mixture(i);
    put(i, (all * p - (i == t.label ? q + t.hit : q)) * g);
  }
}

// By one block; sums in double.
template <class T>
__device__ void mean_of_losses(const CrossEntropyMeanArgs& a) {
  __shared__ double partial[kThreads / kWarp];
  const int64_t* labels = static_cast<const int64_t*>(a.labels);
  double sum = 0, weights = 0;
  for (int64_t i = threadIdx.x; i < a.rows; i += kThreads) {
    const int64_t label = labels[i];
    sum += static_cast<double>(static_cast<const T*>(a.losses)[i]);
    if (label >= 0 && label < a.cols && label != a.ignore_index)
      weights += a.weight ? static_cast<double>(static_cast<const T*>(a.weight)[label]) : 1.0;
  }
  sum = block_reduce<kThreads>(sum, partial, Plus{});
  weights = block_reduce<kThreads>(weights, partial, Plus{});
  if (threadIdx.x > 0) return;
  *static_cast<T*>(a.y) = static_cast<T>(sum / weights);
  *static_cast<T*>(a.divisor) = static_cast<T>(weights);
}

}  // namespace
}  // namespace quernel::cuda
