// Kernels that work on rows: a warp takes a short row, a block a long one. Which of the two depends on the row's length
// alone, and so does the order of its sums.
#pragma once
#include "core/launch.h"

namespace quernel::cuda {

inline constexpr int64_t kLongRow = 1024;

// The threads that share a row: 32 or a whole block of kThreads.
template <int kGroup>
struct RowGroup {
  int64_t row;
  int lane;

  __device__ RowGroup()
      : row(int64_t{blockIdx.x} * (kThreads / kGroup) + threadIdx.x / kGroup), lane(threadIdx.x % kGroup) {}

  // Every thread of the group gets the result.
  template <class T, class Op>
  __device__ T reduce(T value, Op op) const {
    if constexpr (kGroup == kWarp) {
      return warp_reduce(value, op);
    } else {
      __shared__ T partial[kThreads / kWarp];
      return block_reduce<kThreads>(value, partial, op);
    }
  }
};

// Launches one of two instances of a kernel, for short or for long rows. A kernel returns at once where its group's row
// is not below `rows`; that is so for whole warps.
template <class... P>
void launch_rows(const Ctx& ctx, int64_t rows, int64_t length, void (*warp_kernel)(P...), void (*block_kernel)(P...),
                 std::type_identity_t<P>... args) {
  if (rows <= 0) return;
  if (length <= kLongRow) {
    launch(ctx, warp_kernel, static_cast<unsigned>(ceil_div(rows, kThreads / kWarp)), kThreads, 0, args...);
  } else {
    launch(ctx, block_kernel, static_cast<unsigned>(rows), kThreads, 0, args...);
  }
}

}  // namespace quernel::cuda
