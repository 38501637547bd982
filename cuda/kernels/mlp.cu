// Layers of at most kMlpWidth columns, one after the other in a single kernel, in fp32.
//
// A block takes some rows through all layers. Their values stay in shared memory, turned ([column][row]), each layer's
// in place of those that it has read; only results that something else reads go out. Weights are slices, kDepth deep,
// that cp.async brings two ahead of the one that is multiplied: the slices of all layers are one sequence, so that
// those of the next layer are on their way while this one ends. A thread computes four neighbouring rows by some
// columns; the lanes of a warp are laid out so that its reads are few wavefronts and its results are stored without
// bank conflicts.
//
// A sum runs over k in order, one fma after the other, and ends as in tile.h: a layer has the bits of gemm_f32.
// Epilogues without residual, gate and `pre` that end in nothing or ReLU are done in registers; others by finished(),
// compiled once.
//
// A mean cross-entropy may follow a layer: losses and gradient of a row need that row alone, a warp each, in the order
// of softmax.cu's kernels. What the gradient is divided by, the number of labels that are not ignored, every block
// counts for itself, 8 bytes a row of the batch (of at most kGradRows) out of L2. So forward, loss and the gradients
// towards the input of a training step are one kernel; param_grads.cu has the rest.
#include "core/device.h"
#include "core/math.h"
#include "core/mma.h"
#include "kernels/args/matmul.h"
#include "kernels/args/mlp.h"
#include "kernels/cross_entropy.h"
#include "kernels/tile.h"

namespace quernel::cuda {
namespace {

constexpr int kDepth = 16, kStages = 3;

template <int kWidth>
struct alignas(kWidth * sizeof(float)) Vector {
  float at[kWidth];
};

template <int kRows, int kCols>
struct Block {
  static constexpr int kRowLanes = kRows < 32 ? kRows / 4 : 8, kColLanes = kWarp / kRowLanes;
  static constexpr int kRowWarps = kRows / (4 * kRowLanes), kColWarps = kThreads / kWarp / kRowWarps;
  static constexpr int kN = kCols / (kColWarps * kColLanes);  // columns of a thread
  static constexpr int kRowPitch = kRows + 4, kColPitch = kCols + 4;
  static constexpr int kStage = kDepth * kColPitch;
  static constexpr int kBytes = (kCols * kRowPitch + kStages * kStage) * 4;
  static_assert(kRows >= 16 && kRowWarps >= 1 && kN >= 1 && kBytes <= 48 * 1024);
};

// How threads go over a slab that is turned between global and shared memory: eight neighbours along k, or of the
// columns, of each of four rows. A warp touches whole sectors of the one and no bank of the other twice.
template <int kAcross>
struct TurnedPlaces {
  static constexpr int kRowStep = kAcross < 32 ? kAcross : 32;  // rows that threads take at once
  static constexpr int kStep = kThreads / kRowStep;             // and columns
  int row, column;

  __device__ TurnedPlaces() {
    const int t = static_cast<int>(threadIdx.x), group = t / 8;
    row = group % kRowStep;
    column = t % 8 + group / kRowStep * 8;
  }
};

// A slice of a turned matrix: to[k][i] = from[k * k_stride + i * stride] for k < kDepth and i < kAcross, zeros beyond
// `ks` and `count`.
template <int kAcross>
__device__ void copy_turned(AsyncCopies& copies, float* to, int pitch, const float* from, int k_stride, int ks,
                            int stride, int64_t count) {
  const TurnedPlaces<kAcross> own;
  static_assert(kDepth % own.kStep == 0 && kAcross % own.kRowStep == 0);
#pragma unroll
  for (int k = own.column; k < own.column + kDepth; k += own.kStep) {
#pragma unroll
    for (int i = own.row; i < own.row + kAcross; i += own.kRowStep) {
      const bool valid = k < ks && i < count;
      copies.copy<4>(to + k * pitch + i, valid ? from + (k * k_stride + i * stride) : from, valid);
    }
  }
}

// Brings the slices of the layers' weights in turn.
template <int kCols, int kPitch>
class Slices {
 public:
  __device__ Slices(const MlpArgs& p) : p_(p), depth_(static_cast<int>(p.k)) {}

  __device__ void fetch(AsyncCopies& copies, float* to) {
    if (layer_ == p_.layers) return;
    const MlpLayer& layer = p_.layer[layer_];
    const auto* b = static_cast<const float*>(layer.b) + int64_t{at_} * layer.b_row;
    if (layer.pack)
      copy_turned<kCols>(copies, to, kPitch, b, layer.b_row, depth_ - at_, layer.b_col, layer.n);
    else if ((reinterpret_cast<uintptr_t>(b) | unsigned(layer.b_row * 4) | unsigned(layer.group * 4)) % 16 == 0)
      copy_rows<4>(copies, to, b, layer);
    else
      copy_rows<1>(copies, to, b, layer);
    at_ += kDepth;
    if (at_ < depth_) return;
    at_ = 0;
    depth_ = layer.n;
    ++layer_;
  }

