// int8 depthwise convolution: one input and one output channel per group, NHWC. As a GEMM it would fill one column of
// 64; here channels are the vector. A tap's product fits int16 (255 · -128), so it is one 16-bit multiplication and a
// widening add. Each call first turns its weights (C, taps) into rows [taps][C] of int16 in scratch, which costs as
// much as one output pixel or two. Taps in the padding multiply a row of zero points.
#include "kernels/args/quant.h"
#include "kernels/quant_epilogue.h"

namespace quernel::QUERNEL_ISA {
namespace {

// The sums of one output pixel over a block of channels, added tap by tap.
inline void add_taps(const ConvShape& s, const uint8_t* image, const uint8_t* padding, const int16_t* weights,
                     int64_t iy0, int64_t ix0, int channels, int32_t* acc) {
  for (int64_t ky = 0; ky < s.kh; ++ky)
    for (int64_t kx = 0; kx < s.kw; ++kx, weights += s.c) {
      const int64_t iy = iy0 + ky * s.dilation_h, ix = ix0 + kx * s.dilation_w;
      const bool inside = iy >= 0 && iy < s.h && ix >= 0 && ix < s.w;
      const uint8_t* x = inside ? image + (iy * s.w + ix) * s.c : padding;
      for (int c = 0; c < channels; ++c) {
        const uint32_t product = static_cast<uint32_t>(static_cast<int16_t>(x[c] * weights[c]));
        acc[c] = static_cast<int32_t>(static_cast<uint32_t>(acc[c]) + product);  // wraps
      }
    }
}

}  // namespace

int64_t depthwise2d_u8s8_scratch(const QConvArgs& p) { return 2 * p.s.kh * p.s.kw * p.s.c; }

// Item = output row.
Status depthwise2d_u8s8(const QConvArgs& p, Range range, const Ctx& ctx) {
  const ConvShape& s = p.s;
  const int64_t taps = s.kh * s.kw;
  int16_t* weights = static_cast<int16_t*>(ctx.scratch);
  for (int64_t tap = 0; tap < taps; ++tap)
    for (int64_t c = 0; c < s.c; ++c) weights[tap * s.c + c] = static_cast<const int8_t*>(p.w)[c * taps + tap];
  uint8_t padding[kPanel];
  __builtin_memset(padding, p.x_zero_point, sizeof(padding));

  for (int64_t c0 = 0; c0 < s.c; c0 += kPanel) {
    const Columns cols(p, c0, s.c - c0);
    for (int64_t item = range.begin; item < range.end; ++item) {
      const uint8_t* image = static_cast<const uint8_t*>(p.x) + item / s.oh * s.h * s.w * s.c + c0;
      const int64_t iy = item % s.oh * s.stride_h - s.pad_h;
      for (int64_t ox = 0; ox < s.ow; ++ox) {
        alignas(64) int32_t acc[kPanel] = {};
        const int64_t ix = ox * s.stride_w - s.pad_w;
        if (cols.count == kPanel)
          add_taps(s, image, padding, weights + c0, iy, ix, kPanel, acc);  // a constant: whole vectors
        else
          add_taps(s, image, padding, weights + c0, iy, ix, cols.count, acc);
        epilogue(p, p.y_float, cols, acc, 1, p.y, (item * s.ow + ox) * s.c + c0, s.c);
      }
    }
  }
  return {};
}

}  // namespace quernel::QUERNEL_ISA
