// Elementwise ops: check, broadcast, allocate, launch.
#pragma once
#include "core/tensor.h"
#include "kernels/args.h"

namespace quernel::ops {

Tensor unary(const char* op, UnaryOp kind, const Tensor& x);
void copy_into(const Tensor& dst, const Tensor& src);  // equal shapes and dtypes

void add_into(const Tensor& dst, const Tensor& src);   // dst += src

}  // namespace quernel::ops
