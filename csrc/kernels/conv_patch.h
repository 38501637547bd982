// Rows of the matrix that a convolution multiplies: of each result pixel the input that it reads, in the order (kh, kw,
// c) of the weights, zeros outside the image. A few rows at a time, or a few columns of them, never all. NHWC, one
// group, bfloat16.
//
// The taps of a kernel row are neighbours in the image unless they are dilated: one run, copied in whole vectors where
// it lies inside.
#pragma once
#include "kernels/args/conv.h"
#include "kernels/integers.h"

namespace quernel::QUERNEL_ISA {
namespace {

class Patches {
 public:
  // Elements that a copy may write behind the last column.
  static constexpr int64_t kOverrun = 16;

  Patches(const ConvShape& s, const uint16_t* x) : s_(s), x_(x), end_(x + s.n * s.h * s.w * s.c) {
    const bool together = s.dilation_w == 1;
    runs_ = together ? 1 : s.kw;
    run_ = together ? s.kw * s.c : s.c;
  }

  // Columns [first, last) of the rows of `count` pixels from `pixel` on, counted image by image; rows of `dst` are
  // `pitch` apart, at least last - first + kOverrun.
  void copy(int64_t pixel, int64_t count, int64_t first, int64_t last, uint16_t* dst, int64_t pitch) const {
    while (count > 0) {
      const int64_t column = pixel % s_.ow, here = least(count, s_.ow - column);
      for (int64_t at = first; at < last;) {
        const int64_t end = least(last, (at / run_ + 1) * run_);
        copy_runs(pixel / s_.ow, column, here, at, end - at, dst + at - first, pitch);
        at = end;
      }
      dst += here * pitch;
      pixel += here;
      count -= here;
    }
  }

 private:
  // `length` columns from `at` on, within one run, of `pixels` neighbours in row `row` of all images.
  void copy_runs(int64_t row, int64_t column, int64_t pixels, int64_t at, int64_t length, uint16_t* dst,
                 int64_t pitch) const {
    const int64_t run = at / run_, width = s_.w * s_.c, step = s_.stride_w * s_.c;
    const int64_t y = row % s_.oh * s_.stride_h - s_.pad_h + run / runs_ * s_.dilation_h;
    const bool inside = y >= 0 && y < s_.h;
    const uint16_t* src = x_ + (row / s_.oh * s_.h + (inside ? y : 0)) * width;
    int64_t from = (column * s_.stride_w - s_.pad_w + run % runs_ * s_.dilation_w) * s_.c + at % run_;
    const int64_t last_whole = inside ? least(width - length, end_ - src - length - kOverrun) : -1;
    for (int64_t p = 0; p < pixels; ++p, from += step, dst += pitch) {
      if (from >= 0 && from <= last_whole)
        copy_over(dst, src + from, length);
      else
        copy_clipped(dst, src, from, length, inside ? width : 0);
    }
  }

  static void copy_over(uint16_t* dst, const uint16_t* src, int64_t n) {
    if (n <= 4)
      __builtin_memcpy(dst, src, 8);
    else
      for (int64_t i = 0; i < n; i += kOverrun) __builtin_memcpy(dst + i, src + i, 2 * kOverrun);
  }

  static void copy_clipped(uint16_t* dst, const uint16_t* src, int64_t from, int64_t length, int64_t width) {
    const int64_t begin = least(most(-from, 0), length), end = most(begin, least(length, width - from));
    const auto bytes = [](int64_t elements) { return static_cast<size_t>(elements) * sizeof(uint16_t); };
    __builtin_memset(dst, 0, bytes(begin));
    if (begin < end) __builtin_memcpy(dst + begin, src + from + begin, bytes(end - begin));
    __builtin_memset(dst + end, 0, bytes(length - end));
  }

  const ConvShape& s_;
  const uint16_t* x_;
  const uint16_t* end_;
  int64_t runs_, run_;  // runs of a kernel row, their length
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
