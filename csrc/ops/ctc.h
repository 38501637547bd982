// Connectionist temporal classification; formulas in quernel/ops/ctc.py.
#pragma once
#include "core/tensor.h"

namespace quernel::ops {

struct CtcResult {
  Tensor loss, grad;  // (N); (N, T, C) for log_probs, undefined unless wanted
};

// log_probs (N, T, C), targets int64 (N, L), lengths and target_lengths int64 (N) or undefined: all.
CtcResult ctc_loss(const Tensor& log_probs, const Tensor& targets, const Tensor& lengths, const Tensor& target_lengths,
                   int64_t blank, bool wants_grad);

}  // namespace quernel::ops
