// Copies input patches of a convolution over bytes, NHWC, into rows of a matrix, one per output pixel and ordered
// (kh, kw, c) like the weights. Taps outside the image become `padding`.
#pragma once
#include "kernels/args/conv.h"
#include "kernels/isa.h"

namespace quernel::QUERNEL_ISA {
namespace {

// n bytes; short runs are the rule here, and overlapping fixed-size copies beat a call of memcpy.
inline void copy_bytes(uint8_t* dst, const uint8_t* src, int64_t n) {
  if (n >= 32) {
    for (int64_t i = 0; i < n - 32; i += 32) __builtin_memcpy(dst + i, src + i, 32);
    __builtin_memcpy(dst + n - 32, src + n - 32, 32);
  } else if (n >= 16) {
    __builtin_memcpy(dst, src, 16);
    __builtin_memcpy(dst + n - 16, src + n - 16, 16);
  } else if (n >= 4) {
    for (int64_t i = 0; i < n - 4; i += 4) __builtin_memcpy(dst + i, src + i, 4);
    __builtin_memcpy(dst + n - 4, src + n - 4, 4);
  } else {
    for (int64_t i = 0; i < n; ++i) dst[i] = src[i];
  }
}

inline int64_t clamp_index(int64_t i, int64_t lo, int64_t hi) { return i < lo ? lo : i > hi ? hi : i; }

// The KW taps of one kernel row: x_row is the input row (all channels, from the group's first), ix the column of the
// first tap, c the channels of the group.
inline uint8_t* gather_taps(const ConvShape& s, const uint8_t* x_row, uint8_t padding, int64_t ix, int64_t c,
                            uint8_t* out) {
  if (s.dilation_w == 1 && s.groups == 1) {
    if (ix >= 0 && ix + s.kw <= s.w) {  // most pixels
      copy_bytes(out, x_row + ix * c, s.kw * c);
      return out + s.kw * c;
    }
    const int64_t left = clamp_index(-ix, 0, s.kw), right = clamp_index(s.w - ix, left, s.kw);
    __builtin_memset(out, padding, static_cast<size_t>(left * c));
    copy_bytes(out + left * c, x_row + (ix + left) * c, (right - left) * c);
    __builtin_memset(out + right * c, padding, static_cast<size_t>((s.kw - right) * c));
    return out + s.kw * c;
  }
  for (int64_t tap = 0; tap < s.kw; ++tap, ix += s.dilation_w, out += c) {
    if (ix >= 0 && ix < s.w)
      copy_bytes(out, x_row + ix * s.c, c);
    else
      __builtin_memset(out, padding, static_cast<size_t>(c));
  }
  return out;
}

// Rows [pixel, pixel + rows) of the N·OH·OW output pixels, each `lda` bytes after the last.
inline void gather_patch(const ConvShape& s, const uint8_t* x, uint8_t padding, int64_t group, int64_t pixel, int rows,
                         uint8_t* patch, int64_t lda) {
  const int64_t c = s.c / s.groups;
  int64_t ox = pixel % s.ow, oy = pixel / s.ow % s.oh, image = pixel / (s.ow * s.oh);
  for (int r = 0; r < rows; ++r, patch += lda) {
    const int64_t ix = ox * s.stride_w - s.pad_w;
    int64_t iy = oy * s.stride_h - s.pad_h;
    uint8_t* out = patch;
    for (int64_t ky = 0; ky < s.kh; ++ky, iy += s.dilation_h) {
      if (iy >= 0 && iy < s.h) {
        out = gather_taps(s, x + (image * s.h + iy) * s.w * s.c + group * c, padding, ix, c, out);
      } else {
        __builtin_memset(out, padding, static_cast<size_t>(s.kw * c));
        out += s.kw * c;
      }
    }
    if (++ox == s.ow) {
      ox = 0;
      if (++oy == s.oh) {
        oy = 0;
        ++image;
      }
    }
  }
}

}  // namespace
}  // namespace quernel::QUERNEL_ISA
