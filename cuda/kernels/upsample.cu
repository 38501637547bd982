// Nearest and bilinear resampling of NHWC images, as PyTorch places the pixels; a thread an element of the result.
//
// An axis is described by a table in scratch memory, made anew by every call: the input pixel of each output pixel and,
// for linear modes, its weight and that of the pixel behind it, computed in double. Output pixels are in the order of
// their input pixels, so those that read one input pixel are neighbours: the gradient gathers over them, from a second
// table of where they begin, and no two threads write one pixel.
#include "core/launch.h"
#include "core/math.h"
#include "kernels/args/upsample.h"

namespace quernel::cuda {
namespace {

// One axis: `first[o]` is the input pixel (the left one of two) of output o, `near[o]` its weight, `far[o]` that of the
// pixel behind it. Each is rounded once: 1 less the other's would be right to a fraction of 1 only, however small it
// is. `begin[i]` is the first output whose pixel is at least i, for 0 <= i <= inputs.
template <class T>
struct Axis {
  int64_t inputs, outputs;
  double scale;
  T *near, *far;
  int32_t* first;
  int32_t* begin;

  __device__ int64_t second(int64_t out) const { return least(first[out] + 1, inputs - 1); }

  // What output `out` takes of input `in`.
  __device__ T share(int64_t out, int64_t in) const {
    const T of_first = first[out] == in ? near[out] : T(0);
    return second(out) == in ? of_first + far[out] : of_first;
  }
};

// The tables of both axes, one after the other in scratch memory.
template <class T>
struct Tables {
  Axis<T> rows, columns;

  Tables(const UpsampleArgs& a, void* scratch) {
    T* weights = static_cast<T*>(scratch);
    int32_t* indices = reinterpret_cast<int32_t*>(weights + 2 * (a.oh + a.ow));
    int32_t* begins = indices + a.oh + a.ow;
    rows = {a.h, a.oh, a.scale_h, weights, weights + a.oh, indices, begins};
    columns = {a.w, a.ow, a.scale_w, weights + 2 * a.oh, weights + 2 * a.oh + a.ow, indices + a.oh, begins + a.h + 1};
  }
};

__host__ __device__ inline bool is_linear(UpsampleMode mode) {
  return mode == UpsampleMode::kLinear || mode == UpsampleMode::kLinearAligned;
}

template <class T>
struct FillPixels {
  Tables<T> t;
  UpsampleMode mode;

  __device__ void operator()(int64_t i) const {
    if (i < t.rows.outputs) {
      fill(t.rows, i);
    } else {
      fill(t.columns, i - t.rows.outputs);
    }
  }
  __device__ void fill(const Axis<T>& axis, int64_t o) const {
    if (!is_linear(mode)) {  // chosen in float32, as PyTorch does
      const float at = static_cast<float>(o) + (mode == UpsampleMode::kNearestExact ? 0.5f : 0.0f);
      const auto pixel = static_cast<int64_t>(floorf(at * static_cast<float>(axis.scale)));
      axis.first[o] = static_cast<int32_t>(least(pixel, axis.inputs - 1));
      return;
    }
    const double out = static_cast<double>(o);
    const double at = mode == UpsampleMode::kLinearAligned ? out * axis.scale : (out + 0.5) * axis.scale - 0.5;
    const double inside = at > 0 ? at : 0;
    const int64_t pixel = least(static_cast<int64_t>(inside), axis.inputs - 1);
    const double behind = inside - static_cast<double>(pixel), far = behind < 1 ? behind : 1;
    axis.first[o] = static_cast<int32_t>(pixel);
    axis.near[o] = static_cast<T>(1 - far);
    axis.far[o] = static_cast<T>(far);
  }
};

template <class T>
struct FillBegins {
  Tables<T> t;

  __device__ void operator()(int64_t i) const {
    if (i <= t.rows.inputs) {
      fill(t.rows, i);
    } else {
      fill(t.columns, i - t.rows.inputs - 1);
    }
  }
  __device__ void fill(const Axis<T>& axis, int64_t in) const {
    int64_t low = 0, high = axis.outputs;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (axis.first[middle] < in) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    axis.begin[in] = static_cast<int32_t>(low);
  }
};

template <class T>
Tables<T> filled_tables(const UpsampleArgs& a, bool with_begins, const Ctx& ctx) {
  const Tables<T> t(a, ctx.scratch);
  for_each(ctx, a.oh + a.ow, FillPixels<T>{t, a.mode});
  if (with_begins) for_each(ctx, a.h + a.w + 2, FillBegins<T>{t});
  return t;
}

// Elements of type U, which is anything of their size.
template <class U>
struct Nearest {
  UpsampleArgs a;
  Tables<float> t;

