// Softmax, log-softmax and cross-entropy over rows; a warp or a block a row (core/rows.h). A thread visits the same
// elements in each pass: maximum, sum of exponentials, result. Logits of -inf have probability 0; a row of nothing but
// -inf gives NaN, as in PyTorch.
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

template <int kGroup, class T>
__device__ T row_max(const RowGroup<kGroup>& group, const T* x, int64_t n) {
  T best = -std::numeric_limits<T>::infinity();
  for (int64_t i = group.lane; i < n; i += kGroup) best = maximum(best, x[i]);
  return group.reduce(best, Larger{});
}

// Sum of e^(x - top).
template <int kGroup, class T>
__device__ T row_exp_sum(const RowGroup<kGroup>& group, const T* x, T top, int64_t n) {
  T total = 0;
  for (int64_t i = group.lane; i < n; i += kGroup) total += exponential(x[i] - top);
  return group.reduce(total, Plus{});
}

template <int kGroup, class T>
__global__ void __launch_bounds__(kThreads) softmax_rows(SoftmaxArgs a) {
  const RowGroup<kGroup> group;
  if (group.row >= a.rows) return;
  const T* x = static_cast<const T*>(a.x) + group.row * a.cols;
  T* y = static_cast<T*>(a.y) + group.row * a.cols;
  const T top = row_max(group, x, a.cols), total = row_exp_sum(group, x, top, a.cols);
  const T log_total = a.log ? logarithm(total) : T(0);
  for (int64_t i = group.lane; i < a.cols; i += kGroup)
    y[i] = a.log ? x[i] - top - log_total : exponential(x[i] - top) / total;
}

// dx = y (g - sum(y g)), or g - e^y sum(g) for the logarithm.
template <int kGroup, class T>
__global__ void __launch_bounds__(kThreads) softmax_grad_rows(SoftmaxArgs a) {
  const RowGroup<kGroup> group;
  if (group.row >= a.rows) return;
  const T* y = static_cast<const T*>(a.x) + group.row * a.cols;
  const T* g = static_cast<const T*>(a.g) + group.row * a.cols;
  T* dx = static_cast<T*>(a.y) + group.row * a.cols;
  T dot = 0;
  for (int64_t i = group.lane; i < a.cols; i += kGroup) dot = a.log ? dot + g[i] : multiply_add(y[i], g[i], dot);
  const T total = group.reduce(dot, Plus{});
  for (int64_t i = group.lane; i < a.cols; i += kGroup)
    dx[i] = a.log ? g[i] - exponential(y[i]) * total : y[i] * (g[i] - total);
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

template <int kGroup, class T>
__global__ void __launch_bounds__(kThreads) cross_entropy_rows(CrossEntropyArgs a) {
  const RowGroup<kGroup> group;
  if (group.row >= a.rows) return;
  const T* x = static_cast<const T*>(a.x) + group.row * a.cols;
  const RowTarget<T> t(a, group.row);
  T loss = 0;
  if (a.normalized) {
    if (!t.ignored()) loss = -(t.hit * x[t.label]);
  } else if (!t.ignored()) {
    const T top = row_max(group, x, a.cols);
    const T log_total = logarithm(row_exp_sum(group, x, top, a.cols));
    if (t.label >= 0) {
      loss = log_total + (top - x[t.label]);
      if (t.hit != 1) loss = t.hit * loss;
    }
    if (t.mixed) {
      T sum = 0;
      for (int64_t i = group.lane; i < a.cols; i += kGroup) {
        const T q = t.mixture(i);
        if (q != 0) sum += q * (log_total + (top - x[i]));  // a logit of -inf may have q = 0
      }
      loss += group.reduce(sum, Plus{});
    }
  }
  if (group.lane == 0) static_cast<T*>(a.y)[group.row] = loss;
}

template <int kGroup, class T>
__global__ void __launch_bounds__(kThreads) cross_entropy_grad_rows(CrossEntropyArgs a) {
  const RowGroup<kGroup> group;
  if (group.row >= a.rows) return;
  const T* x = static_cast<const T*>(a.x) + group.row * a.cols;
  T* dx = static_cast<T*>(a.y) + group.row * a.cols;
  const RowTarget<T> t(a, group.row);
  const T divisor = a.divisor ? *static_cast<const T*>(a.divisor) : T(1);
  const T g = static_cast<const T*>(a.g)[a.g_is_number ? 0 : group.row] * static_cast<T>(a.scale) / divisor;
  if (a.normalized || t.ignored()) {
    for (int64_t i = group.lane; i < a.cols; i += kGroup) dx[i] = i == t.label ? -(t.hit * g) : T(0);
    return;
  }
  const T top = row_max(group, x, a.cols), total = row_exp_sum(group, x, top, a.cols);
  if (!t.mixed) {
    const T scale = t.hit == 1 ? g : t.hit * g;
    for (int64_t i = group.lane; i < a.cols; i += kGroup) {
      const T p = exponential(x[i] - top) / total;
      dx[i] = i == t.label ? (p - 1) * scale : p * scale;
    }
    return;
  }
  T sum = 0;
  for (int64_t i = group.lane; i < a.cols; i += kGroup) sum += t.mixture(i);
  const T all = group.reduce(sum, Plus{}) + t.hit;
  for (int64_t i = group.lane; i < a.cols; i += kGroup) {
    const T p = exponential(x[i] - top) / total, q = t.mixture(i);
    dx[i] = (all * p - (i == t.label ? q + t.hit : q)) * g;
  }
}

// One block; sums in double.
template <class T>
__global__ void __launch_bounds__(kThreads) cross_entropy_mean_block(CrossEntropyMeanArgs a) {
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

struct IsNoClass {
  CheckLabelsArgs a;

  __device__ bool operator()(int64_t i) const {
    const int64_t label = static_cast<const int64_t*>(a.labels)[i];
    return (label < 0 || label >= a.classes) && label != a.ignore_index;
  }
};

}  // namespace

Status softmax(const SoftmaxArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) {
    launch_rows(ctx, a.rows, a.cols, softmax_rows<kWarp, T>, softmax_rows<kThreads, T>, a);
  });
  return {};
}

Status softmax_grad(const SoftmaxArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) {
    launch_rows(ctx, a.rows, a.cols, softmax_grad_rows<kWarp, T>, softmax_grad_rows<kThreads, T>, a);
  });
  return {};
}

Status check_labels(const CheckLabelsArgs& a, Range, const Ctx& ctx) {
  const int64_t i = first_refused(ctx, a.size, IsNoClass{a});
  if (i < 0) return {};
  return {StatusCode::kLabelOutOfRange, i, read_back(ctx, static_cast<const int64_t*>(a.labels) + i), a.classes};
}

Status cross_entropy(const CrossEntropyArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) {
    launch_rows(ctx, a.rows, a.cols, cross_entropy_rows<kWarp, T>, cross_entropy_rows<kThreads, T>, a);
  });
  return {};
}

Status cross_entropy_grad(const CrossEntropyArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) {
    launch_rows(ctx, a.rows, a.cols, cross_entropy_grad_rows<kWarp, T>, cross_entropy_grad_rows<kThreads, T>, a);
  });
  return {};
}

Status cross_entropy_mean(const CrossEntropyMeanArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) { launch(ctx, cross_entropy_mean_block<T>, 1, kThreads, 0, a); });
  return {};
}

}  // namespace quernel::cuda
