// Pooling of NHWC images: vectors run along the channels, so windows of any size and stride need no gathering; item =
// row of the output image. The gradients are gathered too: each input pixel visits the windows that hold it, in order,
// so that no two threads write one pixel and the order of summation is fixed.
//
// Maxima of windows that lie inside the image, and the gradient of windows that do not overlap, have lean loops: with
// LeNet's 6 channels, what surrounds a window costs several times the window itself. There a register of fewer channels
// than lanes is loaded and stored whole where that stays within the row: later pixels overwrite the spare lanes.
#include "kernels/args/pool.h"

#include <limits>
#include <type_traits>

#include "kernels/epilogue.h"
#include "kernels/integers.h"
#include "kernels/isa.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

struct Span {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

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
    const int64_t room = most(0, size - first);
    if (dilation == 1) return {most(0, -first), least(kernel, room)};
    return {first < 0 ? ceil_div(-first, dilation) : 0, least(kernel, ceil_div(room, dilation))};
  }

  // Windows that may hold position `in`: all that do, if there is no dilation.
  Span windows(int64_t in) const {
    if (adaptive) return {in * outputs / size, ceil_div((in + 1) * outputs, size)};
    const int64_t last = in + pad;
    const int64_t before = last - (kernel - 1) * dilation - 1;  // the window that starts there ends just before `in`
    return {before < 0 ? 0 : before / stride + 1, least(outputs, last / stride + 1)};
  }

  // The windows whose taps all lie inside, unless adaptive.
  Span inner() const {
    const int64_t last = size + pad - (kernel - 1) * dilation - 1;  // the greatest origin + pad
    const int64_t end = last < 0 ? 0 : least(outputs, last / stride + 1);
    return {least(ceil_div(pad, stride), end), end};
  }

  // Whether no position is in two windows, nor between the taps of one.
  bool disjoint() const { return !adaptive && dilation == 1 && stride >= kernel; }

  // The tap of a window from windows(in) that lies at `in`, or -1.
  int64_t tap(int64_t in, int64_t out) const {
    const int64_t distance = in - origin(out);
    if (dilation == 1) return distance;
    return distance % dilation ? -1 : distance / dilation;
  }

  // Taps of a window that an average counts: those inside, or also those in the padding.
  int64_t counted(int64_t out, bool include_pad) const {
    return include_pad ? least(kernel, size + pad - origin(out)) : taps(out).size();
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
void put_index(VecF32 index, int32_t* out, int n) {
  const VecI32 taps = round_to_i32(index);
  n == VecF32::kWidth ? taps.store(out) : taps.store(out, n);
}
void put_index(VecF64 index, int32_t* out, int n) {
  double lanes[VecF64::kWidth];
  index.store(lanes);
  for (int i = 0; i < n; ++i) out[i] = static_cast<int32_t>(lanes[i]);
}
VecF32 get_index(const int32_t* index, int n, VecF32) { return to_f32(VecI32::load(index, n)); }
VecF64 get_index(const int32_t* index, int n, VecF64) {
  double lanes[VecF64::kWidth] = {};
  for (int i = 0; i < n; ++i) lanes[i] = index[i];
  return VecF64::load(lanes);
}

// The larger of two, the first of equal ones, NaN above all.
template <class V>
inline void take_better(V v, V tap, V* best, V* index) {
  const auto better = ~(v <= *best) & (*best == *best);
  *best = select(better, v, *best);
  *index = select(better, tap, *index);
}

// Calls f(pixel, channel, lanes of it, lanes to load and store) for the registers of a row of pixels. Those whose spare
// lanes stay within the row are loaded and stored whole, by a number of lanes that the compiler knows.
template <class V, class F>
inline void for_registers(int64_t pixels, int64_t channels, F f) {
  const int64_t spare = ceil_div(channels, V::kWidth) * V::kWidth - channels;
  const int64_t whole = most(0, pixels - ceil_div(spare, channels));
  const auto pixel = [&](int64_t i, auto lanes_of) {
    for (int64_t c = 0; c < channels; c += V::kWidth) {
      const int lanes = static_cast<int>(least(channels - c, V::kWidth));
      f(i, c, lanes, lanes_of(lanes));
    }
  };
  for (int64_t i = 0; i < whole; ++i) pixel(i, [](int) { return std::integral_constant<int, V::kWidth>{}; });
  for (int64_t i = whole; i < pixels; ++i) pixel(i, [](int lanes) { return lanes; });
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
        take_better(v, V::set(static_cast<T>(i * a.kw + j)), &best, &index);
      }
    }
    put(best, static_cast<T*>(a.y) + out + c, k);
    if (a.index_out) put_index(index, static_cast<int32_t*>(a.index_out) + out + c, k);
  });
}

