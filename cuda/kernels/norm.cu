// Batch normalization over rows of (rows, channels). Sums go over fixed blocks of kNormRows rows: a thread takes a
// block and a channel, so that a warp reads neighbouring channels; its rows in four phases. Statistics take two passes,
// the block's mean and then squared distances from it: no difference of large sums. Blocks are merged in double, a
// thread a channel. What goes over elements is a thread an element.
#include "core/launch.h"
#include "core/math.h"
#include "core/sums.h"
#include "kernels/args/norm.h"

namespace quernel::cuda {
namespace {

// The rows of one block, as a thread sees its channel.
struct Block {
  int64_t first_row, rows;

  __device__ Block(int64_t index, int64_t all)
      : first_row(index * kNormRows), rows(least(kNormRows, all - first_row)) {}
};

template <class T>
struct Stats {
  BatchNormStatsArgs a;

  __device__ void operator()(int64_t at) const {
    const Block b(at / a.channels, a.rows);
    const T* x = static_cast<const T*>(a.x) + b.first_row * a.channels + at % a.channels;
    const T count = static_cast<T>(b.rows);
    const T mean = sum_of<T>(b.rows, [&](int64_t r) { return x[r * a.channels]; }) / count;
    const T squares = sum_of<T>(b.rows, [&](int64_t r) {
      const T d = x[r * a.channels] - mean;
      return d * d;
    });
    static_cast<T*>(a.mean)[at] = mean;
    static_cast<T*>(a.squares)[at] = squares;
  }
};

// mean = sum of n_b mean_b / n; squares = sum of squares_b + n_b (mean_b - mean)^2.
template <class T>
struct Merge {
  BatchNormMergeArgs a;

  __device__ void operator()(int64_t channel) const {
    const T* means = static_cast<const T*>(a.block_mean) + channel;
    const T* squares = static_cast<const T*>(a.block_squares) + channel;
    const int64_t blocks = ceil_div(a.rows, kNormRows);
    const double count = static_cast<double>(a.rows);
    double mean = 0, total = 0;
    for (int64_t b = 0; b < blocks; ++b)
      mean += static_cast<double>(Block(b, a.rows).rows) * static_cast<double>(means[b * a.channels]);
    mean /= count;
    for (int64_t b = 0; b < blocks; ++b) {
      const double d = static_cast<double>(means[b * a.channels]) - mean;
      total += static_cast<double>(squares[b * a.channels]) + static_cast<double>(Block(b, a.rows).rows) * d * d;
    }
    static_cast<T*>(a.mean)[channel] = static_cast<T>(mean);
    static_cast<T*>(a.var)[channel] = static_cast<T>(total / count);
  }
};

// weight / sqrt(var + eps)
template <class T>
__device__ T channel_scale(const void* var, const void* weight, double eps, int64_t channel) {
  const T inverse = T(1) / square_root(static_cast<const T*>(var)[channel] + static_cast<T>(eps));
  return weight ? inverse * static_cast<const T*>(weight)[channel] : inverse;
}

template <class T>
struct Normalize {
  BatchNormArgs a;

  __device__ void operator()(int64_t i) const {
    const int64_t c = i % a.channels;
    const T scale = channel_scale<T>(a.var, a.weight, a.eps, c);
    const T d = static_cast<const T*>(a.x)[i] - static_cast<const T*>(a.mean)[c];
    const T y = a.shift ? multiply_add(d, scale, static_cast<const T*>(a.shift)[c]) : d * scale;
    static_cast<T*>(a.y)[i] = finished(a, y, i, c);
  }
};

template <class T>
struct Update {
  BatchNormUpdateArgs a;
  T keep, take, take_unbiased;

  __device__ void operator()(int64_t c) const {
    T& mean = static_cast<T*>(a.running_mean)[c];
    T& var = static_cast<T*>(a.running_var)[c];
    mean = keep * mean + take * static_cast<const T*>(a.mean)[c];
    var = keep * var + take_unbiased * static_cast<const T*>(a.var)[c];
  }
};

template <class T>
struct GradParams {
  BatchNormGradParamsArgs a;

  __device__ void operator()(int64_t at) const {
    const int64_t channel = at % a.channels;
    const Block b(at / a.channels, a.rows);
    const int64_t begin = b.first_row * a.channels + channel;
    const T *x = static_cast<const T*>(a.x) + begin, *g = static_cast<const T*>(a.g) + begin;
    const T mean = static_cast<const T*>(a.mean)[channel];
    const T root = square_root(static_cast<const T*>(a.var)[channel] + static_cast<T>(a.eps));
    static_cast<T*>(a.dbias)[at] = sum_of<T>(b.rows, [&](int64_t r) { return g[r * a.channels]; });
    const T dot = sum_of<T>(b.rows, [&](int64_t r) { return g[r * a.channels] * (x[r * a.channels] - mean); });
    static_cast<T*>(a.dweight)[at] = dot / root;
  }
};

// dx = scale (g - dbias / n - (x - mean) dweight / (n sqrt(var + eps)))
template <class T>
struct GradInput {
  BatchNormGradInputArgs a;

  __device__ void operator()(int64_t i) const {
    const int64_t c = i % a.channels;
    const T count = static_cast<T>(a.rows);
    const T scale = channel_scale<T>(a.var, a.weight, a.eps, c);
    const T slope = channel_scale<T>(a.var, nullptr, a.eps, c) * static_cast<const T*>(a.dweight)[c] / count;
    const T offset = static_cast<const T*>(a.dbias)[c] / count;
    const T centered = static_cast<const T*>(a.x)[i] - static_cast<const T*>(a.mean)[c];
    static_cast<T*>(a.dx)[i] = (static_cast<const T*>(a.g)[i] - offset - centered * slope) * scale;
  }
};

}  // namespace

Status batch_norm_stats(const BatchNormStatsArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) { for_each(ctx, ceil_div(a.rows, kNormRows) * a.channels, Stats<T>{a}); });
  return {};
}

Status batch_norm_merge(const BatchNormMergeArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) { for_each(ctx, a.channels, Merge<T>{a}); });
  return {};
}

Status batch_norm(const BatchNormArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) { for_each(ctx, a.rows * a.channels, Normalize<T>{a}); });
  return {};
}

Status batch_norm_update(const BatchNormUpdateArgs& a, Range, const Ctx& ctx) {
  const double rows = static_cast<double>(a.rows);
  const double unbiased = a.rows > 1 ? a.momentum * rows / (rows - 1) : a.momentum;
  visit_floating(a.dtype, [&]<class T>(T) {
    for_each(ctx, a.channels,
             Update<T>{a, static_cast<T>(1 - a.momentum), static_cast<T>(a.momentum), static_cast<T>(unbiased)});
  });
  return {};
}

Status batch_norm_grad_params(const BatchNormGradParamsArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype,
                 [&]<class T>(T) { for_each(ctx, ceil_div(a.rows, kNormRows) * a.channels, GradParams<T>{a}); });
  return {};
}

Status batch_norm_grad_input(const BatchNormGradInputArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) { for_each(ctx, a.rows * a.channels, GradInput<T>{a}); });
  return {};
}

}  // namespace quernel::cuda
