// Pooling of images (N, H, W, C). Pairs are (height, width).
#pragma once
#include <array>
#include <utility>

#include "core/tensor.h"

namespace quernel::ops {

struct PoolWindow {
  std::array<int64_t, 2> kernel, stride, padding;
  std::array<int64_t, 2> dilation = {1, 1};  // max only
  bool ceil_mode = false;                    // windows that begin inside the image may reach over its end
};

// The largest element of each window and, as int32, the tap (row * kernel width + column) it came from; without
// `want_taps`, which only gradients need, that stays undefined.
std::pair<Tensor, Tensor> max_pool2d(const Tensor& x, const PoolWindow& window, bool want_taps);
Tensor max_pool2d_grad(const Tensor& g, const Tensor& index, const Shape& x_shape, const PoolWindow& window);

Tensor avg_pool2d(const Tensor& x, const PoolWindow& window, bool count_include_pad);
Tensor avg_pool2d_grad(const Tensor& g, const Shape& x_shape, const PoolWindow& window, bool count_include_pad);

// Output (N, height, width, C) for any size: window i of n covers [floor(i size / n), ceil((i + 1) size / n)).
using PoolSize = std::array<int64_t, 2>;
std::pair<Tensor, Tensor> adaptive_max_pool2d(const Tensor& x, PoolSize output, bool want_taps);
Tensor adaptive_max_pool2d_grad(const Tensor& g, const Tensor& index, const Shape& x_shape);
Tensor adaptive_avg_pool2d(const Tensor& x, PoolSize output);
Tensor adaptive_avg_pool2d_grad(const Tensor& g, const Shape& x_shape);

}  // namespace quernel::ops
