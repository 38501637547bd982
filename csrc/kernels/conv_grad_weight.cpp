// The gradient of a convolution with respect to its weights: dW[o, q] = sum over output pixels p of g[p, o] · patch[p,
// q], q running over (tap, channel). Pixels come in chunks: 64 columns of the chunk's patches are gathered into L1
// (this settles padding, stride, dilation and groups at once), then serve as B of a register tile whose A is g, read by
// columns in place. dW itself holds the accumulators between chunks. Gathering costs one copy per element against O
// multiply-adds.
//
// Few weights leave few items, so the pixels are cut into `splits` ranges with a result each, which the op adds up
// afterwards. The number of splits depends on the shape alone: so does the order of summation.
#include "kernels/conv_stencil.h"
#include "kernels/gemm_tile.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int64_t kChunk = 64;  // pixels: 16 KB of patches in float32, half of a small L1

template <class V>
class GradWeight {
 public:
  using T = typename V::Scalar;

  GradWeight(const ConvGradWeightArgs& args, const Ctx& ctx) : args_(args), s_(args.s) {
    depth_ = s_.c / s_.groups;
    rows_ = s_.o / s_.groups;
    cols_ = s_.kh * s_.kw * depth_;
    patches_ = static_cast<T*>(ctx.scratch);
  }

  // Items: (split, group, panel of 64 columns of dW).
  void run(Range range) {
    const int64_t groups = s_.groups;
    const int64_t panels = ceil_div(cols_, kPanel), pixels = s_.n * s_.oh * s_.ow;
    for (int64_t item = range.begin; item < range.end; ++item) {
      const int64_t panel = item % panels, group = item / panels % groups, split = item / panels / groups;
      const int64_t pixel = pixels * split / args_.splits, end = pixels * (split + 1) / args_.splits;
      T* dw = static_cast<T*>(args_.dw) + split * s_.o * cols_;
      run_panel(group, panel * kPanel, pixel, end, dw);
    }
  }

 private:
  // A panel's columns as runs that are contiguous in an image row: with one group and no dilation a row of taps is one
  // run, else each tap is.
  struct Run {
    int64_t y;       // from oy * stride_h
    int64_t x;       // from ox * stride_w
    int64_t skip;    // elements from there
    int64_t length;  // elements
  };

  int find_runs(int64_t group, int64_t first, int64_t cols, Run* runs) const {
    const int64_t length = folded() ? s_.kw * depth_ : depth_, per_row = folded() ? 1 : s_.kw;
    int count = 0;
    for (int64_t at = first / length, skip = first % length; cols > 0; ++at, skip = 0) {
      const int64_t take = least(length - skip, cols);
      runs[count++] = {at / per_row * s_.dilation_h - s_.pad_h, at % per_row * s_.dilation_w - s_.pad_w,
                       group * depth_ + skip, take};
      cols -= take;
    }
    return count;
  }
  bool folded() const { return s_.groups == 1 && s_.dilation_w == 1; }

  // The patch at one output pixel, restricted to `runs`.
  void gather(T* dst, int64_t n, int64_t oy, int64_t ox, const Run* runs, int count) const {
    for (const Run* run = runs; run < runs + count; dst += run->length, ++run) {
      const int64_t y = oy * s_.stride_h + run->y, x = ox * s_.stride_w + run->x;
      const bool inside = y >= 0 && y < s_.h && (folded() || (x >= 0 && x < s_.w));
      const T* row = static_cast<const T*>(args_.x) + (inside ? (n * s_.h + y) * s_.w * s_.c : 0);
      copy_clipped<V>(dst, row, x * s_.c + run->skip, run->length, inside ? s_.w * s_.c : 0);
    }
  }

  void run_panel(int64_t group, int64_t first, int64_t pixel, int64_t end, T* dw) {
    const int64_t cols = least(cols_ - first, kPanel), pitch = ceil_div(cols, V::kWidth) * V::kWidth;
    const int64_t tiles = ceil_div(rows_, kTileRows);
    const T* g = static_cast<const T*>(args_.g) + group * rows_;
    Run runs[kPanel];
    const int count = find_runs(group, first, cols, runs);
    int64_t n = pixel / (s_.oh * s_.ow), oy = pixel / s_.ow % s_.oh, ox = pixel % s_.ow;
    bool accumulate = false;
    do {
      const int64_t depth = least(kChunk, end - pixel);
      for (int64_t k = 0; k < depth; ++k) {
        gather(patches_ + k * pitch, n, oy, ox, runs, count);
        if (++ox == s_.ow) ox = 0, ++oy;
        if (oy == s_.oh) oy = 0, ++n;
      }
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t from = rows_ * tile / tiles, to = rows_ * (tile + 1) / tiles;
        const T* a[kTileRows];
        T* c[kTileRows];
        for (int64_t o = from; o < to; ++o) {
          a[o - from] = g + pixel * s_.o + o;
          c[o - from] = dw + (group * rows_ + o) * cols_ + first;
        }
        const T* b = patches_;
        multiply_tile(Tile<T>{a, &b, c, 1, depth, s_.o, pitch, kPackWidth<T>, static_cast<int>(to - from),
                              static_cast<int>(cols), accumulate});
      }
      accumulate = true;
      pixel += depth;
    } while (pixel < end);
  }

  const ConvGradWeightArgs& args_;
  const ConvShape& s_;
  int64_t depth_, rows_, cols_;
  T* patches_;
};

template <class V>
Status sum_splits(const SumSplitsArgs& args, Range range) {
  using T = typename V::Scalar;
  const T* parts = static_cast<const T*>(args.parts);
  const int64_t end = least(range.end * kElementBlock, args.size);
  for (int64_t i = range.begin * kElementBlock; i < end; i += V::kWidth) {
    const int lanes = static_cast<int>(least(end - i, V::kWidth));
    V sum = V::load(parts + i, lanes);
    for (int64_t split = 1; split < args.splits; ++split) sum = sum + V::load(parts + split * args.size + i, lanes);
    sum.store(static_cast<T*>(args.sum) + i, lanes);
  }
  return {};
}

template <class T>
int64_t scratch_bytes() {
  return (kChunk + 1) * kPanel * static_cast<int64_t>(sizeof(T));
}

}  // namespace

Status conv2d_grad_weight_f32(const ConvGradWeightArgs& args, Range range, const Ctx& ctx) {
  GradWeight<VecF32>(args, ctx).run(range);
  return {};
}
Status conv2d_grad_weight_f64(const ConvGradWeightArgs& args, Range range, const Ctx& ctx) {
  GradWeight<VecF64>(args, ctx).run(range);
  return {};
}

Status sum_splits_f32(const SumSplitsArgs& args, Range range, const Ctx&) { return sum_splits<VecF32>(args, range); }
Status sum_splits_f64(const SumSplitsArgs& args, Range range, const Ctx&) { return sum_splits<VecF64>(args, range); }

int64_t conv2d_grad_weight_f32_scratch(const ConvGradWeightArgs&) { return scratch_bytes<float>(); }
int64_t conv2d_grad_weight_f64_scratch(const ConvGradWeightArgs&) { return scratch_bytes<double>(); }

}  // namespace quernel::QUERNEL_ISA