// Windows [inner.begin, inner.end) of a row, all taps inside. kTaps = kh = kw, or 0 where only they know.
template <class T, int kTaps>
void max_inner(const PoolArgs& a, int64_t n, int64_t oh, Span inner) {
  using V = Vec<T>;
  const int64_t row = a.dilation_h * a.w * a.c, column = a.dilation_w * a.c, channels = a.c;
  const int64_t kh = kTaps ? kTaps : a.kh, kw = kTaps ? kTaps : a.kw, step = a.stride_w * channels;
  const int64_t out = ((n * a.oh + oh) * a.ow + inner.begin) * channels;
  const T* x = pixel<T>(a, n, oh * a.stride_h - a.pad_h, inner.begin * a.stride_w - a.pad_w);
  T* y = static_cast<T*>(a.y) + out;
  int32_t* indices = a.index_out ? static_cast<int32_t*>(a.index_out) + out : nullptr;
  for_registers<V>(inner.size(), channels, [&](int64_t i, int64_t c, int, auto k) {
    const T* from = x + i * step + c;
    V best = get<V>(from, k), index = V::zero();
#pragma GCC unroll 3
    for (int64_t p = 0; p < kh; ++p) {
#pragma GCC unroll 3
      for (int64_t q = 0; q < kw; ++q) {
        if (p + q > 0) take_better(get<V>(from + p * row + q * column, k), V::set(T(p * kw + q)), &best, &index);
      }
    }
    put(best, y + i * channels + c, k);
    if (indices) put_index(index, indices + i * channels + c, k);
  });
}

template <class T>
void max_row(const PoolArgs& a, int64_t n, int64_t oh) {
  const Span rows = rows_of(a).inner();
  Span inner{0, 0};
  if (!a.adaptive && oh >= rows.begin && oh < rows.end) inner = columns_of(a).inner();
  for (int64_t ow = 0; ow < inner.begin; ++ow) max_window<T>(a, n, oh, ow);
  if (inner.size() > 0) {
    if (a.kh == 2 && a.kw == 2)
      max_inner<T, 2>(a, n, oh, inner);
    else if (a.kh == 3 && a.kw == 3)
      max_inner<T, 3>(a, n, oh, inner);
    else
      max_inner<T, 0>(a, n, oh, inner);
  }
  for (int64_t ow = inner.end; ow < a.ow; ++ow) max_window<T>(a, n, oh, ow);
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
        const V index = get_index(static_cast<const int32_t*>(a.index) + from, k, V{});
        const auto hit = index == V::set(static_cast<T>(i * a.kw + j));
        total = total + select(hit, g, V::zero());
      }
    }
    put(total, dx + c, k);
  });
}

// A row of dx from windows that do not overlap: each writes its taps, 0 is between them.
template <class T>
void max_grad_disjoint(const PoolArgs& a, int64_t n, int64_t h) {
  using V = Vec<T>;
  const Axis rows = rows_of(a), columns = columns_of(a);
  const Span from_rows = rows.windows(h), inner = columns.inner();
  const int64_t channels = a.c, kw = a.kw, step = a.stride_w * channels;
  T* dx = static_cast<T*>(a.y) + (n * a.h + h) * a.w * channels;
  for_lanes<V>(a.w * channels, [&](int64_t i, int k) { put(V::zero(), dx + i, k); });
  if (from_rows.size() == 0) return;
  const int64_t oh = from_rows.begin, from = (n * a.oh + oh) * a.ow * channels;
  const T* g = static_cast<const T*>(a.x) + from;
  const int32_t* indices = static_cast<const int32_t*>(a.index) + from;
  const T first = static_cast<T>(rows.tap(h, oh) * kw);
  const auto clipped = [&](int64_t ow) {
    const Span taps = columns.taps(ow);
    for_lanes<V>(channels, [&](int64_t c, int k) {
      const V incoming = get<V>(g + ow * channels + c, k), index = get_index(indices + ow * channels + c, k, V{});
      for (int64_t j = taps.begin; j < taps.end; ++j)
        put(select(index == V::set(first + static_cast<T>(j)), incoming, V::zero()),
            dx + (columns.origin(ow) + j) * channels + c, k);
    });
  };
  for (int64_t ow = 0; ow < inner.begin; ++ow) clipped(ow);
  T* to = dx + columns.origin(inner.begin) * channels;
  g += inner.begin * channels, indices += inner.begin * channels;
  for_registers<V>(inner.size(), channels, [&](int64_t i, int64_t c, int lanes, auto k) {
    // The lanes behind become 0, and later what they are; but those of the next tap, of several registers, are done.
    const bool spill = channels <= V::kWidth;
    const V incoming = masked(get<V>(g + i * channels + c, k), lanes);
    const V index = get_index(indices + i * channels + c, k, V{});
    V tap = V::set(first);
    T* out = to + i * step + c;
    for (int64_t j = 0; j < kw; ++j, out += channels, tap = tap + V::set(1))
      spill ? put(select(index == tap, incoming, V::zero()), out, k)
            : put(select(index == tap, incoming, V::zero()), out, lanes);
  });
  g -= inner.begin * channels, indices -= inner.begin * channels;
  for (int64_t ow = inner.end; ow < a.ow; ++ow) clipped(ow);
}

template <class T>
void max_grad_row(const PoolArgs& a, int64_t n, int64_t h) {
  if (rows_of(a).disjoint() && columns_of(a).disjoint()) {
    max_grad_disjoint<T>(a, n, h);
  } else {
    for (int64_t w = 0; w < a.w; ++w) max_grad_pixel<T>(a, n, h, w);
  }
  const int64_t begin = (n * a.h + h) * a.w * a.c;
  finish_flat(a, static_cast<T*>(a.y), begin, begin + a.w * a.c);
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
    for (int64_t item = r.begin; item < r.end; ++item) max_row<T>(a, item / a.oh, item % a.oh);
  });
  return {};
}

Status max_pool2d_grad(const PoolArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t item = r.begin; item < r.end; ++item) max_grad_row<T>(a, item / a.h, item % a.h);
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
