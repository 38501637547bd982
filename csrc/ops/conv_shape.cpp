#include "ops/conv_shape.h"

#include <algorithm>

namespace quernel::ops {
namespace {

constexpr int64_t kBlockBytes = 192 << 10;    // of source pixels: they stay in L2 while all weights pass …
constexpr int64_t kMostBlockBytes = 1 << 20;  // … unless the weights are so many that it is they who cost

}  // namespace

int64_t even_part(int64_t size, int64_t most) {
  return size > 0 ? ceil_div(size, ceil_div(size, std::max<int64_t>(most, 1))) : 1;
}

ConvBlock choose_block(const ConvShape& s, DType dtype, bool adjoint, int64_t pixels) {
  const int64_t height = adjoint ? ceil_div(s.h, s.stride_h) : s.oh, width = adjoint ? ceil_div(s.w, s.stride_w) : s.ow;
  const int64_t pixel_bytes = (adjoint ? s.o : s.c) / s.groups * static_cast<int64_t>(itemsize(dtype));
  const int64_t weight_bytes = s.kh * s.kw * (adjoint ? s.c : s.o) * pixel_bytes / s.groups;
  const int64_t most_bytes = std::clamp(weight_bytes / 4, kBlockBytes, kMostBlockBytes);
  const auto fits = [&](int64_t images, int64_t rows, int64_t cols) {
    const auto reach = [&](int64_t pixels, int64_t kernel, int64_t stride, int64_t dilation) {
      const int64_t taps = (kernel - 1) * dilation;
      return (adjoint ? pixels + taps / stride : (pixels - 1) * stride + taps + 1);
    };
    const int64_t high = std::min(reach(rows, s.kh, s.stride_h, s.dilation_h), rows * s.kh);
    const int64_t wide = reach(cols, s.kw, s.stride_w, s.dilation_w);
    return images * high * wide * pixel_bytes <= most_bytes;
  };
  ConvBlock b{1, 1, even_part(width, pixels)};
  while (b.cols > kLeastBlockPixels && !fits(1, 1, b.cols)) b.cols = even_part(width, b.cols / 2);
  int64_t rows = std::clamp<int64_t>(pixels / b.cols, 1, height);
  while (rows > 1 && !fits(1, rows, b.cols)) --rows;
  b.rows = even_part(height, rows);
  if (b.rows < height || b.cols < width) return b;
  int64_t images = std::max<int64_t>(1, std::min(s.n, pixels / (height * width)));
  while (images > 1 && !fits(images, height, width)) --images;
  b.images = even_part(s.n, images);
  return b;
}

int64_t count_blocks(const ConvShape& s, bool adjoint, const ConvBlock& b) {
  const auto along = [&](int64_t size, int64_t stride, int64_t most) {
    int64_t blocks = 0;
    for (int64_t phase = 0; phase < std::min(stride, size); ++phase)
      blocks += ceil_div(ceil_div(size - phase, stride), most);
    return blocks;
  };
  const int64_t images = ceil_div(s.n, b.images);
  if (!adjoint) return images * ceil_div(s.oh, b.rows) * ceil_div(s.ow, b.cols);
  return images * along(s.h, s.stride_h, b.rows) * along(s.w, s.stride_w, b.cols);
}

}  // namespace quernel::ops