 private:
  // Rows of columns, packed or plain, kChunk columns at once; packed ones are padded with zeros.
  template <int kChunk>
  __device__ void copy_rows(AsyncCopies& copies, float* to, const float* b, const MlpLayer& layer) {
    constexpr int kAcross = kCols / kChunk, kWidth = kPackWidth<float>, kEach = kDepth * kAcross / kThreads;
    static_assert(kEach * kThreads == kDepth * kAcross);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int at = static_cast<int>(threadIdx.x) + i * kThreads, k = at / kAcross, column = at % kAcross * kChunk;
      const bool valid = at_ + k < depth_ && column < layer.n;
      const float* from = b + (column / kWidth * layer.group + column % kWidth + k * layer.b_row);
      copies.copy<kChunk * 4>(to + k * kPitch + column, valid ? from : b, valid);
    }
  }

  const MlpArgs& p_;
  int layer_ = 0, at_ = 0;  // the next slice
  int depth_;               // K of its layer
};

__device__ inline bool is_light(const MlpLayer& layer) {
  return !layer.residual && !layer.gate && !layer.pre &&
         (layer.activation == Activation::kNone || layer.activation == Activation::kRelu);
}

// Light epilogues in registers, the sums of others as they are, into shared memory; zeros beyond N, for the next layer
// multiplies whole slices.
template <class B>
__device__ void put_sums(float* to, const MlpLayer& layer, int column, bool light, const float (&bias)[B::kN],
                         const float (&sums)[4][B::kN]) {
  const bool is_relu = light && layer.activation == Activation::kRelu;
#pragma unroll
  for (int j = 0; j < B::kN; ++j) {
    Vector<4> values;
    for (int i = 0; i < 4; ++i) {
      float v = finished_sum(sums[i][j]);
      if (light) v = v + bias[j];
      if (is_relu) v = relu(v);
      values.at[i] = column + j < layer.n ? v : 0.f;
    }
    *reinterpret_cast<Vector<4>*>(to + j * B::kRowPitch) = values;
  }
}

// What is left to do with results that lie in shared memory: heavy epilogues, and writing them.
template <int kRows, class B>
__device__ void finish(float* values, const MlpLayer& layer, bool light, int64_t first_row, int64_t rows) {
  const TurnedPlaces<kRows> own;
  auto* c = static_cast<float*>(layer.c);
#pragma unroll 1
  for (int r = own.row; r < kRows && r < rows; r += own.kRowStep) {
#pragma unroll 1
    for (int column = own.column; column < layer.n; column += own.kStep) {
      const int64_t i = (first_row + r) * layer.n + column;
      float* at = values + column * B::kRowPitch + r;
      const float v = light ? *at : finished(layer, *at, i, column);
      *at = v;
      if (c) c[i] = v;
    }
  }
}

// A row of logits in shared memory, turned.
struct TurnedRow {
  float* start;
  int pitch;

