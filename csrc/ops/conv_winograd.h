// 3 x 3 convolutions of stride 1 by Winograd's algorithm, where it pays.
#pragma once
#include "kernels/args/conv.h"
#include "ops/epilogue.h"

namespace quernel::ops {

// The edge of the tiles by which a pass of this shape, forward or adjoint, is fastest computed, 2 or 4; 0: as a sum
// over taps, also where the device has no such kernel. Known by the shape of an image alone: the bits of its result
// depend on the choice.
int64_t winograd_edge(const ConvShape& s, DType dtype, bool adjoint, Device device);

// The pass with tiles of that edge, as launch_pass in conv.cpp.
void launch_winograd(const char* op, const ConvShape& s, int64_t edge, bool adjoint, const Tensor& source,
                     const Tensor& weight, const EpilogueSpec& epilogue, const Tensor& y, const Tensor& pre);

// The edge by which the gradient of the weights is fastest computed, or 0.
int64_t winograd_grad_weight_edge(const ConvShape& s, DType dtype, Device device);

// dw, the gradient of the weights, with tiles of that edge.
void launch_winograd_grad_weight(const ConvShape& s, int64_t edge, const Tensor& x, const Tensor& g, const Tensor& dw);

}  // namespace quernel::ops
