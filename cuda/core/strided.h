// Where the elements of broadcast operands lie.
#pragma once
#include "core/cuda.h"
#include "kernels/args/common.h"

namespace quernel::cuda {

// The place of output element i in an operand with these strides.
__device__ inline int64_t offset_of(const StridedShape& shape, const int64_t* strides, int64_t i) {
  int64_t offset = 0;
  for (int d = shape.rank - 1; d >= 0; --d) {
    offset += i % shape.dims[d] * strides[d];
    i /= shape.dims[d];
  }
  return offset;
}

// Whether an operand is the output's shape itself, so that element i lies at i.
inline bool is_dense(const StridedShape& shape, const int64_t* strides) {
  int64_t expected = 1;
  for (int d = shape.rank - 1; d >= 0; --d) {
    if (strides[d] != expected) return false;
    expected *= shape.dims[d];
  }
  return true;
}

}  // namespace quernel::cuda
