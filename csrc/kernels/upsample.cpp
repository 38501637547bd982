// Nearest and bilinear resampling of NHWC images, as PyTorch places the pixels: vectors run along the channels.
//
// An axis is described by a table in scratch memory, made anew by every call for its range of rows (a few nanoseconds
// per pixel of one row, against the row's channels): the input pixel of each output pixel and, for linear modes, its
// weight and that of the pixel behind it. Output pixels are in the order of their input pixels, so those that read one
// input pixel are neighbours: the gradient gathers over them, from a second table of where they begin, and no two
// threads write one pixel.
//
// The nearest pixel is chosen in float32, as PyTorch does, so that both choose the same one; weights are computed in
// double.
#include "kernels/args/upsample.h"

#include <math.h>

#include "kernels/isa.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

// One axis: `first[o]` is the input pixel (the left one of two) of output o, `near[o]` its weight, `far[o]` that of the
// pixel behind it. Each is rounded once: 1 less the other's would be right to a fraction of 1 only, however small it
// is. `begin[i]` is the first output whose pixel is at least i, for 0 <= i <= inputs.
template <class T>
struct Axis {
  int64_t inputs, outputs;
  T *near, *far;
  int32_t* first;
  int32_t* begin;

  int64_t second(int64_t out) const { return first[out] + 1 < inputs ? first[out] + 1 : inputs - 1; }

  // What output `out` takes of input `in`.
  T share(int64_t out, int64_t in) const {
    const T of_first = first[out] == in ? near[out] : T(0);
    return second(out) == in ? of_first + far[out] : of_first;
  }
};

bool is_linear(UpsampleMode mode) { return mode == UpsampleMode::kLinear || mode == UpsampleMode::kLinearAligned; }

int64_t nearest(UpsampleMode mode, int64_t out, double scale, int64_t inputs) {
  const float at = static_cast<float>(out) + (mode == UpsampleMode::kNearestExact ? 0.5f : 0.0f);
  const int64_t pixel = static_cast<int64_t>(floorf(at * static_cast<float>(scale)));
  return pixel < inputs ? pixel : inputs - 1;
}

template <class T>
void fill(const Axis<T>& axis, UpsampleMode mode, double scale) {
  for (int64_t o = 0; o < axis.outputs; ++o) {
    if (!is_linear(mode)) {
      axis.first[o] = static_cast<int32_t>(nearest(mode, o, scale, axis.inputs));
      continue;
    }
    const double out = static_cast<double>(o);
    const double at = mode == UpsampleMode::kLinearAligned ? out * scale : (out + 0.5) * scale - 0.5;
    const double inside = at > 0 ? at : 0;
    const int64_t pixel = static_cast<int64_t>(inside);
    axis.first[o] = static_cast<int32_t>(pixel < axis.inputs ? pixel : axis.inputs - 1);
    const double behind = inside - static_cast<double>(axis.first[o]), far = behind < 1 ? behind : 1;
    axis.near[o] = static_cast<T>(1 - far);
    axis.far[o] = static_cast<T>(far);
  }
  if (!axis.begin) return;
  for (int64_t i = 0, o = 0; i <= axis.inputs; ++i) {
    while (o < axis.outputs && axis.first[o] < i) ++o;
    axis.begin[i] = static_cast<int32_t>(o);
  }
}

// The tables of both axes, one after the other in scratch memory; `begin` only for gradients.
template <class T>
struct Tables {
  Axis<T> rows, columns;

  Tables(const UpsampleArgs& a, void* scratch, bool with_begin) {
    T* weights = static_cast<T*>(scratch);
    int32_t* indices = reinterpret_cast<int32_t*>(weights + 2 * (a.oh + a.ow));
    int32_t* begins = indices + a.oh + a.ow;
    rows = {a.h, a.oh, weights, weights + a.oh, indices, with_begin ? begins : nullptr};
    columns = {a.w,
               a.ow,
               weights + 2 * a.oh,
               weights + 2 * a.oh + a.ow,
               indices + a.oh,
               with_begin ? begins + a.h + 1 : nullptr};
    fill(rows, a.mode, a.scale_h);
    fill(columns, a.mode, a.scale_w);
  }
};

int64_t table_bytes(const UpsampleArgs& a) {
  const int64_t weight = a.dtype == DType::kFloat64 ? 8 : 4;
  return (a.oh + a.ow) * (2 * weight + 4) + (a.h + a.w + 2) * 4;
}

