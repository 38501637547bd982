// Group norm and instance norm of (samples, rows, channels): every sample has its own statistics.
//
// Vectors run along the channels whatever the size of a group is: statistics are taken per channel, over blocks of rows
// that stay in L1 (two passes: the mean, then squared distances from it), and merged in double over the blocks and the
// channels of a group. What follows is arithmetic per channel, prepared in scratch memory whenever the rows of another
// sample begin. The gradient needs, per group, the sums of g · weight and of g · weight · (x - mean) / sqrt(var + eps);
// both come from the same sums per channel of which the gradients of weight and bias are made.
#include "kernels/args/group_norm.h"

#include <math.h>

#include "kernels/integers.h"
#include "kernels/isa.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

// Where the elements and the results of one item of a blocked sum are.
struct Block {
  int64_t sample, rows, first_channel, channels;
  int64_t in, out;  // offsets of the first element, and of the first result
};

int64_t blocks_of(const GroupNormSize& s) { return (s.rows + kGroupNormRows - 1) / kGroupNormRows; }

Block locate(int64_t item, const GroupNormSize& s) {
  const int64_t tiles = (s.channels + kGroupNormTile - 1) / kGroupNormTile, blocks = blocks_of(s);
  const int64_t block = item / tiles % blocks, first_row = block * kGroupNormRows;
  Block b;
  b.sample = item / tiles / blocks;
  b.rows = least(kGroupNormRows, s.rows - first_row);
  b.first_channel = item % tiles * kGroupNormTile;
  b.channels = least(kGroupNormTile, s.channels - b.first_channel);
  b.in = (b.sample * s.rows + first_row) * s.channels + b.first_channel;
  b.out = (b.sample * blocks + block) * s.channels + b.first_channel;
  return b;
}

template <class T>
void block_stats(const GroupNormStatsArgs& a, const Block& b) {
  using V = Vec<T>;
  const T* x = static_cast<const T*>(a.x) + b.in;
  const V count = V::set(static_cast<T>(b.rows));
  for_lanes<V>(b.channels, [&](int64_t c, int k) {
    const T* column = x + c;
    const V mean = sum_rows<V>(b.rows, [&](int64_t r) { return get<V>(column + r * a.size.channels, k); }) / count;
    const V squares = sum_rows<V>(b.rows, [&](int64_t r) {
      const V d = get<V>(column + r * a.size.channels, k) - mean;
      return d * d;
    });
    put(mean, static_cast<T*>(a.mean) + b.out + c, k);
    put(squares, static_cast<T*>(a.squares) + b.out + c, k);
  });
}

// mean = sum of n_b mean_b / n; squares = sum of squares_b + n_b (mean_b - mean)^2, over blocks and channels of a
// group.
template <class T>
void merge_group(const GroupNormMergeArgs& a, int64_t sample, int64_t group) {
  const GroupNormSize& s = a.size;
  const int64_t each = s.channels / s.groups, blocks = blocks_of(s);
  const int64_t first = sample * blocks * s.channels + group * each;
  const T* means = static_cast<const T*>(a.block_mean) + first;
  const T* squares = static_cast<const T*>(a.block_squares) + first;
  const auto rows_of = [&](int64_t b) {
    return static_cast<double>(least(kGroupNormRows, s.rows - b * kGroupNormRows));
  };
  const double count = static_cast<double>(s.rows * each);
  double mean = 0, total = 0;
  for (int64_t b = 0; b < blocks; ++b)
    for (int64_t c = 0; c < each; ++c) mean += rows_of(b) * static_cast<double>(means[b * s.channels + c]);
  mean /= count;
  for (int64_t b = 0; b < blocks; ++b) {
    for (int64_t c = 0; c < each; ++c) {
      const double d = static_cast<double>(means[b * s.channels + c]) - mean;
      total += static_cast<double>(squares[b * s.channels + c]) + rows_of(b) * d * d;
    }
  }
  static_cast<T*>(a.mean)[sample * s.groups + group] = static_cast<T>(mean);
  static_cast<T*>(a.var)[sample * s.groups + group] = static_cast<T>(total / count);
}

// A group's statistics as its channels need them.
template <class T>
struct GroupStats {
  const T *mean, *var;
  int64_t groups, each;
  double eps;

  T center(int64_t sample, int64_t channel) const { return mean[sample * groups + channel / each]; }
  T rstd(int64_t sample, int64_t channel) const {
    const double v = static_cast<double>(var[sample * groups + channel / each]);
    return static_cast<T>(1 / ::sqrt(v + eps));
  }
};

template <class T, class Args>
GroupStats<T> stats_of(const Args& a) {
  return {static_cast<const T*>(a.mean), static_cast<const T*>(a.var), a.size.groups, a.size.channels / a.size.groups,
          a.eps};
}

// Calls prepare(sample) when the rows of a sample begin, and row(offset of its first element) for each row.
template <class Prepare, class Row>
void for_rows(Range r, const GroupNormSize& s, Prepare prepare, Row row) {
  int64_t sample = -1;
  for (int64_t item = r.begin; item < r.end; ++item) {
    if (item / s.rows != sample) prepare(sample = item / s.rows);
    row(item * s.channels);
  }
}

