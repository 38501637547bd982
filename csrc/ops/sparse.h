// Products of a sparse and a dense matrix; the formats are those of kernels/args/sparse.h.
#pragma once
#include <tuple>

#include "ops/epilogue.h"
#include "ops/quant.h"

namespace quernel::ops {

// A (rows, cols). values: (nnz) for CSR, (blocks, 16, depth) for panels of 16 rows with depth 1 or 4; indices and
// indptr int32. Nobody has looked at the numbers in them yet: check_sparse does.
struct Sparse {
  Tensor values, indices, indptr;
  int64_t rows, cols;
  Tensor source;  // if defined, this is CSR whose entry i has values[source[i]], values of any shape

  bool is_blocked() const { return !source.defined() && values.rank() == 3; }
};

// Refuses indices and pointers that describe no (rows, cols) matrix.
void check_sparse(const char* op, const Sparse& a);

// A^T as CSR, whose values stay where they are: its indices, pointers and source. A must have been checked.
std::tuple<Tensor, Tensor, Tensor> transpose_sparse(const Sparse& a);

// A (rows, cols) · x (cols, n).
Tensor spmm(const Sparse& a, const Tensor& x);

// x (m, cols) -> activation(x A^T + bias + residual), (m, rows).
OutputAndPre sparse_linear(const Tensor& x, const Sparse& a, const EpilogueSpec& epilogue);

// Gradient of A's values, in their layout. `linear`: g (m, rows) of x (m, cols) A^T; else g (rows, n) of A · x (cols,
// n).
Tensor sparse_grad(const Sparse& a, const Tensor& g, const Tensor& x, bool linear);

// u8 x (m, cols) · s8 A^T in blocks of (16, 4), requantized.
Tensor qsparse_linear(const Tensor& x, const Sparse& a, const QOutput& out);

}  // namespace quernel::ops
