// The gradient of a convolution with respect to its weights: dW[o, q] = sum over output pixels p of g[p, o] · patch[p,
// q], q running over (tap, channel). Pixels come in chunks: 64 columns of the chunk's patches are gathered into L1
// (this settles padding, stride, dilation and groups at once), then serve as B of a register tile whose A is g, read by
// columns in place. dW itself holds the accumulators between chunks. Gathering costs one copy per element against O
// multiply-adds.
//
// Depthwise kernels have no tile: lanes run over channels, and a pixel updates its taps' sums, which stay in L1.
//
// Few weights leave few items, so the pixels are cut into `splits` ranges with a result each, which the op adds up
// afterwards. The number of splits depends on the shape alone: so does the order of summation.
#include "kernels/conv_stencil.h"
#include "kernels/gemm_tile.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int64_t kChunk = 128;  // pixels: 32 KB of patches in float32

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

  // Items: (split, group, panel of 64 columns of dW); depthwise (split, panel of 64 channels).
  void run(Range range) {
    const bool depthwise = is_depthwise(s_);
    const int64_t groups = depthwise ? 1 : s_.groups;
    const int64_t panels = ceil_div(depthwise ? s_.c : cols_, kPanel), pixels = s_.n * s_.oh * s_.ow;
    for (int64_t item = range.begin; item < range.end; ++item) {
      const int64_t panel = item % panels, group = item / panels % groups, split = item / panels / groups;
      const int64_t pixel = pixels * split / args_.splits, end = pixels * (split + 1) / args_.splits;
      T* dw = static_cast<T*>(args_.dw) + split * s_.o * cols_;
      if (depthwise)
        run_depthwise(panel * kPanel, pixel, end, dw);
      else
        run_panel(group, panel * kPanel, pixel, end, dw);
    }
  }

 private:
  // dst[0, cols) = columns [first, first + cols) of the patch at one output pixel.
  void gather(T* dst, int64_t n, int64_t oy, int64_t ox, int64_t group, int64_t first, int64_t cols) const {
    const bool folded = s_.groups == 1 && s_.dilation_w == 1;
    const int64_t run = folded ? s_.kw * depth_ : depth_;  // contiguous in the image
    const int64_t runs = folded ? 1 : s_.kw;               // per kernel row
    int64_t at = first / run, skip = first % run;
    for (int64_t done = 0; done < cols; ++at, skip = 0) {
      const int64_t length = least(run - skip, cols - done);
      const int64_t y = oy * s_.stride_h + at / runs * s_.dilation_h - s_.pad_h;
      const int64_t x = ox * s_.stride_w + at % runs * s_.dilation_w - s_.pad_w;
      const bool inside = y >= 0 && y < s_.h && (folded || (x >= 0 && x < s_.w));
      // Positions in the image row, in elements; a run of one group lies inside its pixel or is all zeros.
      const T* row = static_cast<const T*>(args_.x) + (inside ? (n * s_.h + y) * s_.w * s_.c + group * depth_ : 0);
      copy_clipped<V>(dst + done, row, x * s_.c + skip, length, inside ? s_.w * s_.c - group * depth_ : 0);
      done += length;
    }
  }

  void run_panel(int64_t group, int64_t first, int64_t pixel, int64_t end, T* dw) {
    const int64_t cols = least(cols_ - first, kPanel), pitch = ceil_div(cols, V::kWidth) * V::kWidth;
    const int64_t tiles = ceil_div(rows_, kTileRows);
    const T* g = static_cast<const T*>(args_.g) + group * rows_;
    int64_t n = pixel / (s_.oh * s_.ow), oy = pixel / s_.ow % s_.oh, ox = pixel % s_.ow;
    bool accumulate = false;
    do {
      const int64_t depth = least(kChunk, end - pixel);
      for (int64_t k = 0; k < depth; ++k) {
        gather(patches_ + k * pitch, n, oy, ox, group, first, cols);
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
        multiply_tile(
            Tile<T>{a, &b, c, 1, depth, s_.o, pitch, static_cast<int>(to - from), static_cast<int>(cols), accumulate});
      }
      accumulate = true;
      pixel += depth;
    } while (pixel < end);
  }

  // Channels [first, first + 64) of a depthwise kernel, a vector at a time.
  void run_depthwise(int64_t first, int64_t pixel, int64_t end, T* dw) {
    const int64_t last = least(first + kPanel, s_.c), taps = s_.kh * s_.kw;
    T* sums = patches_;  // [taps][kWidth]
    for (int64_t c = first; c < last; c += V::kWidth) {
      const int lanes = static_cast<int>(least(last - c, V::kWidth));
      for (int64_t tap = 0; tap < taps; ++tap) V::zero().store(sums + tap * V::kWidth);
      int64_t n = pixel / (s_.oh * s_.ow), oy = pixel / s_.ow % s_.oh, ox = pixel % s_.ow;
      for (int64_t p = pixel; p < end; ++p) {
        add_depthwise(V::load(static_cast<const T*>(args_.g) + p * s_.c + c, lanes), n, oy, ox, c, lanes);
        if (++ox == s_.ow) ox = 0, ++oy;
        if (oy == s_.oh) oy = 0, ++n;
      }
      for (int lane = 0; lane < lanes; ++lane)
        for (int64_t tap = 0; tap < taps; ++tap) dw[(c + lane) * taps + tap] = sums[tap * V::kWidth + lane];
    }
  }

  // One output pixel's share of every tap.
  void add_depthwise(V g, int64_t n, int64_t oy, int64_t ox, int64_t c, int lanes) {
    T* sum = patches_;
    for (int64_t i = 0; i < s_.kh; ++i) {
      const int64_t y = oy * s_.stride_h + i * s_.dilation_h - s_.pad_h;
      for (int64_t j = 0; j < s_.kw; ++j, sum += V::kWidth) {
        const int64_t x = ox * s_.stride_w + j * s_.dilation_w - s_.pad_w;
        if (y < 0 || y >= s_.h || x < 0 || x >= s_.w) continue;
        const T* at = static_cast<const T*>(args_.x) + ((n * s_.h + y) * s_.w + x) * s_.c + c;
        fma(g, V::load(at, lanes), V::load(sum)).store(sum);
      }
    }
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

template <class V>
int64_t scratch_bytes(const ConvGradWeightArgs& args) {
  const int64_t elements = most((kChunk + 1) * kPanel, args.s.kh * args.s.kw * V::kWidth);
  return elements * static_cast<int64_t>(sizeof(typename V::Scalar));
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

int64_t conv2d_grad_weight_f32_scratch(const ConvGradWeightArgs& args) { return scratch_bytes<VecF32>(args); }
int64_t conv2d_grad_weight_f64_scratch(const ConvGradWeightArgs& args) { return scratch_bytes<VecF64>(args); }

}  // namespace quernel::QUERNEL_ISA
