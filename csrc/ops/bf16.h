// Products in bfloat16: operands are rounded to it, sums are fp32.
#pragma once
#include "ops/epilogue.h"

namespace quernel::ops {

// x (..., I), weight (O, I) -> activation(x weight^T + bias + residual), (..., O), of x's dtype. float32: only the
// operands of the product are rounded. bfloat16: so is the result, wherever separate ops would round.
OutputAndPre linear_bf16(const Tensor& x, const Tensor& weight, const EpilogueSpec& epilogue);

// a (M, K) · b (K, N) -> float32 (M, N); `transpose_*`: the operand is stored the other way round.
Tensor matmul_bf16(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b);

}  // namespace quernel::ops
