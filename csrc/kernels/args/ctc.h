// Connectionist temporal classification.
#pragma once
#include "kernels/args/common.h"

namespace quernel {

// loss (N): -log of the probability of each row's labels under all alignments, infinite where there is none; and, if
// wanted, its gradient for log_probs (N, T, C), 0 where there is no alignment. Item = row. A row has lengths[r] steps
// and target_lengths[r] labels.
struct CtcArgs {
  const void* log_probs = nullptr;
  const void* targets = nullptr;         // int64 (N, labels)
  const void* lengths = nullptr;         // int64 (N), null: all steps
  const void* target_lengths = nullptr;  // int64 (N), null: all labels
  void* loss = nullptr;
  void* grad = nullptr;
  DType dtype{};
  bool wants_grad = false;
  int64_t rows = 0, steps = 0, classes = 0, labels = 0, blank = 0;
};

// Refuses labels outside [0, classes), and the blank, among a row's own.
struct CheckCtcLabelsArgs {
  const void* targets = nullptr;
  const void* target_lengths = nullptr;
  int64_t rows = 0, labels = 0, classes = 0, blank = 0;
};

}  // namespace quernel
