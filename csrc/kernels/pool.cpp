// Pooling of NHWC images: vectors run along the channels, so windows of any size and stride need no gathering; item =
// row of the output image. The gradients are gathered too: each input pixel visits the windows that hold it, in order,
// so that no two threads write one pixel and the order of summation is fixed.
#include "kernels/args/pool.h"

#include "kernels/isa.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

struct Span {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

// Taps of window `out` that lie inside an axis of length `size`.
Span taps(int64_t out, int64_t stride, int64_t pad, int64_t kernel, int64_t size) {
  const int64_t first = out * stride - pad;
  return {at_least(0, -first), at_most(kernel, size - first)};
}

// Windows that hold input position `in`.
Span windows(int64_t in, int64_t stride, int64_t pad, int64_t kernel, int64_t outputs) {
  const int64_t last = in + pad;
  const int64_t before = last - kernel;  // the window that starts there ends just before `in`
  return {before < 0 ? 0 : before / stride + 1, at_most(outputs, last / stride + 1)};
}

// x[c] of the pixel under tap (i, j) of window (oh, ow).
template <class T>
const T* tap_pixel(const PoolArgs& a, int64_t n, int64_t oh, int64_t ow, int64_t i, int64_t j) {
  const int64_t h = oh * a.stride_h - a.pad_h + i, w = ow * a.stride_w - a.pad_w + j;
  return static_cast<const T*>(a.x) + ((n * a.h + h) * a.w + w) * a.c;
}

// Tap numbers as int32, kept as floating point while selected (exact: there are fewer than 2^24 taps).
void put_index(VecF32 index, int32_t* out, int n) { round_to_i32(index).store(out, n); }
void put_index(VecF64 index, int32_t* out, int n) {
  double lanes[VecF64::kWidth];
  index.store(lanes);
  for (int i = 0; i < n; ++i) out[i] = static_cast<int32_t>(lanes[i]);
}
MaskF32 index_equals(const int32_t* index, int64_t tap, int n, VecF32) {
  return to_f32(VecI32::load(index, n)) == VecF32::set(static_cast<float>(tap));
}
MaskF64 index_equals(const int32_t* index, int64_t tap, int n, VecF64) {
  double lanes[VecF64::kWidth] = {};
  for (int i = 0; i < n; ++i) lanes[i] = index[i];
  return VecF64::load(lanes) == VecF64::set(static_cast<double>(tap));
}

// The first maximum, or the first NaN.
template <class T>
void max_window(const PoolArgs& a, int64_t n, int64_t oh, int64_t ow) {
  using V = Vec<T>;
  const Span kh = taps(oh, a.stride_h, a.pad_h, a.kh, a.h), kw = taps(ow, a.stride_w, a.pad_w, a.kw, a.w);
  const int64_t out = ((n * a.oh + oh) * a.ow + ow) * a.c;
  for_lanes<V>(a.c, [&](int64_t c, int k) {
    const int64_t first = kh.begin * a.kw + kw.begin;
    V best = get<V>(tap_pixel<T>(a, n, oh, ow, kh.begin, kw.begin) + c, k), index = V::set(static_cast<T>(first));
    for (int64_t i = kh.begin; i < kh.end; ++i) {
      for (int64_t j = kw.begin; j < kw.end; ++j) {
        const V x = get<V>(tap_pixel<T>(a, n, oh, ow, i, j) + c, k);
        const auto better = (x > best) | (is_nan(x) & ~is_nan(best));
        best = select(better, x, best);
        index = select(better, V::set(static_cast<T>(i * a.kw + j)), index);
      }
    }
    put(best, static_cast<T*>(a.y) + out + c, k);
    if (a.index_out) put_index(index, static_cast<int32_t*>(a.index_out) + out + c, k);
  });
}

template <class T>
void max_grad_pixel(const PoolArgs& a, int64_t n, int64_t h, int64_t w) {
  using V = Vec<T>;
  const Span rows = windows(h, a.stride_h, a.pad_h, a.kh, a.oh), cols = windows(w, a.stride_w, a.pad_w, a.kw, a.ow);
  T* dx = static_cast<T*>(a.y) + ((n * a.h + h) * a.w + w) * a.c;
  for_lanes<V>(a.c, [&](int64_t c, int k) {
    V total = V::zero();
    for (int64_t oh = rows.begin; oh < rows.end; ++oh) {
      for (int64_t ow = cols.begin; ow < cols.end; ++ow) {
        const int64_t tap = (h + a.pad_h - oh * a.stride_h) * a.kw + w + a.pad_w - ow * a.stride_w;
        const int64_t from = ((n * a.oh + oh) * a.ow + ow) * a.c + c;
        const V g = get<V>(static_cast<const T*>(a.x) + from, k);
        const auto hit = index_equals(static_cast<const int32_t*>(a.index) + from, tap, k, V{});
        total = total + select(hit, g, V::zero());
      }
    }
    put(total, dx + c, k);
  });
}

// What the average of a window divides by.
template <class T>
T divisor(const PoolArgs& a, Span kh, Span kw) {
  return static_cast<T>(a.count_include_pad ? a.kh * a.kw : kh.size() * kw.size());
}

template <class T>
void avg_window(const PoolArgs& a, int64_t n, int64_t oh, int64_t ow) {
  using V = Vec<T>;
  const Span kh = taps(oh, a.stride_h, a.pad_h, a.kh, a.h), kw = taps(ow, a.stride_w, a.pad_w, a.kw, a.w);
  T* y = static_cast<T*>(a.y) + ((n * a.oh + oh) * a.ow + ow) * a.c;
  const V count = V::set(divisor<T>(a, kh, kw));
  for_lanes<V>(a.c, [&](int64_t c, int k) {
    V total = V::zero();
    for (int64_t i = kh.begin; i < kh.end; ++i)
      for (int64_t j = kw.begin; j < kw.end; ++j) total = total + get<V>(tap_pixel<T>(a, n, oh, ow, i, j) + c, k);
    put(total / count, y + c, k);
  });
}

template <class T>
void avg_grad_pixel(const PoolArgs& a, int64_t n, int64_t h, int64_t w) {
  using V = Vec<T>;
  const Span rows = windows(h, a.stride_h, a.pad_h, a.kh, a.oh), cols = windows(w, a.stride_w, a.pad_w, a.kw, a.ow);
  T* dx = static_cast<T*>(a.y) + ((n * a.h + h) * a.w + w) * a.c;
  for_lanes<V>(a.c, [&](int64_t c, int k) {
    V total = V::zero();
    for (int64_t oh = rows.begin; oh < rows.end; ++oh) {
      const Span kh = taps(oh, a.stride_h, a.pad_h, a.kh, a.h);
      for (int64_t ow = cols.begin; ow < cols.end; ++ow) {
        const T count = divisor<T>(a, kh, taps(ow, a.stride_w, a.pad_w, a.kw, a.w));
        const int64_t from = ((n * a.oh + oh) * a.ow + ow) * a.c + c;
        total = total + get<V>(static_cast<const T*>(a.x) + from, k) / V::set(count);
      }
    }
    put(total, dx + c, k);
  });
}

// Calls f(n, row, column) for every pixel of the rows in `r` of images of rows x columns.
template <class F>
void for_pixels(Range r, int64_t rows, int64_t columns, F f) {
  for (int64_t item = r.begin; item < r.end; ++item)
    for (int64_t column = 0; column < columns; ++column) f(item / rows, item % rows, column);
}

}  // namespace

Status max_pool2d(const PoolArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for_pixels(r, a.oh, a.ow, [&](int64_t n, int64_t oh, int64_t ow) { max_window<T>(a, n, oh, ow); });
  });
  return {};
}

Status max_pool2d_grad(const PoolArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for_pixels(r, a.h, a.w, [&](int64_t n, int64_t h, int64_t w) { max_grad_pixel<T>(a, n, h, w); });
  });
  return {};
}

Status avg_pool2d(const PoolArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for_pixels(r, a.oh, a.ow, [&](int64_t n, int64_t oh, int64_t ow) { avg_window<T>(a, n, oh, ow); });
  });
  return {};
}

Status avg_pool2d_grad(const PoolArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for_pixels(r, a.h, a.w, [&](int64_t n, int64_t h, int64_t w) { avg_grad_pixel<T>(a, n, h, w); });
  });
  return {};
}

}  // namespace quernel::QUERNEL_ISA
