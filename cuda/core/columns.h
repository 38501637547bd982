// Kernels that work on the columns of (rows, channels): sums down the rows, and passes over all elements.
#pragma once
#include "core/launch.h"

namespace quernel::cuda {

inline constexpr int64_t kFewRows = 32;  // that a thread takes for itself

// Combines term(row) of few rows: row r in phase r mod 4, so that no operation waits for the one before.
template <class A, class Op, class Term>
__device__ A reduce_few(int64_t rows, A identity, Op op, Term term) {
  A total[4] = {identity, identity, identity, identity};
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4)
    for (int k = 0; k < 4; ++k) total[k] = op(total[k], term(r + k));
  for (int k = 0; k < 3; ++k)
    if (r + k < rows) total[k] = op(total[k], term(r + k));
  return op(op(total[0], total[1]), op(total[2], total[3]));
}

// A block as kWidth neighbouring columns times kPhases phases: row r belongs to phase r mod kPhases.
template <int kWidth>
struct ColumnGroup {
  static constexpr int kColumns = kWidth, kPhases = kThreads / kWidth;
  int column, phase;

  __device__ ColumnGroup() : column(threadIdx.x % kWidth), phase(threadIdx.x / kWidth) {}

  // Combines the values of a column by halves; every thread of the column gets the result. The whole block calls this.
  template <class T, class Op>
  __device__ T reduce(T value, Op op) const {
    __shared__ T partial[kThreads];
    __syncthreads();  // what was read from `partial` before has been read
    T* own = partial + threadIdx.x;
    *own = value;
    __syncthreads();
    for (int half = kPhases / 2; half > 0; half /= 2) {
      if (phase < half) *own = op(*own, own[half * kWidth]);
      __syncthreads();
    }
    return partial[column];
  }

  // The sum of term(row); threads without a column of their own call this with no rows.
  template <class Term>
  __device__ auto sum(int64_t rows, Term term) const {
    decltype(term(int64_t{0})) total = 0;
    for (int64_t r = phase; r < rows; r += kPhases) total += term(r);
    return reduce(total, Plus{});
  }
};

// A pass over rows x channels, by for_each: thread i takes elements i, i + span, … of one channel, so what depends on
// the channel is computed once. Small tensors get a thread for each element.
inline int64_t channel_span(int64_t rows, int64_t channels) {
  constexpr int64_t kMostRows = 16, kThreadsWanted = 1 << 17;
  const int64_t each = most(1, least(kMostRows, rows * channels / kThreadsWanted));
  return ceil_div(rows, each) * channels;
}

}  // namespace quernel::cuda