template <class T>
void normalize(const GroupNormArgs& a, Range r, T* scratch) {
  using V = Vec<T>;
  const int64_t n = a.size.channels;
  T *mean = scratch, *scale = scratch + n;
  const T *weight = static_cast<const T*>(a.weight), *bias = static_cast<const T*>(a.bias);
  const GroupStats<T> stats = stats_of<T>(a);
  const auto prepare = [&](int64_t sample) {
    for (int64_t c = 0; c < n; ++c) {
      mean[c] = stats.center(sample, c);
      scale[c] = weight ? stats.rstd(sample, c) * weight[c] : stats.rstd(sample, c);
    }
  };
  for_rows(r, a.size, prepare, [&](int64_t at) {
    const T* x = static_cast<const T*>(a.x) + at;
    T* y = static_cast<T*>(a.y) + at;
    for_lanes<V>(n, [&](int64_t c, int k) {
      const V d = get<V>(x + c, k) - get<V>(mean + c, k), factor = get<V>(scale + c, k);
      put(bias ? fma(d, factor, get<V>(bias + c, k)) : d * factor, y + c, k);
    });
  });
}

template <class T>
void block_grad_sums(const GroupNormGradSumsArgs& a, const Block& b) {
  using V = Vec<T>;
  const T *x = static_cast<const T*>(a.x) + b.in, *g = static_cast<const T*>(a.g) + b.in;
  const GroupStats<T> stats = stats_of<T>(a);
  T mean[kGroupNormTile], rstd[kGroupNormTile];
  for (int64_t c = 0; c < b.channels; ++c) {
    mean[c] = stats.center(b.sample, b.first_channel + c);
    rstd[c] = stats.rstd(b.sample, b.first_channel + c);
  }
  for_lanes<V>(b.channels, [&](int64_t c, int k) {
    const V center = get<V>(mean + c, k);
    const auto each = [&](const T* p, int64_t r) { return get<V>(p + r * a.size.channels + c, k); };
    const V sum = sum_rows<V>(b.rows, [&](int64_t r) { return each(g, r); });
    const V dot = sum_rows<V>(b.rows, [&](int64_t r) { return each(g, r) * (each(x, r) - center); });
    put(sum, static_cast<T*>(a.sum) + b.out + c, k);
    put(dot * get<V>(rstd + c, k), static_cast<T*>(a.dot) + b.out + c, k);
  });
}

// With h = g · weight and z = (x - mean) rstd: dx = rstd (h - mean(h) - z mean(h z)), means over the group; so
// dx = g scale - offset - (x - mean) slope.
template <class T>
void input_grad(const GroupNormGradArgs& a, Range r, T* scratch) {
  using V = Vec<T>;
  const GroupNormSize& s = a.size;
  const int64_t n = s.channels, each = n / s.groups;
  T *mean = scratch, *scale = scratch + n, *offset = scratch + 2 * n, *slope = scratch + 3 * n;
  const T* weight = static_cast<const T*>(a.weight);
  const GroupStats<T> stats = stats_of<T>(a);
  const double count = static_cast<double>(s.rows * each);
  const auto prepare = [&](int64_t sample) {
    const T *sum = static_cast<const T*>(a.sum) + sample * n, *dot = static_cast<const T*>(a.dot) + sample * n;
    for (int64_t first = 0; first < n; first += each) {
      double h = 0, hz = 0;
      for (int64_t c = first; c < first + each; ++c) {
        const double w = weight ? static_cast<double>(weight[c]) : 1;
        h += w * static_cast<double>(sum[c]);
        hz += w * static_cast<double>(dot[c]);
      }
      const double rstd = static_cast<double>(stats.rstd(sample, first));
      for (int64_t c = first; c < first + each; ++c) {
        mean[c] = stats.center(sample, c);
        scale[c] = static_cast<T>(rstd * (weight ? static_cast<double>(weight[c]) : 1));
        offset[c] = static_cast<T>(rstd * h / count);
        slope[c] = static_cast<T>(rstd * rstd * hz / count);
      }
    }
  };
  for_rows(r, s, prepare, [&](int64_t at) {
    const T *x = static_cast<const T*>(a.x) + at, *g = static_cast<const T*>(a.g) + at;
    T* dx = static_cast<T*>(a.dx) + at;
    for_lanes<V>(n, [&](int64_t c, int k) {
      const V d = get<V>(x + c, k) - get<V>(mean + c, k);
      const V rest = fma(get<V>(g + c, k), get<V>(scale + c, k), -get<V>(offset + c, k));
      put(rest - d * get<V>(slope + c, k), dx + c, k);
    });
  });
}

int64_t item_bytes(DType dtype) { return dtype == DType::kFloat64 ? 8 : 4; }

}  // namespace

Status group_norm_stats(const GroupNormStatsArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t item = r.begin; item < r.end; ++item) block_stats<T>(a, locate(item, a.size));
  });
  return {};
}

Status group_norm_merge(const GroupNormMergeArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t sample = r.begin; sample < r.end; ++sample)
      for (int64_t group = 0; group < a.size.groups; ++group) merge_group<T>(a, sample, group);
  });
  return {};
}

int64_t group_norm_scratch(const GroupNormArgs& a) { return 2 * a.size.channels * item_bytes(a.dtype); }

Status group_norm(const GroupNormArgs& a, Range r, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) { normalize(a, r, static_cast<T*>(ctx.scratch)); });
  return {};
}

Status group_norm_grad_sums(const GroupNormGradSumsArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t item = r.begin; item < r.end; ++item) block_grad_sums<T>(a, locate(item, a.size));
  });
  return {};
}

int64_t group_norm_grad_scratch(const GroupNormGradArgs& a) { return 4 * a.size.channels * item_bytes(a.dtype); }

Status group_norm_grad(const GroupNormGradArgs& a, Range r, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) { input_grad(a, r, static_cast<T*>(ctx.scratch)); });
  return {};
}

}  // namespace quernel::QUERNEL_ISA
