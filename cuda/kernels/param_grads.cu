// Gradients of the weights and biases of several layers over one batch in one launch, in fp32, with the update of the
// parameters and the mean of the losses.
//
// A training step of an MLP is: forward, loss and the chain of input gradients (mlp.cu); then this. The chain goes over
// rows and these sums go over all rows, so something has to wait for the whole grid between them. The end of a launch
// does that for 1 to 2 us in a graph; a barrier in one cooperative kernel would bind both halves to one wave of blocks
// of the same size and registers, and rows of activations would still have to pass through memory. So it is two
// launches, three where a batch has parts.
//
// Blocks are numbered over all tiles of all gradients. A weight's is a product on the mainloop of tile.h, g turned:
// tiles of 64 x 64 where they fill the device, of 32 x 32 elsewhere. A bias's is the sum down some columns, by blocks
// of their own. A batch of more than kGradPart rows has parts of so many; a second kernel adds these up in order. Sums
// of a part have the order, and the bits, of gemm_f32 and of reduce; ops/matmul.cpp calls this for a single weight.
//
// Whoever finishes an element of a gradient updates its parameter: both lie in flat segments of one layout, so the
// place in the one is that in the other. The step has been advanced before (MlpArgs::step).
#include "core/columns.h"
#include "kernels/args/mlp.h"
#include "kernels/cross_entropy.h"
#include "kernels/optim_rules.h"
#include "kernels/tile.h"

namespace quernel::cuda {
namespace {

constexpr int kNarrow = 8, kWide = 32;  // columns of a bias that a block takes

// Without a rule a gradient is stored and that is all.
template <class T>
struct NoRule {};

template <template <class> class Rule>
struct Update {
  static constexpr bool kHas = !std::is_same_v<Rule<float>, NoRule<float>>;
  using Values = std::conditional_t<kHas, Decided<Rule<float>, float>, NoRule<float>>;
  static constexpr int kWords = static_cast<int>(ceil_div(sizeof(Values), sizeof(double)));

  // What the step alone decides, computed by one thread. The whole block calls this.
  __device__ Update(const UpdateArgs& args, double* shared)
      : segment(args), decided(reinterpret_cast<Values*>(shared)) {
    if constexpr (kHas) {
      if (threadIdx.x == 0) *reinterpret_cast<Values*>(shared) = Values(args);
      __syncthreads();
    }
  }

  __device__ void finish(float* y, float g) const {
    *y = g;
    if constexpr (kHas) {
      const int64_t i = y - segment.grad;
      float p = segment.param[i];
      decided->penalties.apply(g, p);
      decided->rule.update(segment, i, g, p);
    }
  }

  Segment<float> segment;
  const Values* decided;
};

__host__ __device__ inline int64_t parts_of(const ParamGradsArgs& a) { return ceil_div(a.rows, a.split); }

// Where a part of a gradient goes: to its end, or where parts lie.
template <class U>
struct Result {
  const U& update;
  float* y;
  bool is_last;

  __device__ Result(const U& u, const ParamGrad& grad, int64_t part)
      : update(u),
        y(static_cast<float*>(grad.parts ? grad.parts : grad.y) + part * grad.n * grad.k),
        is_last(!grad.parts) {}
  __device__ void put(int64_t i, float g) const {
    if (is_last)
      update.finish(y + i, g);
    else
      y[i] = g;
  }
};

// The product of tile.h: m outputs of the layer by n inputs, k rows of the batch.
template <class U>
struct WeightGrad {
  using T = float;
  static constexpr bool kRowsAdjacent = true;

  const float *g, *x;
  int64_t m, n, k;
  Result<U> result;