  __device__ void operator()(int64_t at) const {
    const int64_t c = at % a.c, ow = at / a.c % a.ow, oh = at / a.c / a.ow % a.oh, n = at / a.c / a.ow / a.oh;
    const int64_t h = t.rows.first[oh], w = t.columns.first[ow];
    static_cast<U*>(a.y)[at] = static_cast<const U*>(a.x)[((n * a.h + h) * a.w + w) * a.c + c];
  }
};

template <class T>
struct Linear {
  UpsampleArgs a;
  Tables<T> t;

  __device__ void operator()(int64_t at) const {
    const Axis<T>&rows = t.rows, &columns = t.columns;
    const int64_t c = at % a.c, ow = at / a.c % a.ow, oh = at / a.c / a.ow % a.oh, n = at / a.c / a.ow / a.oh;
    const T above = rows.near[oh], below = rows.far[oh], near = columns.near[ow], far = columns.far[ow];
    const T* upper = static_cast<const T*>(a.x) + (n * a.h + rows.first[oh]) * a.w * a.c + c;
    const T* lower = static_cast<const T*>(a.x) + (n * a.h + rows.second(oh)) * a.w * a.c + c;
    const int64_t left = columns.first[ow] * a.c, right = columns.second(ow) * a.c;
    T total = above * near * upper[left];
    total = multiply_add(above * far, upper[right], total);
    total = multiply_add(below * near, lower[left], total);
    static_cast<T*>(a.y)[at] = multiply_add(below * far, lower[right], total);
  }
};

// Outputs that read an input pixel: nearest, those whose pixel it is; linear, also those whose left pixel is before it.
template <class T>
__device__ Range readers(const Axis<T>& axis, int64_t in, bool linear) {
  return {axis.begin[linear && in > 0 ? in - 1 : in], axis.begin[in + 1]};
}

template <class T>
struct Gradient {
  UpsampleArgs a;
  Tables<T> t;

  __device__ void operator()(int64_t at) const {
    const bool linear = is_linear(a.mode);
    const int64_t c = at % a.c, w = at / a.c % a.w, h = at / a.c / a.w % a.h, n = at / a.c / a.w / a.h;
    const Range rows = readers(t.rows, h, linear), columns = readers(t.columns, w, linear);
    T total = 0;
    for (int64_t oh = rows.begin; oh < rows.end; ++oh) {
      const T* g = static_cast<const T*>(a.x) + (n * a.oh + oh) * a.ow * a.c + c;
      const T down = linear ? t.rows.share(oh, h) : T(1);
      for (int64_t ow = columns.begin; ow < columns.end; ++ow)
        total = linear ? multiply_add(down * t.columns.share(ow, w), g[ow * a.c], total) : total + g[ow * a.c];
    }
    static_cast<T*>(a.y)[at] = total;
  }
};

template <class U>
void nearest(const UpsampleArgs& a, const Ctx& ctx) {
  const Tables<float> t = filled_tables<float>(a, false, ctx);
  for_each(ctx, a.n * a.oh * a.ow * a.c, Nearest<U>{a, t});
}

}  // namespace

int64_t upsample_scratch(const UpsampleArgs& a) {
  const int64_t weight = a.dtype == DType::kFloat64 ? 8 : 4;
  return (a.oh + a.ow) * (2 * weight + 4) + (a.h + a.w + 2) * 4;
}

Status upsample(const UpsampleArgs& a, Range, const Ctx& ctx) {
  if (is_linear(a.mode)) {
    visit_floating(a.dtype, [&]<class T>(T) {
      const Tables<T> t = filled_tables<T>(a, false, ctx);
      for_each(ctx, a.n * a.oh * a.ow * a.c, Linear<T>{a, t});
    });
    return {};
  }
  if (a.itemsize == 1) nearest<uint8_t>(a, ctx);
  if (a.itemsize == 2) nearest<uint16_t>(a, ctx);
  if (a.itemsize == 4) nearest<uint32_t>(a, ctx);
  if (a.itemsize == 8) nearest<uint64_t>(a, ctx);
  return {};
}

Status upsample_grad(const UpsampleArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) {
    const Tables<T> t = filled_tables<T>(a, true, ctx);
    for_each(ctx, a.n * a.h * a.w * a.c, Gradient<T>{a, t});
  });
  return {};
}

}  // namespace quernel::cuda
