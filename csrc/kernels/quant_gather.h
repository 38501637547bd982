// Copies input patches of a convolution over bytes, NHWC, into rows of a matrix, one per output pixel and ordered
// (kh, kw, c) like the weights. Taps outside the image become the padding value, and what lies between runs that the
// weights have padded is anything.
//
// Output pixels of one row read a piece of one input row per ky, KW taps each: (kw, c) is contiguous unless taps are
// dilated or channels grouped. A piece that leaves the image, or ends so near its end that whole vectors would be read
// past it, is first copied between paddings; after that, every pixel is a copy of known length in whole vectors.
// (Asking for each tap of each pixel whether it lies inside took four times as long for small kernels.)
#pragma once
#include "kernels/args/quant.h"
#include "kernels/isa.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int64_t kOverrun = 32;  // bytes that a copy may read and write past its end

// n bytes in whole vectors.
inline void copy_over(uint8_t* dst, const uint8_t* src, int64_t n) {
  if (n <= 8) {
    __builtin_memcpy(dst, src, 8);
  } else if (n <= 16) {
    __builtin_memcpy(dst, src, 16);
  } else {
    for (int64_t i = 0; i < n; i += 32) __builtin_memcpy(dst + i, src + i, 32);
  }
}

// Whole groups of four k, which packed weights have for each output column.
inline int64_t packed_depth(const ConvShape& s) {
  const int64_t runs = conv_runs(s), k = s.kh * s.kw * (s.c / s.groups);
  return kDotLevel ? runs * column_bytes(k / runs) : column_bytes(k);
}

inline int64_t clamp_index(int64_t i, int64_t lo, int64_t hi) { return i < lo ? lo : i > hi ? hi : i; }

class Gather {
 public:
  // Bytes between rows of a patch: an odd number of cache lines, so that rows spread over the L1's sets.
  static int64_t stride(const ConvShape& s) { return (packed_depth(s) + kOverrun + 63) / 64 * 64 | 64; }
  static int64_t scratch(const ConvShape& s) {
    return kQStrip * stride(s) + columns(s, s.ow < kQStrip ? s.ow : kQStrip) * s.c + kOverrun;
  }

  Gather(const QConvArgs& p, uint8_t* scratch)
      : s_(p.s),
        x_(static_cast<const uint8_t*>(p.x)),
        end_(x_ + p.s.n * p.s.h * p.s.w * p.s.c),
        padding_(p.x_zero_point),
        patch_(scratch),
        piece_(scratch + kQStrip * stride(p.s)) {
    const bool together = s_.dilation_w == 1 && s_.groups == 1;
    runs_ = together ? 1 : s_.kw;
    run_bytes_ = together ? s_.kw * s_.c : s_.c / s_.groups;
    run_step_ = kDotLevel ? column_bytes(run_bytes_) : run_bytes_;
  }

  // Rows [pixel, pixel + rows) of the N·OH·OW output pixels.
  const uint8_t* operator()(int64_t group, int64_t pixel, int rows) const {
    uint8_t* out = patch_;
    while (rows > 0) {
      const int64_t ox = pixel % s_.ow;
      const int here = static_cast<int>(rows < s_.ow - ox ? rows : s_.ow - ox);
      gather_row(group, pixel / s_.ow, ox, here, out);
      out += here * stride(s_);
      pixel += here;
      rows -= here;
    }
    return patch_;
  }

 private:
  // Input columns that `pixels` neighbours read.
  static int64_t columns(const ConvShape& s, int64_t pixels) {
    return (pixels - 1) * s.stride_w + (s.kw - 1) * s.dilation_w + 1;
  }

  void gather_row(int64_t group, int64_t row, int64_t ox, int pixels, uint8_t* out) const {
    const int64_t iy = row % s_.oh * s_.stride_h - s_.pad_h, lda = stride(s_), step = s_.stride_w * s_.c;
    for (int64_t ky = 0; ky < s_.kh; ++ky) {
      const uint8_t* src = piece(row / s_.oh, iy + ky * s_.dilation_h, ox * s_.stride_w - s_.pad_w, pixels);
      src += group * (s_.c / s_.groups);
      for (int64_t run = 0; run < runs_; ++run, src += s_.dilation_w * s_.c, out += run_step_)
        for (int r = 0; r < pixels; ++r) copy_over(out + r * lda, src + r * step, run_bytes_);
    }
  }

  // Input row iy from column ix on, as many columns as `pixels` outputs read.
  const uint8_t* piece(int64_t image, int64_t iy, int64_t ix, int pixels) const {
    const int64_t width = columns(s_, pixels);
    if (iy < 0 || iy >= s_.h) {
      __builtin_memset(piece_, padding_, static_cast<size_t>(width * s_.c));
      return piece_;
    }
    const uint8_t* row = x_ + (image * s_.h + iy) * s_.w * s_.c;
    if (ix >= 0 && ix + width <= s_.w && end_ - (row + (ix + width) * s_.c) >= kOverrun) return row + ix * s_.c;
    const int64_t left = clamp_index(-ix, 0, width), right = clamp_index(s_.w - ix, left, width);
    __builtin_memset(piece_, padding_, static_cast<size_t>(left * s_.c));
    __builtin_memcpy(piece_ + left * s_.c, row + (ix + left) * s_.c, static_cast<size_t>((right - left) * s_.c));
    __builtin_memset(piece_ + right * s_.c, padding_, static_cast<size_t>((width - right) * s_.c));
    return piece_;
  }

  const ConvShape& s_;
  const uint8_t* x_;
  const uint8_t* end_;
  int32_t padding_;
  uint8_t* patch_;
  uint8_t* piece_;
  int64_t runs_, run_bytes_, run_step_;
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
