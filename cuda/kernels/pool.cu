// Pooling of NHWC images, a thread an output element: a warp reads neighbouring channels. The gradients are gathered: a
// thread visits the windows that hold its pixel, in order, so that no two write one pixel and the order of summation is
// fixed.
//
// Averages of more than kWideWindow taps, as of whole images, would leave most of the device idle: a block takes one
// window of 32 channels, its taps in eight phases (core/columns.h).
#include <limits>

#include "core/columns.h"
#include "core/math.h"
#include "core/sums.h"
#include "kernels/args/pool.h"

namespace quernel::cuda {
namespace {

struct Span {
  int64_t begin, end;

  __device__ int64_t size() const { return end - begin; }
};

// How windows lie along one axis of an image.
struct Axis {
  int64_t size, outputs, kernel, stride, pad, dilation;
  bool adaptive;

  // Where tap 0 of a window is; before the image if it is in the padding.
  __device__ int64_t origin(int64_t out) const { return adaptive ? out * size / outputs : out * stride - pad; }

  // The taps of a window that lie inside the image.
  __device__ Span taps(int64_t out) const {
    const int64_t first = origin(out);
    if (adaptive) return {0, ceil_div((out + 1) * size, outputs) - first};
    const int64_t room = most(0, size - first);
    return {first < 0 ? ceil_div(-first, dilation) : 0, least(kernel, ceil_div(room, dilation))};
  }

  // Windows that may hold position `in`: all that do, if there is no dilation.
  __device__ Span windows(int64_t in) const {
    if (adaptive) return {in * outputs / size, ceil_div((in + 1) * outputs, size)};
    const int64_t last = in + pad;
    const int64_t before = last - (kernel - 1) * dilation - 1;  // the window that starts there ends just before `in`
    return {before < 0 ? 0 : before / stride + 1, least(outputs, last / stride + 1)};
  }

  // The tap of a window from windows(in) that lies at `in`, or -1.
  __device__ int64_t tap(int64_t in, int64_t out) const {
    const int64_t distance = in - origin(out);
    return distance % dilation ? -1 : distance / dilation;
  }

  // Taps of a window that an average counts: those inside, or also those in the padding.
  __device__ int64_t counted(int64_t out, bool include_pad) const {
    return include_pad ? least(kernel, size + pad - origin(out)) : taps(out).size();
  }
};

__device__ inline Axis rows_of(const PoolArgs& a) {
  return {a.h, a.oh, a.kh, a.stride_h, a.pad_h, a.dilation_h, a.adaptive};
}
__device__ inline Axis columns_of(const PoolArgs& a) {
  return {a.w, a.ow, a.kw, a.stride_w, a.pad_w, a.dilation_w, a.adaptive};
}

// The place of element i of an image of so many rows and columns.
struct Place {
  int64_t n, row, column, channel;

  __device__ Place(int64_t i, int64_t rows, int64_t columns, int64_t channels)
      : n(i / channels / columns / rows),
        row(i / channels / columns % rows),
        column(i / channels % columns),
        channel(i % channels) {}
};

template <class T>
__device__ const T* pixel(const PoolArgs& a, int64_t n, int64_t h, int64_t w, int64_t channel) {
  return static_cast<const T*>(a.x) + ((n * a.h + h) * a.w + w) * a.c + channel;
}

// The first maximum, or the first NaN. A window whose taps all lie in the padding (dilation allows that) gives -inf.
template <class T>
struct MaxWindow {
  PoolArgs a;

  __device__ void operator()(int64_t at) const {
    const Place p(at, a.oh, a.ow, a.c);
    const Axis rows = rows_of(a), columns = columns_of(a);
    const Span kh = rows.taps(p.row), kw = columns.taps(p.column);
    const int64_t top = rows.origin(p.row), left = columns.origin(p.column);
    T best = -std::numeric_limits<T>::infinity();
    int32_t index = -1;
    for (int64_t i = kh.begin; i < kh.end; ++i) {
      for (int64_t j = kw.begin; j < kw.end; ++j) {
        const T v = *pixel<T>(a, p.n, top + i * a.dilation_h, left + j * a.dilation_w, p.channel);
        if (index < 0 || (!(v <= best) && best == best)) best = v, index = static_cast<int32_t>(i * a.kw + j);
      }
    }
    static_cast<T*>(a.y)[at] = best;
    if (a.index_out) static_cast<int32_t*>(a.index_out)[at] = index;
  }
};

template <class T>
struct MaxGrad {
  PoolArgs a;

