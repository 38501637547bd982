// Reductions.
#pragma once
#include "kernels/args/common.h"

namespace quernel {

enum class ReduceOp : int32_t { kSum, kMax };

// x viewed as (outer, reduced, inner) -> y (outer, blocks, inner), one result per `block` of the reduced length; ops/
// reduces again until one is left, so that the order of summation depends on `reduced` alone. Sums are divided by
// `divisor`; integer sums are int64. item = (outer, block, tile of kReduceTile columns).
inline constexpr int64_t kReduceTile = 64;
struct ReduceArgs {
  const void* x = nullptr;
  void* y = nullptr;
  ReduceOp op{};
  DType dtype{};
  double divisor = 1;
  int64_t outer = 0, reduced = 0, inner = 0, block = 0;
};

}  // namespace quernel
