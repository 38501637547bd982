// Matrix products: check, find the strides, pack B where that pays, launch.
#pragma once
#include "ops/epilogue.h"

namespace quernel::ops {

// NumPy's matmul over the last two dimensions, the others broadcast; `transpose_*` swaps an operand's last two (no
// effect on 1-D operands).
Tensor matmul(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b);

// x (..., I), weight (O, I) -> activation(x weight^T + bias + residual), (..., O).
OutputAndPre linear(const Tensor& x, const Tensor& weight, const EpilogueSpec& epilogue);

// The same; of float32 x, weight may be float16, too.
OutputAndPre linear_widened(const Tensor& x, const Tensor& weight, const EpilogueSpec& epilogue);

// The gradient of linear's weight, from that of what it adds up, g (M, O), and x (M, I): g^T x.
Tensor linear_grad_weight(const Tensor& g, const Tensor& x);

// The shape of linear's result, once x and weight fit.
Shape linear_shape(const Tensor& x, const Tensor& weight);

// The time of so many multiply-adds on one thread.
double mac_ns(DType dtype, double macs);

// n rounded up to whole groups of packed columns.
int64_t packed_columns(DType dtype, int64_t n);

// B of `batch` matrices (k, n), each `k · n` elements, stored (n, k) if `transposed` -> [batch][n/w][k][w]; float16
// becomes float32.
Tensor pack_matrix(const Tensor& b, int64_t batch, int64_t k, int64_t n, bool transposed);

}  // namespace quernel::ops