  __device__ void operator()(int64_t at) const {
    const Place p(at, a.h, a.w, a.c);
    const Axis rows = rows_of(a), columns = columns_of(a);
    const Span from_rows = rows.windows(p.row), from_columns = columns.windows(p.column);
    T total = 0;
    for (int64_t oh = from_rows.begin; oh < from_rows.end; ++oh) {
      const int64_t i = rows.tap(p.row, oh);
      for (int64_t ow = from_columns.begin; ow < from_columns.end; ++ow) {
        const int64_t j = columns.tap(p.column, ow), from = ((p.n * a.oh + oh) * a.ow + ow) * a.c + p.channel;
        if (i < 0 || j < 0) continue;
        const bool hit = static_cast<const int32_t*>(a.index)[from] == i * a.kw + j;
        total = total + (hit ? static_cast<const T*>(a.x)[from] : T(0));
      }
    }
    static_cast<T*>(a.y)[at] = finished(a, total, at, p.channel);
  }
};

// What the average of a window divides by.
template <class T>
__device__ T divisor(const PoolArgs& a, int64_t oh, int64_t ow) {
  const bool include_pad = a.count_include_pad && !a.adaptive;
  return static_cast<T>(rows_of(a).counted(oh, include_pad) * columns_of(a).counted(ow, include_pad));
}

// Sums wide windows row by row, so that no digits are lost to one long chain of additions.
template <class T>
struct AvgWindow {
  PoolArgs a;

  __device__ void operator()(int64_t at) const {
    const Place p(at, a.oh, a.ow, a.c);
    const Axis rows = rows_of(a), columns = columns_of(a);
    const Span kh = rows.taps(p.row), kw = columns.taps(p.column);
    const int64_t top = rows.origin(p.row), left = columns.origin(p.column) + kw.begin;
    T total = 0;
    for (int64_t i = kh.begin; i < kh.end; ++i) {
      const T* x = pixel<T>(a, p.n, top + i, left, p.channel);
      total = total + sum_of<T>(kw.size(), [&](int64_t j) { return x[j * a.c]; });
    }
    static_cast<T*>(a.y)[at] = total / divisor<T>(a, p.row, p.column);
  }
};

constexpr int64_t kWideWindow = 64;
using WideGroup = ColumnGroup<32>;

template <class T>
__global__ void __launch_bounds__(kThreads) avg_wide(PoolArgs a) {
  const WideGroup group;
  const int64_t tiles = ceil_div(a.c, WideGroup::kColumns);
  const int64_t channel = blockIdx.x % tiles * WideGroup::kColumns + group.column;
  const bool active = channel < a.c;
  const int64_t at = blockIdx.x / tiles * a.c + (active ? channel : 0);
  const Place p(at, a.oh, a.ow, a.c);
  const Axis rows = rows_of(a), columns = columns_of(a);
  const Span kh = rows.taps(p.row), kw = columns.taps(p.column);
  const int64_t top = rows.origin(p.row) + kh.begin, left = columns.origin(p.column) + kw.begin, width = kw.size();
  T total = 0;
  for (int64_t i = 0; active && i < kh.size(); ++i) {
    T sum = 0;
    for (int64_t j = group.phase; j < width; j += group.kPhases) sum += *pixel<T>(a, p.n, top + i, left + j, p.channel);
    total += sum;
  }
  total = group.reduce(total, Plus{});
  if (active && group.phase == 0) static_cast<T*>(a.y)[at] = total / divisor<T>(a, p.row, p.column);
}

template <class T>
struct AvgGrad {
  PoolArgs a;

  __device__ void operator()(int64_t at) const {
    const Place p(at, a.h, a.w, a.c);
    const Span from_rows = rows_of(a).windows(p.row), from_columns = columns_of(a).windows(p.column);
    T total = 0;
    for (int64_t oh = from_rows.begin; oh < from_rows.end; ++oh) {
      for (int64_t ow = from_columns.begin; ow < from_columns.end; ++ow) {
        const int64_t from = ((p.n * a.oh + oh) * a.ow + ow) * a.c + p.channel;
        total = total + static_cast<const T*>(a.x)[from] / divisor<T>(a, oh, ow);
      }
    }
    static_cast<T*>(a.y)[at] = total;
  }
};

int64_t outputs(const PoolArgs& a) { return a.n * a.oh * a.ow * a.c; }
int64_t inputs(const PoolArgs& a) { return a.n * a.h * a.w * a.c; }

}  // namespace

Status max_pool2d(const PoolArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) { for_each(ctx, outputs(a), MaxWindow<T>{a}); });
  return {};
}

Status max_pool2d_grad(const PoolArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) { for_each(ctx, inputs(a), MaxGrad<T>{a}); });
  return {};
}

Status avg_pool2d(const PoolArgs& a, Range, const Ctx& ctx) {
  const int64_t wide_blocks = a.n * a.oh * a.ow * ceil_div(a.c, WideGroup::kColumns);
  visit_floating(a.dtype, [&]<class T>(T) {
    if (a.kh * a.kw <= kWideWindow) return for_each(ctx, outputs(a), AvgWindow<T>{a});
    if (wide_blocks > 0) launch(ctx, avg_wide<T>, static_cast<unsigned>(wide_blocks), kThreads, 0, a);
  });
  return {};
}

Status avg_pool2d_grad(const PoolArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) { for_each(ctx, inputs(a), AvgGrad<T>{a}); });
  return {};
}

}  // namespace quernel::cuda
