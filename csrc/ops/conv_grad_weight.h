// The gradient of a convolution's weights as a sum over blocks of pixels.
#pragma once
#include "core/tensor.h"
#include "kernels/args/conv.h"

namespace quernel::ops {

// `dw` filled, or a tensor of its shape in its place; it has elements.
Tensor grad_weight(const ConvShape& s, const Tensor& x, const Tensor& g, const Tensor& dw);

}  // namespace quernel::ops
