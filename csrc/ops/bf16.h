// Products in bfloat16, to which operands are rounded, and of float16 operands; sums are fp32.
#pragma once
#include "ops/epilogue.h"
#include "runtime/dispatch.h"

namespace quernel::ops {

// x (..., I), weight (O, I) -> activation(x weight^T + bias + residual), (..., O), of x's dtype. float32: only the
// operands of the product are rounded. bfloat16: so is the result, wherever separate ops would round.
OutputAndPre linear_bf16(const Tensor& x, const Tensor& weight, const EpilogueSpec& epilogue);

// The same of float16 x and weight: the result is rounded to it wherever separate ops would round.
OutputAndPre linear_f16(const Tensor& x, const Tensor& weight, const EpilogueSpec& epilogue);

// a (M, K) · b (K, N) -> float32 (M, N); `transpose_*`: the operand is stored the other way round.
Tensor matmul_bf16(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b);

// A matrix of `rows` x k elements of t, float32, bfloat16 or float16; `along_k` if k is contiguous, else the rows are.
struct Bf16Matrix {
  const Tensor& t;
  int64_t rows, k;
  bool along_k;
};

// Rounded, if float32, and laid out as rows of A or columns of B, see args/bf16.h.
Tensor pack_bf16(const Bf16Matrix& m, bool as_columns);
Tensor bf16_columns(const Bf16Matrix& m);  // kept if m.t is a constant

// At the pace of AVX2, or of AVX512_BF16; where tiles are faster, chunks get shorter.
inline double bf16_mac_ns(double macs) { return macs / (dots_pairs() ? 100 : 25); }

}  // namespace quernel::ops
