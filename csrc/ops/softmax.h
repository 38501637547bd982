// Softmax and cross-entropy over the last axis.
#pragma once
#include "core/tensor.h"

namespace quernel::ops {

Tensor softmax(const Tensor& x);
Tensor log_softmax(const Tensor& x);
Tensor softmax_grad(const Tensor& y, const Tensor& g);
Tensor log_softmax_grad(const Tensor& y, const Tensor& g);

// logits (N, C), labels int64 (N) -> losses (N); a label outside [0, C) is refused before anything is written.
Tensor cross_entropy(const Tensor& logits, const Tensor& labels);
// g (N) -> gradient of the logits (N, C)
Tensor cross_entropy_grad(const Tensor& logits, const Tensor& labels, const Tensor& g);

}  // namespace quernel::ops
