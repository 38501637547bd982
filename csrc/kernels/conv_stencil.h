// The geometry that a convolution and its gradients share: which pixels of a source image a pixel of the result
// reads, tap by tap.
#pragma once
#include "kernels/args/conv.h"
#include "kernels/integers.h"
#include "kernels/simd/vec.h"

namespace quernel::QUERNEL_ISA {
namespace {

// One kernel position along one axis: result pixel p reads source pixel p * step + offset. `index` counts kernel
// positions in the order in which the weights are packed.
struct Tap {
  int64_t offset;
  int64_t index;
};

// Along one axis: result pixels first, first + stride, … (size of them) and their taps.
struct Axis {
  int64_t source;  // pixels of the source
  int64_t result;  // pixels of the whole result
  int64_t first, stride, size;
  int64_t step;  // source pixels from one result pixel to the next
  Tap* taps;
  int64_t count;
};

struct AxisShape {
  int64_t in, out, kernel, stride, pad, dilation;
};

inline AxisShape vertical(const ConvShape& s) { return {s.h, s.oh, s.kh, s.stride_h, s.pad_h, s.dilation_h}; }
inline AxisShape horizontal(const ConvShape& s) { return {s.w, s.ow, s.kw, s.stride_w, s.pad_w, s.dilation_w}; }

inline Axis forward_axis(const AxisShape& s, Tap* taps) {
  for (int64_t k = 0; k < s.kernel; ++k) taps[k] = {k * s.dilation - s.pad, k};
  return {s.in, s.out, 0, 1, s.out, s.stride, taps, s.kernel};
}

// Input pixels congruent to `phase` modulo the stride are reached from output pixels (phase + pad - k dilation) /
// stride + 0, 1, …, for those k for which that division is exact. Descending k: the source offsets ascend.
inline Axis adjoint_axis(const AxisShape& s, int64_t phase, Tap* taps) {
  int64_t count = 0;
  for (int64_t k = s.kernel - 1; k >= 0; --k) {
    const int64_t at = phase + s.pad - k * s.dilation;
    if (at % s.stride == 0) taps[count++] = {at / s.stride, s.kernel - 1 - k};
  }
  return {s.out, s.in, phase, s.stride, most(0, ceil_div(s.in - phase, s.stride)), 1, taps, count};
}

// Along one axis of a block: pixels of the result, from `first` on.
struct Span {
  int64_t first, size;
};

// Block number `index` of an axis of `size` pixels in blocks of `most`.
inline Span part(int64_t index, int64_t most, int64_t size) { return {index * most, least(most, size - index * most)}; }

// Neighbouring results of an axis, [begin, end), that read the same taps, [first, last); what the others would read
// lies outside the source.
struct Segment {
  int64_t begin, end;
  int64_t first, last;
};

inline int64_t most_segments(int64_t kernel) { return 2 * kernel + 1; }

// Cuts an axis into them and returns their number.
inline int64_t cut_axis(const Axis& axis, Segment* segments) {
  int64_t count = 0;
  for (int64_t p = 0; p < axis.size; p = segments[count++].end) {
    const int64_t at = p * axis.step;
    int64_t first = 0, last = axis.count, end = axis.size;
    while (first < last && at + axis.taps[first].offset < 0) ++first;
    while (first < last && at + axis.taps[last - 1].offset >= axis.source) --last;
    if (first > 0) end = least(end, ceil_div(-axis.taps[first - 1].offset, axis.step));
    if (first < last) end = least(end, ceil_div(axis.source - axis.taps[last - 1].offset, axis.step));
    segments[count] = {p, end, first, last};
  }
  return count;
}

// dst[0, length) = row[from, from + length), zeros where that leaves [0, limit). Writes whole vectors: dst needs
// kWidth - 1 elements of slack.
template <class V>
inline void copy_clipped(typename V::Scalar* dst, const typename V::Scalar* row, int64_t from, int64_t length,
                         int64_t limit) {
  const int64_t begin = most(0, -from), end = least(length, limit - from);
  for (int64_t i = 0; i < least(begin, length); i += V::kWidth) V::zero().store(dst + i);
  for (int64_t i = begin; i < end; i += V::kWidth) {
    const int64_t left = end - i;
    (left >= V::kWidth ? V::load(row + from + i) : V::load(row + from + i, static_cast<int>(left))).store(dst + i);
  }
  for (int64_t i = most(0, end); i < length; i += V::kWidth) V::zero().store(dst + i);
}

}  // namespace
}  // namespace quernel::QUERNEL_ISA
