// Where the input of each output pixel of a convolution over bytes lies, NHWC: a list of runs, of the taps of a kernel
// row, or of a single tap if taps are dilated or channels grouped. Runs inside the image are read in place, up to three
// bytes beyond their end, which meet weights of zero; those in the padding are one common line; only those that leave
// the image on the left or right, or end where nothing may be read beyond, are copied.
#pragma once
#include "kernels/args/quant.h"
#include "kernels/integers.h"
#include "kernels/isa.h"
#include "kernels/scratch.h"
#include "kernels/simd/run_dot_s8.h"

namespace quernel::QUERNEL_ISA {
namespace {

class PixelRuns {
 public:
  PixelRuns(const QConvArgs& p, void* scratch) : s_(p.s), x_(static_cast<const uint8_t*>(p.x)) {
    taps_ = s_.kh * s_.kw / conv_runs(s_);
    depth_ = s_.c / s_.groups;
    groups_ = ceil_div(taps_ * depth_, 4);
    Carver carver(scratch);
    carver.take(rows_, conv_runs(s_) * kQStrip);
    carver.take(padding_, groups_ * 4);
    carver.take(copies_, conv_runs(s_) * kQStrip * groups_ * 4);
    used_ = carver.used();
    if (scratch) __builtin_memset(padding_, p.x_zero_point, static_cast<size_t>(groups_ * 4));
  }

  int64_t scratch_bytes() const { return used_; }
  int64_t bytes() const { return 4 * groups_; }  // of a run

  // Rows [pixel, pixel + rows) of the N·OH·OW output pixels.
  Runs find(int64_t group, int64_t pixel, int64_t rows) const {
    for (int64_t row = 0; row < rows;) {
      const int64_t ox = pixel % s_.ow, here = least(rows - row, s_.ow - ox);
      find_in_row(group, pixel / s_.ow, ox, row, here);
      pixel += here;
      row += here;
    }
    return {rows_, conv_runs(s_), groups_, groups_};
  }

 private:
  // `pixels` neighbours.
  void find_in_row(int64_t group, int64_t y, int64_t ox, int64_t first, int64_t pixels) const {
    const uint8_t* image = x_ + y / s_.oh * s_.h * s_.w * s_.c + group * depth_;
    const int64_t last = s_.n * s_.h - y / s_.oh * s_.h - 1;  // iy of the last row of all
    const int64_t beyond = ceil_div(groups_ * 4 - taps_ * depth_, most(s_.c, 1));
    const int64_t iy0 = y % s_.oh * s_.stride_h - s_.pad_h, step = s_.stride_w * s_.c;
    const uint8_t** to = rows_ + first;
    for (int64_t ky = 0; ky < s_.kh; ++ky) {
      const int64_t iy = iy0 + ky * s_.dilation_h;
      for (int64_t kx = 0; kx < s_.kw; kx += taps_, to += kQStrip) {
        if (iy < 0 || iy >= s_.h) {
          for (int64_t r = 0; r < pixels; ++r) to[r] = padding_;
          continue;
        }
        const uint8_t* line = image + iy * s_.w * s_.c;
        const int64_t ix0 = ox * s_.stride_w + kx * s_.dilation_w - s_.pad_w;
        // Pixels [left, right) have the run inside.
        const int64_t left = least(ix0 < 0 ? ceil_div(-ix0, s_.stride_w) : 0, pixels);
        const int64_t room = s_.w - taps_ - ix0 - (iy == last ? beyond : 0);
        const int64_t right = most(room < 0 ? 0 : least(room / s_.stride_w + 1, pixels), left);
        const uintptr_t at = reinterpret_cast<uintptr_t>(line) + static_cast<uintptr_t>(ix0 * s_.c);
        for (int64_t r = left; r < right; ++r)
          to[r] = reinterpret_cast<const uint8_t*>(at + static_cast<uintptr_t>(r * step));
        for (int64_t r = 0; r < left; ++r) to[r] = copy(line, ix0 + r * s_.stride_w, to + r);
        for (int64_t r = right; r < pixels; ++r) to[r] = copy(line, ix0 + r * s_.stride_w, to + r);
      }
    }
  }

  // A run from column ix on. `of` is its place in the list.
  const uint8_t* copy(const uint8_t* line, int64_t ix, const uint8_t** of) const {
    const int64_t left = ix < 0 ? least(-ix, taps_) : 0, inside = most(least(s_.w - ix, taps_) - left, 0);
    if (inside == 0) return padding_;
    uint8_t* to = copies_ + (of - rows_) * groups_ * 4;
    const auto part = [](int64_t columns, int64_t channels) { return static_cast<size_t>(columns * channels); };
    if (left > 0) __builtin_memcpy(to, padding_, part(left, depth_));
    __builtin_memcpy(to + left * depth_, line + (ix + left) * s_.c, part(inside, depth_));
    const int64_t end = left + inside;
    if (end < taps_) __builtin_memcpy(to + end * depth_, padding_, part(taps_ - end, depth_));
    return to;
  }

  const ConvShape& s_;
  const uint8_t* x_;
  int64_t taps_, depth_, groups_;  // of a run: columns, channels of each, groups of four bytes
  int64_t used_ = 0;
  const uint8_t** rows_ = nullptr;  // [run][kQStrip]
  uint8_t* padding_ = nullptr;
  uint8_t* copies_ = nullptr;  // [run][kQStrip][4 groups]
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
