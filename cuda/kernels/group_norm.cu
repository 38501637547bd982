// Group norm and instance norm of (samples, rows, channels). Statistics are taken per channel over blocks of rows, a
// thread a block and a channel, and merged in double over the blocks and the channels of a group, a thread a group. The
// rest goes over elements, a thread each.
#include "core/launch.h"
#include "core/math.h"
#include "core/sums.h"
#include "kernels/args/group_norm.h"

namespace quernel::cuda {
namespace {

__host__ __device__ inline int64_t blocks_of(const GroupNormSize& s) { return ceil_div(s.rows, kGroupNormRows); }

// A channel's rows of one block; `at` numbers the results (samples, blocks, channels).
struct Block {
  int64_t sample, channel, rows, begin;

  __device__ Block(int64_t at, const GroupNormSize& s) : channel(at % s.channels) {
    const int64_t blocks = blocks_of(s), block = at / s.channels % blocks, first = block * kGroupNormRows;
    sample = at / s.channels / blocks;
    rows = least(kGroupNormRows, s.rows - first);
    begin = (sample * s.rows + first) * s.channels + channel;
  }
};

template <class T>
struct Stats {
  GroupNormStatsArgs a;

  __device__ void operator()(int64_t at) const {
    const Block b(at, a.size);
    const T* x = static_cast<const T*>(a.x) + b.begin;
    const T mean = sum_of<T>(b.rows, [&](int64_t r) { return x[r * a.size.channels]; }) / static_cast<T>(b.rows);
    const T squares = sum_of<T>(b.rows, [&](int64_t r) {
      const T d = x[r * a.size.channels] - mean;
      return d * d;
    });
    static_cast<T*>(a.mean)[at] = mean;
    static_cast<T*>(a.squares)[at] = squares;
  }
};

// mean = sum of n_b mean_b / n; squares = sum of squares_b + n_b (mean_b - mean)^2, over blocks and channels.
template <class T>
struct Merge {
  GroupNormMergeArgs a;

  __device__ void operator()(int64_t at) const {
    const GroupNormSize& s = a.size;
    const int64_t each = s.channels / s.groups, blocks = blocks_of(s);
    const int64_t first = at / s.groups * blocks * s.channels + at % s.groups * each;
    const T* means = static_cast<const T*>(a.block_mean) + first;
    const T* squares = static_cast<const T*>(a.block_squares) + first;
    const double count = static_cast<double>(s.rows * each);
    double mean = 0, total = 0;
    for (int64_t b = 0; b < blocks; ++b) {
      const double rows = static_cast<double>(least(kGroupNormRows, s.rows - b * kGroupNormRows));
      for (int64_t c = 0; c < each; ++c) mean += rows * static_cast<double>(means[b * s.channels + c]);
    }
    mean /= count;
    for (int64_t b = 0; b < blocks; ++b) {
      const double rows = static_cast<double>(least(kGroupNormRows, s.rows - b * kGroupNormRows));
      for (int64_t c = 0; c < each; ++c) {
        const double d = static_cast<double>(means[b * s.channels + c]) - mean;
        total += static_cast<double>(squares[b * s.channels + c]) + rows * d * d;
      }
    }
    static_cast<T*>(a.mean)[at] = static_cast<T>(mean);
    static_cast<T*>(a.var)[at] = static_cast<T>(total / count);
  }
};

// A group's statistics as its channels need them.
template <class T>
struct GroupStats {
  T center, rstd;

  __device__ GroupStats(const void* mean, const void* var, double eps, const GroupNormSize& s, int64_t sample,
                        int64_t channel) {
    const int64_t at = sample * s.groups + channel / (s.channels / s.groups);
    center = static_cast<const T*>(mean)[at];
    rstd = static_cast<T>(1 / sqrt(static_cast<double>(static_cast<const T*>(var)[at]) + eps));
  }
};

template <class T>
struct Normalize {
  GroupNormArgs a;

  __device__ void operator()(int64_t i) const {
    const GroupNormSize& s = a.size;
    const int64_t c = i % s.channels, sample = i / s.channels / s.rows;
    const GroupStats<T> stats(a.mean, a.var, a.eps, s, sample, c);
    const T factor = a.weight ? stats.rstd * static_cast<const T*>(a.weight)[c] : stats.rstd;
    const T d = static_cast<const T*>(a.x)[i] - stats.center;
    static_cast<T*>(a.y)[i] = a.bias ? multiply_add(d, factor, static_cast<const T*>(a.bias)[c]) : d * factor;
  }
};

template <class T>
struct GradSums {
  GroupNormGradSumsArgs a;

