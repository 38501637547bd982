// int8 depthwise convolution: one input and one output channel per group, NHWC. As a GEMM it would fill one column of
// 16; here channels are the vector, sixteen at a time, the last sixteen overlapping those before. Sums stay in
// registers over all taps (in memory, added tap by tap, it took three to ten times as long), and no pixel inside
// asks where its taps are. Taps in the padding read a row of zero points.
//
// Weights come packed as int16 [blocks of 16 channels][pairs of taps][16][2], padded with zeros.
#include "kernels/args/quant.h"
#include "kernels/integers.h"
#include "kernels/quant_epilogue.h"
#include "kernels/simd/tap_dot.h"

namespace quernel::QUERNEL_ISA {
namespace {

// First channel of a block: whole blocks, the last one moved back to end with the last channel.
int64_t first_channel(int64_t block, int64_t channels) {
  const int64_t first = block * kTapChannels, most = channels - kTapChannels;
  return first <= most || most < 0 ? first : most;
}

// Taps are addresses less a base: the same list serves all pixels whose window lies inside the image, with the window's
// first byte as their base, while others have a list each, with base 0 and the padding where taps are outside. In
// pairs: an odd last one is completed by any, since its weights are zero.
struct Taps {
  const ConvShape& s;
  const uint8_t* padding;
  uintptr_t* inside;
  uintptr_t* at_border;

  static int64_t scratch(const ConvShape& s) {
    return 2 * (s.kh * s.kw + 1) * static_cast<int64_t>(sizeof(uintptr_t)) + s.c;
  }
  Taps(const ConvShape& shape, int32_t zero_point, void* scratch)
      : s(shape), inside(static_cast<uintptr_t*>(scratch)), at_border(inside + s.kh * s.kw + 1) {
    uint8_t* zeros = reinterpret_cast<uint8_t*>(at_border + s.kh * s.kw + 1);
    __builtin_memset(zeros, zero_point, static_cast<size_t>(s.c));
    padding = zeros;
    for (int64_t tap = 0; tap < s.kh * s.kw; ++tap)
      inside[tap] = static_cast<uintptr_t>((tap / s.kw * s.dilation_h * s.w + tap % s.kw * s.dilation_w) * s.c);
    inside[s.kh * s.kw] = 0;
  }

  bool holds(int64_t iy, int64_t ix) const {
    return iy >= 0 && iy + (s.kh - 1) * s.dilation_h < s.h && ix >= 0 && ix + (s.kw - 1) * s.dilation_w < s.w;
  }
  void find(const uint8_t* image, int64_t iy0, int64_t ix0) const {
    uintptr_t* tap = at_border;
    for (int64_t ky = 0; ky < s.kh; ++ky)
      for (int64_t kx = 0; kx < s.kw; ++kx) {
        const int64_t iy = iy0 + ky * s.dilation_h, ix = ix0 + kx * s.dilation_w;
        const bool inside_image = iy >= 0 && iy < s.h && ix >= 0 && ix < s.w;
        *tap++ = reinterpret_cast<uintptr_t>(inside_image ? image + (iy * s.w + ix) * s.c : padding);
      }
    *tap = reinterpret_cast<uintptr_t>(padding);
  }
};

// The sums of sixteen channels of P pixels whose bases are `step` apart, to rows of acc. Four share the loads of
// weights.
template <int P>
inline void sum_taps(uintptr_t base, uintptr_t step, const uintptr_t* taps, int64_t pairs, const int16_t* weights,
                     int32_t* acc) {
  TapDot::Sum sum[P];
#pragma GCC unroll 4
  for (int i = 0; i < P; ++i) sum[i] = TapDot::zero();
  for (int64_t pair = 0; pair < pairs; ++pair, weights += 2 * kTapChannels) {
    const uintptr_t first = base + taps[2 * pair], second = base + taps[2 * pair + 1];
#pragma GCC unroll 4
    for (uintptr_t i = 0; i < P; ++i)
      sum[i] = TapDot::add(sum[i], reinterpret_cast<const uint8_t*>(first + i * step),
                           reinterpret_cast<const uint8_t*>(second + i * step), weights);
  }
#pragma GCC unroll 4
  for (int i = 0; i < P; ++i) TapDot::store(sum[i], acc + i * kQColumns);
}

// One pixel of an image of fewer than sixteen channels: its taps are copied.
void sum_few(uintptr_t base, const uintptr_t* taps, int64_t pairs, int64_t channels, const int16_t* weights,
             int32_t* acc) {
  TapDot::Sum sum = TapDot::zero();
  uint8_t x[2][kTapChannels] = {};
  for (int64_t i = 0; i < pairs; ++i, weights += 2 * kTapChannels) {
    for (int64_t tap = 0; tap < 2; ++tap)
      for (int64_t c = 0; c < channels; ++c) x[tap][c] = reinterpret_cast<const uint8_t*>(base + taps[2 * i + tap])[c];
    sum = TapDot::add(sum, x[0], x[1], weights);
  }
  TapDot::store(sum, acc);
}

}  // namespace

// Weights (C, taps): src_col = taps, n = C, k = taps; item = 64 channels.
Status pack_depthwise_s8(const PackArgs& p, Range range, const Ctx&) {
  const int8_t* src = static_cast<const int8_t*>(p.src);
  const int64_t pairs = ceil_div(p.k, 2), per_item = 64 / kTapChannels;
  const int64_t end = least(range.end * per_item, ceil_div(p.n, kTapChannels));
  for (int64_t block = range.begin * per_item; block < end; ++block) {
    const int64_t first = first_channel(block, p.n);
    int16_t* dst = static_cast<int16_t*>(p.dst) + block * pairs * 2 * kTapChannels;
    for (int64_t i = 0; i < pairs; ++i)
      for (int64_t c = first; c < first + kTapChannels; ++c)
        for (int64_t tap = 2 * i; tap < 2 * i + 2; ++tap)
          *dst++ = c < p.n && tap < p.k ? src[c * p.src_col + tap] : int16_t{0};
  }
  return {};
}

int64_t depthwise2d_u8s8_scratch(const QConvArgs& p) { return Taps::scratch(p.s); }

namespace {

struct Depthwise {
  const QConvArgs& p;
  const ConvShape& s;
  const Taps taps;
  const Requantizer requantize;
  const Columns few;  // of an image of fewer than sixteen channels
  const int64_t pairs;

