// Optimizer steps.
#pragma once
#include "kernels/args/common.h"

namespace quernel {

// Flat segments of one dtype: an update reads `grad` and rewrites `param` and what the optimizer keeps, null where it
// keeps nothing. `hyper` is a float64 buffer that the optimizer's Python attributes write and replays read: {lr,
// weight_decay, l1}, then what each kernel names. `step` is an int64 buffer, already advanced.
struct UpdateArgs {
  const void* grad = nullptr;
  const void* hyper = nullptr;
  const void* step = nullptr;
  void* param = nullptr;
  void* first = nullptr;
  void* second = nullptr;
  void* third = nullptr;
  DType dtype{};
  int64_t size = 0;
};

// An update of some rows of a table: row i of `grad` belongs to row rows[i] of `param` and of what is kept, and to none
// where that is -1. `size` is the number of rows of `grad`, `width` that of elements in a row.
struct UpdateRowsArgs : UpdateArgs {
  const void* rows = nullptr;  // int64
  int64_t width = 0;
};

struct AdvanceStepArgs {
  void* step = nullptr;  // int64, += 1
};

// average += (1 - decay) (param - average); `hyper` is {decay, warmup}.
struct MovingAverageArgs {
  const void* param = nullptr;
  const void* hyper = nullptr;
  const void* step = nullptr;
  void* average = nullptr;
  DType dtype{};
  int64_t size = 0;
};

}  // namespace quernel