  __device__ void operator()(int64_t at) const {
    const Block b(at, a.size);
    const T *x = static_cast<const T*>(a.x) + b.begin, *g = static_cast<const T*>(a.g) + b.begin;
    const GroupStats<T> stats(a.mean, a.var, a.eps, a.size, b.sample, b.channel);
    const int64_t n = a.size.channels;
    static_cast<T*>(a.sum)[at] = sum_of<T>(b.rows, [&](int64_t r) { return g[r * n]; });
    const T dot = sum_of<T>(b.rows, [&](int64_t r) { return g[r * n] * (x[r * n] - stats.center); });
    static_cast<T*>(a.dot)[at] = dot * stats.rstd;
  }
};

// Sums over a group's channels of weight · sum and weight · dot, as the gradient of each of its elements needs them.
struct GroupSums {
  double h, hz;
};
template <class T>
struct AddGroup {
  GroupNormGradArgs a;
  GroupSums* sums;

  __device__ void operator()(int64_t at) const {
    const int64_t each = a.size.channels / a.size.groups, first = at % a.size.groups * each;
    const int64_t sample = at / a.size.groups;
    double h = 0, hz = 0;
    for (int64_t c = first; c < first + each; ++c) {
      const double w = a.weight ? static_cast<double>(static_cast<const T*>(a.weight)[c]) : 1;
      h += w * static_cast<double>(static_cast<const T*>(a.sum)[sample * a.size.channels + c]);
      hz += w * static_cast<double>(static_cast<const T*>(a.dot)[sample * a.size.channels + c]);
    }
    sums[at] = {h, hz};
  }
};

// With h = g weight and z = (x - mean) rstd: dx = rstd (h - mean(h) - z mean(h z)), means over the group.
template <class T>
struct GradInput {
  GroupNormGradArgs a;
  const GroupSums* sums;

  __device__ void operator()(int64_t i) const {
    const GroupNormSize& s = a.size;
    const int64_t c = i % s.channels, sample = i / s.channels / s.rows, each = s.channels / s.groups;
    const GroupStats<T> stats(a.mean, a.var, a.eps, s, sample, c);
    const GroupSums group = sums[sample * s.groups + c / each];
    const double count = static_cast<double>(s.rows * each), rstd = static_cast<double>(stats.rstd);
    const T scale = static_cast<T>(rstd * (a.weight ? static_cast<double>(static_cast<const T*>(a.weight)[c]) : 1));
    const T offset = static_cast<T>(rstd * group.h / count), slope = static_cast<T>(rstd * rstd * group.hz / count);
    const T d = static_cast<const T*>(a.x)[i] - stats.center;
    static_cast<T*>(a.dx)[i] = multiply_add(static_cast<const T*>(a.g)[i], scale, -offset) - d * slope;
  }
};

__host__ __device__ inline int64_t elements_of(const GroupNormSize& s) { return s.samples * s.rows * s.channels; }

}  // namespace

Status group_norm_stats(const GroupNormStatsArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype,
                 [&]<class T>(T) { for_each(ctx, a.size.samples * blocks_of(a.size) * a.size.channels, Stats<T>{a}); });
  return {};
}

Status group_norm_merge(const GroupNormMergeArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) { for_each(ctx, a.size.samples * a.size.groups, Merge<T>{a}); });
  return {};
}

Status group_norm(const GroupNormArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) { for_each(ctx, elements_of(a.size), Normalize<T>{a}); });
  return {};
}

Status group_norm_grad_sums(const GroupNormGradSumsArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for_each(ctx, a.size.samples * blocks_of(a.size) * a.size.channels, GradSums<T>{a});
  });
  return {};
}

int64_t group_norm_grad_scratch(const GroupNormGradArgs& a) {
  return a.size.samples * a.size.groups * static_cast<int64_t>(sizeof(GroupSums));
}

Status group_norm_grad(const GroupNormGradArgs& a, Range, const Ctx& ctx) {
  auto* sums = static_cast<GroupSums*>(ctx.scratch);
  visit_floating(a.dtype, [&]<class T>(T) {
    for_each(ctx, a.size.samples * a.size.groups, AddGroup<T>{a, sums});
    for_each(ctx, elements_of(a.size), GradInput<T>{a, sums});
  });
  return {};
}

}  // namespace quernel::cuda
