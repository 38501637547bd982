// 3 x 3 convolutions of stride 1 or 2 by Winograd's algorithm, where it pays.
#pragma once
#include "kernels/args/conv.h"
#include "ops/epilogue.h"

namespace quernel::ops {

// The tiles by which a pass of this shape, forward or adjoint, is fastest computed; none: as a sum over taps, also
// where the device has no such kernel. Known by the shape of an image alone: the bits of its result depend on the
// choice.
WinogradTiles winograd_tiles(const ConvShape& s, DType dtype, bool adjoint, Device device);

// The pass with such tiles, as launch_pass in conv.cpp.
void launch_winograd(const char* op, const ConvShape& s, WinogradTiles tiles, bool adjoint, const Tensor& source,
                     const Tensor& weight, const EpilogueSpec& epilogue, const Tensor& y, const Tensor& pre);

// Those by which the gradient of the weights is fastest computed, or none.
WinogradTiles winograd_grad_weight_tiles(const ConvShape& s, DType dtype, Device device);

// dw, the gradient of the weights, with such tiles.
void launch_winograd_grad_weight(const ConvShape& s, WinogradTiles tiles, const Tensor& x, const Tensor& g,
                                 const Tensor& dw);

}  // namespace quernel::ops
