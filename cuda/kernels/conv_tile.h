// The geometry that convolutions and their adjoints share: which pixels of a source image a pixel of the result reads,
// tap by tap; and rows and depths of the implicit products (tile.h) that they are.
//
// Result pixels of an adjoint that are congruent modulo the stride read the same taps, at neighbouring source pixels:
// each such phase is a convolution of stride 1 with its share of the kernel, whose axes are reversed. So no product is
// with a pixel between those that there are, where an infinite weight would leave NaN.
//
// Coordinates are kept modulo 2^32, which tells them from those inside of an image: they lie within 2^31 and its size,
// of 2^30 at most.
#pragma once
#include <numeric>

#include "core/launch.h"
#include "kernels/args/conv.h"
#include "kernels/warpgroup_tile.h"

namespace quernel::cuda {

struct AxisShape {
  int64_t in, out, kernel, stride, pad, dilation;
};

__host__ __device__ inline AxisShape vertical(const ConvShape& s) {
  return {s.h, s.oh, s.kh, s.stride_h, s.pad_h, s.dilation_h};
}
__host__ __device__ inline AxisShape horizontal(const ConvShape& s) {
  return {s.w, s.ow, s.kw, s.stride_w, s.pad_w, s.dilation_w};
}

// Along one axis: result pixels first, first + stride, … (size of them; forward all). Pixel i of these reads source
// pixel i + offset + j apart (forward i stride + …) at its tap j, which has position tap + j tap_step in the packed
// weights.
struct WindowAxis {
  int32_t apart, tap_step;
  int32_t tap, taps;
  int64_t first, size, offset;
};

inline WindowAxis forward_axis(const AxisShape& s) {
  return {static_cast<int32_t>(s.dilation), 1, 0, static_cast<int32_t>(s.kernel), 0, s.out, -s.pad};
}

// Tap j of the reversed kernel reads (pixel + pad - (kernel - 1 - j) dilation) / stride, if that divides.
__host__ __device__ inline void set_phase(WindowAxis& a, const AxisShape& s, int64_t phase) {
  int64_t at = phase + s.pad - (s.kernel - 1) * s.dilation;
  const auto most = static_cast<int32_t>(least(a.tap_step, s.kernel));
  for (a.tap = 0; a.tap < most && at % s.stride != 0; ++a.tap) at += s.dilation;
  a.taps = a.tap < most ? static_cast<int32_t>(ceil_div(s.kernel - a.tap, a.tap_step)) : 0;
  a.first = phase;
  a.size = ceil_div(s.in - phase, s.stride);
  a.offset = at / s.stride;
}

// In the first phase, which has the most pixels.
inline WindowAxis adjoint_axis(const AxisShape& s) {
  const int64_t common = std::gcd(s.stride, s.dilation);
  WindowAxis a{static_cast<int32_t>(s.dilation / common), static_cast<int32_t>(s.stride / common), 0, 0, 0, 0, 0};
  set_phase(a, s, 0);
  return a;
}

__host__ __device__ inline int64_t phases(const AxisShape& s) { return least(s.stride, s.in); }

// Rows are result pixels, k runs over (row of taps, column of taps, channel).
template <bool kAdjoint>
struct Windows {
  static constexpr bool kRowsAdjacent = false;

  ConvShape s;
  WindowAxis down, across;
  int64_t m, n, k, batches;
  int32_t channels;  // of the source, of a group
  int64_t group = 0;

  explicit Windows(const ConvShape& shape) : s(shape) {
    down = kAdjoint ? adjoint_axis(vertical(s)) : forward_axis(vertical(s));
    across = kAdjoint ? adjoint_axis(horizontal(s)) : forward_axis(horizontal(s));
    n = (kAdjoint ? s.c : s.o) / s.groups;
    channels = static_cast<int32_t>(source_channels() / s.groups);
    batches = s.groups * (kAdjoint ? phases(vertical(s)) * phases(horizontal(s)) : 1);
    measure();
  }

  __host__ __device__ void measure() {
    m = s.n * down.size * across.size;
    k = int64_t{down.taps} * across.taps * channels;
  }

  // A batch is a group, in an adjoint a group and a phase.
  __device__ void enter(int64_t batch) {
    group = batch % s.groups;
    if constexpr (kAdjoint) {
      const int64_t phase = batch / s.groups, columns = phases(horizontal(s));
      set_phase(down, vertical(s), phase / columns);
      set_phase(across, horizontal(s), phase % columns);
      measure();
    }
  }

