// Where the input of each output pixel of a convolution over bytes lies, NHWC: a list of runs, of the taps of a kernel
// row, or of a single tap if taps are dilated or channels grouped. Groups of four may reach over a run's end, where
// they meet weights of zero.
//
// Without padding at their ends, input rows are read in place. Others are copied (quant_lines.h), which takes a copy of
// C bytes per pixel beside K · O/64 cycles of dot products. (Copying only the runs that leave the image took half the
// time of a 28x28x1 -> 6 convolution by 5x5.)
#pragma once
#include "kernels/args/quant.h"
#include "kernels/integers.h"
#include "kernels/isa.h"
#include "kernels/quant_lines.h"
#include "kernels/scratch.h"
#include "kernels/simd/run_dot_s8.h"

namespace quernel::QUERNEL_ISA {
namespace {

class PixelRuns {
 public:
  PixelRuns(const QConvArgs& p, void* scratch)
      : s_(p.s),
        x_(static_cast<const uint8_t*>(p.x)),
        depth_(s_.c / s_.groups),
        taps_(s_.kh * s_.kw / conv_runs(s_)),
        groups_(column_bytes(taps_ * depth_) / 4),
        lines_(p, kept(s_), 4) {
    Carver carver(scratch);
    carver.take(rows_, conv_runs(s_) * kRunPitch);
    lines_.carve(carver);
    used_ = carver.used();
    if (scratch) lines_.begin();
  }

  int64_t scratch_bytes() const { return used_; }
  int64_t bytes() const { return 4 * groups_; }  // of a run

  // Rows [pixel, pixel + rows) of the N·OH·OW output pixels, up to kQStrip.
  Runs find(int64_t group, int64_t pixel, int64_t rows) const {
    for (int64_t row = 0; row < rows;) {
      const int64_t ox = pixel % s_.ow, here = least(rows - row, s_.ow - ox);
      find_in_row(group, pixel / s_.ow, ox, rows_ + row, here);
      pixel += here;
      row += here;
    }
    return {rows_, conv_runs(s_), groups_, groups_};
  }

 private:
  using Addresses [[gnu::vector_size(64)]] = uintptr_t;

  // Input rows, one after another in the batch, that the pixels of a strip may reach over.
  static int64_t kept(const ConvShape& s) {
    const int64_t reach = (s.kh - 1) * s.dilation_h + 1, output_rows = ceil_div(kQStrip, s.ow) + 1,
                  images = ceil_div(kQStrip, s.ow * s.oh);
    return least(reach + output_rows * s.stride_h + images * (reach + s.stride_h), s.n * s.h);
  }

  // `pixels` neighbours; writes a few pointers more. (In plain loops GCC shuffled and multiplied as long as it added.)
  void find_in_row(int64_t group, int64_t y, int64_t ox, const uint8_t** to, int64_t pixels) const {
    const int64_t iy0 = y % s_.oh * s_.stride_h - s_.pad_h, step = s_.stride_w * s_.c;
    Addresses steps = {0, 1, 2, 3, 4, 5, 6, 7};
    steps *= static_cast<uintptr_t>(step);
    for (int64_t ky = 0; ky < s_.kh; ++ky) {
      const uint8_t* at = row(y / s_.oh, iy0 + ky * s_.dilation_h) + ox * step + group * depth_;
      for (int64_t kx = 0; kx < s_.kw; kx += taps_, to += kRunPitch, at += s_.dilation_w * s_.c) {
        Addresses pixel = steps + reinterpret_cast<uintptr_t>(at);
        for (int64_t r = 0; r < pixels; r += 8, pixel += static_cast<uintptr_t>(8 * step))
          __builtin_memcpy(to + r, &pixel, sizeof(pixel));
      }
    }
  }

  // Row iy of an image, from pad_w columns before it on: in place without padding at its ends, if what a run's last
  // group of four may read beyond it is there.
  const uint8_t* row(int64_t image, int64_t iy) const {
    const int64_t key = image * s_.h + iy, behind = (s_.n * s_.h - 1 - key) * s_.w * s_.c;
    const bool in_place = s_.pad_w == 0 && iy >= 0 && iy < s_.h && behind >= 3;
    return in_place ? x_ + key * s_.w * s_.c : lines_.row(image, iy);
  }

  const ConvShape& s_;
  const uint8_t* x_;
  const int64_t depth_, taps_, groups_;  // of a run: channels, columns, groups of four bytes
  PaddedLines lines_;
  int64_t used_ = 0;
  const uint8_t** rows_ = nullptr;  // [run][kRunPitch]
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
