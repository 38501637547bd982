// Optimizer steps.
#pragma once
#include "kernels/args/common.h"

namespace quernel {

// Flat segments of one dtype. `hyper` is a float64 buffer that the optimizer's Python attributes write and replays
// read: its layout is given per optimizer. `step` is an int64 buffer, already advanced.
struct SgdArgs {
  const void* grad = nullptr;
  const void* hyper = nullptr;  // {lr, momentum, weight_decay, dampening, nesterov}
  const void* step = nullptr;
  void* param = nullptr;
  void* momentum = nullptr;  // null without momentum
  DType dtype{};
  int64_t size = 0;
};

struct AdamArgs {
  const void* grad = nullptr;
  const void* hyper = nullptr;  // {lr, beta1, beta2, eps, weight_decay, decoupled (AdamW)}
  const void* step = nullptr;
  void* param = nullptr;
  void* m = nullptr;
  void* v = nullptr;
  DType dtype{};
  int64_t size = 0;
};

struct AdvanceStepArgs {
  void* step = nullptr;  // int64, += 1
};

}  // namespace quernel
