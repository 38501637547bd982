// 2-D convolution of NHWC images, its transpose, and its two gradients.
#pragma once
#include <array>
#include <optional>

#include "ops/epilogue.h"

namespace quernel::ops {

using Pair = std::array<int64_t, 2>;

struct ConvParams {
  Pair stride{1, 1}, padding{0, 0}, dilation{1, 1};
  int64_t groups = 1;
  std::optional<Pair> padding_end{};  // below and to the right, unless it is as above; negative: pixels left out
  bool bf16 = false;  // float32 operands of the product are rounded to bfloat16; convolutions in groups stay float32
};

// x (N, H, W, C), weight (O, KH, KW, C/groups) -> activation(conv + bias + residual), (N, OH, OW, O).
OutputAndPre conv2d(const Tensor& x, const Tensor& weight, const EpilogueSpec& epilogue, const ConvParams& params);

// The transposed convolution: x (N, H, W, I), weight (I, KH, KW, O/groups) -> activation(convT + bias + residual) of
// shape y_shape = (N, OH, OW, O), of which conv2d with this weight and these parameters makes the shape of x.
OutputAndPre conv_transpose2d(const Tensor& x, const Tensor& weight, const Shape& y_shape, const EpilogueSpec& epilogue,
                              const ConvParams& params);

// g (N, OH, OW, O) -> the gradient of x, of shape x_shape.
Tensor conv2d_grad_input(const Tensor& g, const Tensor& weight, const Shape& x_shape, const ConvParams& params);

// x and g -> the gradient of the weight, of shape weight_shape.
Tensor conv2d_grad_weight(const Tensor& x, const Tensor& g, const Shape& weight_shape, const ConvParams& params);

}  // namespace quernel::ops
