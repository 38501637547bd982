// Convolutions in bfloat16: operands are rounded to it, sums are fp32. One group, float32 tensors.
#pragma once
#include "kernels/args/conv.h"
#include "ops/epilogue.h"

namespace quernel::ops {

// As a pass of the kernels in conv.cpp.
void launch_bf16(const char* op, const ConvShape& s, bool adjoint, const Tensor& source, const Tensor& weight,
                 const EpilogueSpec& epilogue, const Tensor& y, const Tensor& pre);

// The gradient of the weights, (O, KH·KW·C).
Tensor grad_weight_bf16(const ConvShape& s, const Tensor& x, const Tensor& g);

}  // namespace quernel::ops
