// Random numbers and dropout.
#pragma once
#include "kernels/args/common.h"

namespace quernel {

// Philox4x32-10 with key `seed` over counters base + offset + element / n, where a block of four draws serves n
// elements: 4 of float32, 2 of float64. `state` holds {seed, base} as two uint64. Dropout takes one draw per element.
struct DropoutArgs {
  const void* state = nullptr;
  const void* x = nullptr;
  void* y = nullptr;
  void* mask = nullptr;  // uint8: 1 = kept
  DType dtype{};
  uint64_t offset = 0;
  double p = 0;
  int64_t size = 0;
};

struct DropoutGradArgs {
  const void* g = nullptr;
  const void* mask = nullptr;
  void* dx = nullptr;
  DType dtype{};
  double p = 0;
  int64_t size = 0;
};

// Fills y from the same stream: uniform in [lo, hi) or normal(mean lo, sd hi).
struct RandomFillArgs {
  const void* state = nullptr;
  void* y = nullptr;
  DType dtype{};
  bool normal = false;
  uint64_t offset = 0;
  double lo = 0, hi = 1;
  int64_t size = 0;
};

}  // namespace quernel
