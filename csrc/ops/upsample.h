// Resampling of images (N, H, W, C) to another height and width.
#pragma once
#include <array>

#include "core/tensor.h"
#include "kernels/args/upsample.h"

namespace quernel::ops {

// `scale`: input pixels per output pixel, of height and width. Nearest modes take any dtype, linear ones floats.
struct Resampling {
  UpsampleMode mode;
  std::array<int64_t, 2> size;
  std::array<double, 2> scale;
};

Tensor upsample(const Tensor& x, const Resampling& how);
Tensor upsample_grad(const Tensor& g, const Shape& x_shape, const Resampling& how);

}  // namespace quernel::ops
