// Rows of images of bytes, each copied between paddings once and kept in scratch while output rows need it, so that no
// pixel asks where its taps are.
#pragma once
#include "kernels/args/quant.h"
#include "kernels/integers.h"
#include "kernels/isa.h"
#include "kernels/scratch.h"

namespace quernel::QUERNEL_ISA {
namespace {

class PaddedLines {
 public:
  // `kept` neighbouring rows at a time, readable for `slack` bytes beyond their end.
  PaddedLines(const QConvArgs& p, int64_t kept, int64_t slack)
      : s_(p.s), x_(static_cast<const uint8_t*>(p.x)), zero_point_(p.x_zero_point), kept_(power_of_two(kept)) {
    const int64_t columns = (s_.ow - 1) * s_.stride_w + (s_.kw - 1) * s_.dilation_w + 1,
                  left = least(s_.pad_w, columns);
    left_bytes_ = left * s_.c;
    row_bytes_ = least(s_.w, columns - left) * s_.c;
    line_bytes_ = ceil_div(columns * s_.c + slack, 64) * 64;
  }

  void carve(Carver& carver) {
    carver.take(keys_, kept_);
    carver.take(lines_, (kept_ + 1) * line_bytes_);
  }

  // Before the first row is read. Paddings stay as they are.
  void begin() const {
    for (int64_t i = 0; i < kept_; ++i) {
      keys_[i] = -1;
      fill(i, 0, left_bytes_);
      fill(i, left_bytes_ + row_bytes_, line_bytes_);
    }
    fill(kept_, 0, line_bytes_);
  }

  // Row iy of an image, from pad_w columns before it on; rows outside are padding.
  const uint8_t* row(int64_t image, int64_t iy) const {
    if (iy < 0 || iy >= s_.h) return lines_ + kept_ * line_bytes_;
    const int64_t key = image * s_.h + iy, slot = key & (kept_ - 1);
    uint8_t* const line = lines_ + slot * line_bytes_;
    if (keys_[slot] == key) return line;
    keys_[slot] = key;
    __builtin_memcpy(line + left_bytes_, x_ + key * s_.w * s_.c, static_cast<size_t>(row_bytes_));
    return line;
  }

 private:
  static int64_t power_of_two(int64_t n) {
    int64_t power = 1;
    while (power < n) power *= 2;
    return power;
  }

  void fill(int64_t slot, int64_t begin, int64_t end) const {
    __builtin_memset(lines_ + slot * line_bytes_ + begin, zero_point_, static_cast<size_t>(end - begin));
  }

  const ConvShape& s_;
  const uint8_t* x_;
  int32_t zero_point_;
  int64_t kept_;  // at least as many as wanted: a row's place is its number's last bits
  int64_t left_bytes_, row_bytes_, line_bytes_;
  int64_t* keys_ = nullptr;   // the input rows, counted over the batch, in the slots of lines_
  uint8_t* lines_ = nullptr;  // [slot][column][channel], the last of padding alone
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
