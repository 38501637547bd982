// Elementwise functions of floating-point numbers, over n contiguous elements; compiled apart from the functions that
// integers have too, because the vectorized ones take long to compile. `params` holds kElementParams numbers.
#pragma once
#include "kernels/args/elementwise.h"

namespace quernel::QUERNEL_ISA {

// y[i] = op(x[i]) for the ops from kFloor on.
void unary_floating(UnaryOp op, const float* x, float* y, int64_t n, const double* params);
void unary_floating(UnaryOp op, const double* x, double* y, int64_t n, const double* params);

// y[i] = g[i] op'(…) for the gradients of BinaryOp; s is what the forward pass saved.
void gradient_floating(BinaryOp op, const float* s, const float* g, float* y, int64_t n, const double* params);
void gradient_floating(BinaryOp op, const double* s, const double* g, double* y, int64_t n, const double* params);

}  // namespace quernel::QUERNEL_ISA
