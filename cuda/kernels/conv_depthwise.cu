// Depthwise convolution of NHWC images and its gradients: one channel per group, so there is no sum over channels. A
// thread a result: a warp reads neighbouring channels of a pixel, and their weights, which are packed as B[taps, C].
// The gradient of the weights is a thread per split, tap and channel, over the split's share of output pixels.
#include "core/launch.h"
#include "core/math.h"
#include "kernels/conv_tile.h"

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

// Weights come with both kernel axes reversed. As in the forward pass, columns beside the image are zeros.
template <class T>
struct Adjoint {
  ConvArgs a;
  WindowAxis down_, across_;  // in some phase

  __device__ void operator()(int64_t at) const {
    const ConvShape& s = a.s;
    const int64_t c = at % s.c, ix = at / s.c % s.w, iy = at / s.c / s.w % s.h, image = at / s.c / s.w / s.h;
    WindowAxis down = down_, across = across_;
    set_phase(down, vertical(s), iy % s.stride_h);
    set_phase(across, horizontal(s), ix % s.stride_w);
    T sum = 0;
    for (int64_t i = 0; i < down.taps; ++i) {
      const int64_t y = iy / s.stride_h + down.offset + i * down.apart, row = (down.tap + i * down.tap_step) * s.kw;
      if (y < 0 || y >= s.oh) continue;
      for (int64_t j = 0; j < across.taps; ++j) {
        const int64_t x = ix / s.stride_w + across.offset + j * across.apart;
        const T value =
            x < 0 || x >= s.ow ? T(0) : static_cast<const T*>(a.x)[((image * s.oh + y) * s.ow + x) * s.c + c];
        const int64_t tap = row + across.tap + j * across.tap_step;
        sum = multiply_add(value, weight_of<T>(a.w, s.kh * s.kw, tap, c), sum);
      }
    }
    static_cast<T*>(a.y)[at] = finished(a, sum, at, c);
  }
};

constexpr int kChains = 4;  // of a sum, to hide the latency of its additions

template <class T>
struct GradWeight {
  ConvGradWeightArgs a;
  int64_t share;  // output pixels of a split

  __device__ void operator()(int64_t at) const {
    const ConvShape& s = a.s;
    const int64_t c = at % s.c, tap = at / s.c % (s.kh * s.kw), split = at / s.c / (s.kh * s.kw);
    const int64_t dy = tap / s.kw * s.dilation_h - s.pad_h, dx = tap % s.kw * s.dilation_w - s.pad_w;
    const int64_t begin = split * share, end = least(begin + share, s.n * s.oh * s.ow);
    int64_t oy = begin / s.ow % s.oh, ox = begin % s.ow, y = oy * s.stride_h + dy, x = ox * s.stride_w + dx;
    const T* image = static_cast<const T*>(a.x) + begin / s.ow / s.oh * s.h * s.w * s.c + c;
    const T* g = static_cast<const T*>(a.g) + c;
    T sums[kChains] = {};
    for (int64_t first = begin; first < end; first += kChains) {
#pragma unroll
      for (int i = 0; i < kChains; ++i) {
        if (first + i >= end) continue;
        if (y >= 0 && y < s.h && x >= 0 && x < s.w)
          sums[i] = multiply_add(image[(y * s.w + x) * s.c], g[(first + i) * s.c], sums[i]);
        x += s.stride_w;
        if (++ox < s.ow) continue;
        ox = 0, x = dx;
        y += s.stride_h;
        if (++oy < s.oh) continue;
        oy = 0, y = dy;
        image += s.h * s.w * s.c;
      }
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
  for_each(ctx, a.s.n * a.s.h * a.s.w * a.s.c,
           Adjoint<T>{a, adjoint_axis(vertical(a.s)), adjoint_axis(horizontal(a.s))});
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