void copy_row(const UpsampleArgs& a, const Axis<float>& columns, const char* x, char* y) {
  const int64_t bytes = a.c * a.itemsize;
  for (int64_t o = 0; o < a.ow; ++o, y += bytes)
    __builtin_memcpy(y, x + columns.first[o] * bytes, static_cast<size_t>(bytes));
}

template <class T>
void linear_row(const UpsampleArgs& a, const Tables<T>& t, int64_t n, int64_t oh) {
  using V = Vec<T>;
  const T* x = static_cast<const T*>(a.x) + n * a.h * a.w * a.c;
  const T *upper = x + t.rows.first[oh] * a.w * a.c, *lower = x + t.rows.second(oh) * a.w * a.c;
  T* y = static_cast<T*>(a.y) + (n * a.oh + oh) * a.ow * a.c;
  const T above = t.rows.near[oh], below = t.rows.far[oh];
  for (int64_t ow = 0; ow < a.ow; ++ow, y += a.c) {
    const int64_t left = t.columns.first[ow] * a.c, right = t.columns.second(ow) * a.c;
    const T near = t.columns.near[ow], far = t.columns.far[ow];
    const V w00 = V::set(above * near), w01 = V::set(above * far), w10 = V::set(below * near),
            w11 = V::set(below * far);
    for_lanes<V>(a.c, [&](int64_t c, int k) {
      V total = w00 * get<V>(upper + left + c, k);
      total = fma(w01, get<V>(upper + right + c, k), total);
      total = fma(w10, get<V>(lower + left + c, k), total);
      put(fma(w11, get<V>(lower + right + c, k), total), y + c, k);
    });
  }
}

// Outputs that read an input pixel: nearest, those whose pixel it is; linear, also those whose left pixel is before it.
template <class T>
Range readers(const Axis<T>& axis, int64_t in, bool linear) {
  return {axis.begin[linear && in > 0 ? in - 1 : in], axis.begin[in + 1]};
}

template <class T>
void grad_row(const UpsampleArgs& a, const Tables<T>& t, int64_t n, int64_t h) {
  using V = Vec<T>;
  const bool linear = is_linear(a.mode);
  const Range rows = readers(t.rows, h, linear);
  T* dx = static_cast<T*>(a.y) + (n * a.h + h) * a.w * a.c;
  for (int64_t w = 0; w < a.w; ++w, dx += a.c) {
    const Range columns = readers(t.columns, w, linear);
    for_lanes<V>(a.c, [&](int64_t c, int k) {
      V total = V::zero();
      for (int64_t oh = rows.begin; oh < rows.end; ++oh) {
        const T* g = static_cast<const T*>(a.x) + (n * a.oh + oh) * a.ow * a.c + c;
        const T down = linear ? t.rows.share(oh, h) : T(1);
        for (int64_t ow = columns.begin; ow < columns.end; ++ow) {
          const V each = get<V>(g + ow * a.c, k);
          total = linear ? fma(V::set(down * t.columns.share(ow, w)), each, total) : total + each;
        }
      }
      put(total, dx + c, k);
    });
  }
}

}  // namespace

int64_t upsample_scratch(const UpsampleArgs& a) { return table_bytes(a); }

Status upsample(const UpsampleArgs& a, Range r, const Ctx& ctx) {
  if (!is_linear(a.mode)) {
    const Tables<float> t(a, ctx.scratch, false);
    const char* x = static_cast<const char*>(a.x);
    const int64_t row = a.w * a.c * a.itemsize;
    for (int64_t item = r.begin; item < r.end; ++item) {
      const char* from = x + (item / a.oh * a.h + t.rows.first[item % a.oh]) * row;
      copy_row(a, t.columns, from, static_cast<char*>(a.y) + item * a.ow * a.c * a.itemsize);
    }
    return {};
  }
  visit_floating(a.dtype, [&]<class T>(T) {
    const Tables<T> t(a, ctx.scratch, false);
    for (int64_t item = r.begin; item < r.end; ++item) linear_row(a, t, item / a.oh, item % a.oh);
  });
  return {};
}

int64_t upsample_grad_scratch(const UpsampleArgs& a) { return table_bytes(a); }

Status upsample_grad(const UpsampleArgs& a, Range r, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) {
    const Tables<T> t(a, ctx.scratch, true);
    for (int64_t item = r.begin; item < r.end; ++item) grad_row(a, t, item / a.h, item % a.h);
  });
  return {};
}

}  // namespace quernel::QUERNEL_ISA
