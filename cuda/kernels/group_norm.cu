// Group norm and instance norm of (samples, rows, channels): every sample has its own statistics.
//
// Sums over rows go per channel over the fixed blocks of kGroupNormRows rows that the engine asks for: a CUDA block
// takes one of them times 32 channels, in eight phases (core/columns.h), for statistics in two passes. A warp or a
// block (core/rows.h) merges the channels and blocks of one group in double.
//
// In the passes over all elements a thread stays with one channel of one sample. What the gradient needs of a group
// comes from the sums per channel; a kernel of its own puts it into scratch memory.
#include "core/columns.h"
#include "core/math.h"
#include "core/rows.h"
#include "kernels/args/group_norm.h"

namespace quernel::cuda {
namespace {

using BlockGroup = ColumnGroup<32>;

__host__ __device__ inline int64_t row_blocks(const GroupNormSize& s) { return ceil_div(s.rows, kGroupNormRows); }

// The rows and the channel of a thread in a kernel of blocks of rows; without a channel of its own it has no rows.
struct Block {
  int64_t sample, rows, channel;
  int64_t in, out;  // offsets of the first element, and of the result

  __device__ Block(const BlockGroup& group, const GroupNormSize& s) {
    const int64_t tiles = ceil_div(s.channels, BlockGroup::kColumns), index = blockIdx.x / tiles;
    const int64_t first_row = index % row_blocks(s) * kGroupNormRows;
    sample = index / row_blocks(s);
    channel = blockIdx.x % tiles * BlockGroup::kColumns + group.column;
    rows = channel < s.channels ? least(kGroupNormRows, s.rows - first_row) : 0;
    in = (sample * s.rows + first_row) * s.channels + channel;
    out = index * s.channels + channel;
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads) block_stats(GroupNormStatsArgs a) {
  const BlockGroup group;
  const Block b(group, a.size);
  const T* x = static_cast<const T*>(a.x) + b.in;
  const T mean = group.sum(b.rows, [&](int64_t r) { return x[r * a.size.channels]; }) / static_cast<T>(b.rows);
  const T squares = group.sum(b.rows, [&](int64_t r) {
    const T d = x[r * a.size.channels] - mean;
    return d * d;
  });
  if (b.rows == 0 || group.phase > 0) return;
  static_cast<T*>(a.mean)[b.out] = mean;
  static_cast<T*>(a.squares)[b.out] = squares;
}

// mean = sum of n_b mean_b / n; squares = sum of squares_b + n_b (mean_b - mean)^2, over blocks and channels.
template <int kGroup, class T>
__global__ void __launch_bounds__(kThreads) merge_groups(GroupNormMergeArgs a) {
  const RowGroup<kGroup> group;
  const GroupNormSize& s = a.size;
  if (group.row >= s.samples * s.groups) return;
  const int64_t each = s.channels / s.groups, parts = row_blocks(s) * each;
  const int64_t first = group.row / s.groups * row_blocks(s) * s.channels + group.row % s.groups * each;
  const T* means = static_cast<const T*>(a.block_mean) + first;
  const T* squares = static_cast<const T*>(a.block_squares) + first;
  const auto rows_of = [&](int64_t part) {
    return static_cast<double>(least(kGroupNormRows, s.rows - part / each * kGroupNormRows));
  };
  const double count = static_cast<double>(s.rows * each);
  double mean = 0, total = 0;
  for (int64_t i = group.lane; i < parts; i += kGroup)
    mean += rows_of(i) * static_cast<double>(means[i / each * s.channels + i % each]);
  mean = group.reduce(mean, Plus{}) / count;
  for (int64_t i = group.lane; i < parts; i += kGroup) {
    const int64_t at = i / each * s.channels + i % each;
    const double d = static_cast<double>(means[at]) - mean;
    total += static_cast<double>(squares[at]) + rows_of(i) * d * d;
  }
  total = group.reduce(total, Plus{});
  if (group.lane > 0) return;
  static_cast<T*>(a.mean)[group.row] = static_cast<T>(mean);
  static_cast<T*>(a.var)[group.row] = static_cast<T>(total / count);
}

// 1 / sqrt(var + eps) of one group of all samples' groups.
template <class T>
__device__ T inverse_deviation(const void* var, int64_t group, double eps) {
  return static_cast<T>(1 / sqrt(static_cast<double>(static_cast<const T*>(var)[group]) + eps));
}

// Elements that a thread of a pass takes: `first`, first + span, … below `end`, all of one channel of one sample.
struct Walk {
  int64_t channel, group, first, end;

  __device__ Walk(const GroupNormSize& s, int64_t span, int64_t thread) {
    const int64_t size = s.rows * s.channels, within = thread % span, sample = thread / span;
    channel = within % s.channels;
    group = sample * s.groups + channel / (s.channels / s.groups);
    first = sample * size + within;
    end = (sample + 1) * size;
  }
};

template <class T>
struct Normalize {
  GroupNormArgs a;
  int64_t span;

