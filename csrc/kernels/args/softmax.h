// Softmax and cross-entropy.
#pragma once
#include "kernels/args/common.h"

namespace quernel {

struct SoftmaxArgs {
  const void* x = nullptr;  // logits (forward) or the forward's output (backward)
  const void* g = nullptr;  // backward: incoming gradient
  void* y = nullptr;
  DType dtype{};
  bool log = false;
  int64_t rows = 0, cols = 0;
};

// Refuses labels outside [0, classes).
struct CheckLabelsArgs {
  const void* labels = nullptr;  // int64
  int64_t size = 0, classes = 0;
};

// loss[row] = logsumexp(x[row]) - x[row, label]; backward: dx = (softmax(x) - onehot(label)) · g[row].
struct CrossEntropyArgs {
  const void* x = nullptr;
  const void* labels = nullptr;  // int64
  const void* g = nullptr;       // backward: incoming gradient (rows)
  void* y = nullptr;
  DType dtype{};
  int64_t rows = 0, cols = 0;
};

}  // namespace quernel