  __host__ __device__ int64_t source_channels() const { return kAdjoint ? s.o : s.c; }  // of all groups
  __device__ int64_t source_rows() const { return kAdjoint ? s.oh : s.h; }
  __device__ int64_t source_columns() const { return kAdjoint ? s.ow : s.w; }

  // Where tap (0, 0) of a pixel lies.
  struct Row {
    int64_t image = -1;  // first element of the source image; -1: beyond the last pixel
    uint32_t y = 0, x = 0;
  };
  __device__ Row row(int64_t i) const {
    if (i >= m) return {};
    const int64_t line = i / across.size;
    const int64_t y = line % down.size * (kAdjoint ? 1 : s.stride_h) + down.offset;
    const int64_t x = i % across.size * (kAdjoint ? 1 : s.stride_w) + across.offset;
    return {line / down.size * source_rows() * source_columns() * source_channels(), static_cast<uint32_t>(y),
            static_cast<uint32_t>(x)};
  }

  struct Depth {
    int32_t k = 0;
    int32_t y = 0, x = 0, c = 0;  // tap and channel
  };
  __device__ Depth depth(int64_t at) const {
    const auto i = static_cast<int32_t>(at);
    return {i, i / channels / across.taps, i / channels % across.taps, i % channels};
  }
  __device__ void advance(Depth& d, int32_t by) const {
    d.k += by;
    d.c += by;
    if (d.c < channels) return;
    d.x += d.c / channels;
    d.c %= channels;
    if (d.x < across.taps) return;
    d.y += d.x / across.taps;
    d.x %= across.taps;
  }

  // Whether there is such a product.
  __device__ bool has(const Row& r, const Depth& d) const { return r.image >= 0 && d.k < k; }

  // Its source element, from the first channel of the group on; -1: in the padding.
  __device__ int64_t element(const Row& r, const Depth& d) const {
    const uint32_t y = r.y + static_cast<uint32_t>(d.y) * static_cast<uint32_t>(down.apart);
    const uint32_t x = r.x + static_cast<uint32_t>(d.x) * static_cast<uint32_t>(across.apart);
    if (y >= source_rows() || x >= source_columns()) return -1;
    return r.image + (y * source_columns() + x) * source_channels() + d.c;
  }

  // Rows of packed weights: of a group, and the one that belongs to a depth.
  __device__ int64_t weight_rows() const { return s.kh * s.kw * channels; }
  __device__ int64_t weight_row(const Depth& d) const {
    if (!kAdjoint || (down.tap_step == 1 && across.tap_step == 1)) return d.k;
    const int32_t y = down.tap + d.y * down.tap_step, x = across.tap + d.x * across.tap_step;
    return (y * s.kw + x) * channels + d.c;
  }

  // The result pixel of a row, counted through all images.
  __device__ int64_t pixel(int64_t i) const {
    if (!kAdjoint || (s.stride_h == 1 && s.stride_w == 1)) return i;
    const int64_t line = i / across.size;
    const int64_t y = down.first + line % down.size * s.stride_h, x = across.first + i % across.size * s.stride_w;
    return (line / down.size * s.h + y) * s.w + x;
  }
};

// An output pixel, place k of a sum over them.
struct OutputPixel {
  int64_t k = 0, image = 0;
  int32_t y = 0, x = 0;
};
__device__ inline OutputPixel output_pixel(const ConvShape& s, int64_t first, int64_t k) {
  const int64_t pixel = first + k;
  return {k, pixel / s.ow / s.oh, static_cast<int32_t>(pixel / s.ow % s.oh), static_cast<int32_t>(pixel % s.ow)};
}
__device__ inline void advance_pixel(const ConvShape& s, OutputPixel& p, int64_t by) {
  p.k += by;
  for (p.x += static_cast<int32_t>(by); p.x >= s.ow; p.x -= static_cast<int32_t>(s.ow)) {
    if (++p.y == s.oh) p.y = 0, ++p.image;
  }
}

// A slice of neighbouring rows as warpgroup_tile.h copies them, tap by tap: a word of a tap that lies so far from that
// of the first pixel.
struct TapSlice {
  GridPixel first;
  int32_t word = 0, down = 0, right = 0;
};

// Rows of taps in the words of tensor_tile.h, and weights as rows of words along k: the operands of a convolution of
// bytes or bfloat16. With kAligned pixels are rows of whole chunks of words, which `windows` counts; else words are put
// together from elements, which may be of different taps, and it counts these.
template <class Element, bool kAligned>
struct TapWords {
  static constexpr int kOf = 4 / static_cast<int>(sizeof(Element));  // elements of a word
  static constexpr int kChunk = kAligned ? 4 : 1, kBChunk = kChunk, kStep = kAligned ? 1 : kOf;
  using Columns = AlongK;
  using Depth = Windows<false>::Depth;
  using Row = Windows<false>::Row;