  __device__ float& operator[](int64_t i) const { return start[i * pitch]; }
};

// The number of labels that count; every thread gets it.
__device__ inline float count_labels(const MlpLoss& loss, int64_t rows, int64_t classes) {
  __shared__ int partial[kThreads / kWarp];
  const auto* labels = static_cast<const int64_t*>(loss.labels);
  int count = 0;
  for (int64_t i = threadIdx.x; i < rows; i += kThreads) {
    const int64_t label = labels[i];
    count += label >= 0 && label < classes && label != loss.ignore_index;
  }
  return static_cast<float>(block_reduce<kThreads>(count, partial, Plus{}));
}

// Replaces logits by their gradient.
template <int kRows, class B>
__device__ void take_loss(float* values, const MlpLoss& loss, int64_t n, float divisor, int64_t first_row,
                          int64_t rows) {
  const RowGroup<kWarp> group;  // a warp
  CrossEntropyArgs args;
  args.labels = loss.labels;
  args.smoothing = loss.smoothing;
  args.cols = n;
  args.ignore_index = loss.ignore_index;
  const float incoming = loss.g ? *static_cast<const float*>(loss.g) : static_cast<float>(loss.g_value);
  const float g = incoming * static_cast<float>(loss.scale) / divisor;
  auto* losses = static_cast<float*>(loss.losses);
  auto* dx = static_cast<float*>(loss.dx);
#pragma unroll 1
  for (int r = static_cast<int>(threadIdx.x) / kWarp; r < kRows && r < rows; r += kThreads / kWarp) {
    const TurnedRow x{values + r, B::kRowPitch};
    const RowTarget<float> t(args, first_row + r);
    const auto put = [&](int64_t i, float value) {
      x[i] = value;
      if (dx) dx[(first_row + r) * n + i] = value;
    };
    float own = 0;
    if (t.ignored()) {
      for (int64_t i = group.lane; i < n; i += kWarp) put(i, 0.f);
    } else {
      const float top = row_max<float>(group, x, n), total = row_exp_sum(group, x, top, n);
      own = loss_of_row(group, t, x, top, total, n);
      __syncwarp();  // the label's logit has been read
      grad_of_row(group, t, x, top, total, g, n, put);
    }
    if (group.lane == 0) losses[first_row + r] = own;
  }
}

// Two blocks share a multiprocessor: left to itself, the compiler spills registers to have room for four.
template <int kRows, int kCols>
__global__ void __launch_bounds__(kThreads, 2) mlp_tile(const __grid_constant__ MlpArgs p) {
  using B = Block<kRows, kCols>;
  float* const values = shared_memory<float>();
  float* const weights = values + kCols * B::kRowPitch;
  const int t = static_cast<int>(threadIdx.x), lane = t % kWarp, warp = t / kWarp;
  const int row = (warp / B::kColWarps * B::kRowLanes + lane % B::kRowLanes) * 4;
  const int column = (warp % B::kColWarps * B::kColLanes + lane / B::kRowLanes) * B::kN;
  const int64_t first_row = int64_t{blockIdx.x} * kRows, rows = p.m - first_row;

  AsyncCopies copies;
  Slices<kCols, B::kColPitch> slices(p);
  int depth = static_cast<int>(p.k);
  const float* x = static_cast<const float*>(p.a) + first_row * depth;
  for (int k = 0; k < depth; k += kDepth)
    copy_turned<kRows>(copies, values + k * B::kRowPitch, B::kRowPitch, x + k, 1, depth - k, depth, rows);
  for (int stage = 0; stage < kStages - 1; ++stage) {
    slices.fetch(copies, weights + stage * B::kStage);
    copies.close_group();
  }
  float divisor = 0;  // while copies are under way
  if (p.loss.labels) divisor = count_labels(p.loss, p.m, p.layer[p.loss.after - 1].n);
  if (p.step && blockIdx.x == 0 && t == 0) ++*static_cast<int64_t*>(p.step);
  int present = 0, next = kStages - 1;  // stages
#pragma unroll 1
  for (int l = 0; l < p.layers; ++l) {
    const MlpLayer& layer = p.layer[l];
    const bool light = is_light(layer);
    float bias[B::kN], sums[4][B::kN] = {};
    for (int j = 0; j < B::kN; ++j)
      bias[j] = layer.bias && column + j < layer.n ? static_cast<const float*>(layer.bias)[column + j] : 0.f;
#pragma unroll 1
    for (int k = 0; k < depth; k += kDepth) {
      copies.wait<kStages - 2>();
      __syncthreads();  // this slice and the values are there, and the slice before has been read by all
      slices.fetch(copies, weights + next * B::kStage);
      copies.close_group();
      const float* a = values + k * B::kRowPitch + row;
      const float* b = weights + present * B::kStage + column;
#pragma unroll
      for (int d = 0; d < kDepth; ++d) {
        const auto left = *reinterpret_cast<const Vector<4>*>(a + d * B::kRowPitch);
        const auto right = *reinterpret_cast<const Vector<B::kN>*>(b + d * B::kColPitch);
        for (int i = 0; i < 4; ++i)
          for (int j = 0; j < B::kN; ++j) sums[i][j] = product_sum(left.at[i], right.at[j], sums[i][j]);
      }
      present = present + 1 == kStages ? 0 : present + 1;
      next = next + 1 == kStages ? 0 : next + 1;
    }
    __syncthreads();  // the values have been read
    put_sums<B>(values + column * B::kRowPitch + row, layer, column, light, bias, sums);
    if (!light || layer.c) {
      __syncthreads();
      finish<kRows, B>(values, layer, light, first_row, rows);
    }
    depth = layer.n;
    if (!p.loss.labels || l + 1 != p.loss.after) continue;
    __syncthreads();
    take_loss<kRows, B>(values, p.loss, depth, divisor, first_row, rows);
  }
}

template <int kRows, int kCols>
void run(const Ctx& ctx, const MlpArgs& p) {
  const auto blocks = static_cast<unsigned>(ceil_div(p.m, kRows));
  launch(ctx, mlp_tile<kRows, kCols>, blocks, kThreads, Block<kRows, kCols>::kBytes, p);
}

// Many rows of a block where that fills the device, few elsewhere.
template <int kCols>
void run(const Ctx& ctx, const MlpArgs& p) {
  constexpr int kMany = 4096 / kCols, kFew = 16;
  if (ceil_div(p.m, kMany) >= device_multiprocessors())
    run<kMany, kCols>(ctx, p);
  else
    run<kFew, kCols>(ctx, p);
}

}  // namespace

Status mlp_f32(const MlpArgs& p, Range, const Ctx& ctx) {
  int64_t widest = p.k;
  for (int l = 0; l < p.layers; ++l) widest = most(widest, p.layer[l].n);
  if (widest <= kMlpWidth / 2)
    run<kMlpWidth / 2>(ctx, p);
  else
    run<kMlpWidth>(ctx, p);
  return {};
}

}  // namespace quernel::cuda
