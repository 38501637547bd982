// What a contraction does to its accumulators before they are its result.
#pragma once
#include "kernels/args/epilogue.h"

namespace quernel::QUERNEL_ISA {

// Rows of raw accumulators in the output: c[i][j] for i < rows, j < cols become activation(c + bias + residual).
// `first` is the output channel of column 0 (where bias starts), `base` the output's address: residual and pre are
// laid out as the output. Uses the functions of simd/math.h, as the separate ops do: the bits are the same.
template <class T>
struct Finish {
  const Epilogue* epilogue;
  T* base;
  T* const* c;
  int rows;
  int cols;
  int64_t first;
};

void finish(const Finish<float>& f);
void finish(const Finish<double>& f);

}  // namespace quernel::QUERNEL_ISA
