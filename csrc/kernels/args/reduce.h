// Reductions, running sums, and what depends on the order of elements.
#pragma once
#include "kernels/args/common.h"

namespace quernel {

enum class ReduceOp : int32_t { kSum, kMax, kProd };

// x viewed as (outer, reduced, inner) -> y (outer, blocks, inner), one result per `block` of the reduced length; ops/
// reduces again until one is left, so that the order of summation depends on `reduced` alone. Sums are divided by
// `divisor`; integer sums and products are int64. item = (outer, block, tile of kReduceTile columns).
inline constexpr int64_t kReduceTile = 64;
struct ReduceArgs {
  const void* x = nullptr;
  void* y = nullptr;
  ReduceOp op{};
  DType dtype{};
  double divisor = 1;
  int64_t outer = 0, reduced = 0, inner = 0, block = 0;
};

// y[o, i, c] = sum over j <= i (reverse: j >= i) of x[o, j, c]; of integers int64. item = (outer, tile of columns).
struct CumsumArgs {
  const void* x = nullptr;
  void* y = nullptr;
  DType dtype{};  // of x
  bool reverse = false;
  int64_t outer = 0, length = 0, inner = 0;
};

// y[o, c] = the first index along the middle with the largest (smallest) element, or with NaN if there is one.
// item = (outer, tile of columns).
struct ArgReduceArgs {
  const void* x = nullptr;  // (outer, reduced, inner)
  void* y = nullptr;        // int64 (outer, inner)
  DType dtype{};
  bool smallest = false;
  int64_t outer = 0, reduced = 0, inner = 0;
};

// The k largest (smallest) elements of each row, in order, and their columns; NaN counts as largest, of equals the
// first comes first. item = row.
struct TopkArgs {
  const void* x = nullptr;  // (rows, cols)
  void* values = nullptr;   // (rows, k)
  void* indices = nullptr;  // int64 (rows, k)
  DType dtype{};
  bool largest = true;
  int64_t rows = 0, cols = 0, k = 0;
};

// y[row, indices[row, j]] = g[row, j], 0 elsewhere. item = row.
struct TopkGradArgs {
  const void* g = nullptr;        // (rows, k)
  const void* indices = nullptr;  // int64 (rows, k), distinct in a row
  void* y = nullptr;              // (rows, cols)
  DType dtype{};
  int64_t rows = 0, cols = 0, k = 0;
};

}  // namespace quernel