  __device__ void operator()(int64_t thread) const {
    const Walk w(a.size, span, thread);
    const T mean = static_cast<const T*>(a.mean)[w.group], rstd = inverse_deviation<T>(a.var, w.group, a.eps);
    const T scale = a.weight ? rstd * static_cast<const T*>(a.weight)[w.channel] : rstd;
    const T bias = a.bias ? static_cast<const T*>(a.bias)[w.channel] : T(0);
    for (int64_t i = w.first; i < w.end; i += span) {
      const T d = static_cast<const T*>(a.x)[i] - mean;
      static_cast<T*>(a.y)[i] = a.bias ? multiply_add(d, scale, bias) : d * scale;
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads) block_grad_sums(GroupNormGradSumsArgs a) {
  const BlockGroup group;
  const Block b(group, a.size);
  const int64_t stride = a.size.channels, each = stride / a.size.groups;
  const int64_t own = b.sample * a.size.groups + (b.rows > 0 ? b.channel / each : 0);
  const T *x = static_cast<const T*>(a.x) + b.in, *g = static_cast<const T*>(a.g) + b.in;
  const T mean = static_cast<const T*>(a.mean)[own];
  const T sum = group.sum(b.rows, [&](int64_t r) { return g[r * stride]; });
  const T dot = group.sum(b.rows, [&](int64_t r) { return g[r * stride] * (x[r * stride] - mean); });
  if (b.rows == 0 || group.phase > 0) return;
  static_cast<T*>(a.sum)[b.out] = sum;
  static_cast<T*>(a.dot)[b.out] = dot * inverse_deviation<T>(a.var, own, a.eps);
}

// With h = g weight and z = (x - mean) rstd: dx = rstd (h - mean(h) - z mean(h z)), means over the group; so dx = g
// scale - offset - (x - mean) slope. Of each group, its offset and slope:
template <int kGroup, class T>
__global__ void __launch_bounds__(kThreads) group_constants(GroupNormGradArgs a, T* offset, T* slope) {
  const RowGroup<kGroup> group;
  const GroupNormSize& s = a.size;
  if (group.row >= s.samples * s.groups) return;
  const int64_t each = s.channels / s.groups,
                first = group.row * each;  // of all samples' channels
  const T *sum = static_cast<const T*>(a.sum) + first, *dot = static_cast<const T*>(a.dot) + first;
  const T* weight = static_cast<const T*>(a.weight);
  if (weight) weight += group.row % s.groups * each;
  double h = 0, hz = 0;
  for (int64_t c = group.lane; c < each; c += kGroup) {
    const double w = weight ? static_cast<double>(weight[c]) : 1;
    h += w * static_cast<double>(sum[c]);
    hz += w * static_cast<double>(dot[c]);
  }
  h = group.reduce(h, Plus{});
  hz = group.reduce(hz, Plus{});
  if (group.lane > 0) return;
  const double rstd = static_cast<double>(inverse_deviation<T>(a.var, group.row, a.eps));
  const double count = static_cast<double>(s.rows * each);
  offset[group.row] = static_cast<T>(rstd * h / count);
  slope[group.row] = static_cast<T>(rstd * rstd * hz / count);
}

template <class T>
struct GradInput {
  GroupNormGradArgs a;
  int64_t span;
  const T *offsets, *slopes;

  __device__ void operator()(int64_t thread) const {
    const Walk w(a.size, span, thread);
    const double factor = a.weight ? static_cast<double>(static_cast<const T*>(a.weight)[w.channel]) : 1;
    const T scale = static_cast<T>(static_cast<double>(inverse_deviation<T>(a.var, w.group, a.eps)) * factor);
    const T mean = static_cast<const T*>(a.mean)[w.group], offset = offsets[w.group], slope = slopes[w.group];
    for (int64_t i = w.first; i < w.end; i += span) {
      const T d = static_cast<const T*>(a.x)[i] - mean;
      static_cast<T*>(a.dx)[i] = multiply_add(static_cast<const T*>(a.g)[i], scale, -offset) - d * slope;
    }
  }
};

// The CUDA blocks of a kernel of blocks of rows.
unsigned blocks_of(const GroupNormSize& s) {
  return static_cast<unsigned>(s.samples * row_blocks(s) * ceil_div(s.channels, BlockGroup::kColumns));
}

}  // namespace

Status group_norm_stats(const GroupNormStatsArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) { launch(ctx, block_stats<T>, blocks_of(a.size), kThreads, 0, a); });
  return {};
}

Status group_norm_merge(const GroupNormMergeArgs& a, Range, const Ctx& ctx) {
  const int64_t groups = a.size.samples * a.size.groups, parts = row_blocks(a.size) * a.size.channels / a.size.groups;
  visit_floating(a.dtype, [&]<class T>(T) {
    launch_rows(ctx, groups, parts, merge_groups<kWarp, T>, merge_groups<kThreads, T>, a);
  });
  return {};
}

Status group_norm(const GroupNormArgs& a, Range, const Ctx& ctx) {
  const int64_t span = channel_span(a.size.rows, a.size.channels);
  visit_floating(a.dtype, [&]<class T>(T) { for_each(ctx, a.size.samples * span, Normalize<T>{a, span}); });
  return {};
}

Status group_norm_grad_sums(const GroupNormGradSumsArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) { launch(ctx, block_grad_sums<T>, blocks_of(a.size), kThreads, 0, a); });
  return {};
}

int64_t group_norm_grad_scratch(const GroupNormGradArgs& a) {
  return 2 * a.size.samples * a.size.groups * static_cast<int64_t>(itemsize(a.dtype));
}

Status group_norm_grad(const GroupNormGradArgs& a, Range, const Ctx& ctx) {
  const int64_t groups = a.size.samples * a.size.groups, span = channel_span(a.size.rows, a.size.channels);
  visit_floating(a.dtype, [&]<class T>(T) {
    T *offsets = static_cast<T*>(ctx.scratch), *slopes = offsets + groups;
    launch_rows(ctx, groups, a.size.channels / a.size.groups, group_constants<kWarp, T>, group_constants<kThreads, T>,
                a, offsets, slopes);
    for_each(ctx, a.size.samples * span, GradInput<T>{a, span, offsets, slopes});
  });
  return {};
}

}  // namespace quernel::cuda
