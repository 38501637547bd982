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

// Refuses labels outside [0, classes) other than ignore_index.
struct CheckLabelsArgs {
  const void* labels = nullptr;  // int64
  int64_t size = 0, classes = 0, ignore_index = 0;
};

// loss[row] = sum of q (logsumexp(x[row]) - x[row]), where q = weight ((1 - smoothing) target + smoothing / cols) and
// target is the one-hot label or a row of probabilities; 0 if the label is ignore_index.
// Backward: dx = (sum(q) softmax(x) - q) · g · scale / divisor.
struct CrossEntropyArgs {
  const void* x = nullptr;
  const void* labels = nullptr;   // int64 (rows), or null
  const void* targets = nullptr;  // else: probabilities (rows, cols)
  const void* weight = nullptr;   // of the classes (cols), or null
  const void* g = nullptr;        // backward: incoming gradient (rows), or one number
  const void* divisor = nullptr;  // backward: one number, or null
  void* y = nullptr;
  DType dtype{};
  bool g_is_number = false;
  bool normalized = false;  // x are logarithms of probabilities; labels without smoothing only
  double smoothing = 0, scale = 1;
  int64_t rows = 0, cols = 0, ignore_index = 0;
};

// divisor = sum of weight[label] (1 without weights) over the labels that are not ignored; y = sum(losses) / divisor.
// One item: a pass over the rows is short beside the losses themselves.
struct CrossEntropyMeanArgs {
  const void* losses = nullptr;
  const void* labels = nullptr;  // int64
  const void* weight = nullptr;  // or null
  void* y = nullptr;
  void* divisor = nullptr;
  DType dtype{};
  int64_t rows = 0, cols = 0, ignore_index = 0;
};

}  // namespace quernel
