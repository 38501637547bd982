// Sums of a thread over rows.
#pragma once
#include "core/cuda.h"

namespace quernel::cuda {

// term(0) + … + term(n - 1), term r in phase r mod 4, so that no addition waits for the one before.
template <class T, class Term>
__device__ T sum_of(int64_t n, Term term) {
  T phase[4] = {};
  int64_t r = 0;
  for (; r + 4 <= n; r += 4)
    for (int k = 0; k < 4; ++k) phase[k] = phase[k] + term(r + k);
  for (int k = 0; k < 3; ++k)
    if (r + k < n) phase[k] = phase[k] + term(r + k);
  return (phase[0] + phase[1]) + (phase[2] + phase[3]);
}

}  // namespace quernel::cuda
