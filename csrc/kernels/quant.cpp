// The int8 kernels beside GEMM and convolution: packing, conversion, residual add, lookup, pooling. Memory-bound loops
// that the compiler vectorizes at each level; every float step is one IEEE operation (no FMA, no reciprocal), so that
// all levels agree bit for bit with NumPy.
//
// A mean is exact: a float estimate of the quotient of two integers, corrected by its integer remainder.
#include "kernels/args/quant.h"

#include "kernels/isa.h"

namespace quernel::QUERNEL_ISA {
namespace {

struct Span {
  int64_t begin, end;
};

// The elements of blocks [range.begin, range.end).
Span elements(Range range, int64_t size) {
  const int64_t end = range.end * kElementBlock;
  return {range.begin * kElementBlock, end < size ? end : size};
}

// rint_even(clamp(v, lo, hi)) for bounds below 2^22: adding and taking away kRound leaves the nearest integer, ties
// going to even. NaN becomes lo.
inline int32_t round_clamped(float v, float lo, float hi) {
  constexpr float kRound = 0x1.8p23f;
  v = v > lo ? v : lo;
  v = v < hi ? v : hi;
  return static_cast<int32_t>((v + kRound) - kRound);
}

}  // namespace

// B[K, N] of any strides into panels [N/16][K/4][16][4], padded with zeros; item = (batch, panel). Weights (O, I) have
// adjacent k: then four move at once.
Status pack_s8(const PackArgs& p, Range range, const Ctx&) {
  const int64_t panels = (p.n + kQPanel - 1) / kQPanel, groups = (p.k + 3) / 4;
  for (int64_t item = range.begin; item < range.end; ++item) {
    const int64_t batch = item / panels, panel = item % panels;
    const int8_t* src = static_cast<const int8_t*>(p.src) + batch * p.src_batch + panel * kQPanel * p.src_col;
    int8_t* dst = static_cast<int8_t*>(p.dst) + batch * p.dst_batch + panel * p.taps * groups * 4 * kQPanel;
    const int64_t columns = p.n - panel * kQPanel < kQPanel ? p.n - panel * kQPanel : kQPanel;
    const int64_t whole = p.src_row == 1 ? p.k / 4 : 0;
    if (columns < kQPanel) __builtin_memset(dst, 0, static_cast<size_t>(p.taps * groups * 4 * kQPanel));
    for (int64_t j = 0; j < columns * p.taps; ++j) {
      const int8_t* column = src + j / p.taps * p.src_col + j % p.taps * p.src_tap;
      int8_t* out = dst + 4 * (j / p.taps + j % p.taps * groups * kQPanel);
      for (int64_t g = 0; g < whole; ++g) __builtin_memcpy(out + g * 4 * kQPanel, column + 4 * g, 4);
      for (int64_t k = 4 * whole; k < 4 * groups; ++k)
        out[k / 4 * 4 * kQPanel + k % 4] = k < p.k ? column[k * p.src_row] : int8_t{0};
    }
  }
  return {};
}

Status quantize(const QuantizeArgs& p, Range range, const Ctx&) {
  const float* x = static_cast<const float*>(p.x);
  uint8_t* y = static_cast<uint8_t*>(p.y);
  const float scale = p.scale, lo = static_cast<float>(-p.zero_point), hi = static_cast<float>(255 - p.zero_point);
  const int32_t zero_point = p.zero_point;
  const Span span = elements(range, p.size);
  for (int64_t i = span.begin; i < span.end; ++i) {
    const float v = x[i] / scale;
    y[i] = static_cast<uint8_t>(round_clamped(v == v ? v : 0.0f, lo, hi) + zero_point);
  }
  return {};
}

Status dequantize(const QuantizeArgs& p, Range range, const Ctx&) {
  const uint8_t* x = static_cast<const uint8_t*>(p.x);
  float* y = static_cast<float*>(p.y);
  const float scale = p.scale;
  const int32_t zero_point = p.zero_point;
  const Span span = elements(range, p.size);
  for (int64_t i = span.begin; i < span.end; ++i) y[i] = static_cast<float>(x[i] - zero_point) * scale;
  return {};
}

Status qadd(const QAddArgs& p, Range range, const Ctx&) {
  const uint8_t* a = static_cast<const uint8_t*>(p.a);
  const uint8_t* b = static_cast<const uint8_t*>(p.b);
  uint8_t* y = static_cast<uint8_t*>(p.y);
  const float a_scale = p.a_scale, b_scale = p.b_scale, y_scale = p.y_scale;
  const int32_t za = p.a_zero_point, zb = p.b_zero_point, zy = p.y_zero_point;
  const float lo = static_cast<float>(p.lo - zy), hi = static_cast<float>(p.hi - zy);
  const Span span = elements(range, p.size);
  for (int64_t i = span.begin; i < span.end; ++i) {
    const float sum = static_cast<float>(a[i] - za) * a_scale + static_cast<float>(b[i] - zb) * b_scale;
    y[i] = static_cast<uint8_t>(round_clamped(sum / y_scale, lo, hi) + zy);
  }
  return {};
}

Status qlookup(const QLookupArgs& p, Range range, const Ctx&) {
  const uint8_t* x = static_cast<const uint8_t*>(p.x);
  const uint8_t* table = static_cast<const uint8_t*>(p.table);
  uint8_t* y = static_cast<uint8_t*>(p.y);
  const Span span = elements(range, p.size);
  for (int64_t i = span.begin; i < span.end; ++i) y[i] = table[x[i]];
  return {};
}

namespace {

// Sixteen channels of a pixel, which are reduced at once. Vectors of the language and not loops over arrays: GCC
// unrolls such short loops before it comes to vectorizing them.
constexpr int64_t kLanes = 16;
using U8Lanes [[gnu::vector_size(kLanes)]] = uint8_t;
using U16Lanes [[gnu::vector_size(2 * kLanes)]] = uint16_t;
using I32Lanes [[gnu::vector_size(4 * kLanes)]] = int32_t;
using F32Lanes [[gnu::vector_size(4 * kLanes)]] = float;

// The taps of one output pixel that lie inside the image.
struct Window {
  const uint8_t* first;
  int64_t rows, cols;
};

Window window(const PoolArgs& p, int64_t image, int64_t oy, int64_t ox) {
  int64_t y0 = oy * p.stride_h - p.pad_h, x0 = ox * p.stride_w - p.pad_w;
  const int64_t y1 = y0 + p.kh < p.h ? y0 + p.kh : p.h, x1 = x0 + p.kw < p.w ? x0 + p.kw : p.w;
  y0 = y0 > 0 ? y0 : 0;
  x0 = x0 > 0 ? x0 : 0;
  return {static_cast<const uint8_t*>(p.x) + ((image * p.h + y0) * p.w + x0) * p.c, y1 - y0, x1 - x0};
}

// Calls pixel(window, c0, lanes, y) for sixteen channels, or the remaining ones, of each output pixel; item = output
// row.
template <class Pixel>
void for_each_pixel(const PoolArgs& p, Range range, const Pixel& pixel) {
  for (int64_t item = range.begin; item < range.end; ++item) {
    for (int64_t ox = 0; ox < p.ow; ++ox) {
      const Window taps = window(p, item / p.oh, item % p.oh, ox);
      uint8_t* y = static_cast<uint8_t*>(p.y) + (item * p.ow + ox) * p.c;
      int64_t c0 = 0;
      for (; c0 + kLanes <= p.c; c0 += kLanes) pixel(taps, c0, kLanes, y + c0);
      if (c0 < p.c) pixel(taps, c0, p.c - c0, y + c0);
    }
  }
}

// Calls add(lanes of one tap) for each tap. Few lanes are read whole, too, unless that would pass the image's end: a
// copy of unknown length is a call.
template <class Add>
void for_each_tap(const PoolArgs& p, const Window& taps, int64_t c0, int64_t lanes, const Add& add) {
  const uint8_t* end = static_cast<const uint8_t*>(p.x) + p.n * p.h * p.w * p.c;
  for (int64_t i = 0; i < taps.rows; ++i)
    for (int64_t j = 0; j < taps.cols; ++j) {
      const uint8_t* src = taps.first + (i * p.w + j) * p.c + c0;
      U8Lanes x = {};
      if (end - src >= kLanes)
        __builtin_memcpy(&x, src, kLanes);
      else
        __builtin_memcpy(&x, src, static_cast<size_t>(lanes));
      add(x);
    }
}

}  // namespace

Status max_pool2d_u8(const PoolArgs& p, Range range, const Ctx&) {
  for_each_pixel(p, range, [&p](const Window& taps, int64_t c0, int64_t lanes, uint8_t* y) {
    U8Lanes best = {};
    for_each_tap(p, taps, c0, lanes, [&best](const U8Lanes& x) { best = x > best ? x : best; });
    __builtin_memcpy(y, &best, static_cast<size_t>(lanes));
  });
  return {};
}

// total / count, 0 <= total <= 255 count < 2^31, rounded half to even. The estimate q may be off by one where
// total / count lies within 255 · 2^-22 of an integer; that integer is then the nearest, and the remainder (a little
// below zero, or not below count) says so.
Status avg_pool2d_u8(const QAvgPoolArgs& p, Range range, const Ctx&) {
  const int64_t all = p.kh * p.kw;
  for_each_pixel(p, range, [&p, all](const Window& taps, int64_t c0, int64_t lanes, uint8_t* y) {
    const int64_t inside = taps.rows * taps.cols;
    const auto padding = static_cast<int32_t>(p.count_include_pad ? (all - inside) * p.zero_point : 0);
    const auto count = static_cast<int32_t>(p.count_include_pad ? all : inside);
    I32Lanes total = I32Lanes{} + padding;
    for_each_tap(p, taps, c0, lanes, [&total](const U8Lanes& x) {
      total += __builtin_convertvector(__builtin_convertvector(x, U16Lanes), I32Lanes);  // GCC 12 widens twofold
    });
    const F32Lanes quotient = __builtin_convertvector(total, F32Lanes) * (1.0f / static_cast<float>(count));
    I32Lanes q = __builtin_convertvector(quotient, I32Lanes);
    const I32Lanes twice = 2 * (total - q * count);
    q -= (twice > count) | ((twice == count) & -(q & 1));  // true is -1
    const U8Lanes mean = __builtin_convertvector(__builtin_convertvector(q, U16Lanes), U8Lanes);
    __builtin_memcpy(y, &mean, static_cast<size_t>(lanes));
  });
  return {};
}

}  // namespace quernel::QUERNEL_ISA
