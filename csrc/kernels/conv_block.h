// A block of result pixels of a convolution, and the source pixels that they read, laid out so that every result pixel
// finds its taps at the same distances: result (n, y, x) reads tap t at address(n, y, x) + offset(t). Those of a
// pointwise convolution are found in the image; else the block's pixels are copied into scratch, with zeros around
// them, at the cost of a copy per element against products with every output channel and tap.
#pragma once
#include "kernels/conv_stencil.h"

namespace quernel::QUERNEL_ISA {
namespace {

template <class V>
class SourceBlock {
 public:
  using T = typename V::Scalar;

  // Elements of scratch for blocks of so many pixels, `pitch` elements each.
  static int64_t scratch_elements(const ConvShape& s, const ConvBlock& most, int64_t pitch) {
    const int64_t rows = slots(vertical(s), most.rows), cols = columns(horizontal(s), most.cols);
    return most.images * rows * cols * pitch + V::kWidth;
  }

  // Images with `channels` channels, of which a block takes the `depth` of one group; copied pixels are `pitch` apart.
  void set(const T* source, int64_t channels, int64_t depth, int64_t pitch, T* scratch) {
    source_ = source;
    channels_ = channels;
    depth_ = depth;
    pitch_ = pitch;
    scratch_ = scratch;
  }
  void set_axes(const Axis& y, const Axis& x) {
    y_ = y;
    x_ = x;
  }

  // The block of `images` x `rows` x `cols` result pixels, at the channels of `group`, where it lies; it must read one
  // tap, and no padding.
  void find(Span images, Span rows, Span cols, int64_t group) {
    apart_ = false;
    pixel_ = channels_;
    row_ = x_.source * channels_;
    image_ = y_.source * row_;
    base_ =
        source_ + group * depth_ + images.first * image_ + rows.first * y_.step * row_ + cols.first * x_.step * pixel_;
  }

  // The same, with any taps and padding, in scratch.
  void copy(Span images, Span rows, Span cols, int64_t group) {
    const T* image = source_ + group * depth_;
    const int64_t left = cols.first * x_.step + x_.taps[0].offset, columns = wide(cols);
    base_ = scratch_;
    rows_ = rows.size;
    apart_ = y_.count * rows_ < high(rows);
    pixel_ = pitch_;
    row_ = columns * pitch_;
    const int64_t groups = apart_ ? y_.count : 1, step = apart_ ? y_.step : 1, per_group = apart_ ? rows_ : high(rows);
    image_ = groups * per_group * row_;
    T* at = scratch_;
    for (int64_t n = images.first; n < images.first + images.size; ++n) {
      for (int64_t i = 0; i < groups; ++i) {
        const int64_t first = rows.first * y_.step + y_.taps[i].offset;
        for (int64_t r = 0; r < per_group; ++r, at += row_)
          copy_row(at, image + n * y_.source * x_.source * channels_, first + r * step, left, columns);
      }
    }
  }

  // The first tap of a result pixel, counted within the block.
  const T* address(int64_t n, int64_t y, int64_t x) const {
    return base_ + n * image_ + y * (apart_ ? 1 : y_.step) * row_ + x * x_.step * pixel_;
  }

  // From there to tap (i, j).
  int64_t offset(int64_t i, int64_t j) const {
    const int64_t row = apart_ ? i * rows_ : y_.taps[i].offset - y_.taps[0].offset;
    return row * row_ + (x_.taps[j].offset - x_.taps[0].offset) * pixel_;
  }

  // Elements from one source pixel to the next.
  int64_t pixel_pitch() const { return pixel_; }

 private:
  static int64_t reach(const Axis& a) { return a.taps[a.count - 1].offset - a.taps[0].offset + 1; }
  int64_t high(Span rows) const { return (rows.size - 1) * y_.step + reach(y_); }
  int64_t wide(Span cols) const { return (cols.size - 1) * x_.step + reach(x_); }
  static int64_t columns(const AxisShape& s, int64_t results) {
    return (results - 1) * s.stride + (s.kernel - 1) * s.dilation + 1;
  }
  static int64_t slots(const AxisShape& s, int64_t results) { return least(columns(s, results), s.kernel * results); }

  // Pixels [left, left + wide) of row y of an image, zeros where they leave it.
  void copy_row(T* dst, const T* image, int64_t y, int64_t left, int64_t wide) const {
    const bool inside = y >= 0 && y < y_.source;
    const T* row = image + (inside ? y * x_.source * channels_ : 0);
    if (channels_ == pitch_) {
      copy_clipped<V>(dst, row, left * depth_, wide * depth_, inside ? x_.source * depth_ : 0);
      return;
    }
    for (int64_t x = left; x < left + wide; ++x, dst += pitch_)
      copy_clipped<V>(dst, row + x * channels_, 0, depth_, inside && x >= 0 && x < x_.source ? depth_ : 0);
  }

  const T* source_ = nullptr;
  int64_t channels_ = 0, depth_ = 0, pitch_ = 0;
  T* scratch_ = nullptr;
  Axis y_{}, x_{};
  const T* base_ = nullptr;
  int64_t pixel_ = 0, row_ = 0, image_ = 0;  // elements from one to the next
  int64_t rows_ = 0;
  bool apart_ = false;  // rows of taps have copies of their own, as what lies between them is not worth one
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