  Windows<false> windows;
  const Element* x;
  unsigned padding;  // a word of it
  const unsigned* w;
  int64_t m, n, k, batches;
  int64_t pitch;  // words of a column of weights

  TapWords(ConvShape s, const void* images, Element padding_, const void* weights)
      : windows((s.c /= kAligned ? kOf : 1, s)),
        x(static_cast<const Element*>(images)),
        padding(padding_ * (kOf == 4 ? 0x01010101u : 0x00010001u)),
        w(static_cast<const unsigned*>(weights)),
        m(windows.m),
        n(windows.n),
        k(ceil_div(windows.k, kStep)),
        batches(windows.batches),
        pitch(k) {}

  __device__ void enter(int64_t group) {
    windows.enter(group);
    x += group * windows.channels * (kAligned ? kOf : 1);
  }
  __device__ Row row(int64_t i) const { return windows.row(i); }
  __device__ Depth depth(int64_t word) const { return windows.depth(word * kStep); }
  __device__ void advance(Depth& d, int words) const { windows.advance(d, words * kStep); }
  __device__ const unsigned* b(const Depth& d, int64_t column) const {
    const int64_t word = d.k / kStep;
    return word < k && column < n ? w + column * pitch + word : nullptr;
  }

  __device__ void copy_a(AsyncCopies& copies, unsigned* to, const Row& r, const Depth& d) const {
    if constexpr (kAligned) {
      const int64_t at = windows.has(r, d) ? windows.element(r, d) : -1;
      copy_chunk<kChunk>(copies, to, at < 0 ? nullptr : x + at * kOf, padding);
    } else {
      unsigned put = 0;
      Depth tap = d;
      for (int i = 0; i < kOf; ++i) {
        const int64_t at = windows.has(r, tap) ? windows.element(r, tap) : -1;
        put |= unsigned{at < 0 ? static_cast<Element>(padding) : x[at]} << i * (32 / kOf);
        windows.advance(tap, 1);
      }
      *to = put;
    }
  }

  // For warpgroup_tile.h, in one group: taps are pixels of the grid that those of rows are, some further down and
  // right.
  PixelGrid grid() const {
    const ConvShape& s = windows.s;
    return {s.n,
            windows.channels,
            {s.h, windows.down.offset, s.oh, s.stride_h},
            {s.w, windows.across.offset, s.ow, s.stride_w}};
  }
  // Whether slices are of one tap each, and copies reach all of them.
  bool has_slices() const {
    const auto reach = [](const WindowAxis& a) { return (a.taps - 1) * int64_t{a.apart}; };
    return windows.s.groups == 1 && windows.channels % kTileWords == 0 && grid().down.is_within(reach(windows.down)) &&
           grid().across.is_within(reach(windows.across));
  }
  bool describe_a(TensorMap* map, int rows) const { return device_encode_pixels(map, x, grid(), rows); }
  using Slice = TapSlice;
  __device__ Slice first_slice(int64_t row) const {  // of fewer than 2^32 rows, in few registers
    const auto i = static_cast<uint32_t>(row), width = static_cast<uint32_t>(windows.s.ow);
    const auto height = static_cast<uint32_t>(windows.s.oh);
    const uint32_t line = i / width, x = i % width, image = line / height, y = line % height;
    return {{static_cast<int>(image), static_cast<int>(windows.down.offset + y * windows.s.stride_h),
             static_cast<int>(windows.across.offset + x * windows.s.stride_w)}};
  }
  __device__ void copy_slice(Slice& at, void* to, const TensorMap& map, Barrier& full) const {
    copy_pixels(to, map, at.word, at.first, at.down, at.right, full);
    at.word += kTileWords;
    if (at.word < windows.channels) return;
    at.word = 0;
    at.right += windows.across.apart;
    if (at.right < windows.across.taps * windows.across.apart) return;
    at.right = 0;
    at.down += windows.down.apart;
  }
};

}  // namespace quernel::cuda
