// Image rows as tables of pixel addresses, for kernels whose lanes are the channels of a pixel. A table has one entry
// for each column that taps may read, those outside the image pointing to zeros, so that padding costs no branch and
// neighbouring outputs share the columns that they both read.
#pragma once
#include "kernels/conv_stencil.h"
#include "kernels/scratch.h"

namespace quernel::QUERNEL_ISA {
namespace {

template <class T>
class Columns {
 public:
  // The geometry by which sizes are known before the taps are: rows of taps, and columns at most.
  static int64_t slots(const ConvShape& s) { return s.kh; }
  static int64_t most_columns(const ConvShape& s, bool adjoint) {
    const int64_t reach = (s.kw - 1) * s.dilation_w;
    return adjoint ? ceil_div(s.w, s.stride_w) + reach / s.stride_w + 1 : (s.ow - 1) * s.stride_w + reach + 1;
  }

  void carve(const ConvShape& s, bool adjoint, Carver& carver) {
    pitch_ = most_columns(s, adjoint);
    carver.take(zeros_, s.c);
    carver.take(keys_, slots(s));
    carver.take(table_, slots(s) * pitch_);
    if (!carver.measures()) {
      for (int64_t i = 0; i < s.c; ++i) zeros_[i] = T(0);
    }
  }

  // Rows of `channels` channels each, read by the taps of `y` and `x`.
  void set_axes(const Axis& y, const Axis& x, int64_t channels) {
    count_ = most(y.count, 1);
    consecutive_ = true;
    for (int64_t i = 1; i < y.count; ++i) consecutive_ &= y.taps[i].offset == y.taps[0].offset + i;
    width_ = x.source;
    channels_ = channels;
    if (x.count > 0) {
      first_ = x.taps[0].offset;
      columns_ = most(x.size - 1, 0) * x.step + x.taps[x.count - 1].offset - first_ + 1;
    }
    for (int64_t i = 0; i < y.count; ++i) keys_[i] = -1;
  }

  // The addresses of the columns from the first tap of the first result on, in row `y` for tap row `tap`. `row` is the
  // address of that row, and `key` tells it from others: where tap rows are neighbours, a table lasts until the last of
  // them has read its row.
  const T* const* row(const T* row, int64_t key, int64_t y, int64_t tap) {
    const int64_t slot = consecutive_ ? y % count_ : tap;
    const T** table = table_ + slot * pitch_;
    if (keys_[slot] == key) return table;
    keys_[slot] = key;
    const int64_t begin = least(most(0, -first_), columns_), end = most(begin, least(columns_, width_ - first_));
    for (int64_t i = 0; i < begin; ++i) table[i] = zeros_;
    const T* at = row + (first_ + begin) * channels_;
    for (int64_t i = begin; i < end; ++i, at += channels_) table[i] = at;
    for (int64_t i = end; i < columns_; ++i) table[i] = zeros_;
    return table;
  }

  int64_t first() const { return first_; }

 private:
  T* zeros_ = nullptr;
  int64_t* keys_ = nullptr;
  const T** table_ = nullptr;
  int64_t pitch_ = 0, count_ = 1, width_ = 0, channels_ = 0, first_ = 0, columns_ = 0;
  bool consecutive_ = false;
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
