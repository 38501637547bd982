// Depthwise convolution of NHWC images and its gradients: one channel per group, so there is no sum over channels. A
// thread a result: a warp reads neighbouring channels of a pixel, and their weights, which are packed as B[taps, C].
// The gradient of the weights is a thread per split, tap and channel, over the split's share of output pixels.
#include "core/launch.h"
#include "core/math.h"
#include "kernels/args/conv.h"

namespace quernel::cuda {
namespace {

// Weight of a tap and a channel.
template <class T>
__device__ T weight_of(const void* w, int64_t taps, int64_t tap, int64_t channel) {
  constexpr int64_t kWidth = kPackWidth<T>;
  return static_cast<const T*>(w)[(channel / kWidth * taps + tap) * kWidth + channel % kWidth];
}

template <class T>
struct Forward {
  ConvArgs a;

  __device__ void operator()(int64_t at) const {
    const ConvShape& s = a.s;
    const int64_t c = at % s.c, ox = at / s.c % s.ow, oy = at / s.c / s.ow % s.oh, image = at / s.c / s.ow / s.oh;
    T sum = 0;
    for (int64_t ky = 0; ky < s.kh; ++ky) {
      const int64_t y = oy * s.stride_h - s.pad_h + ky * s.dilation_h;
      if (y < 0 || y >= s.h) continue;
      for (int64_t kx = 0; kx < s.kw; ++kx) {
        const int64_t x = ox * s.stride_w - s.pad_w + kx * s.dilation_w;
        const T value = x < 0 || x >= s.w ? T(0) : static_cast<const T*>(a.x)[((image * s.h + y) * s.w + x) * s.c + c];
        sum = multiply_add(value, weight_of<T>(a.w, s.kh * s.kw, ky * s.kw + kx, c), sum);
      }
    }
    static_cast<T*>(a.y)[at] = finished(a, sum, at, c);
  }
};

// Weights come with both kernel axes reversed.
template <class T>
struct Adjoint {
  ConvArgs a;

  __device__ void operator()(int64_t at) const {
    const ConvShape& s = a.s;
    const int64_t c = at % s.c, ix = at / s.c % s.w, iy = at / s.c / s.w % s.h, image = at / s.c / s.w / s.h;
    T sum = 0;
    for (int64_t ky = 0; ky < s.kh; ++ky) {
      const int64_t y = iy + s.pad_h - (s.kh - 1 - ky) * s.dilation_h;
      if (y < 0 || y % s.stride_h != 0 || y / s.stride_h >= s.oh) continue;
      for (int64_t kx = 0; kx < s.kw; ++kx) {
        const int64_t x = ix + s.pad_w - (s.kw - 1 - kx) * s.dilation_w;
        if (x < 0 || x % s.stride_w != 0 || x / s.stride_w >= s.ow) continue;
        const int64_t from = ((image * s.oh + y / s.stride_h) * s.ow + x / s.stride_w) * s.c + c;
        sum = multiply_add(static_cast<const T*>(a.x)[from], weight_of<T>(a.w, s.kh * s.kw, ky * s.kw + kx, c), sum);
      }
    }
    static_cast<T*>(a.y)[at] = finished(a, sum, at, c);
  }
};

template <class T>
struct GradWeight {
  ConvGradWeightArgs a;
  int64_t share;  // output pixels of a split

  __device__ void operator()(int64_t at) const {
    const ConvShape& s = a.s;
    const int64_t c = at % s.c, tap = at / s.c % (s.kh * s.kw), split = at / s.c / (s.kh * s.kw);
    const int64_t dy = tap / s.kw * s.dilation_h - s.pad_h, dx = tap % s.kw * s.dilation_w - s.pad_w;
    const int64_t end = least((split + 1) * share, s.n * s.oh * s.ow);
    T sums[4] = {};  // pixel p in phase p mod 4
    for (int64_t p = split * share; p < end; ++p) {
      const int64_t y = p / s.ow % s.oh * s.stride_h + dy, x = p % s.ow * s.stride_w + dx, image = p / s.ow / s.oh;
      if (y < 0 || y >= s.h || x < 0 || x >= s.w) continue;
      const T value = static_cast<const T*>(a.x)[((image * s.h + y) * s.w + x) * s.c + c];
      sums[p % 4] = multiply_add(value, static_cast<const T*>(a.g)[p * s.c + c], sums[p % 4]);
    }
    static_cast<T*>(a.dw)[at] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
};

template <class T>
Status forward(const ConvArgs& a, const Ctx& ctx) {
  for_each(ctx, a.s.n * a.s.oh * a.s.ow * a.s.c, Forward<T>{a});
  return {};
}
template <class T>
Status adjoint(const ConvArgs& a, const Ctx& ctx) {
  for_each(ctx, a.s.n * a.s.h * a.s.w * a.s.c, Adjoint<T>{a});
  return {};
}
template <class T>
Status grad_weight(const ConvGradWeightArgs& a, const Ctx& ctx) {
  const ConvShape& s = a.s;
  for_each(ctx, a.splits * s.kh * s.kw * s.c, GradWeight<T>{a, ceil_div(s.n * s.oh * s.ow, a.splits)});
  return {};
}

}  // namespace

Status depthwise2d_f32(const ConvArgs& a, Range, const Ctx& ctx) { return forward<float>(a, ctx); }
Status depthwise2d_f64(const ConvArgs& a, Range, const Ctx& ctx) { return forward<double>(a, ctx); }
Status depthwise2d_grad_input_f32(const ConvArgs& a, Range, const Ctx& ctx) { return adjoint<float>(a, ctx); }
Status depthwise2d_grad_input_f64(const ConvArgs& a, Range, const Ctx& ctx) { return adjoint<double>(a, ctx); }
Status depthwise2d_grad_weight_f32(const ConvGradWeightArgs& a, Range, const Ctx& ctx) {
  return grad_weight<float>(a, ctx);
}
Status depthwise2d_grad_weight_f64(const ConvGradWeightArgs& a, Range, const Ctx& ctx) {
  return grad_weight<double>(a, ctx);
}

}  // namespace quernel::cuda
