// Pooling of NHWC images: vectors run along the channels, so windows of any size and stride need no gathering; item =
// row of the output image. The gradients are gathered too: each input pixel visits the windows that hold it, in order,
// so that no two threads write one pixel and the order of summation is fixed.
#include "kernels/args/pool.h"

#include <limits>

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
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }  // a >= 0

// How windows lie along one axis of an image.
struct Axis {
  int64_t size, outputs, kernel, stride, pad, dilation;
  bool adaptive;

  // Where tap 0 of a window is; before the image if it is in the padding.
  int64_t origin(int64_t out) const { return adaptive ? out * size / outputs : out * stride - pad; }

  // The taps of a window that lie inside the image.
  Span taps(int64_t out) const {
    const int64_t first = origin(out);
    if (adaptive) return {0, ceil_div((out + 1) * size, outputs) - first};
    const int64_t room = at_least(0, size - first);
    return {first < 0 ? ceil_div(-first, dilation) : 0, at_most(kernel, ceil_div(room, dilation))};
  }

  // Windows that may hold position `in`: all that do, if there is no dilation.
  Span windows(int64_t in) const {
    if (adaptive) return {in * outputs / size, ceil_div((in + 1) * outputs, size)};
    const int64_t last = in + pad;
    const int64_t before = last - (kernel - 1) * dilation - 1;  // the window that starts there ends just before `in`
    return {before < 0 ? 0 : before / stride + 1, at_most(outputs, last / stride + 1)};
  }

  // The tap of a window from windows(in) that lies at `in`, or -1.
  int64_t tap(int64_t in, int64_t out) const {
    const int64_t distance = in - origin(out);
    if (dilation == 1) return distance;
    return distance % dilation ? -1 : distance / dilation;
  }

  // Taps of a window that an average counts: those inside, or also those in the padding.
  int64_t counted(int64_t out, bool include_pad) const {
    return include_pad ? at_most(kernel, size + pad - origin(out)) : taps(out).size();
  }
};

Axis rows_of(const PoolArgs& a) { return {a.h, a.oh, a.kh, a.stride_h, a.pad_h, a.dilation_h, a.adaptive}; }
Axis columns_of(const PoolArgs& a) { return {a.w, a.ow, a.kw, a.stride_w, a.pad_w, a.dilation_w, a.adaptive}; }

// x[c] of a pixel.
template <class T>
const T* pixel(const PoolArgs& a, int64_t n, int64_t h, int64_t w) {
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

// The first maximum, or the first NaN. A window whose taps all lie in the padding (dilation allows that) gives -inf.
template <class T>
void max_window(const PoolArgs& a, int64_t n, int64_t oh, int64_t ow) {
  using V = Vec<T>;
  const Axis rows = rows_of(a), columns = columns_of(a);
  const Span kh = rows.taps(oh), kw = columns.taps(ow);
  const bool any = kh.size() > 0 && kw.size() > 0;
  const int64_t top = rows.origin(oh), left = columns.origin(ow), out = ((n * a.oh + oh) * a.ow + ow) * a.c;
  const int64_t h0 = top + kh.begin * a.dilation_h, w0 = left + kw.begin * a.dilation_w;
  const V none = V::set(-std::numeric_limits<T>::infinity()), first = V::set(any ? T(kh.begin * a.kw + kw.begin) : -1);
  for_lanes<V>(a.c, [&](int64_t c, int k) {
    V best = any ? get<V>(pixel<T>(a, n, h0, w0) + c, k) : none, index = first;
    for (int64_t i = kh.begin; i < kh.end; ++i) {
      const T* x = pixel<T>(a, n, top + i * a.dilation_h, w0) + c;
      for (int64_t j = kw.begin; j < kw.end; ++j, x += a.dilation_w * a.c) {
        const V v = get<V>(x, k);
        const auto better = (v > best) | (is_nan(v) & ~is_nan(best));
        best = select(better, v, best);
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
  const Axis rows = rows_of(a), columns = columns_of(a);
  const Span from_rows = rows.windows(h), from_columns = columns.windows(w);
  T* dx = static_cast<T*>(a.y) + ((n * a.h + h) * a.w + w) * a.c;
  for_lanes<V>(a.c, [&](int64_t c, int k) {
    V total = V::zero();
    for (int64_t oh = from_rows.begin; oh < from_rows.end; ++oh) {
      const int64_t i = rows.tap(h, oh);
      for (int64_t ow = from_columns.begin; ow < from_columns.end; ++ow) {
        const int64_t j = columns.tap(w, ow), from = ((n * a.oh + oh) * a.ow + ow) * a.c + c;
        if (i < 0 || j < 0) continue;
        const V g = get<V>(static_cast<const T*>(a.x) + from, k);
        const auto hit = index_equals(static_cast<const int32_t*>(a.index) + from, i * a.kw + j, k, V{});
        total = total + select(hit, g, V::zero());
      }
    }
    put(total, dx + c, k);
  });
}

// What the average of a window divides by.
template <class T>
T divisor(const PoolArgs& a, const Axis& rows, const Axis& columns, int64_t oh, int64_t ow) {
  const bool include_pad = a.count_include_pad && !a.adaptive;
  return static_cast<T>(rows.counted(oh, include_pad) * columns.counted(ow, include_pad));
}

// Sums wide windows row by row, so that no digits are lost to one long chain of additions.
template <class T>
void avg_window(const PoolArgs& a, int64_t n, int64_t oh, int64_t ow) {
  using V = Vec<T>;
  const Axis rows = rows_of(a), columns = columns_of(a);
  const Span kh = rows.taps(oh), kw = columns.taps(ow);
  const int64_t top = rows.origin(oh), w0 = columns.origin(ow) + kw.begin;
  T* y = static_cast<T*>(a.y) + ((n * a.oh + oh) * a.ow + ow) * a.c;
  const V count = V::set(divisor<T>(a, rows, columns, oh, ow));
  for_lanes<V>(a.c, [&](int64_t c, int k) {
    V total = V::zero();
    for (int64_t i = kh.begin; i < kh.end; ++i) {
      const T* x = pixel<T>(a, n, top + i, w0) + c;
      const auto tap = [&](int64_t j) { return get<V>(x + j * a.c, k); };
      if (kw.size() < 4) {
        for (int64_t j = 0; j < kw.size(); ++j) total = total + tap(j);
      } else {
        total = total + sum_rows<V>(kw.size(), tap);
      }
    }
    put(total / count, y + c, k);
  });
}

template <class T>
void avg_grad_pixel(const PoolArgs& a, int64_t n, int64_t h, int64_t w) {
  using V = Vec<T>;
  const Axis rows = rows_of(a), columns = columns_of(a);
  const Span from_rows = rows.windows(h), from_columns = columns.windows(w);
  T* dx = static_cast<T*>(a.y) + ((n * a.h + h) * a.w + w) * a.c;
  for_lanes<V>(a.c, [&](int64_t c, int k) {
    V total = V::zero();
    for (int64_t oh = from_rows.begin; oh < from_rows.end; ++oh) {
      for (int64_t ow = from_columns.begin; ow < from_columns.end; ++ow) {
        const int64_t from = ((n * a.oh + oh) * a.ow + ow) * a.c + c;
        const V g = get<V>(static_cast<const T*>(a.x) + from, k);
        total = total + g / V::set(divisor<T>(a, rows, columns, oh, ow));
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
