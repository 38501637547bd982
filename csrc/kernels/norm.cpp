// Batch normalization over rows of (rows, channels).
//
// Statistics take two passes over a block of kNormRows rows, which stays in L1: the block's mean, then squared
// distances from it; no difference of large sums, so a mean far from zero costs no digits. Blocks are merged in double.
// Blocks are fixed, so threads change no bits.
//
// The passes over rows prepare what depends on the channel alone in scratch memory, then go down a block of rows that
// fits L1, two registers of channels at a time (a cache line, and what depends on the channel stays in registers; row
// by row it was loaded anew for each). An epilogue follows block by block.
#include "kernels/args/norm.h"

#include <math.h>

#include <type_traits>

#include "kernels/epilogue.h"
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

// Calls f(channel, lanes, registers) for pairs of whole registers, then for the single ones that are left.
template <class V, class F>
inline void for_columns(int64_t channels, F f) {
  int64_t c = 0;
  for (; c + 2 * V::kWidth <= channels; c += 2 * V::kWidth) f(c, V::kWidth, std::integral_constant<int, 2>());
  for_lanes<V>(channels - c, [&](int64_t i, int k) { f(c + i, k, std::integral_constant<int, 1>()); });
}

// kCount sums over rows, each in the order of sum_rows(): term(row, i) is what row adds to sum i.
template <class V, int kCount, class Term>
inline void sums_of_rows(int64_t rows, V (&sums)[kCount], Term term) {
  V phases[4][kCount];
  for (auto& phase : phases)
    for (V& sum : phase) sum = V::zero();
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4)
    for (int p = 0; p < 4; ++p)
      for (int i = 0; i < kCount; ++i) phases[p][i] = phases[p][i] + term(r + p, i);
  for (int p = 0; p < 3; ++p)
    if (r + p < rows)
      for (int i = 0; i < kCount; ++i) phases[p][i] = phases[p][i] + term(r + p, i);
  for (int i = 0; i < kCount; ++i) sums[i] = (phases[0][i] + phases[1][i]) + (phases[2][i] + phases[3][i]);
}

// Calls f(first row, rows) for blocks of `range` that stay in L1.
template <class T, class F>
inline void for_blocks(Range range, int64_t channels, F f) {
  constexpr int64_t kElements = 4096 / static_cast<int64_t>(sizeof(T));
  const int64_t most = channels < kElements ? kElements / channels : 1;
  for (int64_t row = range.begin; row < range.end; row += most) f(row, range.end - row < most ? range.end - row : most);
}

template <class T>
void block_stats(const BatchNormStatsArgs& a, const Block& b) {
  using V = Vec<T>;
  const T* x = static_cast<const T*>(a.x) + b.first_row * a.channels + b.first_channel;
  const int64_t out = b.index * a.channels + b.first_channel;
  const V count = V::set(static_cast<T>(b.rows));
  for_columns<V>(b.channels, [&](int64_t c, int k, auto registers) {
    const T* column = x + c;
    const auto at = [&](int64_t r, int i) { return get<V>(column + r * a.channels + i * V::kWidth, k); };
    V mean[registers], squares[registers];
    sums_of_rows(b.rows, mean, at);
    for (V& m : mean) m = m / count;
    sums_of_rows(b.rows, squares, [&](int64_t r, int i) {
      const V d = at(r, i) - mean[i];
      return d * d;
    });
    for (int i = 0; i < registers; ++i) {
      put(mean[i], static_cast<T*>(a.mean) + out + c + i * V::kWidth, k);
      put(squares[i], static_cast<T*>(a.squares) + out + c + i * V::kWidth, k);
    }
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
  const T *mean = static_cast<const T*>(a.mean), *shift = static_cast<const T*>(a.shift);
  for_blocks<T>(r, a.channels, [&](int64_t first, int64_t rows) {
    const int64_t begin = first * a.channels;
    for_columns<V>(a.channels, [&](int64_t c, int k, auto registers) {
      V m[registers], s[registers], b[registers];
      for (int i = 0; i < registers; ++i) {
        const int64_t at = c + i * V::kWidth;
        m[i] = get<V>(mean + at, k), s[i] = get<V>(scale + at, k), b[i] = shift ? get<V>(shift + at, k) : V::zero();
      }
      const T* x = static_cast<const T*>(a.x) + begin + c;
      T* y = static_cast<T*>(a.y) + begin + c;
      for (int64_t row = 0; row < rows; ++row, x += a.channels, y += a.channels) {
        for (int i = 0; i < registers; ++i) {
          const V d = get<V>(x + i * V::kWidth, k) - m[i];
          put(shift ? fma(d, s[i], b[i]) : d * s[i], y + i * V::kWidth, k);
        }
      }
    });
    finish_flat(a, static_cast<T*>(a.y), begin, begin + rows * a.channels);
  });
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
    V sums[2];  // of bias and weight
    sums_of_rows(b.rows, sums, [&](int64_t r, int i) {
      const V incoming = get<V>(g + r * a.channels + c, k);
      return i == 0 ? incoming : incoming * (get<V>(x + r * a.channels + c, k) - mean);
    });
    put(sums[0], static_cast<T*>(a.dbias) + out + c, k);
    put(sums[1] / sqrt(var + V::set(static_cast<T>(a.eps))), static_cast<T*>(a.dweight) + out + c, k);
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
  for_blocks<T>(r, n, [&](int64_t first, int64_t rows) {
    for_columns<V>(n, [&](int64_t c, int k, auto registers) {
      V m[registers], by[registers], minus[registers], times[registers];
      for (int i = 0; i < registers; ++i) {
        const int64_t at = c + i * V::kWidth;
        m[i] = get<V>(mean + at, k), by[i] = get<V>(slope + at, k);
        minus[i] = get<V>(offset + at, k), times[i] = get<V>(scale + at, k);
      }
      const int64_t begin = first * n + c;
      const T *x = static_cast<const T*>(a.x) + begin, *g = static_cast<const T*>(a.g) + begin;
      T* dx = static_cast<T*>(a.dx) + begin;
      for (int64_t at = 0; at < rows * n; at += n) {
        for (int i = 0; i < registers; ++i) {
          const V centered = get<V>(x + at + i * V::kWidth, k) - m[i];
          const V rest = get<V>(g + at + i * V::kWidth, k) - minus[i] - centered * by[i];
          put(rest * times[i], dx + at + i * V::kWidth, k);
        }
      }
    });
  });
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
