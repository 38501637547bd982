// Softmax and cross-entropy over the last axis.
#pragma once
#include <utility>

#include "core/tensor.h"

namespace quernel::ops {

Tensor softmax(const Tensor& x);
Tensor log_softmax(const Tensor& x);
Tensor softmax_grad(const Tensor& y, const Tensor& g);
Tensor log_softmax_grad(const Tensor& y, const Tensor& g);

struct CrossEntropy {
  double smoothing = 0;
  int64_t ignore_index = -100;
  bool normalized = false;  // the logits are logarithms of probabilities already
};

// logits (N, C), and labels int64 (N) or probabilities (N, C) of the logits' dtype -> losses (N). A label outside [0,
// C) that is not ignore_index, or a number that is no probability, is refused before anything is written. weight (C)
// may be undefined.
Tensor cross_entropy(const Tensor& logits, const Tensor& target, const Tensor& weight, const CrossEntropy& c);
// g (N) or one number; divisor: one number, may be undefined -> gradient of the logits (N, C)
Tensor cross_entropy_grad(const Tensor& logits, const Tensor& target, const Tensor& weight, const Tensor& g,
                          const Tensor& divisor, const CrossEntropy& c, double scale);
// sum(losses) / sum(weight[label]), and that divisor
std::pair<Tensor, Tensor> cross_entropy_mean(const Tensor& losses, const Tensor& labels, const Tensor& weight,
                                             int64_t ignore_index, int64_t classes);

}  // namespace quernel::ops
