// What the ways to convolve know of a shape, and how they cut its results into blocks.
#pragma once
#include "kernels/args/conv.h"
#include "ops/common.h"

namespace quernel::ops {

inline constexpr int64_t kLeastBlockPixels = 24;

// One input channel and one output per group.
inline bool is_depthwise(const ConvShape& s) { return s.groups > 1 && s.groups == s.c && s.groups == s.o; }

// A product of pixels and weights: 1x1 taps, each pixel read once.
inline bool is_pointwise(const ConvShape& s) {
  return s.kh * s.kw * s.stride_h * s.stride_w * s.groups == 1 && s.pad_h == 0 && s.pad_w == 0 && s.oh == s.h &&
         s.ow == s.w;
}

// Of the sum over taps, by whatever algorithm it is computed, so that profiles compare.
inline double conv_flops(const ConvShape& s) {
  return 2.0 * static_cast<double>(s.n * s.oh * s.ow * s.o) * static_cast<double>(s.kh * s.kw * (s.c / s.groups));
}

// The length of parts into which `size` falls, nearly even, none longer than `most`.
int64_t even_part(int64_t size, int64_t most);

// Blocks of about `pixels` result pixels: whole rows if they can be, several images if those are small.
ConvBlock choose_block(const ConvShape& s, DType dtype, bool adjoint, int64_t pixels);

// Blocks of all phases.
int64_t count_blocks(const ConvShape& s, bool adjoint, const ConvBlock& b);

}  // namespace quernel::ops
