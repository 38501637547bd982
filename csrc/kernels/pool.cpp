// Max and average pooling, NHWC, forward and backward.
//
// Work item: one row of output pixels (forward) or of input pixels (backward). Channels are contiguous, so every inner
// loop runs over them and vectorizes. The backward passes gather: an input pixel adds up the windows that cover it in
// the order of output pixels, so that no two items write the same place and the order of summation is fixed. Scattering
// from the outputs would need atomics or a buffer per thread.
#include <cstdint>
#include <limits>

#include "kernels/args.h"
#include "kernels/isa.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

// Taps [begin, end) of a window that starts at `start` and lie inside [0, size).
struct Taps {
  int64_t begin, end;
};

inline Taps taps_inside(int64_t start, int64_t kernel, int64_t size) {
  const int64_t begin = start < 0 ? -start : 0;
  const int64_t end = start + kernel > size ? size - start : kernel;
  return {begin, end > begin ? end : begin};
}

// Output positions whose windows cover input position `i`.
inline Range covering(int64_t i, int64_t pad, int64_t kernel, int64_t stride, int64_t outputs) {
  const int64_t first = i + pad - kernel + 1;
  const int64_t begin = first <= 0 ? 0 : (first + stride - 1) / stride;
  const int64_t last = (i + pad) / stride + 1;
  return {begin, last < outputs ? last : outputs};
}

// A NaN once seen stays; of equal elements the first one counts.
template <class T>
void take_larger(const T* x, int32_t tap, T* y, int32_t* index, int64_t channels) {
  for (int64_t c = 0; c < channels; ++c) {
    const bool larger = (x[c] > y[c]) | ((x[c] != x[c]) & (y[c] == y[c]));
    y[c] = larger ? x[c] : y[c];
    index[c] = larger ? tap : index[c];
  }
}

template <class T>
void max_pixel(const PoolArgs& a, int64_t n, int64_t oh, int64_t ow) {
  const int64_t h0 = oh * a.stride_h - a.pad_h, w0 = ow * a.stride_w - a.pad_w;
  const Taps rows = taps_inside(h0, a.kh, a.h), cols = taps_inside(w0, a.kw, a.w);
  const int64_t at = ((n * a.oh + oh) * a.ow + ow) * a.c;
  T* y = static_cast<T*>(a.y) + at;
  int32_t* index = static_cast<int32_t*>(a.index_out) + at;
  for (int64_t c = 0; c < a.c; ++c) {
    y[c] = -std::numeric_limits<T>::infinity();
    index[c] = static_cast<int32_t>(rows.begin * a.kw + cols.begin);
  }
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const T* x = static_cast<const T*>(a.x) + ((n * a.h + h0 + r) * a.w + w0) * a.c;
    for (int64_t s = cols.begin; s < cols.end; ++s) {
      take_larger(x + s * a.c, static_cast<int32_t>(r * a.kw + s), y, index, a.c);
    }
  }
}

// The number by which a window's sum is divided.
inline int64_t divisor(const PoolArgs& a, int64_t oh, int64_t ow) {
  if (a.count_include_pad) return a.kh * a.kw;
  const Taps rows = taps_inside(oh * a.stride_h - a.pad_h, a.kh, a.h);
  const Taps cols = taps_inside(ow * a.stride_w - a.pad_w, a.kw, a.w);
  return (rows.end - rows.begin) * (cols.end - cols.begin);
}

template <class T>
void avg_pixel(const PoolArgs& a, int64_t n, int64_t oh, int64_t ow) {
  const int64_t h0 = oh * a.stride_h - a.pad_h, w0 = ow * a.stride_w - a.pad_w;
  const Taps rows = taps_inside(h0, a.kh, a.h), cols = taps_inside(w0, a.kw, a.w);
  T* y = static_cast<T*>(a.y) + ((n * a.oh + oh) * a.ow + ow) * a.c;
  for (int64_t c = 0; c < a.c; ++c) y[c] = 0;
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    for (int64_t s = cols.begin; s < cols.end; ++s) {
      const T* x = static_cast<const T*>(a.x) + ((n * a.h + h0 + r) * a.w + w0 + s) * a.c;
      for (int64_t c = 0; c < a.c; ++c) y[c] += x[c];
    }
  }
  const T count = static_cast<T>(divisor(a, oh, ow));
  for (int64_t c = 0; c < a.c; ++c) y[c] /= count;
}

template <class T>
void max_grad_pixel(const PoolArgs& a, int64_t n, int64_t h, int64_t w, T* dx) {
  const Range rows = covering(h, a.pad_h, a.kh, a.stride_h, a.oh);
  const Range cols = covering(w, a.pad_w, a.kw, a.stride_w, a.ow);
  for (int64_t c = 0; c < a.c; ++c) dx[c] = 0;
  for (int64_t oh = rows.begin; oh < rows.end; ++oh) {
    for (int64_t ow = cols.begin; ow < cols.end; ++ow) {
      const int64_t at = ((n * a.oh + oh) * a.ow + ow) * a.c;
      const T* g = static_cast<const T*>(a.x) + at;
      const int32_t* index = static_cast<const int32_t*>(a.index) + at;
      const auto tap = static_cast<int32_t>((h + a.pad_h - oh * a.stride_h) * a.kw + (w + a.pad_w - ow * a.stride_w));
      for (int64_t c = 0; c < a.c; ++c) dx[c] += index[c] == tap ? g[c] : T{0};
    }
  }
}

template <class T>
void avg_grad_pixel(const PoolArgs& a, int64_t n, int64_t h, int64_t w, T* dx) {
  const Range rows = covering(h, a.pad_h, a.kh, a.stride_h, a.oh);
  const Range cols = covering(w, a.pad_w, a.kw, a.stride_w, a.ow);
  for (int64_t c = 0; c < a.c; ++c) dx[c] = 0;
  for (int64_t oh = rows.begin; oh < rows.end; ++oh) {
    for (int64_t ow = cols.begin; ow < cols.end; ++ow) {
      const T* g = static_cast<const T*>(a.x) + ((n * a.oh + oh) * a.ow + ow) * a.c;
      const T count = static_cast<T>(divisor(a, oh, ow));
      for (int64_t c = 0; c < a.c; ++c) dx[c] += g[c] / count;
    }
  }
}

}  // namespace

Status max_pool2d(const PoolArgs& a, Range range, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      for (int64_t ow = 0; ow < a.ow; ++ow) max_pixel<T>(a, i / a.oh, i % a.oh, ow);
    }
  });
  return {};
}

Status avg_pool2d(const PoolArgs& a, Range range, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      for (int64_t ow = 0; ow < a.ow; ++ow) avg_pixel<T>(a, i / a.oh, i % a.oh, ow);
    }
  });
  return {};
}

Status max_pool2d_grad(const PoolArgs& a, Range range, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    T* dx = static_cast<T*>(a.y);
    for (int64_t i = range.begin; i < range.end; ++i) {
      for (int64_t w = 0; w < a.w; ++w) max_grad_pixel<T>(a, i / a.h, i % a.h, w, dx + (i * a.w + w) * a.c);
    }
  });
  return {};
}

Status avg_pool2d_grad(const PoolArgs& a, Range range, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    T* dx = static_cast<T*>(a.y);
    for (int64_t i = range.begin; i < range.end; ++i) {
      for (int64_t w = 0; w < a.w; ++w) avg_grad_pixel<T>(a, i / a.h, i % a.h, w, dx + (i * a.w + w) * a.c);
    }
  });
  return {};
}

}  // namespace quernel::QUERNEL_ISA
