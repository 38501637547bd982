// Convolution and its adjoint as implicit products on the mainloop of tile.h: rows are result pixels, columns output
// channels of a group, k runs over (kernel row, kernel column, channel). Nothing is unfolded: a thread remembers where
// its pixel's window begins and which tap it is at.
//
// The adjoint gathers: a result pixel takes from the tap (y, x) what lies at (row + pad - y dilation) / stride, if that
// divides. Its weights come with both kernel axes reversed, so k runs through them from the front.
#include "core/math.h"
#include "kernels/args/conv.h"
#include "kernels/tile.h"

namespace quernel::cuda {
namespace {

template <class V, bool kAdjoint>
struct Conv {
  using T = V;
  static constexpr bool kRowsAdjacent = false;

  ConvArgs args;
  int64_t m, n, k, batches;
  int32_t channels;  // of the source, in a group
  int64_t group = 0;

  explicit Conv(const ConvArgs& a) : args(a) {
    const ConvShape& s = a.s;
    batches = s.groups;
    m = kAdjoint ? s.n * s.h * s.w : s.n * s.oh * s.ow;
    n = (kAdjoint ? s.c : s.o) / s.groups;
    channels = static_cast<int32_t>((kAdjoint ? s.o : s.c) / s.groups);
    k = s.kh * s.kw * channels;
  }

  __device__ void enter(int64_t index) {
    constexpr int64_t kWidth = kPackWidth<T>;
    group = index;
    args.w = static_cast<const T*>(args.w) + group * ceil_div(n, kWidth) * kWidth * k;
    args.x = static_cast<const T*>(args.x) + group * channels;
  }

  // Where tap (0, 0) of the pixel lies (the adjoint's taps, reversed, count from the other end).
  struct Row {
    int64_t image = -1;  // -1: beyond the last pixel
    int32_t y = 0, x = 0;
  };
  __device__ Row row(int64_t i) const {
    const ConvShape& s = args.s;
    if (i >= m) return {};
    if constexpr (kAdjoint) {
      const int64_t y = i / s.w % s.h, x = i % s.w;
      return {i / s.w / s.h, static_cast<int32_t>(y + s.pad_h - (s.kh - 1) * s.dilation_h),
              static_cast<int32_t>(x + s.pad_w - (s.kw - 1) * s.dilation_w)};
    } else {
      const int64_t y = i / s.ow % s.oh, x = i % s.ow;
      return {i / s.ow / s.oh, static_cast<int32_t>(y * s.stride_h - s.pad_h),
              static_cast<int32_t>(x * s.stride_w - s.pad_w)};
    }
  }

  struct Depth {
    int64_t k = 0;
    int32_t y = 0, x = 0, c = 0;  // kernel row and column, channel
  };
  __device__ Depth depth(int64_t at) const {
    const auto tap = static_cast<int32_t>(at / channels), kw = static_cast<int32_t>(args.s.kw);
    return {at, tap / kw, tap % kw, static_cast<int32_t>(at % channels)};
  }
  __device__ void advance(Depth& d, int64_t by) const {
    d.k += by;
    for (d.c += static_cast<int32_t>(by); d.c >= channels; d.c -= channels) {
      if (++d.x == args.s.kw) d.x = 0, ++d.y;
    }
  }

  __device__ T a(const Row& r, const Depth& d) const {
    const ConvShape& s = args.s;
    if (r.image < 0 || d.k >= k) return T(0);
    int64_t y = r.y + d.y * s.dilation_h, x = r.x + d.x * s.dilation_w;
    int64_t rows = s.h, columns = s.w, pixel_channels = s.c;
    if constexpr (kAdjoint) {
      if (y < 0 || x < 0 || y % s.stride_h != 0 || x % s.stride_w != 0) return T(0);
      y /= s.stride_h, x /= s.stride_w;
      rows = s.oh, columns = s.ow, pixel_channels = s.o;
    }
    if (y < 0 || y >= rows || x < 0 || x >= columns) return T(0);
    return static_cast<const T*>(args.x)[((r.image * rows + y) * columns + x) * pixel_channels + d.c];
  }
  __device__ T b(const Depth& d, int64_t column) const {
    constexpr int64_t kWidth = kPackWidth<T>;
    if (d.k >= k || column >= n) return T(0);
    return static_cast<const T*>(args.w)[column / kWidth * kWidth * k + d.k * kWidth + column % kWidth];
  }
  __device__ void store(int64_t r, int64_t column, T sum) const {
    const int64_t channel = group * n + column, i = r * n * batches + channel;
    static_cast<T*>(args.y)[i] = finished(args, sum, i, channel);
  }
};

template <class T, bool kAdjoint>
Status run(const ConvArgs& a, const Ctx& ctx) {
  multiply(ctx, Conv<T, kAdjoint>(a));
  return {};
}

}  // namespace

Status conv2d_f32(const ConvArgs& a, Range, const Ctx& ctx) { return run<float, false>(a, ctx); }
Status conv2d_f64(const ConvArgs& a, Range, const Ctx& ctx) { return run<double, false>(a, ctx); }
Status conv2d_grad_input_f32(const ConvArgs& a, Range, const Ctx& ctx) { return run<float, true>(a, ctx); }
Status conv2d_grad_input_f64(const ConvArgs& a, Range, const Ctx& ctx) { return run<double, true>(a, ctx); }

}  // namespace quernel::cuda
