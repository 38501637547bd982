// Batch normalization over rows of (rows, channels).
//
// Statistics take two passes over a block of kNormRows rows, which stays in L1: the block's mean, then squared
// distances from it; no difference of large sums, so a mean far from zero costs no digits. Blocks are merged in double.
// Blocks are fixed, so threads change no bits. The passes over rows prepare what depends on the channel alone in
// scratch memory.
#include "kernels/args/norm.h"

#include <math.h>

#include "kernels/isa.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

// The rows and channels of one item of a blocked sum.
struct Block {
  int64_t index, first_row, rows, first_channel, channels;
};

Block locate(int64_t item, int64_t rows, int64_t channels) {
  const int64_t tiles = (channels + kNormTile - 1) / kNormTile;
  Block b;
  b.index = item / tiles;
  b.first_row = b.index * kNormRows;
  b.rows = rows - b.first_row < kNormRows ? rows - b.first_row : kNormRows;
  b.first_channel = item % tiles * kNormTile;
  b.channels = channels - b.first_channel < kNormTile ? channels - b.first_channel : kNormTile;
  return b;
}

template <class T>
void block_stats(const BatchNormStatsArgs& a, const Block& b) {
  using V = Vec<T>;
  const T* x = static_cast<const T*>(a.x) + b.first_row * a.channels + b.first_channel;
  const int64_t out = b.index * a.channels + b.first_channel;
  const V count = V::set(static_cast<T>(b.rows));
  for_lanes<V>(b.channels, [&](int64_t c, int k) {
    const T* column = x + c;
    const V mean = sum_rows<V>(b.rows, [&](int64_t r) { return get<V>(column + r * a.channels, k); }) / count;
    const V squares = sum_rows<V>(b.rows, [&](int64_t r) {
      const V d = get<V>(column + r * a.channels, k) - mean;
      return d * d;
    });
    put(mean, static_cast<T*>(a.mean) + out + c, k);
    put(squares, static_cast<T*>(a.squares) + out + c, k);
  });
}

// mean = sum of n_b mean_b / n; squares = sum of squares_b + n_b (mean_b - mean)^2.
template <class T>
void merge_tile(const BatchNormMergeArgs& a, int64_t first, int64_t n) {
  const T* means = static_cast<const T*>(a.block_mean) + first;
  const T* squares = static_cast<const T*>(a.block_squares) + first;
  const double count = static_cast<double>(a.rows);
  const auto rows_from = [&](int64_t row) {
    return static_cast<double>(a.rows - row < kNormRows ? a.rows - row : kNormRows);
  };
  double mean[kNormTile] = {}, total[kNormTile] = {};
  for (int64_t row = 0, b = 0; row < a.rows; row += kNormRows, ++b)
    for (int64_t c = 0; c < n; ++c) mean[c] += rows_from(row) * static_cast<double>(means[b * a.channels + c]);
  for (int64_t c = 0; c < n; ++c) mean[c] /= count;
  for (int64_t row = 0, b = 0; row < a.rows; row += kNormRows, ++b) {
    for (int64_t c = 0; c < n; ++c) {
      const double d = static_cast<double>(means[b * a.channels + c]) - mean[c];
      total[c] += static_cast<double>(squares[b * a.channels + c]) + rows_from(row) * d * d;
    }
  }
  for (int64_t c = 0; c < n; ++c) {
    static_cast<T*>(a.mean)[first + c] = static_cast<T>(mean[c]);
    static_cast<T*>(a.var)[first + c] = static_cast<T>(total[c] / count);
  }
}

// out = weight / sqrt(var + eps)
template <class T>
void channel_scale(const void* var, const void* weight, double eps, T* out, int64_t n) {
  using V = Vec<T>;
  const V e = V::set(static_cast<T>(eps)), one = V::set(1);
  for_lanes<V>(n, [&](int64_t c, int k) {
    const V inverse = one / sqrt(get<V>(static_cast<const T*>(var) + c, k) + e);
    put(weight ? inverse * get<V>(static_cast<const T*>(weight) + c, k) : inverse, out + c, k);
  });
}

template <class T>
void normalize(const BatchNormArgs& a, Range r, T* scale) {
  using V = Vec<T>;
  channel_scale(a.var, a.weight, a.eps, scale, a.channels);
  const T *mean = static_cast<const T*>(a.mean), *bias = static_cast<const T*>(a.bias);
  for (int64_t row = r.begin; row < r.end; ++row) {
    const T* x = static_cast<const T*>(a.x) + row * a.channels;
    T* y = static_cast<T*>(a.y) + row * a.channels;
    for_lanes<V>(a.channels, [&](int64_t c, int k) {
      const V d = get<V>(x + c, k) - get<V>(mean + c, k), s = get<V>(scale + c, k);
      put(bias ? fma(d, s, get<V>(bias + c, k)) : d * s, y + c, k);
    });
  }
}

