// Batch normalization over rows of (rows, channels).
//
// Sums over rows go over the fixed blocks of kNormRows rows that the engine asks for: a CUDA block takes one of them
// times 32 channels, in eight phases (core/columns.h). Statistics take two passes over it, of which the second finds it
// in L1: the mean, then squared distances from it; no difference of large sums, so a mean far from zero costs no
// digits. Blocks are merged in double, 8 channels a CUDA block.
//
// In the passes over all elements a thread stays with one channel.
#include "core/columns.h"
#include "core/math.h"
#include "kernels/args/norm.h"

namespace quernel::cuda {
namespace {

using BlockGroup = ColumnGroup<32>;

// The rows and the channel of a thread in a kernel of blocks of rows; without a channel of its own it has no rows.
struct Block {
  int64_t first_row, rows, channel;
  int64_t out;  // the place of the channel's result

  __device__ Block(const BlockGroup& group, int64_t all_rows, int64_t channels) {
    const int64_t tiles = ceil_div(channels, BlockGroup::kColumns), index = blockIdx.x / tiles;
    channel = blockIdx.x % tiles * BlockGroup::kColumns + group.column;
    first_row = index * kNormRows;
    rows = channel < channels ? least(kNormRows, all_rows - first_row) : 0;
    out = index * channels + channel;
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads) block_stats(BatchNormStatsArgs a) {
  const BlockGroup group;
  const Block b(group, a.rows, a.channels);
  const T* x = static_cast<const T*>(a.x) + b.first_row * a.channels + b.channel;
  const T mean = group.sum(b.rows, [&](int64_t r) { return x[r * a.channels]; }) / static_cast<T>(b.rows);
  const T squares = group.sum(b.rows, [&](int64_t r) {
    const T d = x[r * a.channels] - mean;
    return d * d;
  });
  if (b.rows == 0 || group.phase > 0) return;
  static_cast<T*>(a.mean)[b.out] = mean;
  static_cast<T*>(a.squares)[b.out] = squares;
}

// mean = sum of n_b mean_b / n; squares = sum of squares_b + n_b (mean_b - mean)^2.
using MergeGroup = ColumnGroup<8>;
template <class T>
__global__ void __launch_bounds__(kThreads) merge_blocks(BatchNormMergeArgs a) {
  const MergeGroup group;
  const int64_t channel = int64_t{blockIdx.x} * MergeGroup::kColumns + group.column;
  const bool active = channel < a.channels;
  const int64_t blocks = active ? ceil_div(a.rows, kNormRows) : 0;
  const T* means = static_cast<const T*>(a.block_mean) + channel;
  const T* squares = static_cast<const T*>(a.block_squares) + channel;
  const double count = static_cast<double>(a.rows);
  const auto rows_of = [&](int64_t b) { return static_cast<double>(least(kNormRows, a.rows - b * kNormRows)); };
  const auto mean_of = [&](int64_t b) { return static_cast<double>(means[b * a.channels]); };
  const double mean = group.sum(blocks, [&](int64_t b) { return rows_of(b) * mean_of(b); }) / count;
  const double total = group.sum(blocks, [&](int64_t b) {
    const double d = mean_of(b) - mean;
    return static_cast<double>(squares[b * a.channels]) + rows_of(b) * d * d;
  });
  if (!active || group.phase > 0) return;
  static_cast<T*>(a.mean)[channel] = static_cast<T>(mean);
  static_cast<T*>(a.var)[channel] = static_cast<T>(total / count);
}

// weight / sqrt(var + eps)
template <class T>
__device__ T channel_scale(const void* var, const void* weight, double eps, int64_t channel) {
  const T inverse = T(1) / square_root(static_cast<const T*>(var)[channel] + static_cast<T>(eps));
  return weight ? inverse * static_cast<const T*>(weight)[channel] : inverse;
}

template <class T>
struct Normalize {
  BatchNormArgs a;
  int64_t span;

