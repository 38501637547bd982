// Nearest and bilinear resampling of NHWC images, as PyTorch places the pixels; a thread an element. The gradient is
// gathered: a thread visits the output pixels that read its own, in order. Output pixels are in the order of their
// input pixels, so the first of them is found by bisection.
#include "core/launch.h"
#include "core/math.h"
#include "kernels/args/upsample.h"

namespace quernel::cuda {
namespace {

// One axis, as csrc/kernels/upsample.cpp has it in tables.
struct Axis {
  int64_t inputs, outputs;
  double scale;
  UpsampleMode mode;

  __device__ bool is_linear() const { return mode == UpsampleMode::kLinear || mode == UpsampleMode::kLinearAligned; }

  __device__ double position(int64_t out) const {
    const double o = static_cast<double>(out);
    const double at = mode == UpsampleMode::kLinearAligned ? o * scale : (o + 0.5) * scale - 0.5;
    return at > 0 ? at : 0;
  }
  // The input pixel (the left one of two) of an output. The nearest is chosen in float32, as PyTorch does.
  __device__ int64_t first(int64_t out) const {
    if (is_linear()) return least(static_cast<int64_t>(position(out)), inputs - 1);
    const float at = static_cast<float>(out) + (mode == UpsampleMode::kNearestExact ? 0.5f : 0.0f);
    return least(static_cast<int64_t>(floorf(at * static_cast<float>(scale))), inputs - 1);
  }
  __device__ int64_t second(int64_t out) const { return least(first(out) + 1, inputs - 1); }
  // That of the pixel behind it.
  template <class T>
  __device__ T weight(int64_t out) const {
    const double rest = position(out) - static_cast<double>(first(out));
    return static_cast<T>(rest < 1 ? rest : 1);
  }
  // What output `out` takes of input `in`.
  template <class T>
  __device__ T share(int64_t out, int64_t in) const {
    const T w = weight<T>(out), of_first = first(out) == in ? 1 - w : T(0);
    return second(out) == in ? of_first + w : of_first;
  }
  // The first output whose pixel is at least `in`.
  __device__ int64_t begin(int64_t in) const {
    int64_t low = 0, high = outputs;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (first(middle) < in) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

__host__ __device__ inline Axis rows_of(const UpsampleArgs& a) { return {a.h, a.oh, a.scale_h, a.mode}; }
__host__ __device__ inline Axis columns_of(const UpsampleArgs& a) { return {a.w, a.ow, a.scale_w, a.mode}; }

template <class T>
struct Nearest {
  UpsampleArgs a;

  __device__ void operator()(int64_t at) const {
    const int64_t c = at % a.c, ow = at / a.c % a.ow, oh = at / a.c / a.ow % a.oh, n = at / a.c / a.ow / a.oh;
    const int64_t h = rows_of(a).first(oh), w = columns_of(a).first(ow);
    static_cast<T*>(a.y)[at] = static_cast<const T*>(a.x)[((n * a.h + h) * a.w + w) * a.c + c];
  }
};

template <class T>
struct Linear {
  UpsampleArgs a;

  __device__ void operator()(int64_t at) const {
    const Axis rows = rows_of(a), columns = columns_of(a);
    const int64_t c = at % a.c, ow = at / a.c % a.ow, oh = at / a.c / a.ow % a.oh, n = at / a.c / a.ow / a.oh;
    const T down = rows.weight<T>(oh), across = columns.weight<T>(ow);
    const T* upper = static_cast<const T*>(a.x) + (n * a.h + rows.first(oh)) * a.w * a.c + c;
    const T* lower = static_cast<const T*>(a.x) + (n * a.h + rows.second(oh)) * a.w * a.c + c;
    const int64_t left = columns.first(ow) * a.c, right = columns.second(ow) * a.c;
    T total = (1 - down) * (1 - across) * upper[left];
    total = multiply_add((1 - down) * across, upper[right], total);
    total = multiply_add(down * (1 - across), lower[left], total);
    static_cast<T*>(a.y)[at] = multiply_add(down * across, lower[right], total);
  }
};

template <class T>
struct Gradient {
  UpsampleArgs a;

  __device__ void operator()(int64_t at) const {
    const Axis rows = rows_of(a), columns = columns_of(a);
    const bool linear = rows.is_linear();
    const int64_t c = at % a.c, w = at / a.c % a.w, h = at / a.c / a.w % a.h, n = at / a.c / a.w / a.h;
    // Nearest: the outputs whose pixel it is; linear, also those whose left pixel is before it.
    const int64_t row_begin = rows.begin(linear && h > 0 ? h - 1 : h), row_end = rows.begin(h + 1);
    const int64_t column_begin = columns.begin(linear && w > 0 ? w - 1 : w), column_end = columns.begin(w + 1);
    T total = 0;
    for (int64_t oh = row_begin; oh < row_end; ++oh) {
      const T* g = static_cast<const T*>(a.x) + (n * a.oh + oh) * a.ow * a.c + c;
      const T down = linear ? rows.share<T>(oh, h) : T(1);
      for (int64_t ow = column_begin; ow < column_end; ++ow)
        total = linear ? multiply_add(down * columns.share<T>(ow, w), g[ow * a.c], total) : total + g[ow * a.c];
    }
    static_cast<T*>(a.y)[at] = total;
  }
};

}  // namespace

Status upsample(const UpsampleArgs& a, Range, const Ctx& ctx) {
  const int64_t size = a.n * a.oh * a.ow * a.c;
  if (a.mode == UpsampleMode::kLinear || a.mode == UpsampleMode::kLinearAligned) {
    visit_floating(a.dtype, [&]<class T>(T) { for_each(ctx, size, Linear<T>{a}); });
  } else if (a.itemsize == 1) {
    for_each(ctx, size, Nearest<uint8_t>{a});
  } else if (a.itemsize == 2) {
    for_each(ctx, size, Nearest<uint16_t>{a});
  } else if (a.itemsize == 4) {
    for_each(ctx, size, Nearest<uint32_t>{a});
  } else {
    for_each(ctx, size, Nearest<uint64_t>{a});
  }
  return {};
}

Status upsample_grad(const UpsampleArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) { for_each(ctx, a.n * a.h * a.w * a.c, Gradient<T>{a}); });
  return {};
}

}  // namespace quernel::cuda
