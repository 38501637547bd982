// Convolution and its gradients.
#pragma once
#include "kernels/args/matmul.h"

namespace quernel {

// Geometry of a 2-D convolution, NHWC. Padding is that above and to the left; what lies below and to the right follows
// from the sizes.
struct ConvShape {
  int64_t n, h, w, c;  // input; c = channels of all groups
  int64_t oh, ow, o;   // output; o = channels of all groups
  int64_t kh, kw;
  int64_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int64_t groups;
};

// y = epilogue(conv(x, w)); w packed per group as B[KH·KW·C/g, O/g] in panels. Also its adjoint, dx from g: then x is
// g, y is dx, `s` still the forward shape, and w is packed as B[KH·KW·O/g, C/g] with both kernel axes reversed. Items:
// (group, panel, strip of `strip` pixels); in the adjoint for each phase (pixel coordinates modulo the strides).
// Depthwise kernels (groups = C = O): w is packed as B[KH·KW, C], items are (image, panel, row), `strip` is unused.
struct ConvArgs : Epilogue {
  const void* x = nullptr;
  const void* w = nullptr;
  void* y = nullptr;
  ConvShape s{};
  int64_t strip = 0;
};

// dw[split] (splits, O, KH·KW·C/g): each the sum over one range of the output pixels. Item = (split, group, panel of 64
// columns); depthwise (split, panel of 64 channels).
struct ConvGradWeightArgs {
  const void* x = nullptr;
  const void* g = nullptr;
  void* dw = nullptr;
  ConvShape s{};
  int64_t splits = 1;
};

// sum[i] = parts[0][i] + parts[1][i] + …, in this order; item = block of kElementBlock elements.
struct SumSplitsArgs {
  const void* parts = nullptr;
  void* sum = nullptr;
  int64_t splits = 1, size = 0;
};

}  // namespace quernel
