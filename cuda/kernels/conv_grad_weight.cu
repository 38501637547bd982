// The gradient of a convolution's weights as an implicit product on the mainloop of tile.h: rows are (kernel row,
// kernel column, channel), columns output channels, k runs over output pixels. Each split sums a share of these; the
// shares are added up in order afterwards, by sum_splits where the result is turned.
#include "kernels/conv_tile.h"
#include "kernels/tile.h"

namespace quernel::cuda {
namespace {

template <class V>
struct GradWeight {
  using T = V;
  static constexpr bool kRowsAdjacent = true;

  ConvGradWeightArgs args;
  int64_t m, n, k, batches;
  int64_t share;  // output pixels of a split
  int64_t first = 0, part = 0, group = 0;

  explicit GradWeight(const ConvGradWeightArgs& a) : args(a) {
    const ConvShape& s = a.s;
    m = s.kh * s.kw * (s.c / s.groups);
    n = s.o / s.groups;
    share = k = ceil_div(s.n * s.oh * s.ow, a.splits);
    batches = a.splits * s.groups;
  }

  __device__ void enter(int64_t index) {
    const ConvShape& s = args.s;
    part = index;
    group = index % s.groups;
    first = index / s.groups * share;
    k = most(0, least(share, s.n * s.oh * s.ow - first));
    args.x = static_cast<const T*>(args.x) + group * (s.c / s.groups);
    args.g = static_cast<const T*>(args.g) + group * n;
  }

  struct Row {
    int32_t y = 0, x = 0, c = -1;  // distance of the tap from the window's origin; channel, -1: beyond the last row
  };
  __device__ Row row(int64_t i) const {
    const ConvShape& s = args.s;
    if (i >= m) return {};
    const int64_t channels = s.c / s.groups, tap = i / channels;
    return {static_cast<int32_t>(tap / s.kw * s.dilation_h), static_cast<int32_t>(tap % s.kw * s.dilation_w),
            static_cast<int32_t>(i % channels)};
  }

  using Depth = OutputPixel;
  __device__ Depth depth(int64_t at) const { return output_pixel(args.s, first, at); }
  __device__ void advance(Depth& d, int64_t by) const { advance_pixel(args.s, d, by); }

  __device__ T a(const Row& r, const Depth& d) const {
    const ConvShape& s = args.s;
    if (r.c < 0 || d.k >= k) return T(0);
    const auto y = static_cast<uint32_t>(d.y * s.stride_h - s.pad_h + r.y);  // modulo 2^32, as in conv_tile.h
    const auto x = static_cast<uint32_t>(d.x * s.stride_w - s.pad_w + r.x);
    if (y >= s.h || x >= s.w) return T(0);
    return static_cast<const T*>(args.x)[((d.image * s.h + y) * s.w + x) * s.c + r.c];
  }
  __device__ T b(const Depth& d, int64_t column) const {
    if (d.k >= k || column >= n) return T(0);
    return static_cast<const T*>(args.g)[(first + d.k) * args.s.o + column];
  }
  __device__ void store(int64_t r, int64_t column, T sum) const {
    constexpr int64_t kWidth = kPackWidth<T>;
    const int64_t pitch = ceil_div(n, kWidth) * kWidth;
    static_cast<T*>(args.dw)[args.turned ? (part * m + r) * pitch + column : (part * n + column) * m + r] = sum;
  }
};

template <class T>
struct SumSplits {
  SumSplitsArgs a;

  __device__ void operator()(int64_t at) const {
    const int64_t i = at % a.rows, j = at / a.rows % a.cols, batch = at / a.rows / a.cols;
    const T* part = static_cast<const T*>(a.parts) + (batch * a.rows + i) * a.pitch + j;
    T sum = part[0];
    for (int64_t split = 1; split < a.splits; ++split) sum = sum + part[split * a.batch * a.rows * a.pitch];
    static_cast<T*>(a.sum)[at] = sum;
  }
};

template <class T>
Status run(const ConvGradWeightArgs& a, const Ctx& ctx) {
  multiply(ctx, GradWeight<T>(a));
  return {};
}

template <class T>
Status sum_up(const SumSplitsArgs& a, const Ctx& ctx) {
  for_each(ctx, a.batch * a.rows * a.cols, SumSplits<T>{a});
  return {};
}

}  // namespace

Status conv2d_grad_weight_f32(const ConvGradWeightArgs& a, Range, const Ctx& ctx) { return run<float>(a, ctx); }
Status conv2d_grad_weight_f64(const ConvGradWeightArgs& a, Range, const Ctx& ctx) { return run<double>(a, ctx); }
Status sum_splits_f32(const SumSplitsArgs& a, Range, const Ctx& ctx) { return sum_up<float>(a, ctx); }
Status sum_splits_f64(const SumSplitsArgs& a, Range, const Ctx& ctx) { return sum_up<double>(a, ctx); }

}  // namespace quernel::cuda
