// Softmax, log-softmax and cross-entropy (cross_entropy.h) over rows; a warp or a block a row (core/rows.h). A thread
// visits the same elements in each pass: maximum, sum of exponentials, result. Logits of -inf have probability 0; a row
// of nothing but -inf gives NaN, as in PyTorch.
#include "kernels/cross_entropy.h"

namespace quernel::cuda {
namespace {

template <int kGroup, class T>
__global__ void __launch_bounds__(kThreads) softmax_rows(SoftmaxArgs a) {
  const RowGroup<kGroup> group;
  if (group.row >= a.rows) return;
  const T* x = static_cast<const T*>(a.x) + group.row * a.cols;
  T* y = static_cast<T*>(a.y) + group.row * a.cols;
  const T top = row_max<T>(group, x, a.cols), total = row_exp_sum(group, x, top, a.cols);
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
    const T top = row_max<T>(group, x, a.cols), total = row_exp_sum(group, x, top, a.cols);
    loss = loss_of_row(group, t, x, top, total, a.cols);
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
  const T top = row_max<T>(group, x, a.cols), total = row_exp_sum(group, x, top, a.cols);
  grad_of_row(group, t, x, top, total, g, a.cols, [&](int64_t i, T value) { dx[i] = value; });
}

template <class T>
__global__ void __launch_bounds__(kThreads) cross_entropy_mean_block(CrossEntropyMeanArgs a) {
  mean_of_losses<T>(a);
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
