// Losses of pairs of elements.
#pragma once
#include "kernels/args/common.h"

namespace quernel {

// Losses of an output x and a target t. The first four take d = x - t.
enum class LossOp : int32_t {
  kSquare,        // d²
  kAbsolute,      // |d|
  kHuber,         // d² / 2 up to |d| = a, then a (|d| - a / 2)
  kSmoothL1,      // kHuber / a
  kBinary,        // -(t log x + (1 - t) log(1 - x)), each logarithm at least -100
  kBinaryLogits,  // w t softplus(-x) + (1 - t) softplus(x)
  kFocalLogits,   // b t f(x) + (1 - b) (1 - t) f(-x) with f(x) = sigmoid(-x)^a softplus(-x); both factors 1 if b < 0
  kFocal,         // (1 - e^-x)^a x, of a cross-entropy x; no target
  kKl,            // t (log t - x), 0 where t = 0
  kKlLog          // e^t (t - x)
};

// Item = block of kElementBlock elements.
struct LossArgs {
  const void* x = nullptr;
  const void* target = nullptr;
  const void* weight = nullptr;  // kBinaryLogits: of positive targets, like x, or null
  const void* g = nullptr;       // backward: incoming gradient, like x, or one number
  void* y = nullptr;             // losses, or backward: dx = g · scale · slope
  LossOp op{};
  DType dtype{};
  bool g_is_number = false;
  double a = 0, b = -1, scale = 1;
  int64_t size = 0;
};

// Refuses numbers outside [0, 1]. What is above 1 by rounding alone passes, as does NaN if `nan_passes`.
struct CheckProbabilitiesArgs {
  const void* x = nullptr;
  DType dtype{};
  bool nan_passes = false;
  double slack = 0;
  int64_t size = 0;
};

}  // namespace quernel