  struct Row {
    const float* start;  // null: beyond the last
  };
  __device__ Row row(int64_t i) const { return {i < m ? g + i : nullptr}; }
  struct Depth {
    int64_t k;
  };
  __device__ Depth depth(int64_t at) const { return {at}; }
  __device__ void advance(Depth& d, int64_t by) const { d.k += by; }
  __device__ float a(const Row& r, const Depth& d) const { return r.start && d.k < k ? r.start[d.k * m] : 0.f; }
  __device__ float b(const Depth& d, int64_t column) const { return d.k < k && column < n ? x[d.k * n + column] : 0.f; }
  __device__ void store(int64_t r, int64_t column, float sum) const { result.put(r * n + column, sum); }
};

// As reduce adds up columns of `all` rows: by threads, or by blocks as wide as it chooses.
template <int kColumns, class U>
__device__ void sum_columns(const float* g, int64_t n, int64_t rows, int64_t tile, const Result<U>& result) {
  const ColumnGroup<kColumns> group;
  const int64_t column = tile * kColumns + group.column;
  const float total = group.sum(column < n ? rows : 0, [&](int64_t r) { return g[r * n + column]; });
  if (column < n && group.phase == 0) result.put(column, total);
}

template <class U>
__device__ void sum_bias(const float* g, int64_t n, int64_t rows, int64_t all, int64_t tile, const Result<U>& result) {
  if (all > kFewRows)
    return n <= kNarrow ? sum_columns<kNarrow>(g, n, rows, tile, result) : sum_columns<kWide>(g, n, rows, tile, result);
  const int64_t column = tile * kWide + threadIdx.x;
  if (threadIdx.x >= kWide || column >= n) return;
  result.put(column, reduce_few(rows, 0.f, Plus{}, [&](int64_t r) { return g[r * n + column]; }));
}

template <int kTile>
__host__ __device__ inline int64_t tiles_of(const ParamGrad& grad) {
  return grad.x ? ceil_div(grad.n, kTile) * ceil_div(grad.k, kTile) : ceil_div(grad.n, kWide);
}

template <int kTile, template <class> class Rule>
__global__ void __launch_bounds__(kThreads) sum_param_grads(const __grid_constant__ ParamGradsArgs a) {
  using U = Update<Rule>;
  __shared__ double decided[U::kWords];
  int64_t block = blockIdx.x;
  if (a.mean.losses) {  // the longest comes first
    if (block == 0) return mean_of_losses<float>(a.mean);
    --block;
  }
  const int64_t parts = parts_of(a);
#pragma unroll 1
  for (int i = 0; i < a.grads; ++i) {
    const ParamGrad& grad = a.grad[i];
    const int64_t blocks = tiles_of<kTile>(grad) * parts;
    if (block >= blocks) {
      block -= blocks;
      continue;
    }
    const U update(a.update, decided);
    const int64_t part = block % parts, tile = block / parts, first = part * a.split;
    const int64_t rows = least(a.split, a.rows - first);
    const Result<U> result(update, grad, part);
    const float* g = static_cast<const float*>(grad.g) + first * grad.n;
    if (!grad.x) return sum_bias(g, grad.n, rows, a.rows, tile, result);
    WeightGrad<U> p{g, static_cast<const float*>(grad.x) + first * grad.k, grad.n, grad.k, rows, result};
    const int64_t across = ceil_div(grad.k, kTile);
    compute_tile<WeightGrad<U>, kTile, kTile, kTile == 64 ? 16 : 32, kTile / 16, kTile / 16>(p, tile / across * kTile,
                                                                                             tile % across * kTile);
    return;
  }
}

// Adds up parts: of weights one after the other, of biases as reduce does.
template <template <class> class Rule>
__global__ void __launch_bounds__(kThreads) finish_param_grads(const __grid_constant__ ParamGradsArgs a) {
  using U = Update<Rule>;
  __shared__ double decided[U::kWords];
  const U update(a.update, decided);
  const int64_t parts = parts_of(a);
  int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
#pragma unroll 1
  for (int i = 0; i < a.grads; ++i) {
    const ParamGrad& grad = a.grad[i];
    const int64_t size = int64_t{grad.n} * grad.k;
    if (at >= size) {
      at -= size;
      continue;
    }
    const float* part = static_cast<const float*>(grad.parts) + at;
    float g;
    if (grad.x) {
      g = part[0];
      for (int64_t p = 1; p < parts; ++p) g = g + part[p * size];
    } else {
      g = reduce_few(parts, 0.f, Plus{}, [&](int64_t p) { return part[p * size]; });
    }
    return update.finish(static_cast<float*>(grad.y) + at, g);
  }
}

template <template <class> class Rule>
void sum_up(const ParamGradsArgs& a, const Ctx& ctx) {
  int64_t large = 0, small = 0;
  for (int i = 0; i < a.grads; ++i) {
    large += tiles_of<64>(a.grad[i]);
    small += tiles_of<32>(a.grad[i]);
  }
  const int64_t parts = parts_of(a), more = a.mean.losses ? 1 : 0;
  if (large * parts >= device_multiprocessors())
    launch(ctx, sum_param_grads<64, Rule>, static_cast<unsigned>(large * parts + more), kThreads, 0, a);
  else
    launch(ctx, sum_param_grads<32, Rule>, static_cast<unsigned>(small * parts + more), kThreads, 0, a);
}

template <template <class> class Rule>
void run(const ParamGradsArgs& a, const Ctx& ctx) {
  if (parts_of(a) == 1) return sum_up<Rule>(a, ctx);
  sum_up<NoRule>(a, ctx);
  int64_t size = 0;
  for (int i = 0; i < a.grads; ++i) size += int64_t{a.grad[i].n} * a.grad[i].k;
  launch(ctx, finish_param_grads<Rule>, static_cast<unsigned>(ceil_div(size, kThreads)), kThreads, 0, a);
}

}  // namespace

Status param_grads_f32(const ParamGradsArgs& a, Range, const Ctx& ctx) {
  switch (a.rule) {
    case GradUpdate::kNone:
      run<NoRule>(a, ctx);
      break;
    case GradUpdate::kSgd:
      run<Sgd>(a, ctx);
      break;
    case GradUpdate::kAdam:
      run<Adam>(a, ctx);
      break;
  }
  return {};
}

}  // namespace quernel::cuda