template <class T>
void block_grads(const BatchNormGradParamsArgs& a, const Block& b) {
  using V = Vec<T>;
  const int64_t in = b.first_row * a.channels + b.first_channel, out = b.index * a.channels + b.first_channel;
  const T *x = static_cast<const T*>(a.x) + in, *g = static_cast<const T*>(a.g) + in;
  for_lanes<V>(b.channels, [&](int64_t c, int k) {
    const int64_t channel = b.first_channel + c;
    const V mean = get<V>(static_cast<const T*>(a.mean) + channel, k);
    const V var = get<V>(static_cast<const T*>(a.var) + channel, k);
    const V bias = sum_rows<V>(b.rows, [&](int64_t r) { return get<V>(g + r * a.channels + c, k); });
    const V weight = sum_rows<V>(b.rows, [&](int64_t r) {
      return get<V>(g + r * a.channels + c, k) * (get<V>(x + r * a.channels + c, k) - mean);
    });
    put(bias, static_cast<T*>(a.dbias) + out + c, k);
    put(weight / sqrt(var + V::set(static_cast<T>(a.eps))), static_cast<T*>(a.dweight) + out + c, k);
  });
}

// dx = scale (g - dbias / n - (x - mean) dweight / (n sqrt(var + eps)))
template <class T>
void input_grad(const BatchNormGradInputArgs& a, Range r, T* scratch) {
  using V = Vec<T>;
  const int64_t n = a.channels;
  T *scale = scratch, *slope = scratch + n, *offset = scratch + 2 * n;
  channel_scale<T>(a.var, a.weight, a.eps, scale, n);
  channel_scale<T>(a.var, nullptr, a.eps, slope, n);
  const V count = V::set(static_cast<T>(a.rows));
  for_lanes<V>(n, [&](int64_t c, int k) {
    put(get<V>(slope + c, k) * get<V>(static_cast<const T*>(a.dweight) + c, k) / count, slope + c, k);
    put(get<V>(static_cast<const T*>(a.dbias) + c, k) / count, offset + c, k);
  });
  const T* mean = static_cast<const T*>(a.mean);
  for (int64_t row = r.begin; row < r.end; ++row) {
    const T *x = static_cast<const T*>(a.x) + row * n, *g = static_cast<const T*>(a.g) + row * n;
    T* dx = static_cast<T*>(a.dx) + row * n;
    for_lanes<V>(n, [&](int64_t c, int k) {
      const V centered = get<V>(x + c, k) - get<V>(mean + c, k);
      const V rest = get<V>(g + c, k) - get<V>(offset + c, k) - centered * get<V>(slope + c, k);
      put(rest * get<V>(scale + c, k), dx + c, k);
    });
  }
}

int64_t item_bytes(DType dtype) { return dtype == DType::kFloat64 ? 8 : 4; }

}  // namespace

Status batch_norm_stats(const BatchNormStatsArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t item = r.begin; item < r.end; ++item) block_stats<T>(a, locate(item, a.rows, a.channels));
  });
  return {};
}

Status batch_norm_merge(const BatchNormMergeArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t c = r.begin * kNormTile; c < a.channels && c < r.end * kNormTile; c += kNormTile)
      merge_tile<T>(a, c, a.channels - c < kNormTile ? a.channels - c : kNormTile);
  });
  return {};
}

int64_t batch_norm_scratch(const BatchNormArgs& a) { return a.channels * item_bytes(a.dtype); }

Status batch_norm(const BatchNormArgs& a, Range r, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) { normalize(a, r, static_cast<T*>(ctx.scratch)); });
  return {};
}

Status batch_norm_update(const BatchNormUpdateArgs& a, Range, const Ctx&) {
  const double rows = static_cast<double>(a.rows);
  visit_floating(a.dtype, [&]<class T>(T) {
    const T keep = static_cast<T>(1 - a.momentum), take = static_cast<T>(a.momentum);
    const T take_unbiased = static_cast<T>(a.rows > 1 ? a.momentum * rows / (rows - 1) : a.momentum);
    const T *mean = static_cast<const T*>(a.mean), *var = static_cast<const T*>(a.var);
    T *running_mean = static_cast<T*>(a.running_mean), *running_var = static_cast<T*>(a.running_var);
    for (int64_t c = 0; c < a.channels; ++c) {
      running_mean[c] = keep * running_mean[c] + take * mean[c];
      running_var[c] = keep * running_var[c] + take_unbiased * var[c];
    }
  });
  return {};
}

Status batch_norm_grad_params(const BatchNormGradParamsArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t item = r.begin; item < r.end; ++item) block_grads<T>(a, locate(item, a.rows, a.channels));
  });
  return {};
}

int64_t batch_norm_grad_input_scratch(const BatchNormGradInputArgs& a) { return 3 * a.channels * item_bytes(a.dtype); }

Status batch_norm_grad_input(const BatchNormGradInputArgs& a, Range r, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) { input_grad(a, r, static_cast<T*>(ctx.scratch)); });
  return {};
}

}  // namespace quernel::QUERNEL_ISA
