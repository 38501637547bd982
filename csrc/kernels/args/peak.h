// Measurement of the machine's peak.
#pragma once
#include "kernels/args/common.h"

namespace quernel {

// y (items, 2): a result that keeps the work alive, and the operations per round.
struct PeakArgs {
  void* y = nullptr;
  int64_t rounds = 0;
};

}  // namespace quernel
