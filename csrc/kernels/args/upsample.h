// Resampling of images.
#pragma once
#include "kernels/args/common.h"

namespace quernel {

enum class UpsampleMode : int32_t { kNearest, kNearestExact, kLinear, kLinearAligned };

// x (n, h, w, c) and y (n, oh, ow, c); backward, x is the gradient of y, and y that of x. Output pixel i lies at i, or
// (i + 1/2) scale - 1/2, or i scale of the input, see kernels/upsample.cpp. Item = row of what is written.
struct UpsampleArgs {
  const void* x = nullptr;
  void* y = nullptr;
  DType dtype{};
  int32_t itemsize = 0;  // forward, nearest: elements are copied whatever they are
  UpsampleMode mode{};
  int64_t n = 0, h = 0, w = 0, c = 0, oh = 0, ow = 0;
  double scale_h = 1, scale_w = 1;  // input pixels per output pixel
};

}  // namespace quernel
