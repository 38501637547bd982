// Layer norm and RMS norm over contiguous rows; a warp or a block a row (core/rows.h). Two passes for the statistics,
// so that a mean far from zero costs no digits. The gradients of weight and bias are summed over blocks of
// kLayerNormRows rows, a thread a block and a column; the blocks are summed by the reduction kernel.
#include "core/math.h"
#include "core/rows.h"
#include "kernels/args/layer_norm.h"

namespace quernel::cuda {
namespace {

template <int kGroup, class T>
__global__ void __launch_bounds__(kThreads) normalize_rows(LayerNormArgs a) {
  const RowGroup<kGroup> group;
  if (group.row >= a.rows) return;
  const T* x = static_cast<const T*>(a.x) + group.row * a.cols;
  T* y = static_cast<T*>(a.y) + group.row * a.cols;
  const T count = static_cast<T>(a.cols);
  T mean = 0, squares = 0;
  if (!a.rms) {
    for (int64_t i = group.lane; i < a.cols; i += kGroup) mean += x[i];
    mean = group.reduce(mean, Plus{}) / count;
  }
  for (int64_t i = group.lane; i < a.cols; i += kGroup) {
    const T d = x[i] - mean;
    squares += d * d;
  }
  squares = group.reduce(squares, Plus{});
  const T rstd = T(1) / square_root(squares / count + static_cast<T>(a.eps));
  if (group.lane == 0) {
    if (a.mean) static_cast<T*>(a.mean)[group.row] = mean;
    if (a.rstd) static_cast<T*>(a.rstd)[group.row] = rstd;
  }
  const T *weight = static_cast<const T*>(a.weight), *bias = static_cast<const T*>(a.bias);
  for (int64_t i = group.lane; i < a.cols; i += kGroup) {
    T v = (x[i] - mean) * rstd;
    if (weight) v = bias ? multiply_add(v, weight[i], bias[i]) : v * weight[i];
    if (!weight && bias) v = v + bias[i];
    y[i] = v;
  }
}

// With h = g weight and z = (x - mean) rstd: dx = rstd (h - mean(h) - z mean(h z)); rms leaves mean(h) out.
template <int kGroup, class T>
__global__ void __launch_bounds__(kThreads) grad_rows(LayerNormGradArgs a) {
  const RowGroup<kGroup> group;
  if (group.row >= a.rows) return;
  const int64_t begin = group.row * a.cols;
  const T *x = static_cast<const T*>(a.x) + begin, *g = static_cast<const T*>(a.g) + begin;
  const T* weight = static_cast<const T*>(a.weight);
  const T mean = a.rms ? T(0) : static_cast<const T*>(a.mean)[group.row];
  const T rstd = static_cast<const T*>(a.rstd)[group.row], count = static_cast<T>(a.cols);
  T sum = 0, dot = 0;
  for (int64_t i = group.lane; i < a.cols; i += kGroup) {
    const T h = weight ? g[i] * weight[i] : g[i];
    sum += h;
    dot += h * ((x[i] - mean) * rstd);
  }
  sum = a.rms ? T(0) : group.reduce(sum, Plus{});
  dot = group.reduce(dot, Plus{});
  const T offset = sum / count, slope = dot / count;
  for (int64_t i = group.lane; i < a.cols; i += kGroup) {
    const T h = weight ? g[i] * weight[i] : g[i], z = (x[i] - mean) * rstd;
    static_cast<T*>(a.dx)[begin + i] = (h - offset - z * slope) * rstd;
  }
}

template <class T>
struct GradParams {
  LayerNormGradArgs a;

  __device__ void operator()(int64_t at) const {
    const int64_t first = at / a.cols * kLayerNormRows, column = at % a.cols;
    T dweight = 0, dbias = 0;
    for (int64_t row = first; row < least(first + kLayerNormRows, a.rows); ++row) {
      const T g = static_cast<const T*>(a.g)[row * a.cols + column];
      const T mean = a.rms ? T(0) : static_cast<const T*>(a.mean)[row];
      const T z = (static_cast<const T*>(a.x)[row * a.cols + column] - mean) * static_cast<const T*>(a.rstd)[row];
      dweight = row == first ? g * z : dweight + g * z;
      dbias = row == first ? g : dbias + g;
    }
    if (a.dweight) static_cast<T*>(a.dweight)[at] = dweight;
    if (a.dbias) static_cast<T*>(a.dbias)[at] = dbias;
  }
};

}  // namespace

Status layer_norm(const LayerNormArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) {
    launch_rows(ctx, a.rows, a.cols, normalize_rows<kWarp, T>, normalize_rows<kThreads, T>, a);
  });
  return {};
}

Status layer_norm_grad(const LayerNormGradArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) {
    launch_rows(ctx, a.rows, a.cols, grad_rows<kWarp, T>, grad_rows<kThreads, T>, a);
    if (a.dweight || a.dbias) for_each(ctx, ceil_div(a.rows, kLayerNormRows) * a.cols, GradParams<T>{a});
  });
  return {};
}

}  // namespace quernel::cuda
