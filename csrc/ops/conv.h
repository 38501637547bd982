// 2-D convolution of NHWC images, and its two gradients.
#pragma once
#include <array>

#include "ops/epilogue.h"

namespace quernel::ops {

using Pair = std::array<int64_t, 2>;

struct ConvParams {
  Pair stride{1, 1}, padding{0, 0}, dilation{1, 1};
  int64_t groups = 1;
};

// x (N, H, W, C), weight (O, KH, KW, C/groups) -> activation(conv + bias + residual), (N, OH, OW, O).
OutputAndPre conv2d(const Tensor& x, const Tensor& weight, const EpilogueSpec& epilogue, const ConvParams& params);

// g (N, OH, OW, O) -> the gradient of x, of shape x_shape.
Tensor conv2d_grad_input(const Tensor& g, const Tensor& weight, const Shape& x_shape, const ConvParams& params);

// x and g -> the gradient of the weight, of shape weight_shape.
Tensor conv2d_grad_weight(const Tensor& x, const Tensor& g, const Shape& weight_shape, const ConvParams& params);

}  // namespace quernel::ops