  __device__ void operator()(int64_t first) const {
    const int64_t c = first % a.channels, size = a.rows * a.channels;
    const T scale = channel_scale<T>(a.var, a.weight, a.eps, c), mean = static_cast<const T*>(a.mean)[c];
    const T shift = a.shift ? static_cast<const T*>(a.shift)[c] : T(0);
    for (int64_t i = first; i < size; i += span) {
      const T d = static_cast<const T*>(a.x)[i] - mean;
      static_cast<T*>(a.y)[i] = finished(a, a.shift ? multiply_add(d, scale, shift) : d * scale, i, c);
    }
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
__global__ void __launch_bounds__(kThreads) block_grads(BatchNormGradParamsArgs a) {
  const BlockGroup group;
  const Block b(group, a.rows, a.channels);
  const int64_t in = b.first_row * a.channels + b.channel;
  const T *x = static_cast<const T*>(a.x) + in, *g = static_cast<const T*>(a.g) + in;
  const T mean = b.rows > 0 ? static_cast<const T*>(a.mean)[b.channel] : T(0);
  const T sum = group.sum(b.rows, [&](int64_t r) { return g[r * a.channels]; });
  const T dot = group.sum(b.rows, [&](int64_t r) { return g[r * a.channels] * (x[r * a.channels] - mean); });
  if (b.rows == 0 || group.phase > 0) return;
  const T root = square_root(static_cast<const T*>(a.var)[b.channel] + static_cast<T>(a.eps));
  static_cast<T*>(a.dbias)[b.out] = sum;
  static_cast<T*>(a.dweight)[b.out] = dot / root;
}

// dx = scale (g - dbias / n - (x - mean) dweight / (n sqrt(var + eps)))
template <class T>
struct GradInput {
  BatchNormGradInputArgs a;
  int64_t span;

  __device__ void operator()(int64_t first) const {
    const int64_t c = first % a.channels, size = a.rows * a.channels;
    const T count = static_cast<T>(a.rows), mean = static_cast<const T*>(a.mean)[c];
    const T scale = channel_scale<T>(a.var, a.weight, a.eps, c);
    const T slope = channel_scale<T>(a.var, a.dweight, a.eps, c) / count;
    const T offset = static_cast<const T*>(a.dbias)[c] / count;
    for (int64_t i = first; i < size; i += span) {
      const T centered = static_cast<const T*>(a.x)[i] - mean;
      static_cast<T*>(a.dx)[i] = (static_cast<const T*>(a.g)[i] - offset - centered * slope) * scale;
    }
  }
};

// The CUDA blocks of a kernel of blocks of rows.
unsigned blocks_of(int64_t rows, int64_t channels) {
  return static_cast<unsigned>(ceil_div(rows, kNormRows) * ceil_div(channels, BlockGroup::kColumns));
}

}  // namespace

Status batch_norm_stats(const BatchNormStatsArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype,
                 [&]<class T>(T) { launch(ctx, block_stats<T>, blocks_of(a.rows, a.channels), kThreads, 0, a); });
  return {};
}

Status batch_norm_merge(const BatchNormMergeArgs& a, Range, const Ctx& ctx) {
  const auto blocks = static_cast<unsigned>(ceil_div(a.channels, MergeGroup::kColumns));
  visit_floating(a.dtype, [&]<class T>(T) { launch(ctx, merge_blocks<T>, blocks, kThreads, 0, a); });
  return {};
}

Status batch_norm(const BatchNormArgs& a, Range, const Ctx& ctx) {
  const int64_t span = channel_span(a.rows, a.channels);
  visit_floating(a.dtype, [&]<class T>(T) { for_each(ctx, span, Normalize<T>{a, span}); });
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
                 [&]<class T>(T) { launch(ctx, block_grads<T>, blocks_of(a.rows, a.channels), kThreads, 0, a); });
  return {};
}

Status batch_norm_grad_input(const BatchNormGradInputArgs& a, Range, const Ctx& ctx) {
  const int64_t span = channel_span(a.rows, a.channels);
  visit_floating(a.dtype, [&]<class T>(T) { for_each(ctx, span, GradInput<T>{a, span}); });
  return {};
}

}  // namespace quernel::cuda