  Depthwise(const QConvArgs& args, void* scratch)
      : p(args),
        s(args.s),
        taps(args.s, args.x_zero_point, scratch),
        requantize(args),
        few(args, 0, args.s.c),
        pairs(ceil_div(args.s.kh * args.s.kw, 2)) {}

  void row(int64_t item) const {
    const int64_t blocks = ceil_div(s.c, kTapChannels);
    const uint8_t* image = static_cast<const uint8_t*>(p.x) + item / s.oh * s.h * s.w * s.c;
    const int64_t iy = item % s.oh * s.stride_h - s.pad_h;
    for (int64_t ox = 0, run; ox < s.ow; ox += run) {
      const int64_t ix = ox * s.stride_w - s.pad_w;
      const bool inside = taps.holds(iy, ix);
      const bool four = inside && s.c >= kTapChannels && ox + 4 <= s.ow && taps.holds(iy, ix + 3 * s.stride_w);
      run = four ? 4 : 1;
      if (!inside) taps.find(image, iy, ix);
      const uintptr_t base = inside ? reinterpret_cast<uintptr_t>(image + (iy * s.w + ix) * s.c) : 0;
      for (int64_t block = 0; block < blocks; ++block)
        pixels(block, run, base, inside ? taps.inside : taps.at_border, item * s.ow + ox);
    }
  }

  void pixels(int64_t block, int64_t run, uintptr_t base, const uintptr_t* list, int64_t pixel) const {
    alignas(64) int32_t acc[4 * kQColumns];
    const int64_t c = first_channel(block, s.c);
    const uintptr_t at = base + static_cast<uintptr_t>(c);
    const int16_t* weights = static_cast<const int16_t*>(p.w) + block * pairs * 2 * kTapChannels;
    if (run == 4)
      sum_taps<4>(at, static_cast<uintptr_t>(s.stride_w * s.c), list, pairs, weights, acc);
    else if (s.c >= kTapChannels)
      sum_taps<1>(at, 0, list, pairs, weights, acc);
    else
      sum_few(base, list, pairs, s.c, weights, acc);
    const ColumnSpan cols = s.c < kTapChannels ? few.span()
                                               : ColumnSpan{static_cast<const int32_t*>(p.bias) + c,
                                                            static_cast<const float*>(p.scale) + c, kTapChannels};
    for (int64_t i = 0; i < run; ++i)
      write_row(requantize, p.y_float, cols, acc + i * kQColumns, p.y, (pixel + i) * s.c + c);
  }
};

}  // namespace

// Item = output row. (Going through the rows once per 64 channels keeps weights in the L1, but asks more often where
// the taps of border pixels are: slower.)
Status depthwise2d_u8s8(const QConvArgs& p, Range range, const Ctx& ctx) {
  const Depthwise kernel(p, ctx.scratch);
  for (int64_t item = range.begin; item < range.end; ++item) kernel.row(item);
  return {};
}

}  // namespace quernel::QUERNEL_ISA
